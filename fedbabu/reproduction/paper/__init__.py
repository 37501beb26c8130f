"""The paper's tables as data, one JSON file each, and the cells that a run can be compared with.

A cell is a mean and a standard deviation over clients, in percent.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from fedbabu.algorithms import ALGORITHMS
from fedbabu.runs.settings import agree, setting

# What the paper keeps fixed in every table (Section 3, "Experimental setup" and "Evaluation").
TOTAL_EPOCHS = 320
PROTOCOL = {
    "test-fraction": 0.0,
    "partition": "shards",
    "num-finetune-epochs": 5,
    "learning-rate": 0.1,
    "momentum": 0.9,
    "batch-size": 50,
    "precision": "float32",
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

# The paper's names of what it varies, as far as it has them.
SYMBOLS = {
    "num-clients": "N",
    "shards-per-client": "s",
    "fraction-train": "f",
    "num-local-epochs": "τ",
    "num-finetune-epochs": "τ_f",
    "momentum": "m",
    "dirichlet-beta": "β",
    "server-data-fraction": "p",
    "head-learning-rate-factor": "α_h/α_b",
}


@dataclass(frozen=True)
class PaperCell:
    """A number of the paper: mean ± std over clients, in percent, and the table that prints it.

    Attributes:
        of: the run-config keys and values of the table's row and column, "algorithm" among them.
        metric: as in summary.json.
        mean: over clients.
        std: over clients.
        table: its number.
    """

    of: Mapping[str, Any]
    metric: str
    mean: float
    std: float
    table: int


@cache
def tables() -> dict[int, dict[str, Any]]:
    """Every table of the paper, by its number.

    A table has its number and title, what must hold of the dataset, the run-config keys that all its rows share
    ("setting"; "total-epochs" is rounds times local epochs, if not 320), and its rows: more run-config keys, and for
    each algorithm its cells, {metric: [mean, std]}. Its layout on paper is "down" and "across": the run-config keys, or
    "metric", that tell its lines and its columns apart; "compares" are those whose values it sets against each other.
    Table 8, which has no accuracies, has "sizes" instead.
    """
    paths = [path for path in files(__name__).iterdir() if path.name.endswith(".json")]
    found = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    return {table["table"]: table for table in sorted(found, key=lambda table: table["table"])}


def cells(number: int) -> Iterator[PaperCell]:
    """The cells of a table, line by line."""
    for row in tables()[number]["rows"]:
        of = {key: value for key, value in row.items() if not isinstance(value, dict)}
        for algorithm, metrics in row.items():
            if algorithm not in of:
                for metric, (mean, std) in metrics.items():
                    yield PaperCell(of | {"algorithm": algorithm}, metric, mean, std, number)


def run_config(table: Mapping[str, Any], of: Mapping[str, Any]) -> dict[str, Any]:
    """What a table says of the configuration of a cell's run: the protocol, its setting, and K from the epochs."""
    config = PROTOCOL | table["setting"] | of
    epochs = config.pop("total-epochs", TOTAL_EPOCHS)
    return {"num-server-rounds": epochs // config.get("num-local-epochs", 1)} | config


def find_cells(config: Mapping[str, Any], dataset: Mapping[str, Any]) -> dict[str, PaperCell]:
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
    found: dict[str, PaperCell] = {}
    ours = setting(config)
    for number, table in tables().items():
        if is_dataset(table, dataset):
            for cell in cells(number):
                if cell.of["algorithm"] == config["algorithm"] and agree(setting(run_config(table, cell.of)), ours):
                    found.setdefault(cell.metric, cell)
    return found


def is_dataset(table: Mapping[str, Any], dataset: Mapping[str, Any]) -> bool:
    """Whether the data of a run, as config.json describes them, are a table's."""
    return all(dataset.get(key) == value for key, value in table["dataset"].items())
