"""The streams of random numbers of a run, seeded by purpose, so that results do not depend on the order of processes.

Only partition schemes and the initialization of the network draw from the seed alone, and the division of a dataset
into training and test images from none.
"""

from enum import IntEnum

import numpy as np
import torch


class Purpose(IntEnum):
    """The purpose of a stream of random numbers. Two purposes never share a stream."""

    PARTITION = 0  # order of the clients' images, and which test images each client gets
    SAMPLING = 1  # clients of a round
    TRAINING = 2  # batches and augmentation of one client in one round
    FINE_TUNING = 3  # batches and augmentation of one client's personalization
    SERVER_DATA = 4  # training images that the server holds
    SERVER_TRAINING = 5  # batches and augmentation of the server
    CLIENTS = 6  # owners in the dataset that become clients
    ROUNDING = 7  # ties when numbers of test images are rounded
    DIAGNOSTICS = 8  # images whose features are recorded
    TEMPLATES = 9  # augmentation of the images whose features are one client's class templates
    PRIVACY = 10  # the noise of differential privacy in a simulation


def numpy_generator(seed: int, purpose: Purpose, *indices: int) -> np.random.Generator:
    """NumPy's generator for the stream (seed, purpose, indices); indices are a round or client, for example."""
    return np.random.default_rng([seed, purpose, *indices])


def torch_generator(seed: int, purpose: Purpose, *indices: int) -> torch.Generator:
    """PyTorch's CPU generator for the stream (seed, purpose, indices), with the same draws on every device."""
    state = np.random.SeedSequence([seed, purpose, *indices]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))
