"""The command `fedbabu`: its help, its errors as sentences."""

import re
import subprocess
import sys

import pytest
from support import PROJECT
from support.fake_runs import FakeRuns, ramp

from fedbabu.cli import main
from fedbabu.config import default_run_config

ONE_CELL = ["experiment=table13", "cells.s=2", "cells.f=0.1", "cells.tau=4", "algorithm=fedavg"]


def run(capsys, *arguments) -> tuple[object, str]:
    """Run a command in this process; returns its exit status, or the sentence of an error, and what it printed."""
    with pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    return stopped.value.code, capsys.readouterr().out


def python(*arguments) -> str:
    """What Python prints in a process of its own."""
    return subprocess.run([sys.executable, *arguments], cwd=PROJECT, text=True, capture_output=True, check=True).stdout


def test_the_help_says_what_each_command_is_for():
    shown = python("-m", "fedbabu", "--help")
    assert shown == python("-c", "from fedbabu.cli import main; main(['--help'])")
    lines = dict(re.findall(r"^  (\w+) +(\w.*\.)$", shown.split("Commands:")[1], flags=re.MULTILINE))
    assert list(lines) == [
        "sweep",
        "experiments",
        "report",
        "compare",
        "partition",
        "personalize",
        "predict",
        "state",
        "app",
        "config",
    ]
    assert not any(line.endswith("...") for line in lines.values())


def test_the_help_does_not_wait_for_heavy_imports():
    modules = python("-c", "import sys, fedbabu.cli; print(*sys.modules)").split()
    assert {"torch", "flwr", "hydra", "matplotlib", "datasets"}.isdisjoint(modules)


def test_the_tables_of_run_config_keys_are_those_of_the_docs(capsys):
    status, printed = run(capsys, "config")
    assert status == 0
    assert printed.count("\n| `") == len(default_run_config())
    assert printed.rstrip() in (PROJECT / "docs" / "configuration.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("command", [["report"], ["sweep", "--dry-run"]])
def test_an_error_of_the_user_is_one_sentence_and_status_1(capsys, command):
    sentence, printed = run(capsys, *command, "experiment=table13", "cells.s=3")
    assert "shards-per-client = 3" in sentence  # with a text, Python prints it on stderr and exits with 1
    assert "\n" not in sentence
    assert printed == ""


def test_a_dry_run_lists_the_cells_and_runs_nothing(capsys, tmp_path):
    status, printed = run(capsys, "sweep", *ONE_CELL, "--dry-run", f"results-dir={tmp_path}")
    assert status == 0
    assert "fedavg, s = 2, f = 0.1, τ = 4" in printed
    assert "1 cell of 1 run, 0 finished" in printed
    assert list(tmp_path.iterdir()) == []


def test_names_in_brackets_are_shown_as_they_are(capsys, tmp_path):
    status, printed = run(capsys, "sweep", "+cells.dataset=['/a/[/b]',digits]", "--dry-run", f"results-dir={tmp_path}")
    assert status == 0
    assert "dataset = /a/[/b]" in printed


def test_a_sweep_with_nothing_to_do_shows_the_report(capsys, tmp_path):
    fake_runs = FakeRuns(tmp_path)
    fake_runs.add("run", ONE_CELL, ramp(80.0))
    for command in (["sweep"], ["report"]):
        status, printed = run(capsys, *command, *ONE_CELL, "figure=null", fake_runs.override)
        assert status == 0
        assert "80.00 ± 5.00" in printed
        assert "Written to" in printed


def test_a_file_that_cannot_be_written_is_one_sentence(capsys, tmp_path):
    (tmp_path / "file").touch()
    sentence, _ = run(capsys, "report", *ONE_CELL, f"results-dir={tmp_path}/file")
    assert str(tmp_path / "file") in sentence
