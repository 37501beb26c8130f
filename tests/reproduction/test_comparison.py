"""Our numbers beside the paper's: which runs count, what is marked, and who has the highest accuracy."""

import json
from math import isnan, nan, sqrt

import numpy as np
import pytest
from support.fake_runs import ramp

from fedbabu.reproduction.comparison import compare_with_paper, paired_differences, winners_in_words
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
    for protocol in ("text", "code"):
        ours = cell.ours[protocol]
        assert [run.path.name for run in ours.runs] == ["a", "c"]
        assert (ours.mean, ours.std) == (88.5, 5.0)
        assert ours.spread == pytest.approx(np.std([88.0, 89.0], ddof=1))
    assert cell.paper_mean == 87.85


def test_a_difference_is_one_if_another_seed_would_not_give_it(fake_runs):
    """With five seeds, Student's t for 95 % is 2.776; the paper's number is one more draw."""
    avg, means = [*TABLE13, "algorithm=fedavg"], [84.0, 85.0, 86.0, 87.0, 88.0]
    for seed, mean in enumerate(means[:4]):
        fake_runs.add(f"run{seed}", avg, ramp(mean), seed=seed)
    (cell,) = compared(*avg, fake_runs.override)
    assert cell.ours["text"].is_outside(1.0) is None
    fake_runs.add("run4", avg, ramp(means[4]), seed=4)
    (cell,) = compared(*avg, fake_runs.override)
    reach = 2.776 * np.std(means, ddof=1) * sqrt(1 + 1 / 5)
    for papers_mean, outside in ((86 - 0.99 * reach, False), (86 + 1.01 * reach, True), (float("nan"), None)):
        assert cell.ours["text"].is_outside(papers_mean) is outside


def test_one_run_has_the_numbers_of_both_protocols(fake_runs):
    """The code's are those of the best round, and without head by templates of its own."""
    cell_of = [*TABLE13, "algorithm=fedavg"]
    run = fake_runs.add("a", cell_of, ramp(80.0))
    best = [client | {"accuracy": [value + 1 for value in client["accuracy"]]} for client in run.clients]
    (run.path / "best-clients.jsonl").write_text("".join(json.dumps(client) + "\n" for client in best))
    (cell,) = compared(*cell_of, fake_runs.override)
    assert (cell.ours["text"].mean, cell.ours["code"].mean) == (80.0, 81.0)
    (own,) = compared(*cell_of, "run.evaluated-round=best", fake_runs.override)
    assert list(own.ours) == ["ours"]
    assert own.ours["ours"].mean == 81.0


def test_unequal_clients_are_weighted_differently_by_the_protocols(fake_runs):
    run = fake_runs.add("a", [*TABLE13, "algorithm=fedavg"], ramp(80.0))
    recorded = json.loads((run.path / "config.json").read_text())
    (run.path / "config.json").write_text(json.dumps(recorded | {"clients-hold-equally-many": False}))
    (cell,) = compared(*TABLE13, "algorithm=fedavg", fake_runs.override)
    assert [len(cell.ours[protocol].runs) for protocol in ("text", "code")] == [1, 0]


def test_differences_are_paired_over_the_seeds_that_both_have(fake_runs):
    for name, algorithm, mean, seed in (
        ("a", "fedbabu", 88.0, 1), ("b", "fedbabu", 90.0, 2), ("c", "fedbabu", 99.0, 3),
        ("d", "fedavg", 85.0, 1), ("e", "fedavg", 89.0, 2),
    ):  # fmt: skip
        fake_runs.add(name, [*TABLE13, f"algorithm={algorithm}"], ramp(mean), seed=seed)
    cells = compared(*TABLE13, "algorithm=fedbabu,fedavg", fake_runs.override)
    text, code = paired_differences(cells, ["algorithm"])
    assert {text.column, code.column} == {"text", "code"}
    assert sorted(text.by_seed) == [1, 2]
    assert (text.mean, text.standard_error) == (pytest.approx(2.0), pytest.approx(1.0))  # of 3 and 1
    assert "fedbabu - fedavg = +2.00 ± 1.00 (2 seeds)" in text.text


def test_a_paired_difference_of_one_seed_has_its_error_over_clients(fake_runs):
    fake_runs.add("a", [*TABLE13, "algorithm=fedbabu"], [[80.0 + client % 2] * 6 for client in range(100)])
    fake_runs.add("b", [*TABLE13, "algorithm=fedavg"], [[80.0] * 6] * 100)
    cells = compared(*TABLE13, "algorithm=fedbabu,fedavg", fake_runs.override)
    pair = next(paired_differences(cells, ["algorithm"]))
    differences = [client % 2 for client in range(100)]
    assert pair.mean == pytest.approx(0.5)
    assert pair.standard_error == pytest.approx(np.std(differences, ddof=1) / 10)


def test_clients_that_could_not_be_evaluated_are_marked_where_they_are_missing(fake_runs):
    """Here, a client is missing of those with the model of the best round, which are the code's."""
    babu = fake_runs.add("a", [*TABLE13, "algorithm=fedbabu"], ramp(88.0))
    fake_runs.add("b", [*TABLE13, "algorithm=fedavg"], ramp(85.0))
    present = [client for client in babu.clients if client["client"] != 3]
    (babu.path / "best-clients.jsonl").write_text("".join(json.dumps(client) + "\n" for client in present))
    babu.summarize({"last": {}, "best": {3: "it failed"}}, {}, 1)
    babu.write_summary()
    cells = compared(*TABLE13, "algorithm=fedbabu,fedavg", fake_runs.override)
    numbers = cells[0].ours
    assert [("*" in numbers[protocol].text(nan)) for protocol in ("text", "code")] == [False, True]
    text, code = paired_differences(cells, ["algorithm"])
    assert (text.mean, code.mean) == (pytest.approx(3.0), pytest.approx(3.0))  # client by client
    assert "± 0.00 (one seed" in text.text
    assert "± 0.00* (one seed" in code.text


def test_runs_on_other_data_are_not_compared_with_the_paper(fake_runs):
    few = tables()[13]["dataset"] | {"num-train-examples": 100}
    fake_runs.add("few", [*TABLE13, "algorithm=fedavg"], ramp(80.0), dataset=few)
    (cell,) = compared(*TABLE13, "algorithm=fedavg", fake_runs.override)
    assert cell.ours["text"].mean == 80.0
    assert isnan(cell.paper_mean)


def test_a_cell_of_the_users_own_has_all_metrics(fake_runs):
    overrides = ["dataset=digits", "run.num-clients=10", "algorithm=fedavg"]
    fake_runs.add("run", overrides, ramp(80.0, num_clients=10), dataset={"name": "digits"} | tables()[13]["dataset"])
    cells = compared(*overrides, fake_runs.override)
    assert [(cell.axes["metric"], cell.ours["text"].mean) for cell in cells] == [
        ("initial", 75.0), ("without-head", 37.5), ("personalized", 80.0),
    ]  # fmt: skip


def test_the_highest_accuracy_is_compared_line_by_line(fake_runs):
    for algorithm, mean in {"fedbabu": 88.0, "fedavg": 89.0}.items():
        fake_runs.add(algorithm, [*TABLE13, f"algorithm={algorithm}"], ramp(mean))
    both = compared(*TABLE13, "algorithm=fedbabu,fedavg", fake_runs.override)
    all_lines, line, *_ = winners_in_words(both, ["algorithm"])
    assert "as the text: with 1 seed, which cannot decide it, the paper's claim does not hold" in all_lines
    assert "0 of 1" in all_lines
    assert "fedavg ahead of the paper's fedbabu, within two standard errors" in line  # 1 point apart, errors of 0.5
    for seed in range(2, 6):
        for algorithm, mean in {"fedbabu": 90.0, "fedavg": 89.0}.items():
            fake_runs.add(f"{algorithm}{seed}", [*TABLE13, f"algorithm={algorithm}"], ramp(mean), seed=seed)
    both = compared(*TABLE13, "algorithm=fedbabu,fedavg", fake_runs.override)
    assert "as the text: the paper's claim holds" in winners_in_words(both, ["algorithm"])[0]
    all_algorithms = compared(*TABLE13, fake_runs.override)
    assert winners_in_words(all_algorithms, ["algorithm"]) == []  # the paper's winner, local-only, has no run
