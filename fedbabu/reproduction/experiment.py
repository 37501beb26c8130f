"""An experiment of conf/ as cells, and which runs in the results folder have their numbers.

A cell is one number of a table: a run configuration and, if the paper has its setting, what the paper prints.
"""

import os
import re
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

from fedbabu.algorithms import ALGORITHMS
from fedbabu.config import SPECIAL_KEYS, RunConfig, default_run_config
from fedbabu.data.known import KNOWN_DATASETS
from fedbabu.errors import ConfigError, RunError
from fedbabu.reproduction.composition import SHORT_NAMES, combinations, compose
from fedbabu.reproduction.paper.tables import SYMBOLS, PaperCell, cells_of_table, is_dataset_of, setting_of_cell, tables
from fedbabu.runs.checkpoints import Checkpoints
from fedbabu.runs.folder import RunFolder
from fedbabu.runs.records import METRIC_TITLES
from fedbabu.runs.results_folder import all_runs
from fedbabu.runs.resume import check_resumable
from fedbabu.runs.settings import has_results_for, setting_of, settings_agree

MAX_NAME_LENGTH = 120  # characters of the name of a file, without its ending
LONG_NAMES = {short: key for key, short in SHORT_NAMES.items()}


@dataclass(frozen=True)
class Cell:
    """A number that an experiment measures."""

    axes: Mapping[str, Any]  # the run-config keys in which the cells of the experiment differ, and their values here
    config: Mapping[str, Any]  # the whole run configuration under Flower's key names; its seed does not count
    metric: str | None = None  # a key of `records.METRIC_TITLES`; None for all that a run measures
    printed: PaperCell | None = None  # None if the paper does not have this setting

    @property
    def label(self) -> str:
        """The cell in one line, for example "fedbabu, s = 2, f = 0.1"."""
        return format_setting({"algorithm": self.config["algorithm"], **self.axes})


@dataclass(frozen=True)
class Experiment:
    """The cells of an experiment, and how to run them."""

    name: str  # for files: the name of the experiment with the overrides that narrow or change it
    title: str
    table: Mapping[str, Any] | None  # the paper's table, as `paper.tables` has it
    figure: str | None  # what the report draws of the runs, a key of `figures.FIGURES`
    cells: Sequence[Cell]  # in the order of the table
    seeds: Sequence[int]  # each cell is run with all of them
    federation: Mapping[str, Any]  # Flower's, in which "auto" and "clients" still stand for numbers
    results_dir: Path  # the absolute path of the folder of run folders
    dataset_locations: Mapping[str, str]  # the name or the local folder of each known dataset, by its name

    @classmethod
    def compose(cls, overrides: Sequence[str]) -> "Experiment":
        """Compose an experiment from Hydra's overrides; with several values for a key, the cells of all of them."""
        combined, given = combinations(overrides)
        sweeps = [compose(single) for single in combined]
        first = sweeps[0]
        for key in ("experiment", "federation", "results-dir", "data"):
            if any(sweep[key] != first[key] for sweep in sweeps):
                raise ConfigError(f"A sweep has one {key}, but several were given: give one of them.")
        varied = [key for key in first["run"] if any(sweep["run"][key] != first["run"][key] for sweep in sweeps)]
        if any(sweep["total-epochs"] != first["total-epochs"] for sweep in sweeps):
            varied.append("num-server-rounds")
        cells: list[Cell] = []
        for cell in (cell for sweep in sweeps for cell in cells_of_sweep(sweep, given, varied)):
            if cell not in cells:  # several seeds have the same cells
                cells.append(cell)
        for key, value in ((key, sweep["run"][key]) for sweep in sweeps for key in sweep["run"]):
            if f"run.{key}" in given and key in SPECIAL_KEYS and all(cell.config[key] != value for cell in cells):
                raise ConfigError(
                    f"run.{key} = {value!r} was given, but no algorithm of this sweep reads it: leave it out."
                )
        not_in_name = ("experiment=", "results-dir=", "data.", "seeds=")
        changes = [override for override in overrides if not override.startswith(not_in_name)]
        table = tables()[first["table"]] if first["table"] else None
        if table and table["rows"] and not cells:
            raise ConfigError(f"Table {table['table']} has no cell with all of these values: {' '.join(overrides)}.")
        return cls(
            name=_file_name([first["experiment"] or "sweep", *changes]),
            title=f"Table {table['table']}: {first['title']}" if table else first["title"],
            table=table,
            figure=first["figure"],
            cells=cells,
            seeds=list(dict.fromkeys(seed for sweep in sweeps for seed in sweep["seeds"])),
            federation=first["federation"],
            results_dir=Path(os.path.abspath(Path(first["results-dir"]).expanduser())),
            dataset_locations=first["data"],
        )

    def runs_with_results_for(self, config: Mapping[str, Any]) -> list[RunFolder]:
        """The runs of any seed that have the numbers of a run configuration, finished or not, oldest first."""
        return [
            run
            for run in self.usable_runs()
            if has_results_for(run.config, config, run.has_equal_clients)
            and self._has_same_data(run, config)
            # The accuracies after some of the rounds do not belong to a table, but to a sweep of the user's own.
            and (self.table is not None or run.config["evaluate-every"] == config["evaluate-every"])
        ]

    def usable_runs(self) -> list[RunFolder]:
        """The runs in the results folder, oldest first, without those that are damaged or not of this app."""
        runs = (_usable_run(run.path, run.finished) for run in all_runs(self.results_dir))
        return [run for run in runs if run]

    def _has_same_data(self, run: RunFolder, config: Mapping[str, Any]) -> bool:
        """Whether a run used the data that a configuration means, wherever they were."""
        name = run.dataset["name"]
        same_place = _location(run.config["dataset"]) == _location(config["dataset"])
        # A copy at another place has the same name, but so has a part of the paper's dataset.
        table = self.table if self.table and self.table["dataset"]["name"] == name else None
        is_part = table is not None and not is_dataset_of(table, run.dataset)
        if not same_place and (is_part or name != dataset_name(config["dataset"], self.dataset_locations)):
            return False
        known = KNOWN_DATASETS.get(name)
        columns = {"image-column": known and known.image_column, "label-column": known and known.label_column}
        return all((run.config[key] or column) == (config[key] or column) for key, column in columns.items())


@cache
def _usable_run(path: Path, finished: bool) -> RunFolder | None:
    """The run in a folder, if all that an experiment needs can be read, and an unfinished run can be resumed."""
    run = RunFolder(path)
    try:
        RunConfig.from_recorded(run.config)
        if finished:
            for each in {run.measurement, *run.protocols.values()}:
                _ = run.accuracies_by_client(each), run.missing_clients(each)
            _ = run.rounds, [client["num-test-examples"] for client in run.clients]
        else:
            check_resumable(str(path))
            Checkpoints(path).usable()
        return run if {"name", "num-classes", "num-train-examples"} <= run.dataset.keys() else None
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RunError):
        return None


def format_setting(values: Mapping[str, Any]) -> str:
    """Run-config keys with their values, and the metric, in one line: "fedbabu, s = 2, Personalized"."""
    parts: list[str] = []
    for key, value in values.items():
        if key == "algorithm":
            parts.insert(0, str(value))
        elif key == "metric":
            parts.append(METRIC_TITLES[value])
        else:
            parts.append(f"{SYMBOLS.get(key, key)} = {value}")
    return ", ".join(parts)


def cells_of_sweep(sweep: Mapping[str, Any], given: Collection[str], varied: Collection[str]) -> Iterator[Cell]:
    """The cells of a composed sweep; for a table of the paper, those of the table that have the sweep's axes.

    The user's overrides gave some keys, and several values for the varied run-config keys.
    """
    axes = {LONG_NAMES.get(name, name): values for name, values in sweep["cells"].items()}
    for key in sorted(axes):
        if f"run.{key}" in given:
            instead = f"cells.{SHORT_NAMES.get(key, key)}"
            raise ConfigError(f"run.{key} was given, but the cells of this experiment differ in it: give {instead}.")
    if sweep["table"] is None:
        for values in product(*axes.values()):
            chosen: dict[str, Any] = {}
            for key, value in zip(axes, values, strict=True):  # a value that is a mapping sets several keys
                several: dict[str, Any] = value if isinstance(value, dict) else {key: value}
                chosen |= {LONG_NAMES.get(name, name): each for name, each in several.items()}
            config = _run_config(sweep, chosen, given)
            yield Cell({key: config[key] for key in varied} | chosen, config)
        return
    number, dataset = sweep["table"], tables()[sweep["table"]]["dataset"]
    printed_cells = list(cells_of_table(number))
    for key, values in axes.items():
        known = list(dict.fromkeys(cell.axes[key] for cell in printed_cells if key in cell.axes))
        if not known:
            raise ConfigError(f"Table {number} does not vary {key}: give run.{key}.")
        if unknown := [value for value in values if value not in known]:
            has = ", ".join(map(str, known))
            raise ConfigError(f"Table {number} has no cell with {key} = {unknown[0]}: it has {has}.")
    for printed in printed_cells:
        if all(value in axes.get(key, [value]) for key, value in printed.axes.items()):
            config = _run_config(sweep, printed.axes, given)
            same_data = dataset_name(config["dataset"], sweep["data"]) == dataset["name"]
            is_papers = same_data and settings_agree(setting_of_cell(printed, config["protocol"]), setting_of(config))
            cell_axes = {key: config[key] for key in varied} | dict(printed.axes)
            yield Cell(cell_axes, config, printed.metric, printed if is_papers else None)


def _run_config(sweep: Mapping[str, Any], axes: Mapping[str, Any], given: Collection[str]) -> dict[str, Any]:
    """The checked run configuration of a cell."""
    config = sweep["run"] | axes | {"results-dir": sweep["results-dir"]}
    total, epochs = sweep["total-epochs"], config["num-local-epochs"]
    if total and "run.num-server-rounds" not in given:
        if type(epochs) is not int or epochs < 1 or total % epochs:
            raise ConfigError(f"total-epochs = {total} must be a multiple of num-local-epochs = {epochs}.")
        config["num-server-rounds"] = total // epochs
    algorithm = ALGORITHMS.get(config["algorithm"])
    start = {"initial-model": "its start"} if algorithm and algorithm.starts_from else {}
    unread = RunConfig.from_flower(config | start).unread_keys  # given for the cells of other algorithms
    return config | {key: default_run_config()[key] for key in unread}


def dataset_name(dataset: str, locations: Mapping[str, str]) -> str:
    """The name of the known dataset that a run config means by its name or location; otherwise what it says."""
    if dataset in KNOWN_DATASETS:
        return dataset
    return next((name for name, place in locations.items() if _location(place) == _location(dataset)), dataset)


def _location(dataset: str) -> str:
    """The absolute path of a dataset that is a local folder; otherwise its name."""
    path = Path(dataset).expanduser()
    return os.path.abspath(path) if path.is_dir() else dataset.rstrip("/")


def _file_name(parts: Sequence[str]) -> str:
    """A file name that contains these parts; one that is too long is cut and ends with a checksum."""
    name = re.sub(r"[^\w.=,+-]+", "_", "-".join(parts))
    return name if len(name) <= MAX_NAME_LENGTH else f"{name[:MAX_NAME_LENGTH]}-{zlib.crc32(name.encode()):08x}"
