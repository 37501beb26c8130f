"""What a sweep runs and a report shows: an experiment of conf/, composed by Hydra, as cells.

A cell is one number of a table: a run configuration and, if it is the paper's, what the paper prints.
"""

import os
import re
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from fedbabu.algorithms import ALGORITHMS
from fedbabu.config import RunConfig
from fedbabu.data.known import KNOWN_DATASETS
from fedbabu.errors import ConfigError, RunError
from fedbabu.reproduction import paper
from fedbabu.reproduction.composition import combinations, compose, listed
from fedbabu.reproduction.paper import SYMBOLS, PaperCell
from fedbabu.runs.checkpoints import Checkpoints
from fedbabu.runs.folder import RunFolder, all_runs
from fedbabu.runs.progress import TITLES
from fedbabu.runs.settings import agree, covers, setting

MAX_NAME = 120  # characters of a file's name, but for its ending

# Short names of run-config keys under `cells`, as the paper has them; others are as in the run config.
AXES = {
    "s": "shards-per-client",
    "f": "fraction-train",
    "tau": "num-local-epochs",
    "tau_f": "num-finetune-epochs",
    "m": "momentum",
    "beta": "dirichlet-beta",
    "p": "server-data-fraction",
}


@dataclass(frozen=True)
class Cell:
    """A number that an experiment asks for.

    Attributes:
        of: the run-config keys in which the experiment's cells differ, and their values.
        config: the whole run configuration, under Flower's key names, but for the seed.
        metric: as in summary.json; None for all that a run measures.
        printed: what the paper prints for it; None if this is not its setting.
    """

    of: Mapping[str, Any]
    config: Mapping[str, Any]
    metric: str | None = None
    printed: PaperCell | None = None

    @property
    def continues(self) -> str | None:
        """The algorithm from whose run of the same setting this one starts, if any."""
        algorithm = ALGORITHMS.get(self.config["algorithm"])
        return algorithm.continues if algorithm else None

    @property
    def label(self) -> str:
        """What tells it from other cells, in a line: "fedbabu, s = 2, f = 0.1"."""
        return told({"algorithm": self.config["algorithm"], **self.of})


@dataclass(frozen=True)
class KnownRun:
    """A run folder that was read: its whole configuration, empty if it is no run of this app, or is damaged."""

    folder: RunFolder
    config: Mapping[str, Any]
    finished: bool

    @classmethod
    def read(cls, folder: RunFolder) -> "KnownRun":
        """Read all that is needed of it."""
        folder, finished = RunFolder(folder.path), folder.finished
        try:
            config = folder.complete_config
            if not {"name", "num-classes", "num-train-examples"} <= folder.dataset.keys():
                raise ValueError("the dataset is not told")
            if finished:
                folder.accuracies()
                sum(record["train-seconds"] * record["num-examples"] for record in folder.rounds)
                sum(client["num-test-examples"] for client in folder.clients)
                folder.summary.get("missing")
            else:
                RunFolder.resumable(str(folder.path))
                Checkpoints(folder.path).usable()
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RunError):
            return cls(folder, {}, finished)
        return cls(folder, config, finished)


@dataclass(frozen=True)
class Experiment:
    """An experiment: its cells, and how to run them.

    Attributes:
        name: of its file in conf/experiment.
        title: what it is about.
        table: the paper's table, as `paper.tables()` has it, or None.
        figure: what the report draws of the runs, a key of `plots.FIGURES`, or None.
        cells: in the order of the table.
        seeds: of every cell.
        federation: what `--federation-config` takes, before `auto` and `clients` are resolved.
        results: the absolute path of the folder of run folders.
        places: where known datasets are, by name.
    """

    name: str
    title: str
    table: Mapping[str, Any] | None
    figure: str | None
    cells: Sequence[Cell]
    seeds: Sequence[int]
    federation: Mapping[str, Any]
    results: Path
    places: Mapping[str, str]
    _known: dict[Path, KnownRun] = field(default_factory=dict, repr=False)

    @classmethod
    def compose(cls, overrides: Sequence[str]) -> "Experiment":
        """Compose an experiment from Hydra's overrides; with several values for a key, the cells of all of them.

        Raises:
            ConfigError: if there is no such experiment, key, value or cell.
        """
        singles, given = combinations(overrides)
        composed = [compose(single) for single in singles]
        first = composed[0]
        for key in ("experiment", "federation", "results-dir", "data"):
            asked = [{**config, "experiment": config["choices"].get("experiment")}[key] for config in composed]
            if any(each != asked[0] for each in asked):
                raise ConfigError(f"A sweep has one {key}, but several were asked for: take one after the other.")
        varied = [key for key in first["run"] if any(config["run"][key] != first["run"][key] for config in composed)]
        if any(config["total-epochs"] != first["total-epochs"] for config in composed):
            varied.append("num-server-rounds")
        cells: list[Cell] = []
        for cell in (cell for config in composed for cell in _cells(config, given, varied)):
            if cell not in cells:  # the same for several seeds
                cells.append(cell)
        seeds = list(dict.fromkeys(seed for config in composed for seed in listed(config["seeds"])))
        for cell, seed in product(cells, seeds):
            start = {"initial-model": "its run"} if cell.continues else {}
            RunConfig.from_flower(dict(cell.config) | start | {"seed": seed})
        narrowing = [
            each for each in overrides if not each.startswith(("experiment=", "results-dir=", "data.", "seeds="))
        ]
        return cls(
            name=_file_name([first["choices"].get("experiment") or "sweep", *narrowing]),
            title=first["title"],
            table=paper.tables()[first["table"]] if first["table"] else None,
            figure=first["figure"],
            cells=cells,
            seeds=seeds,
            federation=first["federation"],
            results=Path(os.path.abspath(Path(first["results-dir"]).expanduser())),
            places=first["data"],
        )

    @property
    def heading(self) -> str:
        """Its title, with the table that it is."""
        return f"Table {self.table['table']}: {self.title}" if self.table else self.title

    def data_name(self, config: Mapping[str, Any]) -> str:
        """The name of a configuration's dataset, if it is a known one that `data` places; else as it is given."""
        return _name(config["dataset"], self.places)

    def runs_of(self, config: Mapping[str, Any]) -> list[KnownRun]:
        """The runs, of any seed, that have a configuration's numbers, finished or not, oldest first."""
        return [run for run in self.known_runs() if covers(run.config, config) and self._same_conditions(run, config)]

    def known_runs(self) -> list[KnownRun]:
        """The runs in the results folder that can be read; what is no run of this app counts for nothing."""
        for folder in all_runs(self.results):
            known = self._known.get(folder.path)
            if known is None or (known.folder.finished and not known.finished):
                self._known[folder.path] = KnownRun.read(folder)
        return [known for path in sorted(self._known) if (known := self._known[path]).config]

    def _same_conditions(self, run: KnownRun, config: Mapping[str, Any]) -> bool:
        """Whether a run has a configuration's data, and, but for tables, accuracies on the way as often."""
        name, data = self.data_name(config), run.folder.dataset
        same = _place(run.config["dataset"]) == _place(config["dataset"])
        if not same and name == data["name"]:  # a copy from elsewhere; a part of it goes by the same name
            same = not (self.table and self.table["dataset"]["name"] == name) or paper.is_dataset(self.table, data)
        known = KNOWN_DATASETS.get(data["name"])
        for key, own in (
            ("image-column", known and known.image_column),
            ("label-column", known and known.label_column),
        ):
            same = same and (run.config[key] or own) == (config[key] or own)
        return same and (self.table is not None or run.config["evaluate-every"] == config["evaluate-every"])


def told(of: Mapping[str, Any]) -> str:
    """Keys and values as people read them: "fedbabu, s = 2, personalized"."""
    parts: list[str] = []
    for key, value in of.items():
        if key == "algorithm":
            parts.insert(0, str(value))
        elif key == "metric":
            parts.append(TITLES[value])
        else:
            parts.append(f"{SYMBOLS.get(key, key)} = {value}")
    return ", ".join(parts)


def _cells(composed: Mapping[str, Any], given: Collection[str], varied: Collection[str]) -> Iterator[Cell]:
    """The cells of a composition; of a paper's table, those that its axes leave.

    Args:
        composed: by `compose`.
        given: the keys that the user gave.
        varied: the run-config keys for which the user gave several values.

    Raises:
        ConfigError: if a value is not one of the table's, or a key has no one value.
    """
    axes = {_key(key): listed(values) for key, values in composed["cells"].items()}
    for key in sorted(axes):
        if f"run.{key}" in given:
            short = {long: short for short, long in AXES.items()}.get(key, key)
            raise ConfigError(
                f"run.{key} was given, but the cells of this experiment differ in it: give cells.{short}."
            )
    if composed["table"] is None:
        for chosen in product(*axes.values()):
            of: dict[str, Any] = {}
            for key, value in zip(axes, chosen, strict=True):
                of |= {_key(name): one for name, one in value.items()} if isinstance(value, dict) else {key: value}
            config = _run_config(composed, of, given)
            yield Cell({key: config[key] for key in varied} | of, config)
        return
    table = paper.tables()[composed["table"]]
    cells = list(paper.cells(composed["table"]))
    for key, values in axes.items():
        printed = list(dict.fromkeys(cell.of[key] for cell in cells if key in cell.of))
        if not printed:
            raise ConfigError(f"Table {composed['table']} does not vary {key}: give run.{key}.")
        if unknown := [value for value in values if value not in printed]:
            raise ConfigError(
                f"Table {composed['table']} has no cell with {key} = {unknown[0]}: it has "
                f"{', '.join(map(str, printed))}."
            )
    for cell in cells:
        if all(value in axes.get(key, [value]) for key, value in cell.of.items()):
            config = _run_config(composed, cell.of, given)
            data = _name(config["dataset"], composed["data"])
            same = data == table["dataset"]["name"] and agree(
                setting(paper.run_config(table, cell.of)), setting(config)
            )
            of = {key: config[key] for key in varied} | dict(cell.of)
            yield Cell(of, config, cell.metric, cell if same else None)


def _run_config(composed: Mapping[str, Any], of: Mapping[str, Any], given: Collection[str]) -> dict[str, Any]:
    """The whole run configuration of a cell.

    Raises:
        ConfigError: if total-epochs are no whole number of rounds.
    """
    config = composed["run"] | of | {"results-dir": composed["results-dir"]}
    total, epochs = composed["total-epochs"], config["num-local-epochs"]
    if total and "run.num-server-rounds" not in given:
        if type(epochs) is not int or epochs < 1 or total % epochs:
            raise ConfigError(f"total-epochs = {total} is no multiple of num-local-epochs = {epochs}: it must be.")
        config["num-server-rounds"] = total // epochs
    return config


def _name(dataset: str, places: Mapping[str, str]) -> str:
    if dataset in KNOWN_DATASETS:
        return dataset
    return next((name for name, place in places.items() if _place(place) == _place(dataset)), dataset)


def _place(dataset: str) -> str:
    """A dataset's name, or the absolute path of its folder."""
    path = Path(dataset).expanduser()
    return os.path.abspath(path) if path.is_dir() else dataset.rstrip("/")


def _key(axis: str) -> str:
    """The run-config key of an axis."""
    return AXES.get(axis, axis)


def _file_name(parts: Sequence[str]) -> str:
    """A file name that tells an experiment and how it was narrowed or changed."""
    name = re.sub(r"[^\w.=,+-]+", "_", "-".join(parts))
    return name if len(name) <= MAX_NAME else f"{name[:MAX_NAME]}-{zlib.crc32(name.encode()):08x}"
