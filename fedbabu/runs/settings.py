"""When two run configurations are of one setting: what a run's numbers depend on, in one spelling."""

from collections.abc import Mapping
from typing import Any

from fedbabu.algorithms import ALGORITHMS, Part, Phase
from fedbabu.config import CONDUCT_KEYS
from fedbabu.data.partitions import PARTITIONS

# How a run goes about its work: its numbers do not depend on these.
CONDUCT = {"results-dir", "resume", "evaluate-every", "record", *CONDUCT_KEYS}

# Where the data came from: what they are is in config.json.
SOURCE = {"dataset", "image-column", "label-column"}


def relevant(run_config: Mapping[str, Any]) -> dict[str, Any]:
    """What the numbers of this algorithm with this partition depend on, as given, but for data and seed."""
    algorithm, partition = ALGORITHMS[run_config["algorithm"]], PARTITIONS[run_config.get("partition", "shards")]
    of_some = {key for row in ALGORITHMS.values() for key in row.keys}
    of_some |= {key for row in PARTITIONS.values() for key in row.keys}
    unread = of_some.difference(algorithm.keys, partition.keys) | CONDUCT | SOURCE | {"seed"}
    return {key: value for key, value in run_config.items() if key not in unread}


def setting(run_config: Mapping[str, Any]) -> dict[str, Any]:
    """What the numbers of a run depend on, but for its data and its seed; equal for runs that should agree.

    Args:
        run_config: a whole one, under Flower's key names.
    """
    algorithm = ALGORITHMS[run_config["algorithm"]]
    result = relevant(run_config)
    if result.get("server-data-fraction"):
        result["server-part"] = result["server-part"] or (algorithm.shares.name or "").lower()
    else:
        result.pop("server-part", None)
    if algorithm.personalizes == (Phase(Part.FULL),) and not result.get("finetune-part"):
        result["finetune-part"] = "full"
    if algorithm.continues:  # from a run of the same setting, wherever that is
        result.pop("initial-model", None)
    if not algorithm.shares:  # every client trains all epochs alone, and so does any fraction of them
        result.pop("fraction-train")
        if result["num-server-rounds"] % 4 == 0:  # then the learning rate falls after the same epochs, too
            result["num-local-epochs"] *= result.pop("num-server-rounds")
    elif result["fraction-train"] == 0:  # the server's rounds are epochs
        result.pop("num-local-epochs", None)
    if not algorithm.personalizes and not result.get("finetune-part"):
        result.pop("num-finetune-epochs")
    return result


def agree(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two settings are the same in the keys that both have."""
    return all(one[key] == other[key] for key in one.keys() & other.keys())


def covers(run_config: Mapping[str, Any], asked: Mapping[str, Any]) -> bool:
    """Whether a run of one configuration has the numbers that another one asks for, but for data and seed.

    It has if they are of one setting, and no more is to be recorded for figures. Where all of fine-tuning is one phase,
    so that a run has the accuracy after each of its epochs, it may also go on for longer than was asked.
    """
    if run_config["algorithm"] != asked["algorithm"]:
        return False
    continues = ALGORITHMS[asked["algorithm"]].continues
    if continues and run_config["initial-model"].endswith(".safetensors"):  # of any setting
        return False
    if not set(asked["record"].split()) <= set(run_config["record"].split()):
        return False
    one, two = setting(run_config), setting(asked)
    if by_epoch(asked) and one["num-finetune-epochs"] >= two["num-finetune-epochs"]:
        one["num-finetune-epochs"] = two["num-finetune-epochs"]
    return one == two


def by_epoch(run_config: Mapping[str, Any]) -> bool:
    """Whether fine-tuning for more epochs begins like fine-tuning for fewer."""
    algorithm = ALGORITHMS[run_config["algorithm"]]
    return len(algorithm.personalizes) == 1 and algorithm.personalizes[0].epochs is None
