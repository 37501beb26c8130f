"""Files that appear whole or not at all, and whose damage is noticed."""

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from support.errors import config_error

from fedbabu.runs.checkpoints import ClientStore
from fedbabu.runs.files import (
    DamagedError,
    check_writable,
    json_lines,
    load_state,
    read_json_lines,
    remove_unfinished_files,
    save_state,
    write_whole,
)

STATE = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(1.5, dtype=torch.float64)}


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def change_the_text(path: Path) -> None:
    """Damage that safetensors itself does not notice."""
    path.write_bytes(path.read_bytes().replace(b"some text", b"same text", 1))


def test_a_state_dict_is_read_as_it_was_written(tmp_path):
    save_state(tmp_path / "state", STATE, {"note": "some text"})
    state, texts = load_state(tmp_path / "state")
    assert texts == {"note": "some text"}
    assert state.keys() == STATE.keys()
    assert all(torch.equal(state[name], value) and state[name].dtype == value.dtype for name, value in STATE.items())


@pytest.mark.parametrize("damage", [flip_a_byte, cut_off, change_the_text, lambda path: path.write_bytes(b"")])
def test_damage_is_noticed(tmp_path, damage):
    path = tmp_path / "state"
    save_state(path, STATE, {"note": "some text"})
    damage(path)
    for checksum_required in (True, False):
        with pytest.raises(DamagedError, match=str(path)):
            load_state(path, checksum_required=checksum_required)


def test_a_file_of_another_program_has_no_checksum(tmp_path):
    save_file(STATE, tmp_path / "state")
    with pytest.raises(DamagedError):
        load_state(tmp_path / "state")
    state, _ = load_state(tmp_path / "state", checksum_required=False)
    assert torch.equal(state["a"], STATE["a"])


def test_a_file_that_cannot_be_written_is_as_before(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_whole(path, b"before")

    def fail(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left on device") as error:
        write_whole(path, b"after")
    assert error.value.filename == str(path)
    assert path.read_bytes() == b"before"
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_what_a_killed_process_left_is_removed(tmp_path):
    (tmp_path / "clients").mkdir()
    (tmp_path / "clients" / ".round-3.safetensors.123.tmp").write_bytes(b"half")
    (tmp_path / "clients" / "round-2.safetensors").write_bytes(b"whole")
    remove_unfinished_files(tmp_path)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["round-2.safetensors"]


def test_a_line_without_an_end_is_not_read(tmp_path):
    objects = [{"round": 1}, {"round": 2}]
    path = tmp_path / "rounds.jsonl"
    path.write_bytes(json_lines(objects) + b'{"round": 3')
    assert read_json_lines(path) == objects


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    check_writable(tmp_path / "new" / "folder", "The folder")
    (tmp_path / "file").write_text("")
    with config_error("The folder of results", tmp_path / "file" / "results"):
        check_writable(tmp_path / "file" / "results", "The folder of results")


def test_a_slow_node_does_not_remove_later_client_states(tmp_path):
    """It saves the state of a round that the server has long finished without it."""
    store = ClientStore(tmp_path)
    store.save(5, 3, STATE, [])
    store.save(5, 6, STATE, [3])
    store.save(5, 4, STATE, [])  # late
    assert sorted(path.stem for path in (tmp_path / "5").iterdir()) == ["round-4", "round-6"]
    assert torch.equal(store.load(5, 6)["a"], STATE["a"])


def test_before_its_first_training_a_client_has_no_state(tmp_path):
    assert ClientStore(tmp_path).load(5, 0) == {}
    with pytest.raises(FileNotFoundError):
        ClientStore(tmp_path).load(5, 1)
