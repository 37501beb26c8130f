"""A sweep as a user runs it, killed in the middle, and with a run that fails."""

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
from conftest import PROJECT
from filelock import FileLock
from in_process import run_server
from test_flower_kills import essence_of_results

from fedbabu.errors import ConfigError
from fedbabu.reproduction.local_superlink import local_superlink
from fedbabu.runs.folder import all_runs, finished_runs

pytestmark = pytest.mark.slow
REDUCED = [
    "experiment=table13", "cells.s=2", "cells.f=0.1", "cells.tau=4", "dataset=digits", "run.num-clients=10",
    "run.evaluate-every=0", "total-epochs=80",
]  # fmt: skip


def start_sweep(overrides, *flags) -> subprocess.Popen:
    command = [sys.executable, "-m", "fedbabu.reproduction.sweep", *overrides, *flags]
    return subprocess.Popen(
        command, cwd=PROJECT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        # What a shell starts in the background ignores Ctrl-C, and so would all that it starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip


def sweep(overrides, *flags) -> tuple[int, str]:
    """Its exit status and what it printed, as one line."""
    process = start_sweep(overrides, *flags)
    output, _ = process.communicate(timeout=500)
    return process.returncode, " ".join(output.split())


def test_a_killed_sweep_goes_on_where_it_stopped_and_ends_as_an_undisturbed_one(tmp_path):
    results = tmp_path / "results"
    overrides = [*REDUCED, "algorithm=fedbabu,fedper", f"results-dir={results}"]
    killed = start_sweep(overrides)
    while not [run for run in all_runs(results) if run.config["algorithm"] == "fedper" and len(run.rounds) > 7]:
        assert killed.poll() is None, killed.communicate()[0]
        time.sleep(0.02)
    family = psutil.Process(killed.pid).children(recursive=True)
    killed.kill()
    for process in family:  # the SuperLink and all below it, too, which would go on with the run
        with suppress(psutil.NoSuchProcess):
            process.kill()
    killed.communicate()
    first, second = all_runs(results)
    assert first.finished
    assert not second.finished
    written = os.stat(first.path / "summary.json").st_mtime_ns

    status, output = sweep(overrides, "--dry-run")
    assert "2 cells of 2 runs, 1 finished" in output
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
        assert essence_of_results(run) == essence_of_results(run_server(config)[0])

    status, output = sweep(overrides)
    assert (status, "2 finished" in output, " of 1: " in output) == (0, True, False)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_sweep_that_is_interrupted_stops_all_that_it_started(tmp_path, number):
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
    assert output.endswith("Interrupted. The same command goes on where it stopped.\n")
    assert "Traceback" not in output
    assert not [member for member in family if member.is_running() and member.status() != psutil.STATUS_ZOMBIE]


def test_a_superlink_that_a_killed_process_left_is_stopped(tmp_path):
    code = (
        "import time; from pathlib import Path; from fedbabu.reproduction.local_superlink import local_superlink\n"
        f"with local_superlink(Path({str(tmp_path)!r})) as (_, process):\n"
        "    print(process.pid, flush=True)\n"
        "    time.sleep(600)"
    )
    killed = subprocess.Popen([sys.executable, "-c", code], cwd=PROJECT, text=True, stdout=subprocess.PIPE)
    left = psutil.Process(int(killed.stdout.readline()))
    with pytest.raises(ConfigError, match="Another process has a SuperLink in"), local_superlink(tmp_path):
        pass
    killed.kill()
    killed.communicate()
    assert left.is_running()
    with local_superlink(tmp_path) as (_, process):
        assert not left.is_running() or left.status() == psutil.STATUS_ZOMBIE
    assert not process.is_running()
    FileLock(tmp_path / "lock").acquire(timeout=0).lock.release()


def test_a_run_that_fails_does_not_stop_the_others(tmp_path):
    results = tmp_path / "results"
    own = ["run.num-clients=5", "run.num-server-rounds=1", "run.num-local-epochs=1", f"results-dir={results}"]
    status, output = sweep(["+cells.dataset=[/nowhere,digits]", *own])
    assert status == 1
    assert "Failed: fedbabu, dataset = /nowhere: dataset = '/nowhere'" in output
    (run,) = finished_runs(results)
    assert run.config["dataset"] == "digits"
    assert f"{run.summary['accuracy']['personalized']['mean']:.2f}" in output
    assert "Traceback" not in output
    assert json.loads((run.path / "config.json").read_text())["federation"]["num-supernodes"] == len(
        os.sched_getaffinity(0)
    )
