"""Which runs a sweep plans, how it lists them, and a sweep that is killed or in which a run fails."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress

import psutil
import pytest
from support import PROJECT
from support.fake_runs import ramp
from support.in_process import essence, run_server

from fedbabu.cli import main
from fedbabu.reproduction.experiment import Experiment
from fedbabu.reproduction.sweep import listing, newest_line, plan, share_done, summary
from fedbabu.runs import time_estimates
from fedbabu.runs.results_folder import all_runs, finished_runs

TABLE13 = ("experiment=table13", "cells.s=2", "cells.f=0.1", "cells.tau=4")
REDUCED = [*TABLE13, "dataset=digits", "run.num-clients=10", "run.evaluate-every=0", "total-epochs=80"]


def test_lg_fedavg_comes_after_the_run_that_it_starts_from():
    runs = plan(Experiment.compose(["experiment=table13", "cells.s=2", "algorithm=lg-fedavg", "seeds=[3,4]"]))
    assert len(runs) == 24
    for position, run in enumerate(runs):
        if run.start:
            assert run.start in runs[:position]
            assert run.start.config == run.config | {"algorithm": "fedavg"}
    assert sum(run.start is not None for run in runs) == 12


def test_a_run_fine_tunes_for_the_most_epochs_of_its_cells():
    (run,) = plan(Experiment.compose(["experiment=table06", "cells.s=10", "algorithm=fedbabu"]))
    assert run.config["num-finetune-epochs"] == 20
    assert len(run.cells) == 9


def test_a_finished_run_is_found_and_not_planned_again(fake_runs):
    fake_runs.add("a", [*TABLE13, "algorithm=fedbabu"], ramp(88.0))
    experiment = Experiment.compose([*TABLE13, "algorithm=fedbabu,fedavg", fake_runs.override])
    runs = plan(experiment)
    assert [run.state for run in runs] == ["finished", ""]
    assert runs[0].folder().path.name == "a"
    assert "2 cells of 2 runs, 1 finished, about" in summary(experiment, runs)


def test_the_listing_has_every_cell_once():
    runs = plan(Experiment.compose(["experiment=table12", "cells.s=2", "cells.f=0.1", "cells.tau=4"]))
    columns = [list(column.cells) for column in listing(runs).columns]
    numbers, labels, metrics, printed, times, states = columns
    assert numbers == ["1", "", "2", ""]
    assert labels == [f"{algorithm}, s = 2, f = 0.1, τ = 4" for algorithm in ("fedavg", "fedavg", "fedbabu", "fedbabu")]
    assert metrics == ["Initial", "Without head"] * 2
    assert printed[2:] == ["44.39 ± 16.49", "83.12 ± 9.68"]
    assert [bool(time) for time in times] == [True, False, True, False]
    assert states == [""] * 4


def test_the_newest_line_of_a_run_is_shown(tmp_path):
    log = tmp_path / "log"
    log.write_text("")
    assert newest_line(log) == ""
    log.write_text(f"{'x' * 5000}é\n\x1b[36mround 1/20\x1b[0m   loss 0.5\n    3 of 10 clients done\n\n")
    assert newest_line(log) == "3 of 10 clients done"


def test_the_work_of_a_run_is_not_over_with_its_last_round_because_an_evaluation_follows(fake_runs):
    fake_runs.add("a", [*TABLE13, "algorithm=fedbabu"], ramp(88.0))
    (run,) = plan(Experiment.compose([*TABLE13, "algorithm=fedbabu", fake_runs.override]))
    shares = [share_done(run, 50_000, rounds) for rounds in (0, 40, 79, 80)]
    assert shares[0] == 0
    assert sorted(shares) == shares
    assert 0.3 < shares[1] < 0.5
    assert shares[3] < 0.9


def start_sweep(overrides, *flags) -> subprocess.Popen:
    command = [sys.executable, "-m", "fedbabu", "sweep", *overrides, *flags]
    return subprocess.Popen(
        command, cwd=PROJECT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        # What a shell starts in the background ignores Ctrl-C, and so would all that it starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip


def sweep(overrides, *flags) -> tuple[int, str]:
    """Run a sweep to its end; returns its exit status and what it printed, as one line."""
    process = start_sweep(overrides, *flags)
    output, _ = process.communicate(timeout=500)
    return process.returncode, " ".join(output.split())


@pytest.mark.slow
def test_a_killed_sweep_continues_and_ends_like_an_undisturbed_one(tmp_path, papers_width):
    results = tmp_path / "results"
    overrides = [*REDUCED, "algorithm=fedbabu,fedper", f"results-dir={results}"]
    killed = start_sweep(overrides)
    while not [run for run in all_runs(results) if run.config["algorithm"] == "fedper" and len(run.rounds) > 7]:
        assert killed.poll() is None, killed.communicate()[0]
        time.sleep(0.02)
    family = psutil.Process(killed.pid).children(recursive=True)
    killed.kill()
    for process in family:  # the SuperLink and everything below it, which would continue the run
        with suppress(psutil.NoSuchProcess):
            process.kill()
    killed.communicate()
    first, second = all_runs(results)
    assert first.finished
    assert not second.finished
    written = os.stat(first.path / "summary.json").st_mtime_ns

    status, output = sweep(overrides, "--dry-run")
    assert (status, "2 cells of 2 runs, 1 finished" in output) == (0, True)
    assert re.search(r"fedper, s = 2, .* round \d+/20", output)

    status, output = sweep(overrides)
    assert (status, "1 of 1: fedper" in output) == (0, True)
    assert "2 of 2 cells have runs." in output
    assert os.stat(first.path / "summary.json").st_mtime_ns == written
    assert [run.path for run in finished_runs(results)] == [first.path, second.path]
    logs = "".join(path.read_text() for path in (results / ".sweep").glob("table13-*.log"))
    assert "Resumed after the training of round" in logs
    for run in finished_runs(results):
        config = run.config | {"results-dir": str(tmp_path / "undisturbed")}
        assert essence(run) == essence(run_server(config)[0])

    status, output = sweep(overrides)
    assert (status, "2 finished" in output, " of 1: " in output) == (0, True, False)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_sweep_stops_everything_that_it_started(tmp_path, number):
    process = start_sweep([*REDUCED, "algorithm=fedbabu", f"results-dir={tmp_path}"])
    while not (tmp_path / ".sweep" / "superlink.json").exists():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    time.sleep(3)
    family = psutil.Process(process.pid).children(recursive=True)
    assert family
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert output.splitlines()[-1].startswith("Interrupted.")
    assert "Traceback" not in output
    assert not [member for member in family if member.is_running() and member.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.slow
def test_a_run_that_fails_does_not_stop_the_others(tmp_path):
    results = tmp_path / "results"
    small = ["run.num-clients=5", "run.num-server-rounds=1", "run.num-local-epochs=1", f"results-dir={results}"]
    status, output = sweep(["+cells.dataset=[/nowhere,digits]", *small])
    assert status == 1
    assert "Failed: fedbabu, dataset = /nowhere: dataset = '/nowhere'" in output
    assert re.search(r"\(sweep: \d+ (s|min) left\)", output)
    (run,) = finished_runs(results)
    assert run.config["dataset"] == "digits"
    assert f"{run.summary['accuracy']['personalized']['mean']:.2f}" in output
    assert "Traceback" not in output
    federation = json.loads((run.path / "config.json").read_text())["federation"]
    assert federation["num-supernodes"] == min(len(os.sched_getaffinity(0)), 5)


@pytest.mark.slow
def test_the_page_lists_all_experiments(monkeypatch, capsys):
    """But for the last column, the time, which is that of the machine on which it was printed."""
    monkeypatch.setattr(time_estimates, "images_per_second", lambda *setting: 1000.0)
    with pytest.raises(SystemExit) as stopped:
        main(["experiments"])
    assert not stopped.value.code
    page = (PROJECT / "docs" / "experiments.md").read_text(encoding="utf-8")
    (table,) = re.findall(r"(?:^\| .*\n)+", page.split("## All experiments\n")[1].split("## ")[0], flags=re.MULTILINE)
    listed, shown = (
        [line.rsplit("|", 2)[0] for line in text.splitlines()] for text in (capsys.readouterr().out, table)
    )
    assert listed == shown
    assert len(listed) > 35
