"""Checkpoints: what is in them, how many are kept, and which are usable."""

import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from support.in_process import run_server

from fedbabu.errors import RunError
from fedbabu.runs.checkpoints import Checkpoint, Checkpoints
from fedbabu.runs.records import RoundRecord

MODEL = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(1.5, dtype=torch.float64)}


def checkpoint(server_round: int, client_state_rounds: dict[int, int] | None = None) -> Checkpoint:
    """A checkpoint in the middle of a round, between its training and its evaluation."""
    history = [RoundRecord(number, train_loss=0.1, seconds=1.0) for number in range(1, server_round)]
    return Checkpoint(server_round, MODEL, client_state_rounds or {}, history, RoundRecord(server_round))


def test_a_checkpoint_is_read_as_it_was_written(tmp_path):
    written = checkpoint(3, {0: 2, 11: 3})
    Checkpoints(tmp_path).save(written)
    store = Checkpoints(tmp_path).clients
    (read,) = Checkpoints(tmp_path).usable()
    assert not store.folder.exists()  # client states are on the clients' disks, so they cannot be checked
    assert {**vars(read), "model": 0} == {**vars(written), "model": 0}
    assert all(
        torch.equal(read.model[name], value) and read.model[name].dtype == value.dtype for name, value in MODEL.items()
    )


def test_the_form_of_a_checkpoint_is_that_of_version_1(tmp_path):
    Checkpoints(tmp_path).save(checkpoint(2, {11: 1}))
    with safe_open(tmp_path / "checkpoints" / "round-2.safetensors", "pt") as file:
        content = json.loads(file.metadata()["checkpoint"])
    assert list(content) == ["server_round", "kept", "history", "record"]
    assert (content["server_round"], content["kept"]) == (2, {"11": 1})
    assert content["history"][0]["train-loss"] == 0.1
    assert content["record"]["round"] == 2
    assert "seconds" not in content["record"]


def test_the_newest_two_checkpoints_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for server_round in (0, 2, 4, 10):
        checkpoints.save(checkpoint(server_round))
    assert [each.server_round for each in Checkpoints(tmp_path).usable()] == [10, 4]


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)


def change_the_history(path: Path) -> None:
    """Damage in the text, which safetensors itself does not notice."""
    path.write_bytes(path.read_bytes().replace(b"train-loss", b"trainXloss", 1))


@pytest.mark.parametrize("damage", [flip_a_byte, change_the_history, lambda path: path.write_bytes(b"")])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_is_used(tmp_path, capsys, damage):
    checkpoints = Checkpoints(tmp_path)
    for server_round in (2, 4, 6):
        checkpoints.save(checkpoint(server_round))
    damage(tmp_path / "checkpoints" / "round-6.safetensors")
    assert [each.server_round for each in checkpoints.usable()] == [4]
    assert "checkpoint of round 6" in capsys.readouterr().out
    checkpoints.save(checkpoint(6))  # the run has come there again
    assert [each.server_round for each in checkpoints.usable()] == [6, 4]


@pytest.mark.parametrize("damage", [flip_a_byte, Path.unlink])
def test_a_checkpoint_whose_client_states_are_damaged_is_not_usable(tmp_path, capsys, damage):
    checkpoints = Checkpoints(tmp_path)
    for server_round in (2, 4):
        checkpoints.clients.save(7, server_round, MODEL, [2])
        checkpoints.save(checkpoint(server_round, {7: server_round}))
    damage(checkpoints.clients.path(7, 4))
    assert [each.server_round for each in Checkpoints(tmp_path).usable()] == [2]
    assert "checkpoint of round 4" in capsys.readouterr().out


def test_without_a_usable_checkpoint_nothing_is_removed(tmp_path):
    """What is missing may come back, for example with a disk that is not mounted."""
    Checkpoints(tmp_path).save(checkpoint(2))
    path = tmp_path / "checkpoints" / "round-2.safetensors"
    flip_a_byte(path)
    content = path.read_bytes()
    with pytest.raises(RunError, match=str(tmp_path / "checkpoints")):
        Checkpoints(tmp_path).usable()
    assert path.read_bytes() == content


def test_a_checkpoint_that_cannot_be_read_now_is_not_given_up(tmp_path, monkeypatch):
    Checkpoints(tmp_path).save(checkpoint(2))

    def fail(path):
        raise OSError(5, "Input/output error", str(path))

    with monkeypatch.context() as patch:
        patch.setattr("fedbabu.runs.checkpoints.load_state", fail)
        with pytest.raises(OSError, match="Input/output error"):
            Checkpoints(tmp_path).usable()
    assert len(Checkpoints(tmp_path).usable()) == 1


def test_after_the_run_only_the_states_of_its_results_are_kept(tiny_config):
    """Of each of Ditto's clients the newest state and that of the best round, which may be the same."""
    run, _ = run_server(tiny_config | {"algorithm": "ditto", "num-server-rounds": 5, "checkpoint-every": 1})
    (checkpoint,) = Checkpoints(run.path).usable()
    assert checkpoint.server_round == 5
    needed = {
        (client, saved) for rounds in checkpoint.needed_client_states for client, saved in rounds.items()
    }  # the evaluation of the last round may have made it the best one, whose states are the newest
    kept = {(int(path.parent.name), int(path.stem.split("-")[1])) for path in run.path.glob("clients/*/*")}
    assert kept == needed
    assert max(Counter(client for client, _ in kept).values()) <= 2
