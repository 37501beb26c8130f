"""Disks that are full or read-only, folders that disappear, and two runs at the same time."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support import PROJECT
from support.in_process import essence, run_server

from fedbabu.errors import RunError
from fedbabu.runs.folder import RunFolder

TESTS = PROJECT / "tests"


@pytest.fixture
def config(tiny_config):
    """Four rounds with little training, and a checkpoint after each."""
    short = {"num-server-rounds": 4, "num-local-epochs": 1, "num-finetune-epochs": 1}
    return tiny_config | short | {"checkpoint-every": 1}


def environment(config: dict, **variables) -> dict:
    """The environment of another process that runs a run config with the modules of the tests."""
    paths = {"PYTHONPATH": str(TESTS), "CONFIG": json.dumps(config)}
    return os.environ | paths | {name: str(value) for name, value in variables.items()}


@pytest.mark.parametrize(
    ("algorithm", "fault", "reason"),
    [
        ("ditto", "full", "No space left"),
        ("fedbabu", "read-only", "Read-only file system"),
        pytest.param("fedbabu", "full", "No space left", marks=pytest.mark.slow),
        pytest.param("ditto", "read-only", "Read-only file system", marks=pytest.mark.slow),
    ],
)
def test_a_disk_that_fails_is_named_and_the_run_can_be_resumed(config, tmp_path, algorithm, fault, reason):
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
        pytest.skip("this machine does not let a test mount a disk")
    disk = tmp_path / "disk"
    disk.mkdir()
    config |= {"algorithm": algorithm, "results-dir": f"{disk}/results"}
    command = ["unshare", "-rm", sys.executable, str(TESTS / "support" / "small_disk.py"), str(disk), fault]
    process = subprocess.run(command, env=environment(config), capture_output=True, text=True, timeout=300)
    assert process.returncode == 0, process.stdout + process.stderr
    result = json.loads(process.stdout.splitlines()[-1])
    assert reason in result["error"]
    assert f"{disk}/results/" in result["error"]
    assert result["algorithm"] == algorithm
    assert 0 <= result["rounds"] <= 4
    assert result["same"]


def test_a_run_folder_that_disappears_is_named(config, monkeypatch):
    append_round = RunFolder.append_round

    def append_and_remove(run, record):
        append_round(run, record)
        if record.round == 2:
            shutil.rmtree(run.path)

    monkeypatch.setattr(RunFolder, "append_round", append_and_remove)
    with pytest.raises(RunError, match=f"No such file or directory: '{config['results-dir']}/"):
        run_server(config)


RUN = """
import json, os, torch
from support.in_process import run_server
torch.set_num_threads(1)
try:
    run_server(json.loads(os.environ["CONFIG"]))
except ValueError as error:  # run_server finds the run of the other process, too
    assert "too many values to unpack" in str(error)
"""


@pytest.mark.slow
def test_two_runs_at_the_same_time_do_not_disturb_each_other(config, tmp_path, papers_width):
    """They share the folder of run folders, and a cache in which the images are not yet decoded."""
    config |= {"algorithm": "fedper", "num-server-rounds": 2}
    variables = environment(config, FEDBABU_CACHE=tmp_path / "cache")
    processes = [
        subprocess.Popen([sys.executable, "-c", RUN], env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=200)
        assert process.returncode == 0, errors.decode()
    alone, _ = run_server(config | {"results-dir": str(tmp_path / "alone")})
    folders = sorted(Path(config["results-dir"]).iterdir())
    assert len(folders) == 2
    assert all(essence(RunFolder(folder)) == essence(alone) for folder in folders)
