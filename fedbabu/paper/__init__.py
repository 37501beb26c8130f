"""The paper's tables as data, one JSON file each, and the cells that a run can be compared with.

A cell is a mean and a standard deviation over clients, in percent.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from fedbabu.algorithms import ALGORITHMS

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
    """Every transcribed table, by its number."""
    paths = [path for path in files(__name__).iterdir() if path.name.endswith(".json")]
    return sorted((json.loads(path.read_text(encoding="utf-8")) for path in paths), key=lambda t: t["table"])


def find_cells(config: Mapping[str, Any], dataset: Mapping[str, Any]) -> dict[str, Cell]:
    """The paper's numbers for a run configuration, by metric; empty if the paper has no such run.

    Args:
        config: the run config under Flower's key names.
        dataset: what config.json says of the data; a part of CIFAR-10 is not the paper's, nor are coarse labels.
    """
    if config["num-server-rounds"] * config["num-local-epochs"] != TOTAL_EPOCHS:
        return {}
    if any(config[key] != value for key, value in FIXED.items()):
        return {}
    # Only a run folder is known to be the FedAvg run of the same setting.
    start = config["initial-model"]
    if bool(start) != bool(ALGORITHMS[config["algorithm"]].continues) or start.endswith(".safetensors"):
        return {}
    cells = {}
    for table in tables():
        if any(table[key] != config[key] for key in ("model-name", "num-clients")):
            continue
        if any(dataset[key] != value for key, value in table["dataset"].items()):
            continue
        for row in table["rows"]:
            setting = ("shards-per-client", "fraction-train", "num-local-epochs")
            if all(row[key] == config[key] for key in setting):
                for metric, (mean, std) in row.get(config["algorithm"], {}).items():
                    cells[metric] = Cell(mean, std, table["table"])
    return cells
