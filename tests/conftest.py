"""Settings and fixtures of all tests: caches apart from the user's, and run configs of small federations."""

import os
import shutil
import tempfile
from collections.abc import Iterator

# Before anything imports the package: no test uses the user's caches or the network.
os.environ["FEDBABU_CACHE"] = tempfile.mkdtemp(prefix="fedbabu-cache-")
os.environ["FEDBABU_STATE"] = tempfile.mkdtemp(prefix="fedbabu-state-")
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="fedbabu-hf-")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["FLWR_TELEMETRY_ENABLED"] = os.environ["HF_HUB_DISABLE_TELEMETRY"] = "0"
# Test processes share the cores: by default, threads that wait for each other would spin and slow the others down.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import pytest
import torch
from support.pictures import write_folder
from support.run_configs import small_run_config, tiny_run_config

from fedbabu.models import networks


def pytest_configure():
    torch.set_num_threads(1)
    networks.CONV_NET_WIDTH = 16  # a quarter of the paper's, with which runs take half the time


@pytest.fixture(scope="module")
def papers_width() -> Iterator[None]:
    """In this file, the convolutional networks have the paper's width of 64 channels, as in processes of their own."""
    from fedbabu.federation.node import build_network

    build_network.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(networks, "CONV_NET_WIDTH", 64)
        yield
    build_network.cache_clear()


def pytest_collection_modifyitems(items):
    """Files with slow tests first, so that no worker is left with one of them at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_unconfigure():
    for name in ("FEDBABU_CACHE", "FEDBABU_STATE", "HF_HOME"):
        shutil.rmtree(os.environ[name], ignore_errors=True)


@pytest.fixture
def run_config(tmp_path) -> dict:
    """A run config for eight clients with digits; a run takes two seconds."""
    return small_run_config(tmp_path / "results")


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory) -> dict:
    """The keys of a dataset of random colour images, 96 for training and 96 for testing, of ten classes."""
    folder = tmp_path_factory.mktemp("tiny")
    with pytest.MonkeyPatch.context() as patch:  # the same images whatever was drawn before
        patch.setattr("support.pictures.RNG", np.random.default_rng(0))
        write_folder(folder, classes=10, size=(16, 16), num=96)
    return {"dataset": str(folder), "image-column": "picture", "label-column": "kind"}


@pytest.fixture
def tiny_config(tiny_dataset, tmp_path) -> dict:
    """A run config for eight clients with ten or fourteen images each; a run takes a second."""
    return tiny_run_config(tiny_dataset, tmp_path / "results")


@pytest.fixture
def float64() -> Iterator[None]:
    """The package computes in float64 in this test."""
    from support.reference_runs import in_float64

    with in_float64():
        yield
