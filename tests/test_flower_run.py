"""The app as a user runs it: `flwr run`, Flower's processes, and the notebook on what they leave behind."""

import json
import random
import subprocess
import sys
import time
import tomllib
from contextlib import suppress
from pathlib import Path

import nbformat
import psutil
import pytest
import torch
from conftest import PROJECT
from in_process import essence, run_server
from nbclient import NotebookClient

from fedbabu.algorithms import ALGORITHMS
from fedbabu.config import default_run_config
from fedbabu.results import RunFolder, finished_runs
from fedbabu.superlink import local_superlink

pytestmark = pytest.mark.slow
BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def flower(tmp_path_factory):
    """The environment of a Flower installation of its own, with a running SuperLink that is stopped at the end."""
    with local_superlink(tmp_path_factory.mktemp("flwr")) as (environment, _):
        yield environment


def flwr(environment: dict, *arguments: str) -> str:
    """Run a flwr command in the project's folder and return all that it prints."""
    result = subprocess.run(
        [BIN / "flwr", *arguments], env=environment, cwd=PROJECT, text=True, capture_output=True, timeout=900
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout + result.stderr


def status_of_last_run(environment: dict) -> str:
    return json.loads(flwr(environment, "ls", "--format", "json"))["runs"][0]["status"]


def run_quickstart(environment: dict, folder: Path, **keys: str | int) -> tuple[RunFolder, str]:
    """The README's first command, with some keys changed and its results in a folder; the run and what it printed."""
    preset = tomllib.loads((PROJECT / "conf" / "quickstart.toml").read_text(encoding="utf-8"))
    preset |= {"results-dir": str(folder)} | {key.replace("_", "-"): value for key, value in keys.items()}
    folder.mkdir(exist_ok=True)
    file = folder / "preset.toml"
    file.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in preset.items()))
    output = flwr(environment, "run", ".", "--stream", "--run-config", str(file))
    runs = finished_runs(folder)
    assert runs, output
    return runs[-1], output


@pytest.fixture(scope="module")
def quickstart(flower, tmp_path_factory) -> tuple[RunFolder, str]:
    return run_quickstart(flower, tmp_path_factory.mktemp("quickstart") / "results")


def test_the_quickstart_learns_and_reports(quickstart):
    run, output = quickstart
    accuracy = run.summary["accuracy"]
    assert len(run.clients) == run.config["num-clients"] == 20
    assert accuracy["personalized"]["mean"] > 90
    assert accuracy["without-head"]["mean"] > 90
    assert accuracy["initial"]["mean"] > 40
    assert run.rounds[-1]["train-loss"] < run.rounds[0]["train-loss"]
    for expected in ("round  1/", "Without head", "Personalized", f"Run folder: {run.path}"):
        assert expected in output
    assert "Traceback" not in output


def test_the_quickstart_used_its_two_supernodes(quickstart):
    run, _ = quickstart
    assert json.loads((run.path / "config.json").read_text())["federation"]["num-supernodes"] == 2


@pytest.mark.parametrize("algorithm", [name for name in ALGORITHMS if name != "fedbabu"])
def test_every_algorithm_runs_the_quickstart(flower, quickstart, tmp_path, algorithm):
    """A fifth of its rounds, that is; LG-FedAvg goes on from what the quickstart ended with."""
    keys = {"num_server_rounds": 4}
    if ALGORITHMS[algorithm].continues:
        keys["initial_model"] = str(quickstart[0].path / "model.safetensors")
    run, output = run_quickstart(flower, tmp_path, algorithm=algorithm, **keys)
    assert run.config["algorithm"] == algorithm
    assert len(run.clients) == 20
    assert run.summary["accuracy"]["personalized"]["mean"] > 20
    assert bool(list(run.path.glob("clients/*"))) == bool(ALGORITHMS[algorithm].keeps)
    assert "Personalized" in output
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("run_config", "sentence"),
    [
        ("fraction-train=2.0", "fraction-train = 2.0 is not allowed: it must be a number in [0, 1]."),
        ("dataset='digits' shards-per-client=11", "shards-per-client = 11 is more than the labels allow"),
    ],
)
def test_bad_input_is_one_sentence_and_the_run_ends_as_failed(flower, tmp_path, run_config, sentence):
    results = tmp_path / "results"
    output = flwr(flower, "run", ".", "--stream", "--run-config", f"{run_config} results-dir='{results}'")
    assert sentence in output
    assert "Traceback" not in output
    assert status_of_last_run(flower) == "finished:failed"
    assert not results.exists() or not list(results.iterdir())


def test_two_and_twenty_supernodes_give_the_same_model(flower, tmp_path):
    overrides = (
        f"dataset='digits' num-clients=10 fraction-train=0.5 num-server-rounds=3 num-local-epochs=1 "
        f"num-finetune-epochs=1 results-dir='{tmp_path}'"
    )
    for nodes in (2, 20):
        federation = f"num-supernodes={nodes} client-resources-num-cpus=1"
        flwr(flower, "run", ".", "--stream", "--run-config", overrides, "--federation-config", federation)
    two, twenty = finished_runs(tmp_path)
    for run, nodes in ((two, 2), (twenty, 10)):  # of twenty nodes and ten clients, ten nodes have one each
        assert json.loads((run.path / "config.json").read_text())["federation"]["num-supernodes"] == nodes
    state = twenty.model()
    assert all(torch.equal(value, state[name]) for name, value in two.model().items())
    assert two.clients == twenty.clients


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


def execute_notebook(folder: Path) -> str:
    """Run plot.ipynb from top to bottom in a folder and return the text of all its outputs."""
    notebook = nbformat.read(PROJECT / "plot.ipynb", as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}}).execute()
    text = ""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            text += output.get("text", "")
            text += "".join(f"<{kind}>" for kind in output.get("data", {}))
    return text


def test_the_notebook_shows_the_newest_run(quickstart):
    run, _ = quickstart
    text = execute_notebook(run.path.parent.parent)
    assert run.path.name in text
    assert text.count("<image/png>") >= 4


def test_the_notebook_says_what_to_run_when_there_is_nothing(tmp_path):
    text = execute_notebook(tmp_path)
    assert "flwr run . --stream --run-config conf/quickstart.toml" in text
