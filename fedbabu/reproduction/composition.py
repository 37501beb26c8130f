"""How Hydra composes a sweep from conf/, from what the package knows by name, and from a user's overrides."""

import os
from collections.abc import Sequence
from functools import cache
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ConfigDict, Field, NonNegativeFloat, NonNegativeInt, PositiveInt, ValidationError, create_model

from fedbabu.algorithms import ALGORITHMS
from fedbabu.config import PAPER_FIXED_VALUES, PROTOCOLS, default_run_config
from fedbabu.config.defaults import app_file
from fedbabu.config.keys import NameOrPath
from fedbabu.config.wording import error_sentence
from fedbabu.data.known import KNOWN_DATASETS
from fedbabu.errors import ConfigError
from fedbabu.models import MODELS
from fedbabu.reproduction.paper.tables import SYMBOLS, TOTAL_EPOCHS, cells_of_table, tables

CONF = app_file("conf")

# Short names of run-config keys under `cells`: the paper's symbols. Other keys have their own names there.
SHORT_NAMES = {
    key: symbol.replace("τ", "tau").replace("β", "beta") for key, symbol in SYMBOLS.items() if symbol.isidentifier()
}

# The first figure of each pair of centralized runs, and the dataset and network of both figures.
CENTRALIZED_FIGURES = {
    2: ("cifar100", "MobileNet"),
    4: ("cifar10", "FourConvNet"),
    6: ("cifar100", "ResNet18"),
    8: ("cifar100", "ResNet50"),
}

PART_OF_OTHERS = "centralized-by-"  # begins the names of experiments from which figures 2 to 9 are made

# Run-config keys that a sweep sets for each run, and what to give instead of them.
KEYS_OF_SINGLE_RUNS = {"seed": "seeds=[1,2]", "results-dir": "results-dir=…", "resume": "the same command again"}

# Groups of keys, which stay groups whatever an override gives.
GROUPS = ("run", "cells", "data", "federation")


def _allowed(words: str, **constraints: Any) -> Any:
    return Field(json_schema_extra={"allowed": words}, **constraints)


# The keys that Hydra composes. RunConfig checks those of `run`.
SweepKeys = create_model(
    "SweepKeys",
    __config__=ConfigDict(strict=True),
    **{
        "title": str,
        "table": Annotated[int | None, _allowed("null or a number from 1 to 25", ge=1, le=25)],
        "figure": Annotated[str | None, _allowed("null or a name")],
        "total-epochs": Annotated[PositiveInt | None, _allowed("null or an integer of at least 1")],
        "seeds": Annotated[list[NonNegativeInt], _allowed("a list of integers from 0 on", min_length=1)],
        "results-dir": NameOrPath,
        **dict.fromkeys(GROUPS, Annotated[dict[str, Any], _allowed("left as it is; its keys can be given")]),
        "federation.num-supernodes": Annotated[
            PositiveInt | Literal["auto", "clients"], _allowed("auto, clients or an integer of at least 1")
        ],
        "federation.client-resources-num-cpus": PositiveInt,
        "federation.client-resources-num-gpus": Annotated[
            NonNegativeFloat | Literal["auto"], _allowed("auto or a number of at least 0")
        ],
    },
)  # type: ignore[call-overload]


def combinations(overrides: Sequence[str]) -> tuple[list[list[str]], set[str]]:
    """All combinations of one value for each key, `a=1` and `a=2` for `a=1,2`, and the keys that the overrides name."""
    choices, keys = [], set()
    for text in overrides:
        try:
            (override,) = OverridesParser.create().parse_overrides([text])
            values = override.sweep_string_iterator() if override.is_sweep_override() else []
            choices.append([f"{override.get_key_element()}={value}" for value in values] or [text])
        except (HydraException, ValueError) as error:
            raise ConfigError(f"'{text}' is not an override like cells.s=2 or \"results-dir='/a b'\".") from error
        if override.key_or_group == "dataset":
            choices[-1] = list(map(_with_a_path_as_dataset, choices[-1]))
        keys.add(override.key_or_group)
        if override.key_or_group in GROUPS and isinstance(override.value(), dict):
            raise ConfigError(f"'{text}' gives several keys: give each of them alone, like run.momentum=0.5.")
    return [list(chosen) for chosen in product(*choices)], keys


def _with_a_path_as_dataset(override: str) -> str:
    """An override `dataset=…` of the group, or of the run-config key if it is the path of a folder or a Hub id."""
    value = override.removeprefix("dataset=").strip("'\"")
    folder = Path(value).expanduser()
    if not value or (value in KNOWN_DATASETS) or ("/" not in value and not folder.is_dir()):
        return override  # Hydra lists the names that it knows
    if folder.is_absolute() and not folder.is_dir():
        raise ConfigError(f"dataset = '{value}': there is no such folder.")
    place = os.path.abspath(folder) if folder.is_dir() else value
    return "run.dataset='{}'".format(place.replace("\\", "\\\\").replace("'", "\\'"))


def compose(overrides: list[str]) -> dict[str, Any]:
    """Compose the keys of conf/config.yaml, and "experiment", its name, from overrides with one value for each key."""
    _register_options()
    try:
        with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
            composed: Any = OmegaConf.to_container(hydra.compose("config", overrides), resolve=True)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        message = str(error).split("Config search path")[0].removeprefix("In 'config': ")
        raise ConfigError(" ".join(message.split()) + ".") from error
    experiments = [text.removeprefix("experiment=") for text in overrides if text.startswith("experiment=")]
    return _checked(composed) | {"experiment": experiments[-1] if experiments else None}


def experiment_names() -> list[str]:
    """The names of all experiments, without those that others are made from."""
    _register_options()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        names = GlobalHydra.instance().config_loader().get_group_options("experiment")
    return sorted(name for name in names if not name.startswith(PART_OF_OTHERS))


def _checked(composed: dict[str, Any]) -> dict[str, Any]:
    """Check a composed configuration, in which overrides may have removed keys; returns it with lists as values."""
    values: dict[str, Any] = dict.fromkeys(SweepKeys.model_fields) | composed
    values["seeds"] = _as_list(values["seeds"])
    values |= {f"federation.{key}": value for key, value in (values["federation"] or {}).items()}
    try:
        SweepKeys.model_validate(values)
    except ValidationError as error:
        raise ConfigError(error_sentence(error, SweepKeys)) from error
    values["cells"] = {key: _as_list(value) for key, value in values["cells"].items()}
    for key, value in values["cells"].items():
        if not value:
            raise ConfigError(f"cells.{key} = [] is not allowed: it must be a value or several.")
    for key, value in values["data"].items():
        if not isinstance(value, str):
            raise ConfigError(f"data.{key} = {value!r} is not allowed: it must be a name or path.")
    for key, default in default_run_config().items():
        if key not in values["run"]:
            raise ConfigError(f"run.{key} was removed, but a run needs it: give it a value.")
        if key in KEYS_OF_SINGLE_RUNS and (values["run"][key] != default or key in values["cells"]):
            raise ConfigError(f"{key} is not for a single run of a sweep: give {KEYS_OF_SINGLE_RUNS[key]}.")
    return values


def _as_list(values: Any) -> list[Any]:
    return values if isinstance(values, list) else [values]


def _register_options() -> None:
    """Tell Hydra what the package knows by name, so that none of it needs a file in conf/."""
    experiments = {f"table{number:02}": table_experiment(number) for number in tables()}
    for number, (dataset, model) in CENTRALIZED_FIGURES.items():
        for offset, base in enumerate(("centralized-by-part", "centralized-by-head-init")):
            defaults = [base, {"override /dataset": dataset}, {"override /model": model}]
            varied = ("by the trained part", "of the body by the head's initialization")[offset]
            title = f"Figure {number + offset}: Centralized training {varied}"
            experiments[f"figure{number + offset:02}"] = {"defaults": defaults, "title": title}
    options: dict[tuple[str | None, str | None], dict[str, Any]] = {
        (None, None): {"defaults": default_run_config(), "locations": {name: name for name in KNOWN_DATASETS}},
        ("fixed", "run"): {"paper": PAPER_FIXED_VALUES},
        ("protocol", "run"): {name: {"protocol": name} for name in PROTOCOLS},
        ("dataset", "run"): {name: {"dataset": f"${{data.{name}}}"} for name in KNOWN_DATASETS},
        ("model", "run"): {name: {"model-name": name} for name in MODELS},
        ("algorithm", "cells"): {name: {"algorithm": name} for name in ALGORITHMS},
        ("experiment", "_global_"): experiments,
    }
    for (group, package), nodes in options.items():
        for name, node in nodes.items():
            ConfigStore.instance().store(name, node, group=group, package=package)


@cache
def table_experiment(number: int) -> dict[str, Any]:
    """The experiment of a table, as a file in conf/experiment would have it: its keys, and `defaults` for Hydra."""
    table = tables()[number]
    run, defaults = dict(table["setting"]), [{"override /fixed": "paper"}]
    if "name" in table["dataset"]:
        defaults.append({"override /dataset": table["dataset"]["name"]})
    if "model-name" in run:
        defaults.append({"override /model": run.pop("model-name")})
    total_epochs = None if "num-server-rounds" in run else run.pop("total-epochs", TOTAL_EPOCHS)
    cells: dict[str, list[Any]] = {}
    for cell in cells_of_table(number):
        for key, value in cell.axes.items():
            values = cells.setdefault(SHORT_NAMES.get(key, key), [])
            if value not in values:
                values.append(value)
    fixed = {"title": table["title"], "table": number, "figure": table.get("figure"), "total-epochs": total_epochs}
    return {"defaults": defaults} | fixed | {"run": run, "cells": cells}
