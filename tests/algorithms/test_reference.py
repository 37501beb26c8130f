"""Every algorithm, run by the app, beside the plain PyTorch reference."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from support import reference
from support.in_process import client_states, run_server
from support.reference_runs import (
    assert_same_state,
    clients_data,
    in_float64,
    initial_state,
    reference_settings,
    start_of,
    training_data,
)
from support.run_configs import tiny_run_config

from fedbabu.algorithms import ALGORITHMS

ROUNDS, FINETUNE_EPOCHS = 4, 2
SHORT = {"fraction-train": 0.25, "num-local-epochs": 1, "num-finetune-epochs": 1, "evaluate-every": 0}


@pytest.fixture(scope="module", params=ALGORITHMS)
def runs(request, tiny_dataset, tmp_path_factory):
    """A run of an algorithm on three nodes, and what the reference computes from the same data and parameters."""
    algorithm, folder = request.param, tmp_path_factory.mktemp("reference")
    config = tiny_run_config(tiny_dataset, folder / "results")
    config |= {"num-server-rounds": ROUNDS, "fraction-train": 0.25, "num-finetune-epochs": FINETUNE_EPOCHS}
    with in_float64():
        config, start = start_of(algorithm, config, folder)
        run, _ = run_server(config, num_nodes=3)

        settings, training, clients = reference_settings(config), training_data(config), clients_data(config)
        if algorithm == "local-only":
            history = [start] * ROUNDS
            states = reference.local_only(start, training, settings, rounds=ROUNDS, seed=7)
        else:
            history, states = reference.federated(
                algorithm, start, training, settings, rounds=ROUNDS, fraction=0.25, seed=7
            )
    return SimpleNamespace(
        algorithm=algorithm, run=run, settings=settings, clients=clients, history=history, states=states
    )


def test_the_global_model_is_that_of_the_reference(runs):
    assert_same_state(runs.run.model(), runs.history[-1])


def test_the_client_states_are_those_of_the_reference(runs):
    states = client_states(runs.run)
    assert bool(states) == bool(ALGORITHMS[runs.algorithm].keeps)
    assert states.keys() == runs.states.keys()
    for client, state in states.items():
        assert_same_state(state, runs.states[client])
    if runs.algorithm != "local-only":
        assert len(states) < 8  # some clients were never sampled, and are evaluated all the same


def test_the_initial_accuracy_of_every_round_is_that_of_the_reference(runs):
    def mean_accuracy(model, states):
        scores = [
            reference.score(model | states.get(client, {}), runs.settings.pixels.plain(x), y)
            for client, (_, (x, y)) in runs.clients.items()
        ]
        return np.mean([accuracy for accuracy, _ in scores])

    measured = [record.initial_accuracy for record in runs.run.rounds]
    assert measured[-1] == pytest.approx(mean_accuracy(runs.history[-1], runs.states))
    if not runs.states:
        assert measured == pytest.approx([mean_accuracy(model, {}) for model in runs.history])


def test_the_final_evaluation_of_every_client_is_that_of_the_reference(runs):
    pixels, settings = runs.settings.pixels, replace(runs.settings, rate=runs.settings.rate / 100)
    assert [record["client"] for record in runs.run.clients] == list(runs.clients)
    for record in runs.run.clients:
        number = record["client"]
        (x, y), (x_test, y_test) = runs.clients[number]
        model, test = runs.history[-1] | runs.states.get(number, {}), (pixels.plain(x_test), y_test)
        client = reference.Client(x, y, settings, 7, reference.FINE_TUNING, ROUNDS, number)
        fine_tuned = reference.fine_tuned(runs.algorithm, model, client, FINETUNE_EPOCHS)
        accuracy, loss = zip(*(reference.score(theta, *test) for theta in fine_tuned), strict=True)
        assert record["accuracy"] == pytest.approx(accuracy)
        assert record["loss"] == pytest.approx(loss, rel=1e-7)
        generator = reference.stream(7, reference.TEMPLATES, number)
        without_head = reference.accuracies_without_head(model, (x, y), test, pixels, generator)
        assert record["without-head-accuracy"] == pytest.approx(without_head)


@pytest.mark.parametrize(
    ("algorithm", "keys", "variant"),
    [
        ("fedavg", {"head-learning-rate-factor": 0.1}, {"head_factor": 0.1}),
        ("per-fedavg", {"head-learning-rate-factor": 0.5}, {"head_factor": 0.5}),
        ("fedbabu", {"trained-blocks": 2}, {"blocks": 2}),
        ("fedavg", {"trained-blocks": 1}, {"blocks": 1}),
        ("fedbabu", {"momentum": 0.0}, {}),
        ("fedbabu", {"head-init": "similar"}, {}),
        ("per-fedavg", {"per-fedavg-beta": 0.3}, {"beta": 0.3}),
        ("fedprox", {"proximal-mu": 1.0}, {"mu": 1.0}),
        ("ditto", {"ditto-lambda": 2.0}, {"lam": 2.0}),
        ("fedbsd", {"distillation-weight": 3.0, "distillation-temperature": 5.0}, {"weight": 3.0, "temperature": 5.0}),
        ("fedbsd", {"distillation-divergence": "mse"}, {"squared": True}),
    ],
)
def test_variants_of_local_training_are_those_of_the_reference(tiny_config, float64, algorithm, keys, variant):
    config = tiny_config | SHORT | {"algorithm": algorithm, "num-server-rounds": 2, "num-finetune-epochs": 0} | keys
    run, _ = run_server(config)
    settings = reference_settings(config, **variant)
    history, states = reference.federated(
        algorithm, initial_state(config), training_data(config), settings, rounds=2, fraction=0.25, seed=7
    )
    assert_same_state(run.model(), history[-1])
    for client, state in client_states(run).items():
        assert_same_state(state, states[client])


@pytest.mark.parametrize("part", ["body", "head", "full"])
def test_fine_tuning_of_a_part_is_that_of_the_reference(tiny_config, float64, part):
    config = tiny_config | SHORT | {"algorithm": "fedavg", "finetune-part": part, "num-server-rounds": 1}
    run, _ = run_server(config)
    moves = {"body": reference.body, "head": reference.head, "full": reference.everything}[part]
    settings, clients = reference_settings(config), clients_data(config)
    for record in run.clients:
        (x, y), (x_test, y_test) = clients[record["client"]]
        client = reference.Client(x, y, settings, 7, reference.FINE_TUNING, 1, record["client"])
        tuned = client.sgd(run.model(), moves)
        expected = reference.score(tuned, settings.pixels.plain(x_test), y_test)[1]
        assert record["loss"][-1] == pytest.approx(expected, rel=1e-7)
