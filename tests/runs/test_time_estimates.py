"""How long a run takes."""

from typing import ClassVar

import pytest

from fedbabu.config import RunConfig, default_run_config
from fedbabu.runs import time_estimates
from fedbabu.runs.records import RoundRecord
from fedbabu.runs.time_estimates import START_SECONDS, Cost, estimated_seconds, images_per_second, time_left

DEFAULT = RunConfig.from_flower(default_run_config())


def test_the_cost_of_the_default_run():
    """80 rounds of 10 clients × 4 epochs × 500 images, and 5 epochs of fine-tuning of all, from two models."""
    cost = Cost(DEFAULT, 50_000, 10_000)
    final_evaluation = 2 * (5 * 50_000 + 4 * 50_000 / 3 + 6 * 10_000 / 3)
    assert cost.training(1, 5_000) == 20_000
    assert cost.left(80) == pytest.approx(final_evaluation)
    assert cost.left(0) == pytest.approx(80 * 20_000 + 79 * 10_000 / 3 + final_evaluation)
    assert cost.left(30) == pytest.approx(50 * 20_000 + 49 * 10_000 / 3 + final_evaluation)


def test_the_cost_without_communication():
    alone = RunConfig.from_flower(default_run_config() | {"algorithm": "local-only", "evaluate-every": 0})
    assert Cost(alone, 50_000, 10_000).left(0) == pytest.approx(320 * 50_000 + (4 * 50_000 + 10_000) / 3)


def test_a_personal_model_costs_as_much_again():
    ditto = RunConfig.from_flower(default_run_config() | {"algorithm": "ditto"})
    assert Cost(ditto, 50_000, 10_000).training(1, 5_000) == 40_000


def test_clients_that_are_fine_tuned_in_every_round_cost_that():
    keys = {"algorithm": "per-fedavg", "protocol": "code", "evaluate-every": 10}
    cost = Cost(RunConfig.from_flower(default_run_config() | keys), 50_000, 10_000)
    assert cost.left(79) == pytest.approx(20_000 + 2 * (50_000 + 4 * 50_000 / 3 + 2 * 10_000 / 3))
    assert cost.left(69) - cost.left(70) > 50_000


def test_the_speed_of_a_node_is_measured():
    assert images_per_second("FourConvNet", (1, 16, 16), 8, "float32") > 1


class FinishedRun:
    """A run that trained 20,000 images in 100 seconds."""

    dataset: ClassVar = {"name": "flowers", "num-train-examples": 50_000}
    clients: ClassVar = [{"num-test-examples": 10_000}]
    rounds: ClassVar = [RoundRecord(1, num_examples=5_000, train_seconds=100.0)]

    def __init__(self, **keys):
        self.config = default_run_config() | keys
        self.run_config = RunConfig.from_flower(self.config)


def test_a_run_with_the_same_data_and_network_tells_the_speed(monkeypatch):
    monkeypatch.setattr(time_estimates, "images_per_second", lambda *_: 1_000.0)
    cost = Cost(DEFAULT, 50_000, 10_000).left(0)
    assert estimated_seconds(DEFAULT, "flowers", [FinishedRun()], 2) == pytest.approx(START_SECONDS + cost / 200)
    assert estimated_seconds(DEFAULT, "flowers", [], 2) is None
    assert estimated_seconds(DEFAULT, "flowers", [FinishedRun(precision="bf16")], 2) is None
    # The speed of a known dataset can be measured.
    assert estimated_seconds(DEFAULT, "cifar10", [], 2) == pytest.approx(START_SECONDS + cost / 2_000)


def test_the_time_left_of_several_runs():
    estimates = [100.0, None, 300.0]  # the unknown one counts as the mean
    assert time_left(estimates, 0.0, 0.0) == "10 min left"
    assert time_left(estimates, 0.0, 20.0) == "13 min left"  # a slow start says little yet
    assert time_left(estimates, 1.0, 200.0) == "14 min left"  # twice as long as estimated
    assert time_left(estimates, 2.0, 600.0) == "9 min left"
    assert time_left(estimates, 3.0, 900.0) == "0 s left"
    assert time_left([None], 0.5, 1.0) == ""
