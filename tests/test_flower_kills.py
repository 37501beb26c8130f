"""Flower's processes, killed in the middle of a `flwr run`."""

import json
import random
import subprocess
import time
from contextlib import suppress

import psutil
import pytest
from conftest import PROJECT
from in_process import essence, run_server
from test_flower_run import BIN, flwr

from fedbabu.config import default_run_config
from fedbabu.reproduction.local_superlink import local_superlink
from fedbabu.runs.folder import RunFolder

pytestmark = pytest.mark.slow


def kill(*processes: psutil.Process) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def below(process: psutil.Process, name: str) -> list[psutil.Process]:
    """The processes that another has started, and those that they have, by a part of their command."""
    found = []
    for child in process.children(recursive=True):
        with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            if name in " ".join(child.cmdline()):
                found.append(child)
    return found


ONE_THREAD = ("--federation-config", "num-supernodes=2 client-resources-num-cpus=1")  # as in a test's own process
LONG = {"algorithm": "fedper", "num-server-rounds": 12, "num-clients": 10, "checkpoint-every": 2, "evaluate-every": 3}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """What a run of LONG on digits ends with, in this process."""
    config = default_run_config() | LONG | {"dataset": "digits", "results-dir": str(tmp_path_factory.mktemp("whole"))}
    return essence_of_results(run_server(config)[0])


def essence_of_results(run: RunFolder) -> dict:
    """What does not depend on the number of nodes, as bytes sent do."""
    result = essence(run)
    for record in result["rounds"]:
        for key in ("bytes-sent", "bytes-received"):
            del record[key]
    return result


@pytest.mark.parametrize("victim", ["worker", "server", "tree"])
def test_a_run_survives_the_death_of_its_processes(tmp_path, undisturbed, victim):
    """A worker is started again within the run; without its server, or all of Flower, a run is resumed."""
    results = tmp_path / "results"
    keys = LONG | {"dataset": "digits", "results-dir": str(results)}
    overrides = " ".join(f"{key}={json.dumps(value)}" for key, value in keys.items())
    with local_superlink(tmp_path / "home") as (environment, process):
        command = [BIN / "flwr", "run", ".", "--stream", *ONE_THREAD, "--run-config", overrides]
        running = psutil.Popen(command, env=environment, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        try:
            while not list(results.glob("*/rounds.jsonl")):
                assert running.poll() is None, running.communicate()[0].decode()
                time.sleep(0.05)
            time.sleep(random.uniform(0.5, 3))
            if victim == "worker":
                workers = below(process, "ClientAppActor")
                assert workers
                kill(*workers)
                output = running.communicate(timeout=300)[0].decode()
                assert running.returncode == 0
                assert "left out" not in output
            else:
                (server, *_) = below(process, "flwr-simulation")
                family = server.children(recursive=True)
                if victim == "tree":
                    kill(process)
                kill(server)
                time.sleep(2)
                kill(*family)
        finally:
            kill(running)
            running.communicate()
    (folder,) = results.iterdir()
    if victim != "worker":
        assert not (folder / "summary.json").exists()
        with local_superlink(tmp_path / "again") as (environment, _):
            output = flwr(environment, "run", ".", "--stream", *ONE_THREAD, "--run-config", f"resume='{folder}'")
        assert "Resumed" in output
    assert essence_of_results(RunFolder(folder)) == undisturbed
