"""Our numbers beside the paper's: which runs count, what is marked, and who has the highest accuracy."""

from math import isnan, sqrt

import numpy as np
import pytest
from support.fake_runs import ramp

from fedbabu.reproduction.comparison import compare_with_paper, winners_in_words
from fedbabu.reproduction.experiment import Experiment
from fedbabu.reproduction.paper.tables import tables

TABLE13 = ("experiment=table13", "cells.s=2", "cells.f=0.1", "cells.tau=4")


def compared(*overrides):
    return compare_with_paper(Experiment.compose(overrides))


def test_the_newest_finished_run_of_each_seed_counts(fake_runs):
    babu = [*TABLE13, "algorithm=fedbabu"]
    fake_runs.add("a", babu, ramp(88.0))
    fake_runs.add("b", babu, ramp(90.0), seed=7)
    fake_runs.add("c", babu, ramp(89.0), seed=7)
    fake_runs.add("d-of-another-setting", [*babu, "run.momentum=0.5"], ramp(70.0))
    (fake_runs.add("e-unfinished", babu, ramp(70.0)).path / "summary.json").unlink()
    (cell,) = compared(*babu, fake_runs.override)
    assert [run.path.name for run in cell.runs] == ["a", "c"]
    assert (cell.mean, cell.std) == (88.5, 5.0)
    assert cell.spread == pytest.approx(np.std([88.0, 89.0], ddof=1))
    assert (cell.paper_mean, cell.difference) == (87.85, pytest.approx(0.65))


def test_a_difference_is_marked_beyond_two_standard_errors_and_the_spread_over_seeds(fake_runs):
    avg = [*TABLE13, "algorithm=fedavg"]
    fake_runs.add("a", avg, ramp(80.0), seed=1)
    (cell,) = compared(*avg, fake_runs.override)
    assert abs(cell.difference) > 2 * 10.72 / sqrt(100)
    assert cell.is_outside
    fake_runs.add("b", avg, ramp(84.0), seed=2)
    (cell,) = compared(*avg, fake_runs.override)
    assert 2 * 10.72 / sqrt(100) < abs(cell.difference) < 2 * 10.72 / sqrt(100) + np.std([80.0, 84.0], ddof=1)
    assert not cell.is_outside


def test_runs_on_other_data_are_not_compared_with_the_paper(fake_runs):
    few = tables()[13]["dataset"] | {"num-train-examples": 100}
    fake_runs.add("few", [*TABLE13, "algorithm=fedavg"], ramp(80.0), dataset=few)
    (cell,) = compared(*TABLE13, "algorithm=fedavg", fake_runs.override)
    assert cell.mean == 80.0
    assert isnan(cell.paper_mean)


def test_a_cell_of_the_users_own_has_all_metrics(fake_runs):
    overrides = ["dataset=digits", "run.num-clients=10", "algorithm=fedavg"]
    fake_runs.add("run", overrides, ramp(80.0, num_clients=10), dataset={"name": "digits"} | tables()[13]["dataset"])
    cells = compared(*overrides, fake_runs.override)
    assert [(cell.axes["metric"], cell.mean) for cell in cells] == [
        ("initial", 75.0), ("without-head", 37.5), ("personalized", 80.0),
    ]  # fmt: skip


def test_the_highest_accuracy_is_compared_line_by_line(fake_runs):
    for algorithm, mean in {"fedbabu": 88.0, "fedavg": 89.0}.items():
        fake_runs.add(algorithm, [*TABLE13, f"algorithm={algorithm}"], ramp(mean))
    both = compared(*TABLE13, "algorithm=fedbabu,fedavg", fake_runs.override)
    all_lines, line = winners_in_words(both, ["algorithm"])
    assert "does not hold" in all_lines
    assert "0 of 1" in all_lines
    assert "fedavg ahead of the paper's fedbabu, within two standard errors" in line  # 1 point apart, errors of 0.5
    all_algorithms = compared(*TABLE13, fake_runs.override)
    assert winners_in_words(all_algorithms, ["algorithm"]) == []  # the paper's winner, local-only, has no run
