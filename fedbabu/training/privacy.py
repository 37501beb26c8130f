"""Client-level differential privacy: clipped updates and Gaussian noise (McMahan et al., 2018, DP-FedAvg).

What a client shares is moved towards the global model until it is within the clipping norm C of it, so that a client
cannot move the mean of n clients by more than C / n. Gaussian noise of the standard deviation z C / n, with the noise
multiplier z, is then added once by the server; or each client adds noise of the standard deviation z C to its own.
"""

import secrets
from collections.abc import Mapping

import torch
from torch import Tensor

from fedbabu.seeding import Purpose, torch_generator
from fedbabu.training.aggregation import State


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


def with_noise(state: State, std: float, generator: torch.Generator) -> dict[str, Tensor]:
    """Tensors on any device, with independent Gaussian noise of a standard deviation added to each of their numbers."""
    return {
        name: value + std * torch.randn(value.shape, generator=generator, dtype=torch.float64).to(value)
        for name, value in state.items()
    }


def noise_generator(seed: int, *indices: int, reproducible: bool) -> torch.Generator:
    """The generator of the noise of a round, or of a client in a round.

    In a simulation it is reproducible. In a real federation the noise must be unknown to all, who know the seed of the
    run, and comes from the operating system's secrets.
    """
    if reproducible:
        return torch_generator(seed, Purpose.PRIVACY, *indices)
    return torch.Generator().manual_seed(secrets.randbits(63))


def epsilon(
    noise_multiplier: float,
    delta: float,
    num_clients: int,
    clients_per_round: int,
    rounds_of_client: Mapping[int, int],
    num_rounds: int,
    *,
    noise_of_clients: bool,
) -> float:
    """The ε of a run for a δ, by the Rényi accountant of `dp_accounting`, if one client's data are replaced by others.

    Replacing a client's data moves its clipped update by up to 2 C, so that the multiplier of the Gaussian mechanism is
    half the noise multiplier. With noise of the server, a round samples clients without replacement; with noise of the
    clients, nobody is hidden among others, and the client that was trained in most rounds decides.

    Args:
        noise_multiplier: z, above 0.
        delta: δ, between 0 and 1.
        num_clients: N.
        clients_per_round: How many of them a round samples.
        rounds_of_client: In how many rounds each client was trained.
        num_rounds: How many rounds were released.
        noise_of_clients: Whether each client adds noise to its update, instead of the server to the mean.
    """
    import dp_accounting
    from dp_accounting.rdp import RdpAccountant

    mechanism = dp_accounting.GaussianDpEvent(noise_multiplier / 2)
    accountant = RdpAccountant(neighboring_relation=dp_accounting.NeighboringRelation.REPLACE_ONE)
    if noise_of_clients:
        accountant.compose(mechanism, max(rounds_of_client.values(), default=0))
    else:
        sampled = dp_accounting.SampledWithoutReplacementDpEvent(num_clients, clients_per_round, mechanism)
        accountant.compose(sampled if clients_per_round < num_clients else mechanism, num_rounds)
    return float(accountant.get_epsilon(delta))
