"""What the differential privacy of a run is worth, for its summary and its report."""

from collections import Counter
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from fedbabu.config import RunConfig
from fedbabu.errors import ConfigError, counted
from fedbabu.runs.records import RoundRecord
from fedbabu.training.privacy import epsilon


def check_accountant(config: RunConfig) -> None:
    """Raise a ConfigError if the run adds noise, but the package that computes ε is not installed."""
    if config.dp_noise_multiplier and find_spec("dp_accounting") is None:
        raise ConfigError(
            f"dp-noise-multiplier = {config.dp_noise_multiplier} needs the package dp-accounting, which computes ε: "
            'pip install -e ".[privacy]", or set it to 0.0.'
        )


def privacy_spent(config: RunConfig, rounds: Sequence[RoundRecord]) -> dict[str, Any]:
    """ε and δ of the rounds of a run, with which keys they are; empty without noise."""
    if not config.dp_noise_multiplier:
        return {}
    trained = Counter(client for record in rounds for client in record.clients if client not in record.failed)
    spent = epsilon(
        config.dp_noise_multiplier, config.dp_delta, config.num_clients, config.clients_per_round, trained, len(rounds),
        noise_of_clients=config.dp_noise_by == "clients",
    )  # fmt: skip
    return {"epsilon": spent, "delta": config.dp_delta, "rounds": len(rounds)}


def privacy_in_words(summary: dict[str, Any], config: RunConfig) -> str:
    """A line of the final report about the privacy of a run; empty without noise."""
    if not (spent := summary.get("privacy")):
        return ""
    how = f"clipping norm {config.dp_clipping_norm:g}, noise multiplier {config.dp_noise_multiplier:g}, noise"
    return (
        f"Differential privacy of a client: ε = {spent['epsilon']:.2f} at δ = {spent['delta']:g} for the models of "
        f"{counted(spent['rounds'], 'round')} ({how} by the {config.dp_noise_by}), not for losses, accuracies, counts\n"
    )
