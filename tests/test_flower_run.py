"""The app as a user runs it: `flwr run`, Flower's processes, and the notebook on what they leave behind."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
from conftest import PROJECT
from notebooks import execute_notebook

from fedbabu.algorithms import ALGORITHMS
from fedbabu.reproduction.local_superlink import local_superlink
from fedbabu.runs.folder import RunFolder, finished_runs

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
    assert "terminate failed" not in output  # Ray, of workers that end as they should


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


def test_the_notebook_shows_the_newest_run(quickstart):
    run, _ = quickstart
    text = execute_notebook(run.path.parent.parent)
    assert run.path.name in text
    assert text.count("<image/png>") == 6  # of the figures that every run has
    for number in ("04", "05", "12", "13", "15", "16"):
        assert f"python -m fedbabu.reproduction.sweep experiment=figure{number}\n" in text


def test_the_notebook_says_what_to_run_when_there_is_nothing(tmp_path):
    text = execute_notebook(tmp_path)
    assert "flwr run . --stream --run-config conf/quickstart.toml" in text
