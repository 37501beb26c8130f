"""The evaluated round in which the clients were best, whose model the authors' code reports."""

import numpy as np
import pytest
import torch
from support.in_process import run_server, tasks
from support.reference_runs import clients_data

from fedbabu.config import TEMPLATES, Measurement
from fedbabu.models import build_model
from fedbabu.runs.folder import RunFolder
from fedbabu.strategy import SharedPartFedAvg

ROUNDS = 6


@pytest.fixture(scope="module")
def runs(tmp_path_factory, tiny_dataset):
    """A function that makes a run with other run-config keys; returns it, its grid, and its model after every round."""
    from support.run_configs import tiny_run_config

    def make(**keys):
        config = tiny_run_config(tiny_dataset, tmp_path_factory.mktemp("results"))
        config |= {"num-server-rounds": ROUNDS, "num-local-epochs": 1, "num-finetune-epochs": 2}
        config |= {key.replace("_", "-"): value for key, value in keys.items()}
        models, aggregate = {}, SharedPartFedAvg.aggregate_train

        def remember(strategy, server_round, replies):
            result = aggregate(strategy, server_round, replies)
            models[server_round] = {name: value.clone() for name, value in strategy.global_model.items()}
            return result

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(SharedPartFedAvg, "aggregate_train", remember)
            run, grid = run_server(config)
        return config, run, grid, models

    return make


@pytest.fixture(scope="module")
def best_of(runs):
    """A run whose best round is not its last."""
    for seed in range(20):
        config, run, grid, models = runs(algorithm="fedavg", seed=seed)
        if run.summary["best-round"] != ROUNDS:
            return config, run, grid, models
    raise AssertionError("No seed has a best round before the last.")


def test_the_best_round_is_the_first_with_the_highest_accuracy_and_its_model_is_kept(best_of):
    _, run, _, models = best_of
    accuracies = [record.initial_accuracy for record in run.rounds]
    best = 1 + int(np.argmax(accuracies))
    assert run.summary["best-round"] == best
    for name, value in run.best_model().items():
        assert torch.equal(value, models[best][name])
    for name, value in run.model().items():
        assert torch.equal(value, models[ROUNDS][name])


def test_every_client_is_measured_with_both_models(best_of):
    config, run, _, _ = best_of
    network = build_model("FourConvNet", (3, 16, 16), 10, seed=0).eval()
    for state, clients in ((run.model(), run.clients), (run.best_model(), run.best_clients)):
        network.load_state_dict(state)
        assert [client["client"] for client in clients] == list(range(8))
        for client in clients:
            assert len(client["accuracy"]) == 3
            assert set(client["without-head-accuracy"]) == set(TEMPLATES)
    best = run.rounds[run.summary["best-round"] - 1].initial_accuracy
    assert np.mean([client["accuracy"][0] for client in run.best_clients]) == pytest.approx(best)
    assert clients_data(config).keys() == set(range(8))


def test_both_are_fine_tuned_with_the_draws_and_the_learning_rate_of_the_last_round(best_of):
    _, run, grid, _ = best_of
    final = [task for task in tasks(grid, "evaluate") if task.personalize]
    assert {task.server_round for task in final} == {ROUNDS}
    assert len(final) == 4  # two nodes, two models
    measured = [Measurement(each, "cosine", "plain", "mixed") for each in ("last", "best")]
    last, best = (run.accuracies(each)["personalized"] for each in measured)
    assert not np.array_equal(last, best)


def test_the_results_of_a_run_are_those_that_its_configuration_asks_for(best_of, runs):
    _, run, _, _ = best_of
    seed = run.config["seed"]
    code = runs(algorithm="fedavg", seed=seed, protocol="code", aggregation_weights="examples")[1]
    assert run.summary["accuracy"] == run.summary["accuracy-by-protocol"]["text"]
    as_the_code = run.accuracies(code.measurement)  # one run has the numbers of both
    assert {name: values.tolist() for name, values in code.accuracies().items()} == {
        name: values.tolist() for name, values in as_the_code.items()
    }
    assert code.summary["accuracy"]["initial"]["mean"] == pytest.approx(as_the_code["initial"].mean())
    own = runs(algorithm="fedavg", seed=seed, evaluated_round="best", template_distance="euclidean")[1]
    assert own.summary["accuracy"]["initial"] == code.summary["accuracy"]["initial"]
    assert own.measurement.templates == "euclidean plain mixed"
    assert own.measurement not in own.protocols.values()


def test_fewer_evaluations_leave_fewer_candidates(runs):
    run = runs(evaluate_every=4)[1]
    assert run.summary["best-round"] in (4, ROUNDS)
    never = runs(evaluate_every=0)[1]
    assert never.summary["best-round"] == ROUNDS
    assert not list(never.path.glob("best-*"))


def test_client_states_of_the_best_round_are_kept_and_used(runs):
    for seed in (10, *range(20)):  # that of the first is round 3 of 6 on most processors
        _, run, _, models = runs(algorithm="fedper", seed=seed, checkpoint_every=1)
        best = run.summary["best-round"]
        if best < ROUNDS - 2:  # older than both checkpoints
            break
    network = build_model("FourConvNet", (3, 16, 16), 10, seed=0)
    assert run.best_model().keys() == network.state_dict().keys()
    accuracy = run.rounds[best - 1].initial_accuracy
    assert np.mean([client["accuracy"][0] for client in run.best_clients]) == pytest.approx(accuracy)
    assert all(torch.equal(value, models[best][name]) for name, value in run.best_model().items())


def test_files_of_another_best_round_are_removed(copied_run):
    run = RunFolder(copied_run.path)
    run.write_model(run.model(), best=True)
    run.write_model(run.model())
    assert not list(run.path.glob("best-*"))
