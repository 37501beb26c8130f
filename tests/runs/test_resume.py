"""A run that was stopped, at any moment and in any way, is resumed and ends as if it had not been stopped."""

import json
import multiprocessing
import os
import random
import shutil
import signal
import time
from itertools import product
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.errors import config_error
from support.in_process import essence, run_server
from support.local_data import LOCAL_DATA, nodes_with_local_data
from support.pictures import write_folder
from support.reference_runs import start_of

from fedbabu.config import GivenKeys, default_run_config, with_protocol
from fedbabu.errors import RunError
from fedbabu.federation.messages import Task
from fedbabu.runs.checkpoints import Checkpoints
from fedbabu.runs.folder import RunFolder
from fedbabu.runs.results_folder import all_runs, finished_runs
from fedbabu.runs.resume import check_resumable, resumed_config, runtime_overrides
from fedbabu.strategy import SharedPartFedAvg

WITH_CLIENT_STATES = ("fedper", "ditto")  # clients keep the head, or a whole model
SHORT = {"fraction-train": 0.25, "num-server-rounds": 7, "num-local-epochs": 1, "num-finetune-epochs": 1}


@pytest.fixture
def config(tiny_config):
    """Two of eight clients in each round, and checkpoints after rounds 2, 4, 6 and the last, 7."""
    return tiny_config | SHORT | {"evaluate-every": 2, "checkpoint-every": 2}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A function that returns the essence of a run that was not stopped; it makes one run of each algorithm."""
    known = {}

    def undisturbed_essence(config):
        algorithm = config["algorithm"]
        if algorithm not in known:
            results = tmp_path_factory.mktemp("undisturbed")
            known[algorithm] = essence(run_server(config | {"results-dir": str(results)})[0])
        return known[algorithm]

    return undisturbed_essence


class PowerFailure(BaseException):
    """An error that `except Exception` does not catch."""


def stopped_run(config, monkeypatch, server_round: int, **grid) -> Path:
    """The folder of a run that was stopped when it had written the record of a round."""
    append = RunFolder.append_round

    def append_and_stop(run, record):
        append(run, record)
        if record.round == server_round:
            raise PowerFailure

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "append_round", append_and_stop)
        with pytest.raises(PowerFailure):
            run_server(config, **grid)
    (folder,) = Path(config["results-dir"]).iterdir()
    return folder


def resume(config, folder: Path, **grid):
    """Resume a run; returns its folder and the rounds in which clients were trained."""
    run, connection = run_server(config | {"resume": str(folder)}, **grid)
    return run, {Task.from_content(request.content).server_round for request, _ in connection.of_type("train")}


def recorded(folder: Path) -> dict:
    return json.loads((folder / "config.json").read_text())


@pytest.mark.parametrize(
    ("algorithm", "last_round"),
    [
        *product(["fedbabu", *WITH_CLIENT_STATES, "local-only"], [5]),
        *product(["fedper"], [1, 2]),
        *(
            pytest.param(algorithm, last_round, marks=pytest.mark.slow)
            for algorithm, last_round in product(["fedbabu", "ditto", "local-only"], [1, 2])
        ),
    ],
)
def test_a_resumed_run_ends_as_an_undisturbed_one(config, undisturbed, monkeypatch, algorithm, last_round):
    config |= {"algorithm": algorithm}
    folder = stopped_run(config, monkeypatch, last_round)
    run, trained = resume(config, folder)
    assert run.path == folder
    assert essence(run) == undisturbed(config)
    assert min(trained) == last_round // 2 * 2 + 1


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["ditto", "per-fedavg", "lg-fedavg"])
@pytest.mark.parametrize("failing_round", [3, 7])
def test_a_run_as_in_the_code_is_resumed_after_training_or_before_its_end(
    config, monkeypatch, tmp_path, algorithm, failing_round
):
    """Its best rounds are in the checkpoint, and so is a model of before the round that is still to be evaluated."""
    config, _ = start_of(algorithm, config | {"protocol": "code", "checkpoint-every": 1, "evaluate-every": 1}, tmp_path)
    expected = essence(run_server(config | {"results-dir": str(tmp_path / "undisturbed")})[0])
    compare = SharedPartFedAvg._compare_with_best_rounds

    def fail(strategy, server_round, evaluation):
        if server_round == failing_round:
            raise PowerFailure
        compare(strategy, server_round, evaluation)

    with monkeypatch.context() as patch:
        patch.setattr(SharedPartFedAvg, "_compare_with_best_rounds", fail)
        with pytest.raises(PowerFailure):
            run_server(config)
    (folder,) = Path(config["results-dir"]).iterdir()
    run, _ = resume(config, folder)
    assert essence(run) == expected


def test_the_recorded_configuration_is_used_whatever_the_defaults_are(config, undisturbed, monkeypatch, capsys):
    folder = stopped_run(config, monkeypatch, 4)
    capsys.readouterr()
    data = {"dataset": config["dataset"], "results-dir": config["results-dir"]}
    run, _ = resume(default_run_config() | data, folder)
    assert essence(run) == undisturbed(config)
    assert run.config == with_protocol(config)
    assert "round 4 of 7\nround 4/7 " in capsys.readouterr().out


def test_a_run_is_resumed_in_the_middle_of_an_evaluation(config, undisturbed, monkeypatch):
    def fail(*arguments):
        raise PowerFailure

    with monkeypatch.context() as patch:
        patch.setattr("fedbabu.client_work.fine_tune_client", fail)
        with pytest.raises(PowerFailure):
            run_server(config)
    (folder,) = Path(config["results-dir"]).iterdir()
    run, trained = resume(config, folder)
    assert not trained
    assert essence(run) == undisturbed(config)


def test_the_initial_model_is_not_needed_to_resume(config, tmp_path, monkeypatch):
    """LG-FedAvg starts from the model of another run, which may have been deleted since."""
    fedavg, _ = run_server(config | {"algorithm": "fedavg", "results-dir": str(tmp_path / "fedavg")})
    config |= {"initial-model": str(fedavg.path / "model.safetensors")}
    config |= {"algorithm": "lg-fedavg", "num-server-rounds": 12, "checkpoint-every": 1}
    whole, _ = run_server(config | {"results-dir": str(tmp_path / "whole")})
    folder = stopped_run(config, monkeypatch, 2)
    shutil.rmtree(fedavg.path)
    assert essence(resume(config, folder)[0]) == essence(whole)


def test_training_on_the_server_is_resumed(config, tmp_path, monkeypatch):
    config |= {"algorithm": "fedavg", "fraction-train": 0.0, "server-data-fraction": 0.5}
    whole, _ = run_server(config | {"results-dir": str(tmp_path / "whole")})
    folder = stopped_run(config, monkeypatch, 5)
    assert essence(resume(config, folder)[0]) == essence(whole)


def latest(folder: Path, pattern: str) -> Path:
    """The file of the latest round."""
    return max(folder.glob(pattern), key=lambda path: int(path.stem.removeprefix("round-")))


@pytest.mark.parametrize("pattern", ["checkpoints/*", "clients/*/*"])
def test_the_checkpoint_before_a_damaged_one_is_used(config, undisturbed, monkeypatch, capsys, pattern):
    """Or before one whose client states are damaged."""
    config |= {"algorithm": "fedper"}
    folder = stopped_run(config, monkeypatch, 6)
    damaged = latest(folder, pattern)
    damaged.write_bytes(damaged.read_bytes()[:-100])
    run, trained = resume(config, folder)
    assert essence(run) == undisturbed(config)
    assert trained == {5, 6, 7}
    assert str(damaged) in capsys.readouterr().out


def test_without_a_usable_checkpoint_nothing_is_changed(config, undisturbed, monkeypatch):
    folder = stopped_run(config, monkeypatch, 5)
    contents = {path: path.read_bytes() for path in folder.glob("checkpoints/*")}
    for path in contents:
        path.write_bytes(b"")
    with pytest.raises(RunError, match=str(folder / "checkpoints")):
        resume(config, folder)
    assert len(RunFolder(folder).rounds) == 5
    for path, content in contents.items():
        path.write_bytes(content)
    assert essence(resume(config, folder)[0]) == undisturbed(config)


def test_a_client_with_local_data_resumes_from_the_state_on_its_own_disk(config, tmp_path, monkeypatch):
    monkeypatch.setenv("FEDBABU_STATE", str(tmp_path / "state"))
    nodes = {"node_configs": nodes_with_local_data(tmp_path)}
    config |= LOCAL_DATA | {"algorithm": "fedper"}
    whole, _ = run_server(config | {"results-dir": str(tmp_path / "whole")}, **nodes)
    folder = stopped_run(config, monkeypatch, 5, **nodes)
    run, _ = resume(config, folder, **nodes)
    assert essence(run) == essence(whole)
    resumed_states, whole_states = (
        [load_file(path) for path in sorted((tmp_path / "state" / each.recorded["run-id"]).glob("clients/*/round-7.*"))]
        for each in (run, whole)
    )
    assert len(resumed_states) == len(whole_states) == 2
    for resumed, expected in zip(resumed_states, whole_states, strict=True):
        assert all(torch.equal(value, expected[name]) for name, value in resumed.items())


def test_client_states_are_kept_as_long_as_a_checkpoint_needs_them(config, monkeypatch):
    folder = stopped_run(config | {"algorithm": "fedper", "fraction-train": 1.0}, monkeypatch, 7)
    assert sorted(path.stem for path in folder.glob("checkpoints/*")) == ["round-6", "round-7"]
    checkpoint = Checkpoints(folder).usable()[0]
    for client in range(8):
        saved = {path.stem for path in folder.glob(f"clients/{client}/*")}
        # When round 7 was trained, the checkpoints of 4 and 6 were the newest. Round 2 may be their best one.
        assert saved - {"round-2"} == {"round-4", "round-6", "round-7"}
        assert f"round-{checkpoint.best.client_state_rounds[client]}" in saved


@pytest.mark.parametrize("given", [{"algorithm": "fedavg"}, {"seed": 8}, {"num-server-rounds": 9}])
def test_a_run_cannot_be_resumed_with_another_configuration(copied_run, given):
    (key, value), *_ = given.items()
    config = copied_run.config | given | {"resume": str(copied_run.path)}
    with config_error(copied_run.path, f"{key} = {value!r}", f"{key} = {copied_run.config[key]!r}"):
        resumed_config(GivenKeys.from_flower(config), copied_run.config)


def test_runtime_keys_and_the_place_of_the_data_may_be_given_anew(copied_run):
    given = default_run_config() | {"resume": "x", "client-timeout": 77.0, "logger": "tensorboard", "dataset": "/moved"}
    config = resumed_config(GivenKeys.from_flower(given), copied_run.config)
    assert config.to_flower() == copied_run.config | {
        "client-timeout": 77.0, "logger": "tensorboard", "dataset": "/moved",
    }  # fmt: skip
    assert runtime_overrides(config) == " client-timeout=77.0 logger='tensorboard'"


def test_a_new_runtime_key_must_fit_the_run_and_not_the_defaults(config, monkeypatch):
    """Ten clients are sampled in a round of the defaults, and twelve in one of this run."""
    config |= {"num-clients": 12, "fraction-train": 1.0, "min-fit-clients": 11, "num-server-rounds": 2}
    folder = stopped_run(config, monkeypatch, 1)
    given = default_run_config() | {"min-fit-clients": 11, "results-dir": config["results-dir"]}
    run, _ = resume(given, folder)
    assert run.finished
    with config_error("min-fit-clients = 13", "from 1 to 12"):
        resumed_config(GivenKeys.from_flower(given | {"min-fit-clients": 13}), run.config)


def test_a_run_of_version_1_can_be_resumed(copied_run):
    """It recorded keys that no longer exist and did not change its results."""
    config = resumed_config(GivenKeys.from_flower(default_run_config()), {**copied_run.config, "cuda-graph": True})
    assert config.to_flower() == copied_run.config


def test_new_runtime_keys_take_effect(config, monkeypatch):
    folder = stopped_run(config, monkeypatch, 3)
    saved, save = [], Checkpoints.save
    monkeypatch.setattr(Checkpoints, "save", lambda self, each: (saved.append(each.server_round), save(self, each)))
    resume(config | {"checkpoint-every": 3}, folder)
    assert saved == [3, 6, 7]


def test_what_cannot_be_resumed(copied_run, tmp_path):
    with config_error(copied_run.path, "finished"):
        check_resumable(str(copied_run.path))
    (copied_run.path / "summary.json").unlink()
    assert check_resumable(str(copied_run.path)).path == copied_run.path
    with config_error(tmp_path / "nowhere", "No such file"):
        check_resumable(str(tmp_path / "nowhere"))
    future = recorded(copied_run.path)
    future["run-config"]["from-the-future"] = 1
    for content in (3, [], {}, {"run-config": []}, future):
        (tmp_path / "config.json").write_text(json.dumps(content))
        with config_error(f"resume = '{tmp_path}'"):
            check_resumable(str(tmp_path))


def test_a_run_is_not_resumed_while_another_process_runs_it(config, copied_run):
    (copied_run.path / "summary.json").unlink()
    with RunFolder(copied_run.path).locked(), config_error(copied_run.path, "flwr stop"):
        run_server(default_run_config() | {"resume": str(copied_run.path), "results-dir": config["results-dir"]})


def test_a_run_needs_the_data_that_it_started_with(config, tmp_path, monkeypatch):
    write_folder(tmp_path / "pets", classes=10, size=(16, 16), num=80)
    folder = stopped_run(config | {"dataset": str(tmp_path / "pets")}, monkeypatch, 3)
    for number in (96, 80):  # more images, or as many of which some look different
        other = tmp_path / f"other-{number}"
        write_folder(other, classes=10, size=(16, 16), num=number)
        with config_error(folder, tmp_path / "pets"):
            resume(config | {"dataset": str(other)}, folder)
    shutil.move(tmp_path / "pets", tmp_path / "moved")
    run, _ = resume(config | {"dataset": str(tmp_path / "moved")}, folder)
    assert len(run.rounds) == 7


def test_changed_software_is_printed(config, monkeypatch, capsys):
    folder = stopped_run(config, monkeypatch, 6)
    content = recorded(folder)
    now = content["versions"]["torch"]
    content["versions"]["torch"] = "1.0"
    (folder / "config.json").write_text(json.dumps(content))
    resume(config, folder)
    assert f"torch 1.0 → {now}." in capsys.readouterr().out


def run_in_child(config: dict, started) -> None:
    """A whole federation in this process, which the parent process may kill."""
    torch.set_num_threads(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    started.set()
    run_server(config)


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["fedbabu", *WITH_CLIENT_STATES])
def test_killed_twenty_times_at_random_a_run_ends_as_an_undisturbed_one(
    config, tmp_path, monkeypatch, papers_width, algorithm
):
    config |= {"algorithm": algorithm, "num-server-rounds": 6, "checkpoint-every": 1, "evaluate-every": 3}
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))  # for the preloading, which does not get sys.path
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(
        ["__main__", "test_resume", "aiohttp", "datasets", "flwr_datasets", "matplotlib.figure"]
    )

    def run_for(config: dict, seconds: float | None = None) -> tuple[bool, float]:
        """Run in another process and kill it after some seconds; returns whether it was killed, and how long it ran."""
        started = processes.Event()
        child = processes.Process(target=run_in_child, args=(config, started))
        child.start()
        assert started.wait(60)
        begin = time.monotonic()
        child.join(seconds)
        killed = child.is_alive()
        if killed:
            os.kill(child.pid, signal.SIGKILL)
        child.join()
        assert child.exitcode in (0, -signal.SIGKILL)
        return killed, time.monotonic() - begin

    undisturbed = config | {"results-dir": str(tmp_path / "whole")}
    expected = essence(run_server(undisturbed)[0])
    _, seconds = run_for(undisturbed)
    kills, runs, results = 0, 0, Path(config["results-dir"])
    while kills < 20:
        folder, num_checkpoints = None, []
        while folder is None or not folder.finished:
            given = config | ({"resume": str(folder.path)} if folder else {})
            # No more kills than needed, so that the test ends however slow the machine is.
            killed, _ = run_for(given, random.uniform(0, seconds) if kills < 20 else None)
            kills += killed
            begun = all_runs(results)
            folder = begun[runs] if len(begun) > runs else None
            num_checkpoints.append(len(list(folder.path.glob("checkpoints/round*"))) if folder else 0)
        assert essence(folder) == expected, num_checkpoints
        assert not list(folder.path.rglob(".*.tmp"))
        runs += 1
    assert len(finished_runs(results)) == runs
