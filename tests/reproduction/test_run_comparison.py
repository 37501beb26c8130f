"""The comparison of runs that a user chooses."""

import json

import pytest
from PIL import Image
from support.errors import config_error
from support.fake_runs import DIGITS, ramp

from fedbabu.cli import main
from fedbabu.reproduction.run_comparison import comparison_table, groups_of, paired_sentences
from fedbabu.runs.folder import RunFolder

SETTING = ["dataset=digits"]


@pytest.fixture
def runs(fake_runs):
    """FedAvg with means of 80 and 82 %, and FedBABU with 84 and 88, for two seeds."""
    means = {("fedavg", 1): 80.0, ("fedavg", 2): 82.0, ("fedbabu", 1): 84.0, ("fedbabu", 2): 88.0}
    return [
        fake_runs.add(f"{name}{seed}", [*SETTING, f"algorithm={name}"], ramp(mean), seed=seed, dataset=DIGITS)
        for (name, seed), mean in means.items()
    ]


def personalized(runs):
    """The column of personalized accuracy, by what the lines are about."""
    header, *rows = comparison_table(groups_of(runs))
    return {row[0]: row[header.index("Personalized")] for row in rows}


def test_runs_that_differ_in_the_seed_alone_are_averaged(runs):
    assert personalized(runs[:3]) == {
        "FedAvg, seed 1": "80.00 ± 5.00",
        "FedAvg, seed 2": "82.00 ± 5.00",
        "FedAvg, 2 seeds": "81.00 ± 5.00 / 1.41",
        "FedBABU, seed 1": "84.00 ± 5.00",
    }


def test_the_papers_numbers_stand_below_runs_of_its_settings(fake_runs):
    cell = ["experiment=table13", "cells.s=2", "cells.f=0.1", "cells.tau=4", "algorithm=fedavg"]
    run = fake_runs.add("fedavg", cell, ramp(88.0))
    paper = {"personalized": {"mean": 85.94, "std": 10.72, "table": 13}}
    path = run.path / "summary.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"paper": paper}))
    assert personalized([RunFolder(run.path)])["FedAvg, the paper"] == "85.94 ± 10.72"


def test_differences_are_paired_by_seed_and_client(runs):
    (sentence,) = [each for each in paired_sentences(groups_of(runs)) if each.startswith("Personalized")]
    assert sentence == "Personalized: FedBABU - FedAvg = +5.00 ± 1.00 (standard error over 2 seeds)"
    (sentence,) = [each for each in paired_sentences(groups_of([runs[0], runs[2]])) if each.startswith("Personalized")]
    assert sentence == "Personalized: FedBABU - FedAvg = +4.00 ± 0.00 (standard error over 100 clients of one seed)"


def test_clients_are_paired_by_their_number_in_the_round_that_the_results_are_of(fake_runs):
    """Of the best round's model, client 0 is missing; of the last one's, client 1."""
    accuracies = [[float(client)] * 6 for client in range(100)]
    avg = fake_runs.add("avg", [*SETTING, "algorithm=fedavg"], accuracies, dataset=DIGITS)
    babu = fake_runs.add(
        "babu", [*SETTING, "algorithm=fedbabu", "run.evaluated-round=best"], accuracies, dataset=DIGITS
    )
    for name, missing in (("best-clients.jsonl", 0), ("clients.jsonl", 1)):
        lines = [json.dumps(client) + "\n" for client in avg.clients if client["client"] != missing]
        (babu.path / name).write_text("".join(lines))
    babu.summarize({"last": {1: "it failed"}, "best": {0: "it failed"}}, {}, 1)
    assert babu.clients_covered == "99 of 100 clients"
    babu.write_summary()
    *sentences, note = paired_sentences(groups_of([avg, babu]))
    (sentence,) = [each for each in sentences if each.startswith("Personalized")]
    assert "= +0.00 ± 0.00* (standard error over 99 clients of one seed)" in sentence
    assert note.startswith("* Not all clients were evaluated")


def test_a_picture_may_be_named_without_an_ending(runs, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["compare", str(runs[0].path), "--output", str(tmp_path / "picture")])
    assert stopped.value.code == 0
    assert f"Picture: {tmp_path / 'picture.png'}" in capsys.readouterr().out
    assert (tmp_path / "picture.png").exists()


def test_runs_without_common_clients_are_not_paired(runs):
    assert paired_sentences(groups_of([runs[0], runs[3]])) == [
        "FedBABU and FedAvg have no seed with the same clients in common."
    ]


def test_the_command_prints_and_draws(runs, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["compare", str(runs[0].path), str(runs[2].path), "--output", str(tmp_path / "picture.png")])
    assert stopped.value.code == 0
    printed = capsys.readouterr().out
    assert "FedBABU - FedAvg = +4.00" in printed
    assert Image.open(tmp_path / "picture.png").size[0] > 500


def test_an_unfinished_run_is_refused(runs):
    (runs[1].path / "summary.json").unlink()
    with config_error(runs[1].path, "not a finished run"):
        groups_of(runs)
