"""Cache entries of decoded datasets: made once, made again if the files change or the entry is damaged."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.errors import config_error
from support.pictures import write_folder

from fedbabu.data.dataset import open_dataset
from fedbabu.data.source import DataSpec


def test_images_are_decoded_once_and_again_if_the_files_change(tmp_path):
    spec = DataSpec(str(tmp_path / "pets"), "picture", "kind")
    write_folder(tmp_path / "pets")
    first = open_dataset(spec)
    made = (first.folder / "meta.json").stat().st_mtime_ns
    open_dataset.cache_clear()
    assert open_dataset(spec).folder == first.folder
    assert (first.folder / "meta.json").stat().st_mtime_ns == made
    changed = write_folder(tmp_path / "pets", num=44)
    open_dataset.cache_clear()
    second = open_dataset(spec)
    assert second.folder != first.folder
    assert np.array_equal(second.images["train"], changed["train"][0])


def test_a_cache_that_cannot_be_written_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FEDBABU_CACHE", str(tmp_path / "file" / "cache"))
    write_folder(tmp_path / "pets")
    with config_error("/file/cache", "FEDBABU_CACHE"):
        open_dataset(DataSpec(str(tmp_path / "pets"), "picture", "kind"))


def test_the_leftovers_of_a_killed_process_are_removed(tmp_path):
    write_folder(tmp_path / "pets")
    spec = DataSpec(str(tmp_path / "pets"), "picture", "kind")
    entry = open_dataset(spec).folder
    leftover = entry.with_name(f".{entry.name}.building")
    entry.rename(leftover)
    (leftover / "train-images.npy").write_bytes(b"half")
    open_dataset.cache_clear()
    assert len(open_dataset(spec).images["train"]) == 40
    assert not leftover.exists()


@pytest.mark.parametrize("name", ["train-images.npy", "test-images.npy", "train-labels.npy", "meta.json"])
@pytest.mark.parametrize("damage", ["cut", "changed", "emptied", "removed"])
def test_a_damaged_entry_is_built_again(tmp_path, capsys, name, damage):
    written = write_folder(tmp_path / "pets")
    spec = DataSpec(str(tmp_path / "pets"), "picture", "kind")
    file = open_dataset(spec).folder / name
    whole = file.read_bytes()
    if damage == "removed":
        file.unlink()
    else:
        middle = len(whole) // 2
        changed = whole[:middle] + bytes([whole[middle] ^ 32]) + whole[middle + 1 :]
        file.write_bytes({"cut": whole[:-10], "changed": changed, "emptied": b""}[damage])
    open_dataset.cache_clear()
    again = open_dataset(spec)
    assert f"{again.folder} is damaged" in capsys.readouterr().out
    assert file.read_bytes() == whole
    for split, (pixels, kinds) in written.items():
        assert np.array_equal(again.images[split], pixels)
        assert np.array_equal(again.labels[split], kinds)


def test_two_processes_that_start_together_build_an_entry_once(tmp_path):
    write_folder(tmp_path / "pets", num=400)
    code = (
        "import sys; from fedbabu.data.dataset import open_dataset; from fedbabu.data.source import DataSpec;"
        "print(open_dataset(DataSpec(sys.argv[1], 'picture', 'kind')).folder)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "pets")]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    folders = {process.communicate(timeout=120)[0].strip() for process in both}
    assert [process.returncode for process in both] == [0, 0]
    assert len(folders) == 1
    assert Path(folders.pop(), "meta.json").exists()
