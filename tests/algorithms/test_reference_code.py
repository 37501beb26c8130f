"""The algorithms as the authors' code has them agree with a plain PyTorch reference, in float64, over three rounds."""

from dataclasses import replace

import numpy as np
import pytest
from support import reference, reference_code
from support.in_process import run_server
from support.reference_runs import assert_same_state, clients_data, reference_settings, start_of

from fedbabu.algorithms import ALGORITHMS, AS_IN_THE_CODE, Part
from fedbabu.config import RunConfig

ROUNDS, SEED = 3, 7


@pytest.fixture
def make(tiny_config, float64, tmp_path):
    """A function that runs an algorithm as in the code; returns the run and the arguments of the reference."""

    def run(algorithm, **keys):
        config = tiny_config | {"num-server-rounds": ROUNDS, "fraction-train": 0.25, "num-local-epochs": 2}
        config |= {"protocol": "code", "batch-size": 5} | {key.replace("_", "-"): value for key, value in keys.items()}
        config, start = start_of(algorithm, config, tmp_path)
        finished, _ = run_server(config, num_nodes=3)
        return finished, start, clients_data(config), reference_settings(config)

    return run


def before_and_after(clients):
    return [accuracy for client in clients for accuracy in (client["accuracy"][0], client["accuracy"][-1])]


def in_one_list(measured):
    return [accuracy for client in sorted(measured) for accuracy in measured[client]]


def means(measured, place=None):
    values = [each.values() for each in measured]
    return [np.mean([value if place is None else value[place] for value in each]) for each in values]


def test_fedper(make):
    run, start, clients, settings = make("fedper")
    history = reference_code.fedper(start, clients, settings, ROUNDS, SEED)
    assert_same_state(run.model(), history[-1])
    assert not (run.path / "clients").exists()
    fine_tuned = reference.fine_tuned(
        "fedper",
        history[-1],
        reference.Client(
            *clients[3][0], replace(settings, rate=reference.decayed(settings.rate, ROUNDS, ROUNDS)), SEED, 3, ROUNDS, 3
        ),
        run.config["num-finetune-epochs"],
    )
    accuracies = [reference_code.accuracy(theta, settings.pixels, clients[3][1]) for theta in fine_tuned]
    assert run.clients[3]["accuracy"] == pytest.approx(accuracies)


def test_fedrep(make):
    run, start, clients, settings = make("fedrep")
    history, measured = reference_code.fedrep(start, clients, settings, ROUNDS, SEED)
    assert_same_state(run.model(), history[-1])
    assert (run.config["momentum"], run.config["num-finetune-epochs"]) == (0.5, 2)
    assert [record.initial_accuracy for record in run.rounds] == pytest.approx(means(measured, 0))
    personalized = means(measured, 1)
    assert [record.personalized_accuracy for record in run.rounds] == pytest.approx(personalized)
    best = 1 + int(np.argmax(personalized))
    assert run.summary["best-round"] == best
    assert before_and_after(run.clients) == pytest.approx(in_one_list(measured[-1]))
    assert before_and_after(run.best_clients) == pytest.approx(in_one_list(measured[best - 1]))


def test_ditto(make):
    run, start, clients, settings = make("ditto")
    history, measured = reference_code.ditto(start, clients, settings, ROUNDS, SEED)
    assert_same_state(run.model(), history[-1])
    assert [record.initial_accuracy for record in run.rounds] == pytest.approx(means(measured))
    best = 1 + int(np.argmax(means(measured)))
    for of_round, found in ((measured[-1], run.clients), (measured[best - 1], run.best_clients)):
        assert {client["client"]: client["accuracy"][0] for client in found} == pytest.approx(of_round)


@pytest.mark.parametrize("epochs", [1, 2])
def test_per_fedavg(make, epochs):
    run, start, clients, settings = make("per-fedavg", num_local_epochs=epochs)
    history, measured = reference_code.per_fedavg(start, clients, settings, ROUNDS, SEED)
    assert_same_state(run.model(), history[-1])
    assert before_and_after(run.clients) == pytest.approx(in_one_list(measured[-1]))
    best = 1 + int(np.argmax(means(measured, 1)))
    assert before_and_after(run.best_clients) == pytest.approx(in_one_list(measured[best - 1]))


def test_lg_fedavg(make):
    run, start, clients, settings = make("lg-fedavg")
    expected = reference_code.lg_fedavg(start, clients, settings, ROUNDS, SEED)
    assert {client["client"]: client["accuracy"][0] for client in run.best_clients} == pytest.approx(expected)
    assert {record.learning_rate for record in run.rounds} == {run.config["learning-rate"] / 100}


def test_local_only(make, monkeypatch):
    """With twelve epochs instead of 160, so that the learning rate falls after six and nine."""
    monkeypatch.setitem(AS_IN_THE_CODE["local-only"].fixes, "num-server-rounds", 12)
    monkeypatch.setitem(AS_IN_THE_CODE["local-only"].fixes, "batch-size", 5)
    run, start, clients, settings = make("local-only")
    expected = reference_code.local_only(start, clients, settings, SEED, 12)
    assert {client["client"]: client["accuracy"][0] for client in run.clients} == pytest.approx(expected)


def test_the_declarations_differ_from_those_of_the_text():
    for name, as_in_the_code in AS_IN_THE_CODE.items():
        assert as_in_the_code != ALGORITHMS[name]
        assert as_in_the_code.name == name
    assert AS_IN_THE_CODE["fedper"].keeps == Part.NOTHING


def test_what_the_code_fixes_is_part_of_the_configuration(tiny_config):
    config = tiny_config | {"algorithm": "local-only", "protocol": "code"}
    checked = RunConfig.from_flower(config)
    assert (checked.num_server_rounds, checked.num_local_epochs, checked.batch_size) == (160, 1, 10)
    assert [checked.learning_rate_in(epoch) for epoch in (80, 81, 120, 121)] == pytest.approx([0.1, 0.01, 0.01, 0.001])
    assert RunConfig.from_flower(checked.to_flower()) == checked
