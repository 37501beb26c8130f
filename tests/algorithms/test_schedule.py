"""The numbers of rounds and the learning rates of all algorithms."""

import pytest
import torch
from flwr.app import MessageType
from support.in_process import run_server, tasks

from fedbabu.algorithms import ALGORITHMS


def learning_rates(algorithm, num_server_rounds):
    """The learning rate of every round of an algorithm that communicates."""
    schedule = ALGORITHMS[algorithm].schedule
    rounds = schedule.num_rounds(num_server_rounds, num_clients=100)
    return [schedule.learning_rate(0.1, number, num_server_rounds) for number in range(1, rounds + 1)]


def test_the_learning_rate_falls_after_half_and_three_quarters_of_the_rounds():
    assert learning_rates("fedbabu", 80) == pytest.approx([0.1] * 40 + [0.01] * 20 + [0.001] * 20)


@pytest.mark.parametrize(("rounds", "expected"), [(1, [0.1]), (2, [0.1, 0.01]), (3, [0.1, 0.1, 0.01])])
def test_the_learning_rate_of_few_rounds(rounds, expected):
    assert learning_rates("fedbabu", rounds) == pytest.approx(expected)


@pytest.mark.parametrize(("rounds", "expected"), [(16, [1e-3, 1e-3, 1e-4, 1e-5]), (7, [1e-3]), (1, [1e-3])])
def test_lg_fedavg_has_a_quarter_of_the_rounds_and_starts_at_a_hundredth_of_the_learning_rate(rounds, expected):
    assert learning_rates("lg-fedavg", rounds) == pytest.approx(expected)


@pytest.mark.parametrize(("num_clients", "rounds"), [(100, 10), (3, 3)])
def test_with_local_only_every_client_trains_all_rounds_in_one_server_round(num_clients, rounds):
    schedule = ALGORITHMS["local-only"].schedule
    assert schedule.num_rounds(4, num_clients) == rounds
    assert schedule.training_rounds(2, 4) == [1, 2, 3, 4]
    assert [schedule.learning_rate(0.1, number, 4) for number in (1, 2, 3, 4)] == pytest.approx([0.1, 0.1, 0.01, 0.001])


def test_local_only_trains_every_client_once(tiny_config):
    keys = {"algorithm": "local-only", "num-clients": 12, "num-local-epochs": 1, "batch-size": 12}
    run, grid = run_server(tiny_config | keys)
    assert [record.clients for record in run.rounds] == [[0, 10], [1, 11], *([client] for client in range(2, 10))]
    assert [record.initial_accuracy is not None for record in run.rounds] == [False] * 9 + [True]
    assert set(run.summary["accuracy"]) == {"without-head", "personalized"}
    assert all(len(record["accuracy"]) == 1 for record in run.clients)
    sent = tasks(grid, MessageType.TRAIN)
    assert len(sent) == 12
    assert all(task.training_rounds == [1, 2, 3] for task in sent)


def test_lg_fedavg_starts_from_a_finished_run_for_a_quarter_of_its_rounds(tiny_config):
    config = tiny_config | {"num-server-rounds": 8, "num-local-epochs": 1, "evaluate-every": 0, "batch-size": 14}
    config |= {"num-finetune-epochs": 0}
    start, _ = run_server(config | {"algorithm": "fedavg"})
    run, _ = run_server(config | {"algorithm": "lg-fedavg", "initial-model": str(start.path)})
    assert [record.learning_rate for record in run.rounds] == pytest.approx([1e-3, 1e-4])
    for name, value in run.model().items():
        assert torch.equal(value, start.model()[name]) == name.startswith("body.")
