"""The app as a user runs it: `flwr run` in Flower's processes, and the notebook on the runs that it makes.

Two rounds of the quickstart are in every run of the tests; everything else here is slow.
"""

import json
import tomllib
from pathlib import Path

import pytest
from support import PROJECT
from support.flower import flwr
from support.in_process import essence
from support.notebooks import execute_notebook

from fedbabu.runs.folder import RunFolder
from fedbabu.runs.results_folder import finished_runs

slow = pytest.mark.slow


def status_of_last_run(environment: dict) -> str:
    """Flower's status of the run that was started last."""
    return json.loads(flwr(environment, "ls", "--format", "json"))["runs"][0]["status"]


def run_quickstart(environment: dict, folder: Path, **keys: str | int) -> tuple[RunFolder, str]:
    """Run the README's first command, with some keys changed and its results in a folder; the run and the output."""
    preset = tomllib.loads((PROJECT / "conf" / "quickstart.toml").read_text(encoding="utf-8"))
    preset |= {"results-dir": str(folder)} | {key.replace("_", "-"): value for key, value in keys.items()}
    folder.mkdir(exist_ok=True)
    file = folder / "preset.toml"
    file.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in preset.items()))
    # One thread a worker, because other tests use the cores too.
    federation = ("--federation-config", "num-supernodes=2 client-resources-num-cpus=1")
    output = flwr(environment, "run", ".", "--stream", *federation, "--run-config", str(file))
    runs = finished_runs(folder)
    assert runs, output
    return runs[-1], output


@pytest.fixture(scope="module")
def quickstart(flower, tmp_path_factory) -> tuple[RunFolder, str]:
    """The run of the quickstart, and what it printed."""
    return run_quickstart(flower, tmp_path_factory.mktemp("quickstart") / "results")


def test_two_rounds_of_the_quickstart_in_flowers_processes(flower, tmp_path):
    run, output = run_quickstart(flower, tmp_path / "results", num_server_rounds=2, num_finetune_epochs=1)
    assert len(run.clients) == run.config["num-clients"] == 20
    assert run.summary["accuracy"]["without-head"]["mean"] > 50
    assert run.recorded["federation"]["num-supernodes"] == 2
    for expected in ("round 1/2", "Without head", "Personalized", f"Run folder: {run.path}"):
        assert expected in output
    assert "Traceback" not in output
    assert "terminate failed" not in output  # an error of Ray when a worker does not end as it should


@slow
def test_the_quickstart_learns_and_reports(quickstart):
    run, output = quickstart
    accuracy = run.summary["accuracy"]
    assert len(run.clients) == run.config["num-clients"] == 20
    assert accuracy["personalized"]["mean"] > 90
    assert accuracy["without-head"]["mean"] > 90
    assert accuracy["initial"]["mean"] > 40
    assert run.rounds[-1].train_loss < run.rounds[0].train_loss
    assert "round  1/" in output


@slow
def test_an_algorithm_that_keeps_states_in_flowers_processes(flower, tmp_path):
    """That every algorithm runs, and what it computes, is tested without Flower's processes."""
    run, output = run_quickstart(flower, tmp_path, algorithm="fedper", num_server_rounds=2, num_finetune_epochs=1)
    assert run.config["algorithm"] == "fedper"
    assert len(run.clients) == 20
    assert run.summary["accuracy"]["personalized"]["mean"] > 20
    assert list(run.path.glob("clients/*"))
    assert "Personalized" in output
    assert "Traceback" not in output


@slow
def test_a_run_with_wrong_input_ends_as_failed_with_one_sentence(flower, tmp_path):
    results = tmp_path / "results"
    output = flwr(flower, "run", ".", "--stream", "--run-config", f"fraction-train=2.0 results-dir='{results}'")
    (sentence,) = [line for line in output.splitlines() if "fraction-train = 2.0" in line]
    assert sentence.rstrip().endswith(".")
    assert "Traceback" not in output
    assert status_of_last_run(flower) == "finished:failed"
    assert not results.exists() or not list(results.iterdir())


@slow
def test_two_supernodes_with_two_cpus_and_twenty_with_one_give_the_same_results(flower, tmp_path):
    """The first two work for two clients at a time each, the others have at most one."""
    overrides = (
        f"dataset='digits' num-clients=10 fraction-train=0.5 num-server-rounds=3 num-local-epochs=1 "
        f"num-finetune-epochs=1 results-dir='{tmp_path}'"
    )
    for num_nodes, cpus in ((2, 2), (20, 1)):
        federation = f"num-supernodes={num_nodes} client-resources-num-cpus={cpus}"
        flwr(flower, "run", ".", "--stream", "--run-config", overrides, "--federation-config", federation)
    two, twenty = finished_runs(tmp_path)
    num_nodes = [run.recorded["federation"]["num-supernodes"] for run in (two, twenty)]
    assert num_nodes == [2, 10]  # of twenty, ten have a client
    assert essence(two) == essence(twenty)


@slow
def test_the_notebook_shows_the_newest_run(quickstart):
    run, _ = quickstart
    text = execute_notebook(run.path.parent.parent)
    assert f"{run.summary['accuracy']['personalized']['mean']:.2f} ±" in text
    assert text.count("<image/png>") == 4  # the figures that every run has
    for number in ("04", "05", "12", "13", "15", "16"):
        assert f"fedbabu sweep experiment=figure{number}\n" in text


@slow
def test_the_notebook_without_runs_names_the_first_command(tmp_path):
    assert "fedbabu sweep experiment=quickstart" in execute_notebook(tmp_path)
