"""A run that was stopped, at any moment and in any way, goes on and ends as if it had not been."""

import json
import multiprocessing
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from in_process import essence, run_server
from safetensors.torch import load_file
from test_data import write_folder
from test_protocol import OWNERS, owners

from fedbabu.errors import ConfigError, RunError
from fedbabu.runs.checkpoints import Checkpoint, Checkpoints
from fedbabu.runs.files import ClientStore
from fedbabu.runs.folder import RunFolder, all_runs, finished_runs

WITH_STATE = ("fedper", "ditto")  # clients keep the head, or a whole model


@pytest.fixture
def run_config(run_config):
    """Two of eight clients a round, and a checkpoint after rounds 2, 4, 6 and, being the last, 7."""
    short = {"fraction-train": 0.25, "num-server-rounds": 7, "num-local-epochs": 1, "num-finetune-epochs": 1}
    return run_config | short | {"evaluate-every": 2, "checkpoint-every": 2}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """What an undisturbed run of a configuration ends with; one of each algorithm."""
    known = {}

    def essence_of(run_config):
        algorithm = run_config["algorithm"]
        if algorithm not in known:
            results = tmp_path_factory.mktemp("undisturbed")
            known[algorithm] = essence(run_server(run_config | {"results-dir": str(results)})[0])
        return known[algorithm]

    return essence_of


class PowerFailure(BaseException):
    """What no `except Exception` catches."""


def stop_after(monkeypatch, server_round: int) -> None:
    """Stop the next run when it has written the line of a round."""
    append = RunFolder.append_round

    def appended(run, record):
        append(run, record)
        if record["round"] == server_round:
            raise PowerFailure

    monkeypatch.setattr(RunFolder, "append_round", appended)


def stopped(run_config, monkeypatch, server_round: int, **grid) -> Path:
    """The folder of a run that was stopped after a round."""
    with monkeypatch.context() as patch:
        stop_after(patch, server_round)
        with pytest.raises(PowerFailure):
            run_server(run_config, **grid)
    (folder,) = Path(run_config["results-dir"]).iterdir()
    return folder


@pytest.mark.parametrize("algorithm", ["fedbabu", *WITH_STATE, "local-only"])
@pytest.mark.parametrize("last_round", [1, 2, 5])
def test_a_resumed_run_ends_as_an_undisturbed_one(run_config, undisturbed, monkeypatch, algorithm, last_round):
    run_config |= {"algorithm": algorithm}
    folder = stopped(run_config, monkeypatch, last_round)
    run, grid = run_server(run_config | {"resume": str(folder)})
    assert run.path == folder
    assert essence(run) == undisturbed(run_config)
    first = min(request.content["task"]["server_round"] for request, _ in grid.of_type("train"))
    assert first == last_round // 2 * 2 + 1


def test_nothing_but_the_folder_has_to_be_said(run_config, undisturbed, monkeypatch, capsys):
    """Its own configuration is taken, whatever else the defaults are."""
    from fedbabu.config import default_run_config

    folder = stopped(run_config, monkeypatch, 4)
    capsys.readouterr()
    run, _ = run_server(default_run_config() | {"resume": str(folder), "results-dir": run_config["results-dir"]})
    assert essence(run) == undisturbed(run_config)
    assert run.config == run_config
    assert "Resumed after the training of round 4 of 7\nround 4/7 " in capsys.readouterr().out


def test_a_run_is_resumed_in_the_middle_of_an_evaluation(run_config, undisturbed, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("fedbabu.client_app.evaluate_personalized", lambda *_, **__: (_ for _ in ()).throw(PowerFailure))
        with pytest.raises(PowerFailure):
            run_server(run_config)
    (folder,) = Path(run_config["results-dir"]).iterdir()
    run, grid = run_server(run_config | {"resume": str(folder)})
    assert not grid.of_type("train")
    assert essence(run) == undisturbed(run_config)


def round_of(path: Path) -> int:
    return int(path.stem.removeprefix("round-"))


def test_where_training_began_is_not_needed_to_go_on(run_config, tmp_path, monkeypatch):
    """LG-FedAvg begins with another run's model, which may be gone by now."""
    fedavg, _ = run_server(run_config | {"algorithm": "fedavg", "results-dir": str(tmp_path / "fedavg")})
    model = {"initial-model": str(fedavg.path / "model.safetensors")}
    keys = model | {"algorithm": "lg-fedavg", "num-server-rounds": 12, "checkpoint-every": 1}
    whole, _ = run_server(run_config | keys | {"results-dir": str(tmp_path / "whole")})
    folder = stopped(run_config | keys, monkeypatch, 2)
    shutil.rmtree(fedavg.path)
    run, _ = run_server(run_config | keys | {"resume": str(folder)})
    assert essence(run) == essence(whole)


def test_the_server_that_trains_goes_on_too(run_config, tmp_path, monkeypatch):
    keys = {"algorithm": "fedavg", "fraction-train": 0.0, "server-data-fraction": 0.2}
    whole, _ = run_server(run_config | keys | {"results-dir": str(tmp_path / "whole")})
    folder = stopped(run_config | keys, monkeypatch, 5)
    run, _ = run_server(run_config | keys | {"resume": str(folder)})
    assert essence(run) == essence(whole)


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def wrong_history(path: Path) -> None:
    """Damage in the text, which safetensors itself does not notice."""
    content = path.read_bytes()
    path.write_bytes(content.replace(b"train-loss", b"trainXloss", 1))


DAMAGES = [flip_a_byte, cut_off, Path.unlink, lambda path: path.write_bytes(b"")]


@pytest.mark.parametrize(
    ("what", "damage"),
    [("checkpoints", wrong_history), *((what, damage) for what in ("checkpoints", "clients/*") for damage in DAMAGES)],
)
def test_the_checkpoint_before_a_damaged_one_is_used(run_config, undisturbed, monkeypatch, capsys, what, damage):
    run_config |= {"algorithm": "fedper"}
    folder = stopped(run_config, monkeypatch, 6)
    damage(max(folder.glob(f"{what}/*"), key=round_of))
    capsys.readouterr()
    run, _ = run_server(run_config | {"resume": str(folder)})
    assert essence(run) == undisturbed(run_config)
    output = capsys.readouterr().out
    assert "Resumed after the training of round 4 of 7" in output
    if not (damage is Path.unlink and what.startswith("checkpoints")):
        assert "The checkpoint of round 6 cannot be used: " in output


def test_without_any_good_checkpoint_nothing_is_touched(run_config, undisturbed, monkeypatch, capsys):
    """What is missing may come back: a disk that is not mounted, say."""
    folder = stopped(run_config, monkeypatch, 5)
    before = {path: path.read_bytes() for path in folder.glob("checkpoints/*")}
    for path in before:
        cut_off(path)
    for _ in range(2):
        with pytest.raises(RunError, match=r"has no checkpoint in /.*/checkpoints that can be used: start it again"):
            run_server(run_config | {"resume": str(folder)})
    assert len(RunFolder(folder).rounds) == 5
    for path, content in before.items():
        path.write_bytes(content)
    run, _ = run_server(run_config | {"resume": str(folder)})
    assert essence(run) == undisturbed(run_config)


def test_a_checkpoint_that_cannot_be_read_now_is_not_given_up(run_config, undisturbed, monkeypatch):
    folder = stopped(run_config, monkeypatch, 6)
    with monkeypatch.context() as patch:
        error = OSError(5, "Input/output error", "round-6.safetensors")
        patch.setattr("fedbabu.runs.checkpoints.load_state_and_metadata", lambda *_, **__: (_ for _ in ()).throw(error))
        with pytest.raises(RunError, match=r"cannot use: .*Input/output error: 'round-6.safetensors'"):
            run_server(run_config | {"resume": str(folder)})
    run, grid = run_server(run_config | {"resume": str(folder)})
    assert {request.content["task"]["server_round"] for request, _ in grid.of_type("train")} == {7}
    assert essence(run) == undisturbed(run_config)


def test_an_owner_goes_on_from_its_own_disk(run_config, tmp_path, monkeypatch):
    monkeypatch.setenv("FEDBABU_STATE", str(tmp_path / "state"))
    nodes = {"node_configs": owners(tmp_path)}
    config = run_config | OWNERS | {"algorithm": "fedper"}
    whole, _ = run_server(config | {"results-dir": str(tmp_path / "whole")}, **nodes)
    folder = stopped(config, monkeypatch, 5, **nodes)
    run, _ = run_server(config | {"resume": str(folder)}, **nodes)
    assert essence(run) == essence(whole)
    states = [
        [load_file(path) for path in sorted((tmp_path / "state" / of.run_id).glob("clients/*/round-7.*"))]
        for of in (run, whole)
    ]
    assert len(states[0]) == len(states[1]) == 2
    for mine, its in zip(*states, strict=True):
        assert all(torch.equal(value, its[name]) for name, value in mine.items())


def test_a_slow_node_does_not_forget_what_others_kept(tmp_path):
    """It saves the state of a round that the server has long gone on from."""
    store, state = ClientStore(tmp_path), {"a": torch.ones(2)}
    store.save(5, 3, state, [])
    store.save(5, 6, state, [3])
    store.save(5, 4, state, [])  # late
    assert sorted(path.stem for path in (tmp_path / "5").iterdir()) == ["round-4", "round-6"]
    assert torch.equal(store.load(5, 6)["a"], state["a"])


def test_two_checkpoints_stay_and_what_clients_kept_then(run_config, monkeypatch):
    folder = stopped(run_config | {"algorithm": "fedper", "fraction-train": 1.0}, monkeypatch, 7)
    assert sorted(path.stem for path in folder.glob("checkpoints/*")) == ["round-6", "round-7"]
    for client in range(8):
        kept = sorted(path.stem for path in folder.glob(f"clients/{client}/*"))
        assert kept == ["round-4", "round-6", "round-7"]  # when round 7 was trained, 4 and 6 were the newest


def test_a_checkpoint_is_read_as_it_was_written(tmp_path):
    model = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(1.5, dtype=torch.float64)}
    written = Checkpoint(3, model, {0: 2, 11: 3}, [{"round": 1, "train-loss": 0.1}], {"round": 3, "failed": {}})
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(written)
    (read,) = checkpoints.usable()
    assert {**vars(read), "model": 0} == {**vars(written), "model": 0}
    assert all(
        torch.equal(read.model[name], value) and read.model[name].dtype == value.dtype for name, value in model.items()
    )


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (
            {"algorithm": "fedavg"},
            "goes on with algorithm = 'fedbabu', but algorithm = 'fedavg' was given: leave it out",
        ),
        ({"seed": 8}, "goes on with seed = 7, but seed = 8 was given"),
    ],
)
def test_a_run_cannot_go_on_as_another_one(run_config, monkeypatch, given, sentence):
    folder = stopped(run_config, monkeypatch, 3)
    with pytest.raises(ConfigError, match=sentence):
        run_server(run_config | given | {"resume": str(folder)})


def test_a_key_of_another_version_is_said(run_config, monkeypatch):
    folder = stopped(run_config, monkeypatch, 3)
    content = json.loads((folder / "config.json").read_text())
    content["run-config"]["from-the-future"] = 1
    (folder / "config.json").write_text(json.dumps(content))
    with pytest.raises(ConfigError, match="There is no run-config key from-the-future"):
        run_server(run_config | {"resume": str(folder)})


def test_how_to_meet_faults_may_be_said_anew(run_config, monkeypatch):
    folder = stopped(run_config, monkeypatch, 3)
    run, grid = run_server(run_config | {"resume": str(folder), "client-timeout": 77.0, "checkpoint-every": 3})
    assert {request.content["run-config"]["client-timeout"] for request, _ in grid.of_type("train")} == {77.0}
    assert sorted(path.stem for path in run.path.glob("checkpoints/*")) == ["round-6", "round-7"]


def test_what_cannot_be_resumed(run_config, tmp_path, monkeypatch):
    finished, _ = run_server(run_config | {"num-server-rounds": 1, "results-dir": str(tmp_path / "finished")})
    with pytest.raises(ConfigError, match=r"is a finished run \(.*summary.json\): there is nothing to resume"):
        run_server(run_config | {"resume": str(finished.path)})
    with pytest.raises(ConfigError, match=r"must be the folder of a run, but /.*nowhere is not \(.*No such file"):
        run_server(run_config | {"resume": str(tmp_path / "nowhere")})
    for content in ("3", "[]", "{}", json.dumps({"run-config": []})):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(ConfigError, match=r"is a run of another version of this app, or of none: start it again"):
            run_server(run_config | {"resume": str(tmp_path)})
    folder = stopped(run_config, monkeypatch, 3)
    with RunFolder(folder).locked(), pytest.raises(ConfigError, match="is going on in another process: wait for it"):
        run_server(run_config | {"resume": str(folder)})


def test_other_data_are_not_the_same_run(run_config, tmp_path, monkeypatch):
    columns = {"image-column": "picture", "label-column": "kind"}
    write_folder(tmp_path / "pets", size=(16, 16), num=80)
    folder = stopped(run_config | columns | {"dataset": str(tmp_path / "pets")}, monkeypatch, 3)
    for other in (96, 80):  # more images, or as many of which some look otherwise
        write_folder(tmp_path / f"other{other}", size=(16, 16), num=other)
        with pytest.raises(ConfigError, match="held other examples than these clients do"):
            run_server(run_config | columns | {"dataset": str(tmp_path / f"other{other}"), "resume": str(folder)})
    shutil.move(tmp_path / "pets", tmp_path / "moved")
    run, _ = run_server(run_config | columns | {"dataset": str(tmp_path / "moved"), "resume": str(folder)})
    assert len(run.rounds) == 7


def test_other_software_is_said(run_config, undisturbed, monkeypatch, capsys):
    folder = stopped(run_config, monkeypatch, 6)
    content = json.loads((folder / "config.json").read_text())
    now = content["versions"]["torch"]
    content["versions"]["torch"] = "1.0"
    (folder / "config.json").write_text(json.dumps(content))
    run_server(run_config | {"resume": str(folder)})
    assert f"so the last digits may differ: torch 1.0 → {now}." in capsys.readouterr().out


def run_in_child(run_config: dict, started) -> None:
    """A whole federation in this process, which the parent may kill."""
    torch.set_num_threads(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    started.set()
    run_server(run_config)


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["fedbabu", *WITH_STATE])
def test_killed_twenty_times_at_random_a_run_ends_as_an_undisturbed_one(run_config, tmp_path, monkeypatch, algorithm):
    run_config |= {"algorithm": algorithm, "num-server-rounds": 6, "checkpoint-every": 1, "evaluate-every": 3}
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))  # for the preloading, which does not get sys.path
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(
        ["__main__", "test_resume", "aiohttp", "datasets", "flwr_datasets", "matplotlib.figure"]
    )

    def run_for(config: dict, seconds: float | None = None) -> tuple[bool, float]:
        """Run in a process of its own and kill it after so many seconds; whether it came to that, and its seconds."""
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

    undisturbed = run_config | {"results-dir": str(tmp_path / "whole")}
    expected = essence(run_server(undisturbed)[0])
    _, seconds = run_for(undisturbed)
    kills, runs, results = 0, 0, Path(run_config["results-dir"])
    while kills < 20:
        folder, progress = None, []
        while folder is None or not folder.finished:
            config = run_config | ({"resume": str(folder.path)} if folder else {})
            # No more kills than needed, so that the test ends however slow the machine is.
            killed, _ = run_for(config, random.uniform(0, seconds) if kills < 20 else None)
            kills += killed
            begun = all_runs(results)
            folder = begun[runs] if len(begun) > runs else None
            progress.append(len(list(folder.path.glob("checkpoints/round*"))) if folder else 0)
        assert essence(folder) == expected, progress
        assert not list(folder.path.rglob(".*.tmp"))
        runs += 1
    assert len(finished_runs(results)) == runs
