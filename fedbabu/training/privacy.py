"""Client-level differential privacy: clipped updates and Gaussian noise (McMahan et al., 2018, DP-FedAvg).

What a client shares is moved towards the global model until it is within the clipping norm C of it, so that a client
cannot move the mean of n clients by more than C / n. Gaussian noise of the standard deviation z C / n, with the noise
multiplier z, is then added once by the server; or each client adds noise of the standard deviation z C to its own.
"""

import secrets

import numpy as np
import torch
from torch import Tensor

from fedbabu.config import RunConfig
from fedbabu.seeding import Purpose, numpy_generator
from fedbabu.training.aggregation import State


def private_update(
    shared: State, global_model: State, config: RunConfig, training_round: int, client: int, *, secret: bool
) -> State:
    """What a client shares, clipped, and with noise if clients add it; unchanged without differential privacy.

    Args:
        shared: The tensors that the client shares after training.
        global_model: The model that it started from; may have other tensors too.
        config: The run configuration.
        training_round: The round.
        client: The client's number.
        secret: Whether the noise must not follow from the seed, as in a real federation.
    """
    if not config.dp_clipping_norm:
        return shared
    shared = clipped(shared, global_model, config.dp_clipping_norm)
    if not config.dp_noise_multiplier or config.dp_noise_by != "clients":
        return shared
    generator = noise_generator(config.seed, training_round, client, secret=secret)
    return with_noise(shared, config.dp_noise_multiplier * config.dp_clipping_norm, generator)


def private_mean(mean: State, num_clients: int, config: RunConfig, server_round: int, *, secret: bool) -> State:
    """The mean of so many clients' updates, with noise if the server adds it; `secret` as in `private_update`."""
    if not config.dp_noise_multiplier or config.dp_noise_by != "server":
        return mean
    std = config.dp_noise_multiplier * config.dp_clipping_norm / num_clients
    return with_noise(mean, std, noise_generator(config.seed, server_round, secret=secret))


def clipped(shared: State, global_model: State, norm: float) -> dict[str, Tensor]:
    """What a client shares, with an update of at most a Euclidean norm over all tensors together.

    Args:
        shared: The tensors that the client shares after training.
        global_model: The model that it started from; may have other tensors too.
        norm: The clipping norm C, above 0.
    """
    updates = {name: value.double() - global_model[name].double() for name, value in shared.items()}
    length = sum(float(update.square().sum()) for update in updates.values()) ** 0.5
    factor = min(1.0, norm / length) if length else 1.0
    return {name: (global_model[name].double() + factor * updates[name]).to(shared[name].dtype) for name in shared}


def with_noise(state: State, std: float, generator: np.random.Generator) -> dict[str, Tensor]:
    """Tensors on any device, with independent Gaussian noise of a standard deviation added to each of their numbers.

    The noise is drawn in the order of the names, which is not that of the mapping: a resumed run has another.
    """
    drawn = {name: torch.from_numpy(generator.standard_normal(tuple(state[name].shape))) for name in sorted(state)}
    return {name: value + (std * drawn[name]).to(value) for name, value in state.items()}


def noise_generator(seed: int, *indices: int, secret: bool) -> np.random.Generator:
    """The generator of the noise of a round, or of a client in a round.

    In a simulation it follows from the seed. In a real federation the noise must be unknown to all, who know the seed:
    its key are 128 random bits of the operating system.
    """
    if secret:
        return np.random.Generator(np.random.Philox(key=secrets.randbits(128)))
    return numpy_generator(seed, Purpose.PRIVACY, *indices)


def epsilon(noise_multiplier: float, delta: float, num_releases: int) -> float:
    """The ε for a δ, by the Rényi accountant of `dp_accounting`, if one client's data are replaced by others.

    Replacing a client's data moves its clipped update by up to 2 C, so that the multiplier of the Gaussian mechanism is
    half the noise multiplier. That clients are sampled gives nothing: who takes part follows from the seed, which all
    nodes know.

    Args:
        noise_multiplier: z, above 0.
        delta: δ, between 0 and 1.
        num_releases: How many times the client was asked to train, and so may have changed what others saw.
    """
    import dp_accounting
    from dp_accounting.rdp import RdpAccountant

    accountant = RdpAccountant(neighboring_relation=dp_accounting.NeighboringRelation.REPLACE_ONE)
    accountant.compose(dp_accounting.GaussianDpEvent(noise_multiplier / 2), num_releases)
    return float(accountant.get_epsilon(delta))
