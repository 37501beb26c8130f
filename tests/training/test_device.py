"""The device of a process, and how many SuperNodes fit on a machine."""

import pytest
import torch

from fedbabu.training.device import fitting_federation, training_device


def test_the_device_is_the_gpu_if_there_is_one_and_float32_is_float32():
    torch.backends.cudnn.allow_tf32 = True  # PyTorch's default
    training_device.cache_clear()
    assert training_device().type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert not torch.backends.cudnn.allow_tf32


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
