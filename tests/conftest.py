"""Fixtures: the default run config, a small federation in this process, and a cache of its own."""

import os
import shutil
import tempfile
from pathlib import Path

# Before anything imports the package: no test touches the user's cache, or the network.
os.environ["FEDBABU_CACHE"] = tempfile.mkdtemp(prefix="fedbabu-cache-")
os.environ["FEDBABU_STATE"] = tempfile.mkdtemp(prefix="fedbabu-state-")
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="fedbabu-hf-")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["FLWR_TELEMETRY_ENABLED"] = os.environ["HF_HUB_DISABLE_TELEMETRY"] = "0"

import pytest
import torch

from fedbabu.config import default_run_config

PROJECT = Path(__file__).parents[1]


def pytest_configure():
    torch.set_num_threads(1)


def pytest_collection_modifyitems(items):
    """Files with slow tests first, so that no worker is left with one of them at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_unconfigure():
    for name in ("FEDBABU_CACHE", "FEDBABU_STATE", "HF_HOME"):
        shutil.rmtree(os.environ[name], ignore_errors=True)


@pytest.fixture
def run_config(tmp_path) -> dict:
    """A federation of 8 clients on digits that runs in seconds; three rounds, so the learning rate steps once."""
    return default_run_config() | {
        "dataset": "digits",
        "num-clients": 8,
        "fraction-train": 0.5,
        "num-server-rounds": 3,
        "num-local-epochs": 2,
        "num-finetune-epochs": 2,
        "batch-size": 40,
        "evaluate-every": 1,
        "seed": 7,
        "results-dir": str(tmp_path / "results"),
    }
