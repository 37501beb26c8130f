"""The paper's tables, one JSON file each, and the cells that a run can be compared with.

A cell is a mean and a standard deviation over clients, in percent. Besides a table's number and title, its file has:

figure     the figure that a report draws of the table's runs, a key of `figures.FIGURES`, if there is one
dataset    what config.json must say about the data of a run
setting    the run-config keys that all cells share; "total-epochs" is rounds times local epochs, if not 320
rows       more run-config keys and, for each algorithm, the cells of that row of the file: {metric: [mean, std]}
down       the keys, or "metric", in which the lines of the printed table differ
across     the keys, or "metric", in which its columns differ
compares   the keys whose values the paper compares with each other
note       a remark about the printed table, if there is one
sizes      only in Table 8, which has no accuracies: the number of images and classes of each dataset
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from fedbabu.algorithms import find_algorithm
from fedbabu.config import PAPER_FIXED_VALUES
from fedbabu.runs.folder import RunFolder
from fedbabu.runs.settings import finetunes_epoch_by_epoch, setting_of, settings_agree

TOTAL_EPOCHS = 320  # rounds times local epochs, in all tables that do not say otherwise

# The paper's symbols for the keys in which its tables vary.
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
    """A number that the paper prints: mean ± std over clients, in percent."""

    axes: Mapping[str, Any]  # the run-config keys and values of the cell's line and column, and "algorithm"
    run_config: Mapping[str, Any]  # all keys that the paper fixes for the cell: its protocol, the setting, the axes
    metric: str  # a key of `records.METRIC_TITLES`
    mean: float
    std: float
    table: int  # its number


@cache
def tables() -> dict[int, dict[str, Any]]:
    """The content of the JSON files of all tables, by the number of the table."""
    paths = sorted(Path(__file__).parent.glob("table*.json"))
    return {table["table"]: table for table in (json.loads(path.read_text(encoding="utf-8")) for path in paths)}


def cells_of_table(number: int) -> Iterator[PaperCell]:
    """The cells of a table, in the order of its file."""
    table = tables()[number]
    for row in table["rows"]:
        keys_of_row = {key: value for key, value in row.items() if not isinstance(value, dict)}
        for algorithm in (key for key in row if key not in keys_of_row):
            axes = keys_of_row | {"algorithm": algorithm}
            config = PAPER_FIXED_VALUES | table["setting"] | axes
            total_epochs = config.pop("total-epochs", TOTAL_EPOCHS)
            config = {"num-server-rounds": total_epochs // config.get("num-local-epochs", 1)} | config
            for metric, (mean, std) in row[algorithm].items():
                yield PaperCell(axes, config, metric, mean, std, number)


def is_dataset_of(table: Mapping[str, Any], dataset: Mapping[str, Any]) -> bool:
    """Whether the data of a run, as its config.json describes them, are those of a table."""
    return all(dataset.get(key) == value for key, value in table["dataset"].items())


def find_cells(config: Mapping[str, Any], dataset: Mapping[str, Any]) -> dict[str, PaperCell]:
    """The numbers that the paper prints for the setting of a run, by metric, each from the first table that prints it.

    The dataset is what config.json says about it: a part of a dataset is not the paper's, nor are coarse labels.
    """
    algorithm, start, protocol = config["algorithm"], config["initial-model"], config["protocol"]
    # Only the folder of a finished run shows that LG-FedAvg started from a FedAvg run of the same setting.
    if bool(start) != bool(find_algorithm(algorithm, protocol).starts_from) or start.endswith(".safetensors"):
        return {}
    found: dict[str, PaperCell] = {}
    setting = setting_of(config)
    for number, table in tables().items():
        for cell in cells_of_table(number) if is_dataset_of(table, dataset) else ():
            if cell.axes["algorithm"] == algorithm and settings_agree(setting_of_cell(cell, protocol), setting):
                found.setdefault(cell.metric, cell)
    return found


def setting_of_cell(cell: PaperCell, protocol: str) -> dict[str, Any]:
    """The setting of a cell, to be compared with that of a run under a protocol, which the paper does not name."""
    return setting_of({**cell.run_config, "protocol": protocol})


def accuracy_by_finetune_epoch(run: RunFolder) -> dict[int, float]:
    """The mean accuracies that the paper prints for the setting of a finished run, by epochs of fine-tuning."""
    last, paper = len(run.clients[0]["accuracy"]) - 1, run.summary["paper"]
    accuracy = {epoch: paper[name]["mean"] for name, epoch in (("initial", 0), ("personalized", last)) if name in paper}
    for epoch in range(1, last) if finetunes_epoch_by_epoch(run.config) else ():
        if cell := find_cells(run.config | {"num-finetune-epochs": epoch}, run.dataset).get("personalized"):
            accuracy[epoch] = cell.mean
    return dict(sorted(accuracy.items()))
