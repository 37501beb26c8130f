"""The checked run configuration, and the quantities of the protocol that follow from it."""

import os
from collections.abc import Mapping
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, Self

from pydantic import ValidationError, model_validator

from fedbabu.algorithms import ALGORITHMS, AS_IN_THE_CODE, Algorithm, EvaluationRule, Part, Phase, find_algorithm
from fedbabu.config.defaults import ADDED_KEYS, RETIRED_KEYS, default_run_config
from fedbabu.config.keys import RunConfigKeys
from fedbabu.config.protocols import with_protocol
from fedbabu.config.wording import error_sentence
from fedbabu.data.partitions import PARTITIONS, PartitionSpec
from fedbabu.data.source import DataSpec
from fedbabu.errors import ConfigError


def partition_keys(scheme: str) -> tuple[str, ...]:
    """The run-config keys that only this partition scheme reads."""
    return tuple(option.replace("_", "-") for option in PARTITIONS[scheme].options)


# The keys that only some algorithms or partition schemes read.
SPECIAL_KEYS = frozenset(
    chain(
        ("head-learning-rate-factor",),
        *(algorithm.coefficients for algorithm in (*ALGORITHMS.values(), *AS_IN_THE_CODE.values())),
        *map(partition_keys, PARTITIONS),
    )
)


def special_keys_read(algorithm: Algorithm, scheme: str) -> set[str]:
    """Those of SPECIAL_KEYS that matter for an algorithm with a partition scheme."""
    moves_head = any(Part.HEAD in phase.part for phase in (*algorithm.trains, *algorithm.trains_personal))
    return {*algorithm.coefficients, *partition_keys(scheme), *(("head-learning-rate-factor",) if moves_head else ())}


PARTS = {"": None, "body": Part.BODY, "head": Part.HEAD, "full": Part.FULL}


def with_added_keys(run_config: Mapping[str, Any]) -> dict[str, Any]:
    """A recorded run config with the keys that this version has and that with which it was recorded had not.

    Those of other algorithms and partition schemes, which the run did not read, have their defaults.
    """
    defaults, scheme = default_run_config(), run_config.get("partition")
    added = dict(ADDED_KEYS)
    if run_config.get("algorithm") in ALGORITHMS and scheme in PARTITIONS:
        algorithm = find_algorithm(str(run_config["algorithm"]), str(run_config.get("protocol")))
        unread = SPECIAL_KEYS - special_keys_read(algorithm, str(scheme))
        added = {key: defaults[key] for key in unread} | added
    values = {**added, **run_config}
    return {key: values[key] for key in (*defaults, *values) if key in values}


class GivenKeys(RunConfigKeys):
    """Run-config keys of which each is valid on its own; those that are empty have the value of the protocol.

    With the key `resume`, they do not have to fit together: the run that is resumed has keys that were not given.
    """

    @model_validator(mode="before")
    @classmethod
    def _fill_in_the_protocol(cls, values: dict[str, Any]) -> dict[str, Any]:
        return with_protocol(values)

    @classmethod
    def from_flower(cls, run_config: Mapping[str, object]) -> Self:
        """Check Flower's run config.

        Raises:
            ConfigError: If a key is unknown or missing, or its value has the wrong type or range; and for a RunConfig,
                if two keys do not fit together.
        """
        try:
            return cls.model_validate(dict(run_config))
        except ValidationError as error:
            raise ConfigError(error_sentence(error, cls)) from error

    def to_flower(self) -> dict[str, Any]:
        """The same configuration under Flower's key names, in the order of RunConfigKeys."""
        return self.model_dump(by_alias=True)


class RunConfig(GivenKeys):
    """A checked run configuration, and what follows from it."""

    @model_validator(mode="after")
    def _check_together(self) -> "RunConfig":
        check_combination(self)
        return self

    @classmethod
    def from_recorded(cls, run_config: Mapping[str, object]) -> "RunConfig":
        """As `from_flower`, for the run config in a run folder, which may hold or lack keys of an earlier version."""
        kept = {key: value for key, value in run_config.items() if key not in RETIRED_KEYS}
        return cls.from_flower(with_added_keys(kept))

    @property
    def _declared(self) -> Algorithm:
        """The algorithm as it is declared for the protocol."""
        return find_algorithm(self.algorithm, self.protocol)

    @property
    def algorithm_spec(self) -> Algorithm:
        """The algorithm, with the variants of local training and fine-tuning that this configuration asks for."""
        algorithm, part = self._declared, PARTS[self.finetune_part]
        personalizes = algorithm.personalizes if part is None else (Phase(part),)
        return replace(
            algorithm,
            trains=tuple(map(self._variant, algorithm.trains)),
            trains_personal=tuple(map(self._variant, algorithm.trains_personal)),
            personalizes=personalizes if self.num_finetune_epochs else (),
        )

    def _variant(self, phase: Phase) -> Phase:
        """A phase of local training with what this configuration changes about it."""
        return replace(
            phase,
            trained_blocks=self.trained_blocks or phase.trained_blocks,
            head_learning_rate_factor=self.head_learning_rate_factor * phase.head_learning_rate_factor,
        )

    @property
    def coefficients(self) -> dict[str, Any]:
        """The values of the algorithm's own coefficients, by their run-config keys."""
        values = self.to_flower()
        return {key: values[key] for key in self._declared.coefficients}

    @property
    def data_spec(self) -> DataSpec:
        """The part of the configuration that says which dataset is read, and how."""
        return DataSpec(
            self.dataset, self.image_column, self.label_column, self.client_column, self.test_fraction,
            self.crop_padding, {"yes": True, "no": False}.get(self.horizontal_flip),
        )  # fmt: skip

    @property
    def partition_spec(self) -> PartitionSpec:
        """The part of the configuration that says how the dataset is divided among the clients."""
        return PartitionSpec(
            scheme=self.partition,
            num_clients=self.num_clients,
            seed=self.seed if self.partition_seed < 0 else self.partition_seed,
            shards_per_client=self.shards_per_client,
            num_classes_per_client=self.num_classes_per_client,
            dirichlet_beta=self.dirichlet_beta,
            client_column=self.client_column,
            min_examples_per_owner=self.min_examples_per_owner,
            iid_test_set=self.iid_test_set,
        )

    @property
    def results_folder(self) -> Path:
        """The absolute path of the folder of run folders."""
        return Path(os.path.abspath(Path(self.results_dir).expanduser()))

    @property
    def diagnostics(self) -> frozenset[str]:
        """The extra measurements that the run-config key `record` asks for."""
        return frozenset(self.record.split())

    @property
    def part_trained_on_server(self) -> Part:
        """The part that the server itself trains after each aggregation; NOTHING without data on the server."""
        if not self.server_data_fraction:
            return Part.NOTHING
        return PARTS[self.server_part] or self._declared.shares

    @property
    def num_rounds(self) -> int:
        """Number of rounds that the server runs, by the algorithm's schedule."""
        return self._declared.schedule.num_rounds(self.num_server_rounds, self.num_clients)

    def training_rounds(self, server_round: int) -> list[int]:
        """Numbers of the training rounds that a client goes through in one round of the server."""
        return self._declared.schedule.training_rounds(server_round, self.num_server_rounds)

    def learning_rate_in(self, training_round: int) -> float:
        """Learning rate of a training round, counted from 1, by the algorithm's schedule."""
        schedule = self._declared.schedule
        return schedule.learning_rate(self.learning_rate, training_round, self.num_server_rounds)

    def finetune_learning_rate_after(self, server_round: int) -> float:
        """Learning rate of fine-tuning after a round: that of the last training round, as in the authors' code.

        It is that of the next round for an algorithm that personalizes its clients in every round.
        """
        if self._declared.evaluation is EvaluationRule.PERSONALIZED_EVERY_ROUND:
            return self.learning_rate_in(server_round + 1)
        return self.learning_rate_in(self.training_rounds(self.num_rounds)[-1])

    @property
    def starts_without_all_clients(self) -> bool:
        """Whether a run may start with fewer clients than num-clients, and without nodes that cannot be used."""
        return 0 < self.min_available_clients < self.num_clients

    def may_start_with(self, num_clients: int) -> bool:
        """Whether so many clients are enough to start without the others, if no other is found for some time."""
        return self.starts_without_all_clients and num_clients >= self.min_available_clients

    @property
    def clients_per_round(self) -> int:
        """Number of clients sampled in a round, max(⌊f · N⌋, 1) (Algorithm 1, line 3); 0 in centralized training."""
        if self.fraction_train == 0:
            return 0
        # Rounded before the floor: 0.29 · 100 is 28.999999999999996 in floating point.
        return max(int(round(self.fraction_train * self.num_clients, 9)), 1)

    @property
    def _changed_keys(self) -> dict[str, tuple[Any, Any]]:
        """The keys that are not as pyproject.toml and the protocol have them: their value and default."""
        values, chosen = self.to_flower(), {"algorithm": self.algorithm, "protocol": self.protocol}
        defaults = with_protocol(default_run_config() | chosen)
        return {key: (values[key], defaults[key]) for key in values if values[key] != defaults[key]}

    @property
    def changed_training_keys(self) -> dict[str, tuple[Any, Any]]:
        """The keys of local training, besides the learning rate, that are not the default: their value and default."""
        keys = {"momentum", "weight-decay", "batch-size", "head-learning-rate-factor", *self._declared.coefficients}
        return {key: changed for key, changed in self._changed_keys.items() if key in keys}

    @property
    def unread_keys(self) -> dict[str, Any]:
        """The special keys that are not the default although this run does not read them."""
        # The client column also says of whom test images are held out.
        unread = SPECIAL_KEYS - special_keys_read(self._declared, self.partition) - {"client-column"}
        return {key: value for key, (value, _) in self._changed_keys.items() if key in unread}

    def aggregation_weight(self, num_examples: int) -> int:
        """The weight in the mean over clients of one with this number of training examples."""
        return num_examples if self.aggregation_weights == "examples" else 1

    @property
    def total_local_epochs(self) -> int:
        """Number of epochs that one client trains the shared model in one training round, all phases together."""
        return sum(phase.num_epochs(self.num_local_epochs) for phase in self.algorithm_spec.trains)

    @property
    def total_finetune_epochs(self) -> int:
        """Number of epochs that one client is fine-tuned in the final evaluation, all phases together."""
        return sum(phase.num_epochs(self.num_finetune_epochs) for phase in self.algorithm_spec.personalizes)


def check_keys_are_read(config: RunConfig) -> None:
    """Raise a ConfigError if a key was given that this algorithm does not read: it would change nothing."""
    for key, value in config.unread_keys.items():
        raise ConfigError(
            f"{key} = {value!r} was given, but a run with algorithm = '{config.algorithm}' and partition = "
            f"'{config.partition}' does not read it: leave it out, or choose others that do."
        )


def check_combination(config: RunConfig) -> None:
    """Check that the keys fit together, which no key can say on its own.

    Raises:
        ConfigError: Naming the keys that do not fit together.
    """
    algorithm, name = config.algorithm_spec, config.algorithm
    record, centralized = f"record = '{config.record}'", config.fraction_train == 0
    if not centralized and config.min_fit_clients > config.clients_per_round:
        raise ConfigError(
            f"min-fit-clients = {config.min_fit_clients} is more than the {config.clients_per_round} clients that "
            f"fraction-train = {config.fraction_train} samples in a round: it must be from 1 to "
            f"{config.clients_per_round}."
        )
    available = config.min_available_clients
    if available and not config.min_fit_clients <= available <= config.num_clients:
        raise ConfigError(
            f"min-available-clients = {available}, but must be 0, or from min-fit-clients = {config.min_fit_clients} "
            f"to num-clients = {config.num_clients}."
        )
    if algorithm.starts_from and not config.initial_model.strip():
        raise ConfigError(
            f"algorithm = '{name}' starts from a finished '{algorithm.starts_from}' run, but initial-model is empty: "
            "it must be that run's folder or its model.safetensors."
        )
    if centralized and not config.server_data_fraction:
        raise ConfigError(
            "fraction-train = 0.0 trains on the server alone, but server-data-fraction = 0.0 leaves it without "
            "training images: raise one of them (server-data-fraction = 1.0 is centralized training)."
        )
    if "similarity" in config.diagnostics and not algorithm.personalizes:
        raise ConfigError(
            f"{record} measures fine-tuning, but num-finetune-epochs = {config.num_finetune_epochs} or algorithm = "
            f"'{name}' leaves no fine-tuning: remove 'similarity' from it."
        )
    if "class-accuracy" in config.diagnostics and centralized:
        raise ConfigError(
            f"{record} measures local training, but with fraction-train = 0.0 there is none: remove 'class-accuracy' "
            "from it."
        )
    if "features" in config.diagnostics and Part.BODY not in algorithm.shares:
        raise ConfigError(
            f"{record} measures the global body, but algorithm = '{name}' shares no body: remove 'features' from it."
        )
    if centralized and (algorithm.keeps or any(phase != Phase(phase.part) for phase in algorithm.trains)):
        factor = config.head_learning_rate_factor
        given, allowed = f"algorithm = '{name}'", "'fedavg' or 'fedbabu'"
        if config.trained_blocks:
            given, allowed = f"trained-blocks = {config.trained_blocks}", "0"
        elif factor != 1:
            given, allowed = f"head-learning-rate-factor = {factor}", "1.0"
        raise ConfigError(
            f"fraction-train = 0.0 trains on the server alone, but {given} is about local training: it must be "
            f"{allowed}."
        )
    if config.initial_model and config.head_init != "he":
        raise ConfigError(
            f"head-init = '{config.head_init}' and initial-model = '{config.initial_model}' both say where the head "
            "starts: head-init must be 'he', or initial-model empty."
        )
    if not algorithm.communicates and config.server_data_fraction:
        raise ConfigError(
            f"algorithm = '{name}' shares nothing, so the server has nothing to train: server-data-fraction must be "
            "0.0."
        )
    if config.dp_clipping_norm or config.dp_noise_multiplier:
        check_privacy(config)
    if not centralized and config.part_trained_on_server not in algorithm.shares:
        raise ConfigError(
            f"server-part = '{config.server_part}' is a part that '{name}' does not share: it must be within "
            f"'{(algorithm.shares.name or '').lower()}'."
        )


def check_privacy(config: RunConfig) -> None:
    """Check that the keys of differential privacy fit to the others.

    Raises:
        ConfigError: Naming the keys that do not.
    """
    clipping = f"dp-clipping-norm = {config.dp_clipping_norm}"
    if not config.dp_clipping_norm:
        raise ConfigError(
            f"dp-noise-multiplier = {config.dp_noise_multiplier} is relative to dp-clipping-norm, which is 0.0: set it."
        )
    if not config.clients_per_round or not config.algorithm_spec.communicates:
        raise ConfigError(f"{clipping} is about what clients share, but in this run they share nothing: leave it out.")
    if config.aggregation_weights != "clients":
        raise ConfigError(
            f"{clipping} bounds what a client changes, but with aggregation-weights = '{config.aggregation_weights}' a "
            "client with many examples changes more: it must be 'clients'."
        )
    if config.server_data_fraction:
        raise ConfigError(f"{clipping} does not protect images on the server: server-data-fraction must be 0.0.")
    if config.protocol != "text":
        raise ConfigError(
            f"{clipping} does not protect what protocol = '{config.protocol}' shares besides: protocol must be 'text'."
        )
