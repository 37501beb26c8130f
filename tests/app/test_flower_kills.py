"""Flower's processes, killed in the middle of a `flwr run`."""

import json
import random
import subprocess
import time
from contextlib import suppress

import psutil
import pytest
from support import PROJECT
from support.flower import BIN, flwr
from support.in_process import essence, run_server

from fedbabu.config import default_run_config
from fedbabu.reproduction.local_superlink import local_superlink
from fedbabu.runs.folder import RunFolder

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("papers_width")]

ONE_THREAD = ("--federation-config", "num-supernodes=2 client-resources-num-cpus=1")  # as in the process of a test
LONG_RUN = {
    "algorithm": "fedper",
    "dataset": "digits",
    "num-server-rounds": 12,
    "num-clients": 10,
    "checkpoint-every": 2,
    "evaluate-every": 3,
}


def kill(*processes: psutil.Process) -> None:
    """Kill processes that may have ended already."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def descendants(process: psutil.Process, name: str) -> list[psutil.Process]:
    """The processes that a process has started, directly or not, whose command contains a name."""
    found = []
    for child in process.children(recursive=True):
        with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            if name in " ".join(child.cmdline()):
                found.append(child)
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, papers_width):
    """What the run ends with if nothing is killed, in the process of the test."""
    results = str(tmp_path_factory.mktemp("undisturbed"))
    return essence(run_server(default_run_config() | LONG_RUN | {"results-dir": results})[0])


@pytest.mark.parametrize("victim", ["workers", "server", "all of Flower"])
def test_a_run_survives_the_death_of_its_processes(tmp_path, undisturbed, victim):
    """Workers are restarted within the run; without its server, or all of Flower, the run is resumed."""
    results = tmp_path / "results"
    keys = LONG_RUN | {"results-dir": str(results)}
    overrides = " ".join(f"{key}={json.dumps(value)}" for key, value in keys.items())
    with local_superlink(tmp_path / "home") as (environment, superlink):
        command = [BIN / "flwr", "run", ".", "--stream", *ONE_THREAD, "--run-config", overrides]
        running = psutil.Popen(command, env=environment, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        try:
            while not list(results.glob("*/rounds.jsonl")):
                assert running.poll() is None, running.communicate()[0].decode()
                time.sleep(0.05)
            time.sleep(random.uniform(0.5, 3))
            if victim == "workers":
                workers = descendants(superlink, "ClientAppActor")
                assert workers
                kill(*workers)
                output = running.communicate(timeout=300)[0].decode()
                assert running.returncode == 0
                assert "left out" not in output
            else:
                (server, *_) = descendants(superlink, "flwr-simulation")
                family = server.children(recursive=True)
                if victim == "all of Flower":
                    kill(superlink)
                kill(server)
                time.sleep(2)
                kill(*family)
        finally:
            kill(running)
            running.communicate()
    (folder,) = results.iterdir()
    if victim != "workers":
        assert not RunFolder(folder).finished
        with local_superlink(tmp_path / "again") as (environment, _):
            output = flwr(environment, "run", ".", "--stream", *ONE_THREAD, "--run-config", f"resume='{folder}'")
        assert "Resumed" in output
    assert essence(RunFolder(folder)) == undisturbed
