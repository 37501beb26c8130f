"""The run configuration: every key of `[tool.flwr.app.config]` once, with its type, range and meaning.

Defaults are in pyproject.toml, where Flower wants them. `python -m fedbabu.config` prints the table of the README.
"""

import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from fedbabu.algorithms import ALGORITHMS
from fedbabu.errors import ConfigError
from fedbabu.models import MODELS

Check = tuple[str, Callable[[Any], bool]]  # what is allowed, in words, and its test


def _one_of(names: Mapping[str, object]) -> Check:
    return " or ".join(f"'{name}'" for name in names), lambda value: value in names


def _at_least(low: int) -> Check:
    return f"an integer of at least {low}", lambda value: value >= low


_TEXT: Check = ("text", lambda value: True)
_NONEMPTY: Check = ("text that is not empty", lambda value: bool(value.strip()))


def _key(meaning: str, check: Check) -> Any:
    return field(metadata={"meaning": meaning, "allowed": check[0], "check": check[1]})


@dataclass(frozen=True)
class RunConfig:
    """A checked run configuration. The attribute `num_clients` is the key `num-clients`, and so on."""

    algorithm: str = _key("which parts are trained, shared and fine-tuned", _one_of(ALGORITHMS))
    model_name: str = _key("the network", _one_of(MODELS))
    dataset: str = _key(
        "`cifar10`, `cifar100`, `digits`, the id of a dataset on the Hub, or a local folder of parquet files",
        _NONEMPTY,
    )
    image_column: str = _key("the column with the images; empty for a known dataset's own", _TEXT)
    label_column: str = _key("the column with the labels; empty for a known dataset's own", _TEXT)
    num_clients: int = _key("N, the number of clients", _at_least(1))
    shards_per_client: int = _key("s, the shards of one class each that a client holds", _at_least(1))
    fraction_train: float = _key(
        "f, the fraction of clients sampled in a round", ("a number in (0, 1]", lambda value: 0 < value <= 1)
    )
    num_server_rounds: int = _key("K, the communication rounds", _at_least(1))
    num_local_epochs: int = _key("τ, the epochs that a sampled client trains in a round", _at_least(1))
    num_finetune_epochs: int = _key(
        "τ_f, the epochs of fine-tuning in the final evaluation, at the last learning rate of training",
        _at_least(0),
    )
    learning_rate: float = _key(
        "the first learning rate; a tenth of it after half of the rounds, a hundredth after three quarters",
        ("a number above 0", lambda value: value > 0),
    )
    momentum: float = _key("SGD's momentum", ("a number in [0, 1)", lambda value: 0 <= value < 1))
    batch_size: int = _key("images in a training batch", _at_least(1))
    evaluate_every: int = _key(
        "rounds between evaluations of the initial accuracy on all clients; 0 for none before the last",
        _at_least(0),
    )
    seed: int = _key(
        "of everything random: initialization, partition, sampling, batches",
        ("an integer from 0 to 2^63 - 1", lambda value: 0 <= value < 2**63),
    )
    results_dir: str = _key(
        "where run folders go; a relative path starts where the local SuperLink was started", _NONEMPTY
    )

    @classmethod
    def from_flower(cls, run_config: Mapping[str, object]) -> "RunConfig":
        """Check Flower's run config.

        Raises:
            ConfigError: if a key is unknown or missing, or its value has the wrong type or range.
        """
        known = {_key_name(spec.name): spec for spec in fields(cls)}
        for key in run_config:
            if key not in known:
                close = difflib.get_close_matches(key, known, n=1)
                hint = f"did you mean {close[0]}?" if close else f"known keys are {', '.join(known)}."
                raise ConfigError(f"There is no run-config key {key}: {hint}")
        values: dict[str, Any] = {}
        for key, spec in known.items():
            if key not in run_config:
                raise ConfigError(f"The run config lacks the key {key}: {spec.metadata['meaning']}.")
            values[spec.name] = _checked(key, run_config[key], spec.type, spec.metadata)
        return cls(**values)

    def to_flower(self) -> dict[str, str | int | float]:
        """The same configuration under Flower's key names."""
        return {_key_name(spec.name): getattr(self, spec.name) for spec in fields(self)}

    def learning_rate_of(self, server_round: int) -> float:
        """The learning rate of a round, counted from 1 (Section 3).

        It is divided by ten once half, and again once three quarters, of the rounds are done.
        """
        done = server_round - 1
        decays = (2 * done >= self.num_server_rounds) + (4 * done >= 3 * self.num_server_rounds)
        return self.learning_rate / 10**decays

    @property
    def clients_per_round(self) -> int:
        """M = max(⌊f · N⌋, 1), the clients sampled in a round (Algorithm 1, line 3)."""
        # Rounded first: 0.29 · 100 is 28.999999999999996 in floating point.
        return max(int(round(self.fraction_train * self.num_clients, 9)), 1)

    @property
    def finetune_learning_rate(self) -> float:
        """The learning rate of fine-tuning: that of the last round, as in the paper's official code."""
        return self.learning_rate_of(self.num_server_rounds)


def _key_name(attribute: str) -> str:
    return attribute.replace("_", "-")


def _checked(key: str, value: object, kind: Any, metadata: Mapping[str, Any]) -> object:
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind or (kind is float and not math.isfinite(value)) or not metadata["check"](value):  # type: ignore[arg-type]
        raise ConfigError(f"{key} = {value!r} is not allowed: it must be {metadata['allowed']}.")
    return value


def markdown_table(defaults: Mapping[str, object]) -> str:
    """The documentation of every key as a Markdown table, with the defaults of pyproject.toml."""
    lines = ["| key | default | allowed | meaning |", "| --- | --- | --- | --- |"]
    for spec in fields(RunConfig):
        key, meta = _key_name(spec.name), spec.metadata
        lines.append(f"| `{key}` | `{defaults[key]!r}` | {meta['allowed']} | {meta['meaning']} |")
    return "\n".join(lines)


def _main() -> None:
    import tomllib
    from pathlib import Path

    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))
    print(markdown_table(project["tool"]["flwr"]["app"]["config"]))


if __name__ == "__main__":
    _main()
