"""What the differential privacy of a run is worth, for its summary and its report."""

import json
from collections import Counter
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fedbabu.config import RunConfig
from fedbabu.errors import ConfigError
from fedbabu.formatting import counted
from fedbabu.training.privacy import epsilon

RELEASES = "releases.jsonl"  # in the run folder: a line with the clients of every training task that was sent


def check_accountant(config: RunConfig) -> None:
    """Raise a ConfigError if the run adds noise, but the package that computes ε is not installed."""
    if config.dp_noise_multiplier and find_spec("dp_accounting") is None:
        raise ConfigError(
            f"dp-noise-multiplier = {config.dp_noise_multiplier} needs the package dp-accounting, which computes ε: "
            'pip install -e ".[privacy]", or set it to 0.0.'
        )


def note_release(config: RunConfig, run: Path, clients: Sequence[int]) -> None:
    """Note, before clients are asked to train, that what they share may be seen, if the run adds noise.

    The note stays when a round is repeated, or trained again by a resumed run, which releases more.
    """
    if config.dp_noise_multiplier:
        with (run / RELEASES).open("a", encoding="utf-8") as file:
            file.write(json.dumps(list(clients)) + "\n")


def privacy_spent(config: RunConfig, run: Path) -> dict[str, Any]:
    """ε and δ of the client that was asked to train most often, and how often that was; empty without noise."""
    if not config.dp_noise_multiplier:
        return {}
    lines = (run / RELEASES).read_text(encoding="utf-8").splitlines()
    most = max(Counter(client for line in lines for client in json.loads(line)).values())
    return {
        "epsilon": epsilon(config.dp_noise_multiplier, config.dp_delta, most),
        "delta": config.dp_delta,
        "releases": most,
    }


def privacy_in_words(summary: dict[str, Any], config: RunConfig) -> str:
    """A line of the final report about the privacy of a run; empty without noise."""
    if not (spent := summary.get("privacy")):
        return ""
    times, bound = counted(spent["releases"], "time"), f"ε = {spent['epsilon']:.2f} at δ = {spent['delta']:g}"
    return (
        f"Differential privacy: {bound} for what clients share, who trained at most {times} each; not for losses, "
        "accuracies, counts and names\n"
    )
