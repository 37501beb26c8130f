"""What a sweep runs and a report shows: an experiment of conf/, composed by Hydra, as cells.

A cell is one number of a table: a run configuration and, if it is the paper's, what the paper prints.
"""

import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from fedbabu import paper
from fedbabu.algorithms import ALGORITHMS
from fedbabu.config import RunConfig, default_run_config
from fedbabu.errors import ConfigError
from fedbabu.paper import SYMBOLS, PaperCell
from fedbabu.results import RunFolder, all_runs
from fedbabu.setting import agree, covers, setting

CONF = Path(__file__).parents[1] / "conf"

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
        config: the whole run configuration, under Flower's key names; the seed is the experiment's first.
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
        told = [f"{SYMBOLS.get(key, key)} = {value}" for key, value in self.of.items() if key != "algorithm"]
        return ", ".join([self.config["algorithm"], *told])


@dataclass(frozen=True)
class Experiment:
    """An experiment: its cells, and how to run them.

    Attributes:
        name: of its file in conf/experiment.
        title: what it is about.
        table: the paper's table, as `paper.tables()` has it, or None.
        cells: in the order of the table.
        seeds: of every cell.
        federation: what `--federation-config` takes, before `auto` and `clients` are resolved.
        results: the absolute path of the folder of run folders.
        places: where known datasets are, by name.
    """

    name: str
    title: str
    table: Mapping[str, Any] | None
    cells: Sequence[Cell]
    seeds: Sequence[int]
    federation: Mapping[str, Any]
    results: Path
    places: Mapping[str, str]
    _known: dict[Path, RunFolder] = field(default_factory=dict, repr=False)  # what was read of run folders before

    @classmethod
    def compose(cls, overrides: Sequence[str]) -> "Experiment":
        """Compose an experiment from Hydra's overrides; with several values for a key, the cells of all of them.

        Raises:
            ConfigError: if there is no such experiment, key, value or cell.
        """
        composed = [_compose(single) for single in _each(overrides)]
        first = composed[0]
        for key in ("title", "table", "federation", "results-dir", "data"):
            if any(config[key] != first[key] for config in composed):
                raise ConfigError(f"An experiment has one {key}, but several were asked for: take one after the other.")
        seeds = list(dict.fromkeys(seed for config in composed for seed in _listed(config["seeds"])))
        given = {each.split("=")[0] for each in overrides}
        varied = [key for key in first["run"] if any(config["run"][key] != first["run"][key] for config in composed)]
        cells = [cell for config in composed for cell in _cells(config, given, varied)]
        for cell, seed in product(cells, seeds):
            start = {"initial-model": "its run"} if cell.continues else {}
            RunConfig.from_flower(dict(cell.config) | start | {"seed": seed})
        return cls(
            name=first["choices"].get("experiment") or "sweep",
            title=first["title"],
            table=paper.tables()[first["table"]] if first["table"] else None,
            cells=cells,
            seeds=seeds,
            federation=first["federation"],
            results=Path(os.path.abspath(Path(first["results-dir"]).expanduser())),
            places=first["data"],
        )

    def data_name(self, config: Mapping[str, Any]) -> str:
        """The name of a configuration's dataset if `data` says where it is, else what the run config says."""
        return _name(config["dataset"], self.places)

    def runs_of(self, config: Mapping[str, Any]) -> list[RunFolder]:
        """The runs, of any seed, that have a configuration's numbers, finished or not, oldest first.

        Of an experiment that is no table, they also have accuracies on the way as often as it says.
        """
        runs = [self._known.setdefault(run.path, run) for run in all_runs(self.results)]
        return [
            run
            for run in runs
            if covers(run.config, config)
            and (self.data_name(config) == run.dataset["name"] or config["dataset"] == run.config["dataset"])
            and (self.table or run.config["evaluate-every"] == config["evaluate-every"])
        ]


def _each(overrides: Sequence[str]) -> Iterator[list[str]]:
    """Overrides with one value for each key, for all combinations of values: `a=1,2` is `a=1` and `a=2`.

    Raises:
        ConfigError: if one cannot be read.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import OverrideParseException

    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    except OverrideParseException as error:
        raise ConfigError(
            f"'{error.override}' is no override: it must be like cells.s=2 or algorithm=fedbabu."
        ) from error
    choices = [
        [f"{override.key_or_group}={value}" for value in override.sweep_string_iterator()]
        if override.is_sweep_override()
        else [override.input_line or ""]
        for override in parsed
    ]
    return (list(chosen) for chosen in product(*choices))


def _compose(overrides: list[str]) -> dict[str, Any]:
    """One composition, as plain dicts and lists, with the chosen option of each group under "choices".

    Raises:
        ConfigError: if there is no such key or option.
    """
    from hydra import compose, initialize_config_dir
    from hydra.core.config_store import ConfigStore
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    store = ConfigStore.instance()
    store.store("defaults", default_run_config())
    store.store("paper", paper.PROTOCOL, group="protocol", package="run")
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            config = compose("config", overrides, return_hydra_config=True)
            choices = OmegaConf.to_container(config.hydra.runtime.choices)
            OmegaConf.set_struct(config, False)
            del config["hydra"]  # which only Hydra's own launcher can resolve
            composed: Any = OmegaConf.to_container(config, resolve=True)
            return composed | {"choices": choices}
    except (HydraException, OmegaConfBaseException) as error:
        if missing := re.match(r"Could not override '([^']*)'", str(error)):
            raise ConfigError(
                f"There is no key {missing[1]} to override: conf/config.yaml and the experiment's own file have all "
                "that there are."
            ) from error
        said = str(error).split("Config search path")[0].removeprefix("In 'config': ")
        raise ConfigError(" ".join(said.split()) + ".") from error


def _cells(composed: Mapping[str, Any], given: Collection[str], varied: Collection[str]) -> Iterator[Cell]:
    """The cells of a composition; of a paper's table, those that its axes leave.

    Args:
        composed: by `_compose`.
        given: the keys that the user gave.
        varied: the run-config keys for which the user gave several values.

    Raises:
        ConfigError: if a value is not one of the table's, or a key has no one value.
    """
    axes = {_key(key): _listed(values) for key, values in composed["cells"].items()}
    for key in sorted(axes):
        if f"run.{key}" in given:
            short = {long: short for short, long in AXES.items()}.get(key, key)
            raise ConfigError(
                f"run.{key} was given, but the cells of this experiment differ in it: give cells.{short}."
            )
    if composed["table"] is None:
        for chosen in product(*axes.values()):
            of = {key: composed["run"][key] for key in varied}
            for key, value in zip(axes, chosen, strict=True):
                of |= {_key(name): one for name, one in value.items()} if isinstance(value, dict) else {key: value}
            yield Cell(of, _run_config(composed, of, given))
        return
    table = paper.tables()[composed["table"]]
    cells = list(paper.cells(composed["table"]))
    for key, values in axes.items():
        printed = list(dict.fromkeys(cell.of[key] for cell in cells if key in cell.of))
        if unknown := [value for value in values if value not in printed]:
            raise ConfigError(
                f"Table {composed['table']} has no cell with {key} = {unknown[0]}: it has "
                f"{', '.join(map(str, printed))}."
            )
    for cell in cells:
        if all(value in axes.get(key, [value]) for key, value in cell.of.items()):
            config = _run_config(composed, cell.of, given)
            told = setting(paper.run_config(table, cell.of))
            data = _name(config["dataset"], composed["data"])
            same = data == table["dataset"]["name"] and agree(told, setting(config))
            of = {key: composed["run"][key] for key in varied} | dict(cell.of)
            yield Cell(of, config, cell.metric, cell if same else None)


def _run_config(composed: Mapping[str, Any], of: Mapping[str, Any], given: Collection[str]) -> dict[str, Any]:
    """The whole run configuration of a cell.

    Raises:
        ConfigError: if total-epochs are no whole number of rounds.
    """
    config = composed["run"] | of | {"seed": _listed(composed["seeds"])[0]}
    total, epochs = composed["total-epochs"], config["num-local-epochs"]
    if total and "run.num-server-rounds" not in given:
        if type(epochs) is not int or epochs < 1 or total % epochs:
            raise ConfigError(f"total-epochs = {total} is no multiple of num-local-epochs = {epochs}: it must be.")
        config["num-server-rounds"] = total // epochs
    return config


def _name(dataset: str, places: Mapping[str, str]) -> str:
    return next((name for name, place in places.items() if place == dataset), dataset)


def _listed(values: Any) -> list[Any]:
    return values if isinstance(values, list) else [values]


def _key(axis: str) -> str:
    """The run-config key of an axis."""
    return AXES.get(axis, axis)
