"""All randomness, seeded by what it is for, so that no result depends on which process drew first."""

from enum import IntEnum

import numpy as np
import torch


class Purpose(IntEnum):
    """What a stream of random numbers is drawn for; two purposes never share a stream."""

    PARTITION = 0
    SAMPLING = 1
    TRAINING = 2
    FINE_TUNING = 3
    SERVER_DATA = 4
    SERVER_TRAINING = 5
    CLIENTS = 6
    ROUNDING = 7
    RECORDING = 8


def numpy_generator(seed: int, purpose: Purpose, *indices: int) -> np.random.Generator:
    """NumPy's generator of the stream (seed, purpose, indices)."""
    return np.random.default_rng([seed, purpose, *indices])


def torch_generator(seed: int, purpose: Purpose, *indices: int) -> torch.Generator:
    """PyTorch's CPU generator of the stream (seed, purpose, indices), the same draws on every device."""
    state = np.random.SeedSequence([seed, purpose, *indices]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))
