"""The report: what it shows, and the files that it writes."""

import csv
import json
import re

import pytest
from support.errors import config_error
from support.fake_runs import DIGITS, ramp

from fedbabu.reproduction.experiment import Experiment
from fedbabu.reproduction.report import write_report

TABLE13 = ("experiment=table13", "cells.s=2", "cells.f=0.1", "cells.tau=4")


def report(*overrides, width=1000):
    """The text of a report."""
    return write_report(Experiment.compose(overrides), width)


@pytest.fixture
def two_algorithms(fake_runs):
    """Runs of FedBABU with two seeds and of FedAvg."""
    for name, algorithm, mean, seed in (
        ("a", "fedbabu", 88.0, 42),
        ("b", "fedbabu", 89.0, 7),
        ("c", "fedavg", 80.0, 42),
    ):
        fake_runs.add(name, [*TABLE13, f"algorithm={algorithm}"], ramp(mean), seed=seed)
    return fake_runs


def test_it_shows_our_numbers_as_text_and_code_the_papers_and_the_difference(two_algorithms):
    shown = report(*TABLE13, two_algorithms.override)
    for text in ("88.50 ± 5.00 / 0.71 (+0.65)", "87.85 ± 8.57", "80.00 ± 5.00 (-5.94)", "2 of 8 cells have runs."):
        assert text in shown
    lines = [line.split()[3 if line.startswith("2") else 0] for line in shown.splitlines() if "±" in line][1:4]
    assert lines == ["text", "code", "paper"]


def test_one_seed_cannot_decide_and_five_can(fake_runs):
    cell, means = [*TABLE13, "algorithm=fedavg"], (79.0, 80.0, 81.0, 80.5, 79.5)
    for seed, mean in enumerate(means):
        fake_runs.add(f"run{seed}", cell, ramp(mean), seed=seed)
        if not seed:
            shown = report(*cell, "figure=null", fake_runs.override)
            assert "For 2 numbers, one seed cannot decide" in shown
            assert "!" not in shown
    shown = report(*cell, "figure=null", fake_runs.override)
    assert "80.00 ± 5.00 / 0.79 (-5.94 !)" in shown
    assert "2 of 2 numbers with at least 5 seeds differ (!)" in shown
    assert "cannot decide" not in shown


def test_it_shows_and_writes_paired_differences(two_algorithms):
    shown = report(*TABLE13, "figure=null", two_algorithms.override)
    assert "as the text: fedbabu - fedavg = +8.00 ± 0.00 (one seed, error over clients)" in shown
    (path,) = (two_algorithms.results_dir / "reports").glob("*-pairs.csv")
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["first-algorithm"], row["second-algorithm"], row["measured-as"]) for row in rows] == [
        ("fedbabu", "fedavg", "text"), ("fedbabu", "fedavg", "code"),
    ]  # fmt: skip
    assert float(rows[0]["difference"]) == 8.0


def test_it_writes_markdown_csv_and_figures(two_algorithms):
    report(*TABLE13, two_algorithms.override)
    folder, name = two_algorithms.results_dir / "reports", "table13-cells.s=2-cells.f=0.1-cells.tau=4"
    for path in (folder / f"{name}.png", folder / f"{name}-beside-the-paper.png"):
        assert path.read_bytes().startswith(b"\x89PNG")
    markdown = (folder / f"{name}.md").read_text()
    ours = "88.50 ± 5.00 / 0.71 (+0.65)"
    assert f"| 2 | 0.1 | 4 | text<br>code<br>paper | {ours}<br>{ours}<br>87.85 ± 8.57 |" in markdown
    assert "| <br><br>86.84 ± 10.20 |" in markdown  # a cell without a run
    with (folder / f"{name}.csv").open() as file:
        rows = {row["algorithm"]: row for row in csv.DictReader(file)}
    for protocol in ("text", "code"):
        assert float(rows["fedbabu"][f"{protocol}-mean"]) == 88.5
        assert (rows["fedbabu"][f"{protocol}-runs"], rows["fedbabu"][f"{protocol}-num-seeds"]) == ("a b", "2")
    columns = ("text-mean", "code-std", "paper-mean", "text-difference", "code-outside", "text-runs")
    assert [rows["fedper"][column] for column in columns] == ["", "", "86.84", "", "", ""]


def test_it_writes_a_table_for_latex(two_algorithms):
    report(*TABLE13, "algorithm=fedbabu,fedavg", "figure=null", two_algorithms.override)
    (path,) = (two_algorithms.results_dir / "reports").glob("*.tex")
    lines = path.read_text(encoding="ascii").splitlines()  # LaTeX needs no package for letters
    assert r"s & f & $\tau$ &  & fedbabu & fedavg \\" in lines
    assert r"2 & 0.1 & 4 & text & 88.50 $\pm$ 5.00 / 0.71 (+0.65) & 80.00 $\pm$ 5.00 (-5.94) \\" in lines
    assert r" &  &  & paper & 87.85 $\pm$ 8.57 & 85.94 $\pm$ 10.72 \\" in lines
    (caption,) = (line for line in lines if line.startswith(r"\caption"))
    assert r"Accuracy in \%: mean $\pm$ std" in caption


def test_a_narrowed_report_does_not_overwrite_that_of_the_whole_table(two_algorithms):
    report("experiment=table13", "figure=null", two_algorithms.override)
    report(*TABLE13, "figure=null", two_algorithms.override)
    folder = two_algorithms.results_dir / "reports"
    paths = [path for path in folder.glob("*.csv") if not path.stem.endswith("-pairs")]
    written = {path.name: len(path.read_text().splitlines()) for path in paths}
    assert written == {
        "table13-figure=null.csv": 145,
        "table13-cells.s=2-cells.f=0.1-cells.tau=4-figure=null.csv": 9,
    }


def test_a_table_that_is_wider_than_the_terminal_is_shown_in_pieces(two_algorithms):
    shown = report(*TABLE13, "figure=null", two_algorithms.override, width=80)
    heads = [line.split() for line in shown.splitlines() if "fed" in line and "±" not in line and "/" not in line]
    assert heads[:2] == [["fedbabu", "fedavg", "\\"], ["fedper", "lg-fedavg", "fedrep", "per-fedavg", "\\"]]
    assert max(map(len, shown.split(" cells have runs")[0].splitlines())) <= 80


def test_incomplete_runs_are_marked(two_algorithms):
    path = two_algorithms.results_dir / "c" / "summary.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"missing": {"3": "out of memory"}}))
    shown = report(*TABLE13, "figure=null", two_algorithms.override)
    assert "80.00 ± 5.00*" in shown
    assert "* Not all clients were evaluated" in shown


def test_cells_without_runs_are_blank(fake_runs):
    overrides = ["dataset=digits", "run.num-clients=10"]
    fake_runs.add("avg", [*overrides, "algorithm=fedavg"], ramp(80.0, num_clients=10), dataset=DIGITS)
    shown = report(*overrides, "algorithm=fedavg,fedbabu", fake_runs.override)
    assert re.search(r"^fedbabu +text +\n", shown, flags=re.MULTILINE)
    assert "3 of 6 cells have runs." in shown
    assert "0 of 3 cells have runs." in report("experiment=figure02", fake_runs.override)


def test_table_8_has_the_sizes_of_the_datasets(fake_runs):
    fake_runs.add("one", [*TABLE13, "algorithm=fedavg"], ramp(80.0))
    shown = [line.split() for line in report("experiment=table08", fake_runs.override).splitlines()]
    assert ["cifar10", "train", "50000", "50000", "0"] in shown
    assert ["test", "10000", "10000", "0"] in shown
    assert ["cifar100", "train", "50000"] in shown


def test_an_unknown_figure_is_a_sentence(fake_runs):
    with config_error("figure = 'nonsense'", "layer-similarity"):
        report(*TABLE13, "figure=nonsense", fake_runs.override)
