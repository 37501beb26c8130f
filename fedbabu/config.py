"""The run configuration: every key of `[tool.flwr.app.config]` once, with its type, range and meaning.

Defaults are in pyproject.toml, where Flower wants them. `python -m fedbabu.config` prints the table of the README.
"""

import difflib
import math
import tomllib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from fedbabu.algorithms import ALGORITHMS, Algorithm, Part, Phase
from fedbabu.data.known import KNOWN_DATASETS
from fedbabu.data.partitions import PARTITIONS
from fedbabu.errors import ConfigError
from fedbabu.models import HEAD_INITS, MODELS

VISITS = 10  # rounds in which all clients are visited once, if they never communicate; only for a line now and then

# How a run goes about its work, which it is told anew when it is resumed.
CONDUCT_KEYS = ("checkpoint-every", "client-timeout", "min-fit-clients", "max-round-retries", "cuda-graph", "logger")

Check = tuple[str, Callable[[Any], bool]]  # what is allowed, in words, and its test


def _one_of(names: Collection[str]) -> Check:
    return " or ".join(f"'{name}'" for name in names), lambda value: value in names


def _at_least(low: int) -> Check:
    return f"an integer of at least {low}", lambda value: value >= low


_TEXT: Check = ("text", lambda value: True)
_ANY_BOOL: Check = ("true or false", lambda value: True)
_NOT_NEGATIVE: Check = ("a number of at least 0", lambda value: value >= 0)
_POSITIVE: Check = ("a number above 0", lambda value: value > 0)
_RECORDS = ("class-accuracy", "similarity", "features")
_PARTS = {"": None, "body": Part.BODY, "head": Part.HEAD, "full": Part.FULL}
_PATH: Check = ("a path, or empty", lambda value: _is_path(value))
_NAME_OR_PATH: Check = ("a name or path", lambda value: bool(value.strip()) and _is_path(value))


def _is_path(value: str) -> bool:
    """Whether it can be one: ~ of an unknown user and NUL cannot."""
    try:
        return "\0" not in str(Path(value).expanduser())
    except RuntimeError:
        return False


def _key(meaning: str, check: Check) -> Any:
    return field(metadata={"meaning": meaning, "allowed": check[0], "check": check[1]})


@dataclass(frozen=True)
class RunConfig:
    """A checked run configuration. The attribute `num_clients` is the key `num-clients`, and so on."""

    algorithm: str = _key("which parts are trained, shared, kept and fine-tuned", _one_of(ALGORITHMS))
    model_name: str = _key("the network", _one_of(MODELS))
    dataset: str = _key(
        f"{', '.join(f'`{name}`' for name in KNOWN_DATASETS)}, the id of a dataset on the Hub, or a local folder of "
        "parquet files or of images",
        _NAME_OR_PATH,
    )
    image_column: str = _key("the column with the images; empty for a known dataset's own", _TEXT)
    label_column: str = _key("the column with the labels; empty for a known dataset's own", _TEXT)
    client_column: str = _key(
        "the column that says whose an image is, for partition = 'natural'; empty for a known dataset's own", _TEXT
    )
    test_fraction: float = _key(
        "the fraction of the training split that is held out to test on; 0 to take the dataset's test split, or a "
        "known dataset's own fraction if it has none",
        ("a number in [0, 1)", lambda value: 0 <= value < 1),
    )
    partition: str = _key("how the training images become clients", _one_of(PARTITIONS))
    num_clients: int = _key("N, the number of clients", _at_least(1))
    shards_per_client: int = _key(
        "s, the shards of one class each that a client holds, for partition = 'shards'", _at_least(1)
    )
    num_classes_per_client: int = _key("the classes that a client holds, for partition = 'classes'", _at_least(1))
    dirichlet_beta: float = _key(
        "β, for partition = 'dirichlet' (Table 18); the smaller, the more the clients differ", _POSITIVE
    )
    fraction_train: float = _key(
        "f, the fraction of clients sampled in a round; 0 for centralized training, on the server alone",
        ("a number in [0, 1]", lambda value: 0 <= value <= 1),
    )
    num_server_rounds: int = _key(
        "K, the communication rounds; LG-FedAvg runs a quarter of them, local-only all without communicating",
        ("an integer from 1 to a million", lambda value: 1 <= value <= 10**6),
    )
    num_local_epochs: int = _key("τ, the epochs that a sampled client trains in a round", _at_least(1))
    num_finetune_epochs: int = _key(
        "τ_f, the epochs of fine-tuning in the final evaluation, at the last learning rate of training",
        _at_least(0),
    )
    learning_rate: float = _key(
        "the first learning rate; a tenth of it after half of the rounds, a hundredth after three quarters; "
        "LG-FedAvg starts at a hundredth",
        _POSITIVE,
    )
    momentum: float = _key("SGD's momentum", ("a number in [0, 1)", lambda value: 0 <= value < 1))
    batch_size: int = _key("images in a training batch", _at_least(1))
    precision: str = _key(
        "arithmetic of training: float32; 'tf32', which rounds the factors of products on a GPU; or 'bf16', PyTorch's "
        "autocast. Parameters and evaluation are float32",
        _one_of(("float32", "tf32", "bf16")),
    )
    cuda_graph: bool = _key(
        "whether a GPU is given a training step as a whole, as a CUDA graph, instead of kernel by kernel", _ANY_BOOL
    )
    initial_model: str = _key(
        "where training starts: a run folder or a safetensors file; empty for a random initialization. "
        "LG-FedAvg needs a finished FedAvg run of the same setting",
        _PATH,
    )
    head_init: str = _key("initialization of the head's weight (Appendices B and Q)", _one_of(HEAD_INITS))
    head_learning_rate_factor: float = _key(
        "α_h/α_b, the head's learning rate over the body's, where local training moves the head (Table 23)",
        _NOT_NEGATIVE,
    )
    trained_blocks: int = _key(
        "the blocks of the body that local training moves, from the first on (Tables 14 and 15); 0 for all",
        _at_least(0),
    )
    finetune_part: str = _key("what fine-tuning moves (Table 4); empty for the algorithm's own", _one_of(_PARTS))
    proximal_mu: float = _key("μ of FedProx and FedProx+BABU", _NOT_NEGATIVE)
    ditto_lambda: float = _key("λ of Ditto", _NOT_NEGATIVE)
    per_fedavg_beta: float = _key("β of Per-FedAvg, the rate of the query steps, over the learning rate", _NOT_NEGATIVE)
    distillation_weight: float = _key("weight of the divergence in FedBSD", _NOT_NEGATIVE)
    distillation_divergence: str = _key("of FedBSD's features: Kullback-Leibler or squared", _one_of(("kl", "mse")))
    distillation_temperature: float = _key("of the softmax over FedBSD's features", _POSITIVE)
    server_data_fraction: float = _key(
        "p, the fraction of all clients' training images that the server trains on, for an epoch after each round "
        "(Tables 2 and 21)",
        ("a number in [0, 1]", lambda value: 0 <= value <= 1),
    )
    server_part: str = _key("what the server trains; empty for what is shared", _one_of(_PARTS))
    iid_test_set: bool = _key(
        "whether to measure accuracy in and out of the distribution that a client trains on (Table 20), with test "
        "images of all classes spread evenly over the clients; owners are tested on what they have",
        _ANY_BOOL,
    )
    record: str = _key(
        "what figures need besides, with spaces between: 'class-accuracy' of sampled clients while they train (Figure "
        "13), 'similarity' of the clients' layers while they are fine-tuned (Figure 12), 'features' of images in the "
        "end (Figures 15 and 16); empty for nothing",
        (f"words of {', '.join(_RECORDS)}", lambda value: set(value.split()) <= set(_RECORDS)),
    )
    logger: str = _key(
        "where a run's scalars go as they happen, besides the run folder: TensorBoard's files, in its folder "
        "`tensorboard`, or nowhere",
        _one_of(("", "tensorboard")),
    )
    evaluate_every: int = _key(
        "rounds between evaluations of the initial accuracy on all clients; 0 for none before the last",
        _at_least(0),
    )
    checkpoint_every: int = _key("rounds between checkpoints, from which a run can be resumed", _at_least(1))
    client_timeout: float = _key(
        "seconds that a client may take for its part of a round, training or evaluation; 0 for any time",
        _NOT_NEGATIVE,
    )
    min_fit_clients: int = _key(
        "clients that must have trained well, or the round is repeated with others", _at_least(1)
    )
    max_round_retries: int = _key("times that a round is repeated before the run stops", _at_least(0))
    seed: int = _key(
        "of everything random: initialization, partition, sampling, batches",
        ("an integer from 0 to 2^63 - 1", lambda value: 0 <= value < 2**63),
    )
    results_dir: str = _key(
        "where run folders go; a relative path starts where the local SuperLink was started", _NAME_OR_PATH
    )
    resume: str = _key("the folder of an unfinished run to go on with, in its own configuration; empty for none", _PATH)

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
        config = cls(**values)
        _check_together(config)
        return config

    def resuming(self, recorded: Mapping[str, object]) -> "RunConfig":
        """The configuration with which a run goes on: the recorded one, but for CONDUCT_KEYS.

        A dataset other than the default one is where the recorded one is now. A key that is newer than the run has its
        default value.

        Raises:
            ConfigError: if this configuration asks for something else than what was recorded.
        """
        given, defaults = self.to_flower(), default_run_config()
        recorded = defaults | dict(recorded)
        here = {key: given[key] for key in CONDUCT_KEYS} | {"resume": ""}
        if given["dataset"] != defaults["dataset"]:
            here["dataset"] = given["dataset"]
        for key, value in (recorded | here).items():
            if key in given and given[key] not in (value, defaults[key]) and key not in ("resume", "results-dir"):
                raise ConfigError(
                    f"resume = '{self.resume}' goes on with {key} = {value!r}, but {key} = {given[key]!r} was given: "
                    "leave it out, or start a run of its own."
                )
        return RunConfig.from_flower(recorded | here)

    @property
    def conduct_overrides(self) -> str:
        """What of CONDUCT_KEYS differs from the defaults, as `--run-config` takes it."""
        given, defaults = self.to_flower(), default_run_config()
        return "".join(f" {key}={_toml(given[key])}" for key in CONDUCT_KEYS if given[key] != defaults[key])

    def to_flower(self) -> dict[str, Any]:
        """The same configuration under Flower's key names."""
        return {_key_name(spec.name): getattr(self, spec.name) for spec in fields(self)}

    @property
    def row(self) -> Algorithm:
        """The algorithm's row of the table, with the variants that this configuration asks for."""
        row = ALGORITHMS[self.algorithm]
        part = _PARTS[self.finetune_part]
        personalizes = row.personalizes if part is None else (Phase(part),)
        return replace(
            row,
            trains=tuple(map(self._local, row.trains)),
            trains_kept=tuple(map(self._local, row.trains_kept)),
            personalizes=personalizes if self.num_finetune_epochs else (),
        )

    def _local(self, phase: Phase) -> Phase:
        return replace(phase, blocks=self.trained_blocks, head_rate=self.head_learning_rate_factor)

    def num_curve_values(self, server_round: int) -> int:
        """The class accuracies of each kind that a sampled client records in a round: before and after each epoch."""
        if "class-accuracy" not in self.records:
            return 0
        epochs = sum(phase.num_epochs(self.num_local_epochs) for phase in self.row.trains)
        return (1 + epochs) * len(self.local_rounds(server_round))

    @property
    def records(self) -> frozenset[str]:
        """What is recorded for figures."""
        return frozenset(self.record.split())

    @property
    def server_trains(self) -> Part:
        """What the server itself trains after each aggregation."""
        if not self.server_data_fraction:
            return Part.NOTHING
        return _PARTS[self.server_part] or ALGORITHMS[self.algorithm].shares

    @property
    def num_rounds(self) -> int:
        """The rounds that the server runs.

        A quarter of K for an algorithm that continues a finished run (Appendix A.3); without communication, those
        in which every client is visited once, whatever f.
        """
        row = ALGORITHMS[self.algorithm]
        if row.continues:
            return max(self.num_server_rounds // 4, 1)
        if not row.shares:
            return min(VISITS, self.num_clients)
        return self.num_server_rounds

    def local_rounds(self, server_round: int) -> list[int]:
        """The rounds of training that a client does when it is asked: this one, or all if it never communicates."""
        return [server_round] if ALGORITHMS[self.algorithm].shares else list(range(1, self.num_server_rounds + 1))

    def learning_rate_of(self, training_round: int) -> float:
        """The learning rate of a round of training, counted from 1 (Section 3).

        It is divided by ten once half, and again once three quarters, of the rounds are done. An algorithm that
        continues a finished run starts at a hundredth of it (0.001 in Appendix A.3), with as many decays in its rounds.
        """
        continues = ALGORITHMS[self.algorithm].continues
        done, rounds = training_round - 1, self.num_rounds if continues else self.num_server_rounds
        decays = (2 * done >= rounds) + (4 * done >= 3 * rounds) + (2 if continues else 0)
        return self.learning_rate / 10**decays

    @property
    def clients_per_round(self) -> int:
        """M = max(⌊f · N⌋, 1), the clients sampled in a round (Algorithm 1, line 3); 0 in centralized training."""
        if self.fraction_train == 0:
            return 0
        # Rounded first: 0.29 · 100 is 28.999999999999996 in floating point.
        return max(int(round(self.fraction_train * self.num_clients, 9)), 1)

    @property
    def finetune_epochs(self) -> int:
        """The epochs of fine-tuning, all phases together."""
        return sum(phase.num_epochs(self.num_finetune_epochs) for phase in self.row.personalizes)

    @property
    def finetune_learning_rate(self) -> float:
        """The learning rate of fine-tuning: that of the last round, as in the paper's official code."""
        return self.learning_rate_of(self.local_rounds(self.num_rounds)[-1])


def _check_together(config: RunConfig) -> None:
    """Check what no key can say alone.

    Raises:
        ConfigError: naming the keys that do not fit together.
    """
    row, name = ALGORITHMS[config.algorithm], config.algorithm
    if config.fraction_train and config.min_fit_clients > config.clients_per_round:
        raise ConfigError(
            f"min-fit-clients = {config.min_fit_clients} is more than the {config.clients_per_round} clients that "
            f"fraction-train = {config.fraction_train} samples in a round: it must be from 1 to "
            f"{config.clients_per_round}."
        )
    if row.continues and not config.initial_model.strip():
        raise ConfigError(
            f"algorithm = '{name}' continues a finished '{row.continues}' run, but initial-model is empty: it must be "
            "that run's folder or its model.safetensors."
        )
    if config.fraction_train == 0 and not config.server_data_fraction:
        raise ConfigError(
            "fraction-train = 0.0 trains on the server alone, but server-data-fraction = 0.0 gives it nothing to "
            "train on: raise one of them (server-data-fraction = 1.0 is centralized training)."
        )
    if "similarity" in config.records and not config.row.personalizes:
        raise ConfigError(
            f"record = '{config.record}' is about fine-tuning, but num-finetune-epochs = {config.num_finetune_epochs} "
            f"or algorithm = '{name}' leaves none: take 'similarity' out of it."
        )
    if "class-accuracy" in config.records and config.fraction_train == 0:
        raise ConfigError(
            f"record = '{config.record}' is about local training, but with fraction-train = 0.0 there is none: take "
            "'class-accuracy' out of it."
        )
    if "features" in config.records and Part.BODY not in row.shares:
        raise ConfigError(
            f"record = '{config.record}' is about the global body, but algorithm = '{name}' shares none: take "
            "'features' out of it."
        )
    phases = row.trains + row.trains_kept
    if config.fraction_train == 0 and (row.keeps or any(phase != Phase(phase.part) for phase in phases)):
        raise ConfigError(
            f"fraction-train = 0.0 trains on the server alone, where nothing of '{name}' is left: algorithm must be "
            "'fedavg' or 'fedbabu', which then say what fine-tuning and the report are about."
        )
    if config.fraction_train == 0 and (config.trained_blocks or config.head_learning_rate_factor != 1):
        raise ConfigError(
            "fraction-train = 0.0 trains on the server alone, but trained-blocks and head-learning-rate-factor are of "
            "local training: they must be 0 and 1.0."
        )
    if config.initial_model and config.head_init != "he":
        raise ConfigError(
            f"head-init = '{config.head_init}' and initial-model = '{config.initial_model}' both say where the head "
            "starts: head-init must be 'he', or initial-model empty."
        )
    if not row.shares and config.server_data_fraction:
        raise ConfigError(
            f"algorithm = '{name}' shares nothing, so the server has nothing to train: server-data-fraction must be "
            "0.0."
        )
    if config.fraction_train and config.server_trains not in row.shares:
        raise ConfigError(
            f"server-part = '{config.server_part}' trains a part that '{name}' does not share: it must be within "
            f"'{(row.shares.name or '').lower()}'."
        )


def _key_name(attribute: str) -> str:
    return attribute.replace("_", "-")


def _checked(key: str, value: Any, kind: Any, metadata: Mapping[str, Any]) -> object:
    too_large = type(value) is int and not -(2**63) <= value < 2**63  # for a message of Flower's
    if kind is float and type(value) is int and not too_large:
        value = float(value)
    if (
        too_large
        or type(value) is not kind
        or (kind is float and not math.isfinite(value))
        or not metadata["check"](value)
    ):
        raise ConfigError(f"{key} = {value!r} is not allowed: it must be {metadata['allowed']}.")
    return value


def markdown_table(defaults: Mapping[str, object]) -> str:
    """The documentation of every key as a Markdown table, with the defaults of pyproject.toml."""
    lines = ["| key | default | allowed | meaning |", "| --- | --- | --- | --- |"]
    for spec in fields(RunConfig):
        key, meta = _key_name(spec.name), spec.metadata
        lines.append(f"| `{key}` | `{_toml(defaults[key])}` | {meta['allowed']} | {meta['meaning']} |")
    return "\n".join(lines)


def _toml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value)


def default_run_config() -> dict[str, Any]:
    """The run config of pyproject.toml, under Flower's key names."""
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))
    return project["tool"]["flwr"]["app"]["config"]


if __name__ == "__main__":
    print(markdown_table(default_run_config()))
