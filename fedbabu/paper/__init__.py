"""The paper's tables as data, one JSON file each, and the cells that a run can be compared with.

A cell is a mean and a standard deviation over clients, in percent.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from fedbabu.algorithms import ALGORITHMS, Part, Phase
from fedbabu.config import relevant

# What the paper keeps fixed in every table here (Section 3, "Experimental setup" and "Evaluation").
TOTAL_EPOCHS = 320
FIXED = {
    "test-fraction": 0.0,
    "partition": "shards",
    "num-finetune-epochs": 5,
    "learning-rate": 0.1,
    "momentum": 0.9,
    "batch-size": 50,
    "head-init": "he",
    "head-learning-rate-factor": 1.0,
    "trained-blocks": 0,
    "finetune-part": "",
    "proximal-mu": 0.01,
    "ditto-lambda": 0.75,
    "per-fedavg-beta": 1.0,
    "server-data-fraction": 0.0,
    "server-part": "",
    "iid-test-set": False,
}


@dataclass(frozen=True)
class Cell:
    """A number of the paper: mean ± std over clients, in percent, and the table that prints it."""

    mean: float
    std: float
    table: int


@cache
def tables() -> list[dict[str, Any]]:
    """Every table of the paper, in order.

    A table has its number and title, what must hold of the dataset, the run-config keys that all its rows share
    ("setting"; "total-epochs" is rounds times local epochs, if not 320), and its rows: more run-config keys, and for
    each algorithm its cells, {metric: [mean, std]}. Table 8, which has no accuracies, has "sizes" instead.
    """
    paths = [path for path in files(__name__).iterdir() if path.name.endswith(".json")]
    return sorted((json.loads(path.read_text(encoding="utf-8")) for path in paths), key=lambda table: table["table"])


def find_cells(config: Mapping[str, Any], dataset: Mapping[str, Any]) -> dict[str, Cell]:
    """The paper's numbers for a run configuration, by metric; empty if the paper has no such run.

    Of tables that quote each other, the first is named.

    Args:
        config: the run config under Flower's key names.
        dataset: what config.json says of the data; a part of CIFAR-10 is not the paper's, nor are coarse labels.
    """
    # Only a run folder is known to be the FedAvg run of the same setting.
    start = config["initial-model"]
    if bool(start) != bool(ALGORITHMS[config["algorithm"]].continues) or start.endswith(".safetensors"):
        return {}
    ours = _spelled_out(relevant(config))
    cells: dict[str, Cell] = {}
    for table in tables():
        if any(dataset[key] != value for key, value in table["dataset"].items()):
            continue
        for row in table["rows"]:
            setting = {key: value for key, value in row.items() if not isinstance(value, dict)}
            asked = {"algorithm": config["algorithm"]} | FIXED | table["setting"] | setting
            epochs = asked.pop("total-epochs", TOTAL_EPOCHS)
            if "num-server-rounds" not in asked and config["num-server-rounds"] * config["num-local-epochs"] != epochs:
                continue
            asked = _spelled_out(asked)
            if all(ours[key] == value for key, value in asked.items() if key in ours):
                for metric, (mean, std) in row.get(config["algorithm"], {}).items():
                    cells.setdefault(metric, Cell(mean, std, table["table"]))
    return cells


def _spelled_out(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration in which an algorithm's own part is named, and a part that is not used is not."""
    row = ALGORITHMS[config["algorithm"]]
    server = config["server-part"] or (row.shares.name or "").lower()
    own = "full" if row.personalizes == (Phase(Part.FULL),) else ""
    return dict(config) | {
        "server-part": server if config["server-data-fraction"] else "",
        "finetune-part": config["finetune-part"] or own,
    }
