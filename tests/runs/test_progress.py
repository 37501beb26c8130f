"""What a run prints."""

import re
from pathlib import Path

import pytest

from fedbabu.algorithms import ALGORITHMS
from fedbabu.config import RunConfig
from fedbabu.federation.clients import ClientInfo, Federation
from fedbabu.models import build_model
from fedbabu.runs.checkpoints import Checkpoint
from fedbabu.runs.progress import Progress, final_report
from fedbabu.runs.records import RoundRecord


def test_what_a_run_prints(finished):
    lines = finished.output.splitlines()
    assert "fedbabu on digits: 6 clients (s = 5), 1440 training and 300 test images" in lines
    rounds = [line for line in lines if line.startswith("round")]
    assert len(rounds) == 4
    assert re.fullmatch(r"round 1/4   loss \d\.\d{4}   +\d+\.\d s   \d+ (s|min) left", rounds[0])
    assert re.search(r"left   initial accuracy \d+\.\d\d %$", rounds[1])
    assert "left" not in rounds[3]
    assert re.search(r"^fine-tuning all 6 clients for 2 epochs \(about \d+ s\) …$", finished.output, re.MULTILINE)
    for metric in ("Initial", "Without head", "Personalized"):
        assert re.search(rf"{metric} +│ +\d+\.\d\d ± \d+\.\d\d", finished.output)
    assert lines[-1] == f"Run folder: {finished.run.path}"
    assert finished.run.path.is_absolute()


def progress(config: dict) -> Progress:
    clients = {client: ClientInfo(20, 5, (0, 1)) for client in range(config["num-clients"])}
    nodes_of = {client: [100] for client in clients}
    federation = Federation(clients, nodes_of, False, "digits", (1, 8, 8), tuple(range(10)), ("cpu",))
    return Progress(RunConfig.from_flower(config), federation)


def test_a_round_that_did_not_go_smoothly(run_config, capsys):
    record = RoundRecord(
        3, failed={5: "loss not finite"}, attempts=2, num_examples=60, train_loss=1.5, server_loss=0.5,
        train_seconds=2.0, test_accuracy=12.5, initial_accuracy=25.0, missing={1: "it failed"}, seconds=3.0,
    )  # fmt: skip
    progress(run_config).round(record)
    (line,) = capsys.readouterr().out.splitlines()
    expected = [
        "round 3/3", "loss 1.5000", "loss on the server 0.5000", "3.0 s",
        "initial accuracy 25.00 % of 7 of 8 clients, without client 1 (it failed)", "on the whole test set 12.50 %",
        "attempt 2", "left out: client 5 (loss not finite)",
    ]  # fmt: skip
    assert [part.strip() for part in line.split("   ") if part] == expected


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_accuracy_has_the_name_of_what_it_is(run_config, capsys, algorithm):
    start = {"initial-model": "/fedavg"} if algorithm == "lg-fedavg" else {}
    progress(run_config | start | {"algorithm": algorithm}).round(RoundRecord(3, initial_accuracy=25.0, seconds=1.0))
    spec, printed = ALGORITHMS[algorithm], capsys.readouterr().out
    assert ("initial accuracy" in printed) == (not spec.keeps)
    assert ("personalized accuracy" in printed) == (bool(spec.keeps) and not spec.personalizes)


def test_a_long_round_says_how_many_clients_are_done(run_config, capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("fedbabu.heartbeat.monotonic", lambda: now[0])
    printing = progress(run_config)
    for now[0], report in {5.0: (1, 10, 45.0), 10.0: (2, 10, 40.0), 15.0: (3, 10, 35.0), 21.0: (0, 1, None)}.items():
        printing.clients_done(*report)
    assert capsys.readouterr().out == "    2 of 10 clients done, 40 s for the others\n    0 of 1 client done\n"


def test_without_fine_tuning_clients_are_evaluated(run_config, capsys):
    progress(run_config | {"num-finetune-epochs": 0}).final_evaluation()
    assert capsys.readouterr().out == "evaluating all 8 clients …\n"


@pytest.mark.parametrize(
    ("keys", "plan"),
    [
        ({}, "3 rounds of 4 clients × 2 epochs"),
        ({"num-server-rounds": 1}, "1 round of 4 clients × 2 epochs"),
        ({"algorithm": "local-only"}, "every client alone for 6 epochs"),
        ({"algorithm": "fedavg", "fraction-train": 0.0, "server-data-fraction": 1.0}, "3 epochs on the server"),
    ],
)
def test_the_first_lines_say_what_is_about_to_run(run_config, capsys, keys, plan):
    model = build_model("FourConvNet", (1, 8, 8), 10, seed=0)
    record = RoundRecord(1, num_examples=80, train_seconds=2.0, seconds=3.0)
    checkpoint = Checkpoint(1, {}, {}, [record], None)
    started = progress(run_config | keys)
    started.start(model, Path("/results/run"), checkpoint, resumed=True)
    printed = capsys.readouterr().out
    for expected in (
        "8 clients (s = 2), 160 training and 40 test images",
        plan,
        "on 1 SuperNode (cpu)",
        "enlarged from 8×8 to 16×16",
        "/results/run",
        "Resumed after the training of round 1",
    ):
        assert expected in printed
    assert len(started.rounds) == 1


@pytest.mark.parametrize(
    ("algorithm", "protocol", "printed"),
    [
        ("fedbabu", "text", ""),
        ("fedbabu", "code", "the paper says\n"),
        ("fedrep", "code", "says; momentum = 0.5, num-"),
    ],
)
def test_the_first_lines_say_that_the_code_is_followed(run_config, capsys, algorithm, protocol, printed):
    started = progress(run_config | {"algorithm": algorithm, "protocol": protocol})
    started.start(
        build_model("FourConvNet", (1, 8, 8), 10, seed=0), Path("/run"), Checkpoint(0, {}, {}, [], None), False
    )
    output = capsys.readouterr().out
    assert ("authors' code" in output) == (protocol == "code")
    assert printed in output


def test_the_report_has_a_column_for_each_protocol_and_says_what_it_means(copied_run):
    report = final_report(copied_run)
    assert "as the text" in report or "this run" in report
    for name in copied_run.protocols:
        assert f"As the {name}: " in report


def test_the_report_shows_the_papers_numbers_beside_ours(copied_run):
    copied_run.summarize({}, {"personalized": {"mean": 87.85, "std": 8.57, "table": 13}})
    difference = copied_run.summary["accuracy"]["personalized"]["mean"] - 87.85
    report = final_report(copied_run)
    assert "87.85 ± 8.57 (Table 13)" in report
    assert f"{difference:+.2f}" in report
    assert "the paper" not in final_report(type(copied_run)(copied_run.path))


def test_the_report_names_clients_that_are_missing_or_without_test_images(copied_run):
    copied_run.summarize({"last": {6: "it failed"}}, {})
    for means in (copied_run.summary["accuracy"], *copied_run.summary["accuracy-by-protocol"].values()):
        means["ood-initial"] = {"mean": 1.0, "std": 0.5, "num-clients": 4}
    copied_run.summary["failed"] = 3
    report = final_report(copied_run)
    assert "over 6 of 7 clients, missing client 6 (it failed)" in report
    assert "Out-of-distribution, initial (4 of 6 clients)" in report
    assert re.search("^3 times", report, re.MULTILINE)
