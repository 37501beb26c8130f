"""A run of the app in the terms of the plain PyTorch reference: its clients' data, its start and its settings."""

from contextlib import contextmanager

import torch
from safetensors.torch import save_file

from fedbabu.algorithms import ALGORITHMS
from fedbabu.config import RunConfig
from fedbabu.data.partitions.partition import open_simulated_data
from fedbabu.federation.node import build_network
from fedbabu.models import build_model
from support import reference

# The tolerance where both the app and the reference compute in float64.
FLOAT64 = {"rtol": 1e-8, "atol": 1e-10}


@contextmanager
def in_float64():
    """Let the package compute in float64, where ties in ReLU and max-pooling do not make rounding errors large."""
    torch.set_default_dtype(torch.float64)
    build_network.cache_clear()
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)
        build_network.cache_clear()


def clients_data(run_config):
    """The images and labels that each client trains and is tested on, by its id: ((x, y), (x_test, y_test))."""
    config = RunConfig.from_flower(run_config)
    dataset, partition = open_simulated_data(config.data_spec, config.partition_spec)

    def tensors(split, client):
        rows = partition.rows[split][client]
        pixels = torch.from_numpy(dataset.images[split][rows]).permute(0, 3, 1, 2)
        return pixels, torch.from_numpy(dataset.labels[split][rows])

    return {client: (tensors("train", client), tensors("test", client)) for client in partition.clients}


def training_data(run_config):
    """The images and labels that each client trains on, by its id."""
    return {client: train for client, (train, _) in clients_data(run_config).items()}


def initial_state(run_config, image_shape=(3, 16, 16), num_classes=10, seed=None):
    """The state dict of the 4convNet that a run starts from; of its seed, if no other is given."""
    seed = run_config["seed"] if seed is None else seed
    return dict(build_model("FourConvNet", image_shape, num_classes, seed, run_config["head-init"]).state_dict())


def start_of(algorithm, run_config, folder):
    """The configuration of an algorithm, and the state dict that it starts from.

    LG-FedAvg starts from a file that is written to the folder, and gets four times as many rounds, of which it runs a
    quarter.
    """
    run_config = run_config | {"algorithm": algorithm}
    if not ALGORITHMS[algorithm].starts_from:
        return run_config, initial_state(run_config)
    state, file = initial_state(run_config, seed=99), folder / "fedavg.safetensors"
    save_file({name: value.contiguous() for name, value in state.items()}, file)
    rounds = 4 * run_config["num-server-rounds"]
    return run_config | {"initial-model": str(file), "num-server-rounds": rounds}, state


def reference_settings(run_config, **variant):
    """The reference's settings of local training for a run."""
    config = RunConfig.from_flower(run_config)
    transform = open_simulated_data(config.data_spec, config.partition_spec)[0].transform
    pixels = reference.Pixels(transform.mean, transform.std, transform.crop_padding, transform.flip)
    rate = config.learning_rate / (100 if config.algorithm == "lg-fedavg" else 1)
    return reference.Settings(pixels, config.num_local_epochs, config.batch_size, rate, config.momentum, **variant)


def assert_same_state(state, expected):
    """Check that two state dicts are equal but for rounding errors of float64."""
    assert state.keys() == expected.keys()
    for name, value in state.items():
        torch.testing.assert_close(value, expected[name], **FLOAT64)
