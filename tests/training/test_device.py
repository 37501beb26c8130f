"""The device of a process, and how many SuperNodes fit on a machine."""

import os
import subprocess
import sys

import pytest
import torch
from support.errors import config_error

from fedbabu.federation.resources import clients_at_a_time, fitting_federation
from fedbabu.training import device
from fedbabu.training.device import training_device, why_no_gpu


def test_the_device_is_the_gpu_if_there_is_one_and_float32_is_float32():
    torch.backends.cudnn.allow_tf32 = True  # PyTorch's default
    training_device.cache_clear()
    assert training_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert not torch.backends.cudnn.allow_tf32


@pytest.fixture
def no_gpu(monkeypatch):
    """PyTorch sees no GPU, whatever there is."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    training_device.cache_clear()


def test_a_gpu_that_is_wanted_must_be_there(no_gpu):
    assert training_device("auto").type == training_device("cpu").type == "cpu"
    with config_error("device = 'cuda'", "no GPU", "'auto' or 'cpu'"):
        training_device("cuda")


def test_a_gpu_that_is_not_used_is_explained(no_gpu, monkeypatch, tmp_path):
    monkeypatch.setattr(device, "GPUS_OF_DRIVER", tmp_path)
    assert why_no_gpu() == ""  # the machine has none
    (tmp_path / "0000:01:00.0").mkdir()
    monkeypatch.setattr("torch.version.cuda", "13.0")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert why_no_gpu() == "CUDA_VISIBLE_DEVICES = '' hides the GPU"
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert "PyTorch cannot use the GPU" in why_no_gpu()
    monkeypatch.setattr("torch.version.cuda", None)
    assert why_no_gpu() == "this PyTorch was built without CUDA"


def test_processes_spread_over_several_gpus(monkeypatch, tmp_path):
    monkeypatch.setenv("FEDBABU_CACHE", str(tmp_path))
    monkeypatch.setattr(device, "_taken", [])
    assert [device._take_one_of(3) for _ in range(7)] == [0, 1, 2, 0, 1, 2, 0]
    device._taken.pop(1)  # the process that has GPU 1 ends
    assert device._take_one_of(3) == 1


RAY_WORKER = """
import os, fedbabu.client_app, ray
ray.init(num_cpus=1, num_gpus=1, include_dashboard=False, log_to_driver=False)
seen = ray.remote(num_cpus=1, num_gpus=0)(lambda: os.environ.get("CUDA_VISIBLE_DEVICES"))
print(ray.get(seen.remote()))
"""


@pytest.mark.slow
@pytest.mark.parametrize("visible", [None, "1"])
def test_workers_that_ask_for_no_gpu_see_those_that_the_user_sees(visible):
    environment = {key: value for key, value in os.environ.items() if key != "CUDA_VISIBLE_DEVICES"}
    environment |= {"CUDA_VISIBLE_DEVICES": visible} if visible else {}
    command = [sys.executable, "-W", "error::FutureWarning", "-c", RAY_WORKER]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert finished.stdout.splitlines()[-1] == str(visible), finished.stderr


@pytest.mark.parametrize(
    ("num_cpus", "num_gpus", "federation", "expected"),
    [
        (8, 0, ("auto", 1, "auto"), (8, 1, 0)),
        (8, 0, ("auto", 3, 0), (2, 3, 0)),
        (1, 0, ("auto", 2, 0), (1, 2, 0)),
        (500, 0, ("auto", 1, 0), (100, 1, 0)),
        (8, 0, ("clients", 1, 0), (100, 1, 0)),
        (8, 0, (20, 1, 0), (20, 1, 0)),
        (16, 1, ("auto", 1, "auto"), (4, 1, 0.25)),
        (16, 2, ("auto", 1, "auto"), (8, 1, 0.25)),
        (2, 1, ("auto", 1, "auto"), (2, 1, 0.5)),
        (16, 1, ("auto", 1, 0.5), (2, 1, 0.5)),
    ],
)
def test_the_federation_fits_on_the_machine(monkeypatch, num_cpus, num_gpus, federation, expected):
    keys = ("num-supernodes", "client-resources-num-cpus", "client-resources-num-gpus")
    monkeypatch.setattr("os.sched_getaffinity", lambda process: range(num_cpus), raising=False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: num_gpus)
    fitting = fitting_federation(dict(zip(keys, federation, strict=True)), num_clients=100)
    assert fitting == dict(zip(keys, expected, strict=True))


@pytest.mark.parametrize(
    ("flags", "expected"), [("fpu avx512_bf16 amx_bf16 amx_tile", True), ("fpu avx512_bf16", False)]
)
def test_a_processor_with_amx_is_known_by_its_flags(monkeypatch, tmp_path, flags, expected):
    (tmp_path / "cpuinfo").write_text(f"processor : 0\nflags\t\t: {flags}\n")
    monkeypatch.setattr(device, "CPU_INFO", tmp_path / "cpuinfo")
    device.has_amx.cache_clear()
    assert device.has_amx() == expected
    monkeypatch.setattr(device, "CPU_INFO", tmp_path / "nothing")
    device.has_amx.cache_clear()
    assert not device.has_amx()
    device.has_amx.cache_clear()


@pytest.mark.parametrize(
    ("num_nodes", "cpus", "machines", "expected"),
    [(2, 1, [5], 2), (2, 2, [5], 4), (100, 1, [5], 5), (100, 2, [5], 2), (4, 2, [3, 3], 4), (2, 4, [2], 4)],
)
def test_how_many_clients_are_trained_at_a_time(num_nodes, cpus, machines, expected):
    assert clients_at_a_time(num_nodes, cpus, 100, machines) == expected
