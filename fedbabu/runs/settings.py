"""When two runs have the same setting, by their run configurations under Flower's key names."""

from collections.abc import Mapping
from typing import Any

from fedbabu.algorithms import AS_IN_THE_CODE, Algorithm, Part, Phase, find_algorithm
from fedbabu.config import (
    RUNTIME_KEYS,
    SPECIAL_KEYS,
    partition_keys,
    special_keys_read,
    under_protocol,
    with_protocol,
)
from fedbabu.config.defaults import RETIRED_KEYS
from fedbabu.config.protocols import MEASUREMENT_KEYS

# Keys that a setting does not have: those of the data, which config.json describes, and those without influence.
KEYS_BESIDE_THE_SETTING = {"dataset", "image-column", "label-column", "seed", *RUNTIME_KEYS, *RETIRED_KEYS}
KEYS_BESIDE_THE_SETTING |= set(MEASUREMENT_KEYS)  # a run measures all that they choose from
KEYS_BESIDE_THE_SETTING |= {"results-dir", "resume", "evaluate-every", "record", "keep-personalized", "dp-delta"}

# Keys in which runs may differ that are shown beside each other.
COMPARED_KEYS = ("algorithm", "protocol", "initial-model")

# Keys in which a run that starts from a finished run must agree with it. How that was evaluated does not matter, nor
# how its head was initialized, which a run with an initial model cannot say.
TRAINING_KEYS = (
    "algorithm", "model-name", "head-blocks", "test-fraction", "partition", "partition-seed", "num-clients",
    "fraction-train", "num-server-rounds", "num-local-epochs", "learning-rate", "momentum", "weight-decay",
    "batch-size", "precision", "trained-blocks", "head-learning-rate-factor", "server-data-fraction",
    "aggregation-weights", "dp-clipping-norm", "dp-noise-multiplier", "dp-noise-by", "seed",
)  # fmt: skip


def declared_algorithm(run_config: Mapping[str, Any]) -> Algorithm:
    """The algorithm of a run configuration, as it is declared for the protocol."""
    return find_algorithm(run_config["algorithm"], run_config.get("protocol", "text"))


def keys_read(run_config: Mapping[str, Any]) -> dict[str, Any]:
    """The keys and values that can change the numbers of this algorithm with this partition, without data and seed."""
    algorithm, scheme = declared_algorithm(run_config), run_config["partition"]
    unread = (SPECIAL_KEYS - special_keys_read(algorithm, scheme)) | KEYS_BESIDE_THE_SETTING
    if algorithm.name not in AS_IN_THE_CODE:
        unread |= {"protocol"}  # what else it decides is in the other keys
    return {key: value for key, value in with_protocol(run_config).items() if key not in unread}


def setting_of(run_config: Mapping[str, Any]) -> dict[str, Any]:
    """The setting of a run: equal for two runs if and only if they differ in nothing but the data and the seed."""
    algorithm = declared_algorithm(run_config)
    setting = keys_read(run_config)
    if setting.get("server-data-fraction"):
        setting["server-part"] = setting["server-part"] or (algorithm.shares.name or "").lower()
    else:
        setting.pop("server-part", None)
    if algorithm.personalizes == (Phase(Part.FULL),) and not setting.get("finetune-part"):
        setting["finetune-part"] = "full"
    if algorithm.starts_from:  # a run of the same setting, wherever it is
        setting.pop("initial-model", None)
    if not algorithm.communicates:  # every client trains all epochs alone, whatever fraction is sampled
        setting.pop("fraction-train")
        if setting["num-server-rounds"] % 4 == 0:  # only then the learning rate falls after the same epochs
            setting["num-local-epochs"] *= setting.pop("num-server-rounds")
    elif setting["fraction-train"] == 0:  # only the server trains, an epoch in each round
        setting.pop("num-local-epochs", None)
    if not algorithm.personalizes and not setting.get("finetune-part"):
        setting.pop("num-finetune-epochs")
    return setting


def settings_agree(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two settings have the same values for the keys that both of them have."""
    return all(one[key] == other[key] for key in one.keys() & other.keys())


def comparable(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether runs on the same data may be shown beside each other: they differ only in the algorithm and its keys."""
    return settings_agree(keys_read(one), keys_read(other) | {key: one[key] for key in COMPARED_KEYS})


def different_training_key(start_run: Mapping[str, Any], wanted: Mapping[str, Any]) -> str | None:
    """The first key in which the run that another one starts from was not trained as wanted; None if there is none."""
    keys = TRAINING_KEYS + partition_keys(wanted["partition"])
    return next((key for key in keys if start_run[key] != wanted[key]), None)


def has_results_of_protocol(run_config: Mapping[str, Any], protocol: str, equal_clients: bool) -> bool:
    """Whether a run of a configuration has the numbers of a protocol; see `has_results_for`."""
    return has_results_for(run_config, under_protocol(run_config, protocol), equal_clients)


def has_results_for(run_config: Mapping[str, Any], wanted: Mapping[str, Any], equal_clients: bool = False) -> bool:
    """Whether a run of one configuration has the numbers that another configuration is for, apart from data and seed.

    It may have more diagnostics (the key `record`) and, if they come one after the other, more epochs of fine-tuning.
    With equal_clients, all its clients had equally many training images, so that the weights of the mean do not matter.
    """
    if equal_clients:
        run_config = {**run_config, "aggregation-weights": with_protocol(wanted)["aggregation-weights"]}
    if run_config["algorithm"] != wanted["algorithm"]:
        return False
    starts_from = declared_algorithm(wanted).starts_from
    if starts_from and run_config["initial-model"].endswith(".safetensors"):  # a model of unknown setting
        return False
    if not set(wanted["record"].split()) <= set(run_config["record"].split()):
        return False
    if finetunes_epoch_by_epoch(wanted) and run_config["num-finetune-epochs"] >= wanted["num-finetune-epochs"]:
        run_config = {**run_config, "num-finetune-epochs": wanted["num-finetune-epochs"]}
    return setting_of(run_config) == setting_of(wanted)


def finetunes_epoch_by_epoch(run_config: Mapping[str, Any]) -> bool:
    """Whether fine-tuning for n epochs is the same as the first n of more epochs, so that one run has both results."""
    phases = declared_algorithm(run_config).personalizes
    return len(phases) == 1 and phases[0].epochs is None
