"""The SuperLink of a sweep: one at a time, and none is left behind."""

import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from filelock import FileLock
from support import PROJECT
from support.errors import config_error

from fedbabu.reproduction.local_superlink import local_superlink


@pytest.mark.slow
def test_a_superlink_that_a_killed_process_left_is_stopped(tmp_path):
    code = (
        "import time; from pathlib import Path; from fedbabu.reproduction.local_superlink import local_superlink\n"
        f"with local_superlink(Path({str(tmp_path)!r})) as (environment, process):\n"
        "    print(process.pid, environment['FLWR_HOME'], flush=True)\n"
        "    time.sleep(600)"
    )
    killed = subprocess.Popen([sys.executable, "-c", code], cwd=PROJECT, text=True, stdout=subprocess.PIPE)
    process_id, home = killed.stdout.readline().split()
    left = psutil.Process(int(process_id))
    with config_error(tmp_path), local_superlink(tmp_path):
        pass
    killed.kill()
    killed.communicate()
    assert left.is_running()
    assert Path(home).exists()
    with local_superlink(tmp_path) as (_, process):
        assert "deprecated" not in (tmp_path / "superlink.log").read_text()
        assert not left.is_running() or left.status() == psutil.STATUS_ZOMBIE
    assert not process.is_running()
    assert not Path(home).exists()
    FileLock(tmp_path / "lock").acquire(timeout=0).lock.release()
