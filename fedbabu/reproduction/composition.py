"""How Hydra composes what a sweep is asked: conf/, the registries of the package, and a user's overrides."""

import re
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from fedbabu.algorithms import ALGORITHMS
from fedbabu.config import default_run_config
from fedbabu.data.known import KNOWN_DATASETS
from fedbabu.errors import ConfigError
from fedbabu.models import MODELS
from fedbabu.reproduction import paper

CONF = Path(__file__).parents[2] / "conf"


def combinations(overrides: Sequence[str]) -> tuple[list[list[str]], set[str]]:
    """Overrides with one value for each key, for all combinations of values: `a=1,2` is `a=1` and `a=2`.

    Returns:
        The combinations, and the keys that the overrides name.

    Raises:
        ConfigError: if one cannot be read.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    choices = []
    keys = set()
    for text in overrides:
        try:
            (override,) = OverridesParser.create().parse_overrides([text])
            choices.append(
                [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]
                if override.is_sweep_override()
                else [text]
            )
        except (HydraException, ValueError) as error:
            raise ConfigError(
                f"'{text}' is no override: it must be like cells.s=2 or algorithm=fedbabu,fedavg, with quotes around a "
                "value that has more than letters, digits and .-_/ in it: \"results-dir='/a b'\"."
            ) from error
        keys.add(override.key_or_group)
        if override.key_or_group in ("run", "cells", "data", "federation") and isinstance(override.value(), dict):
            raise ConfigError(f"'{text}' gives several keys: give each on its own, like run.momentum=0.5.")
    return [list(chosen) for chosen in product(*choices)], keys


def compose(overrides: list[str]) -> dict[str, Any]:
    """One composition, as plain dicts and lists, with the chosen option of each group under "choices".

    Raises:
        ConfigError: if there is no such key or option, or one has another type.
    """
    import hydra
    from hydra.core.config_store import ConfigStore
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    store = ConfigStore.instance()
    store.store("defaults", default_run_config())
    store.store("paper", paper.PROTOCOL, group="protocol", package="run")
    store.store("places", {name: name for name in KNOWN_DATASETS})
    for name in KNOWN_DATASETS:
        store.store(name, {"dataset": f"${{data.{name}}}"}, group="dataset", package="run")
    for name in MODELS:
        store.store(name, {"model-name": name}, group="model", package="run")
    for name in ALGORITHMS:
        store.store(name, {"algorithm": name}, group="algorithm", package="cells")
    try:
        with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
            config = hydra.compose("config", overrides, return_hydra_config=True)
            choices = OmegaConf.to_container(config.hydra.runtime.choices)
            OmegaConf.set_struct(config, False)
            del config["hydra"]  # which only Hydra's own launcher can resolve
            composed: Any = OmegaConf.to_container(config, resolve=True)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        if missing := re.match(r"Could not override '([^']*)'", str(error)):
            raise ConfigError(
                f"There is no key {missing[1]} to override: conf/config.yaml and the experiment's own file have all "
                "that there are."
            ) from error
        said = str(error).split("Config search path")[0].removeprefix("In 'config': ")
        raise ConfigError(" ".join(said.split()) + ".") from error
    _check(composed)
    return composed | {"choices": choices}


def _check(composed: Mapping[str, Any]) -> None:
    """Check what Hydra does not know of.

    Raises:
        ConfigError: naming the key, its value and what is allowed.
    """

    def check(key: str, value: Any, fine: bool, allowed: str) -> None:
        if not fine:
            raise ConfigError(f"{key} = {value!r} is not allowed: it must be {allowed}.")

    def is_number(value: Any, low: int) -> bool:
        return type(value) is int and value >= low

    total, table = composed["total-epochs"], composed["table"]
    check("title", composed["title"], isinstance(composed["title"], str), "text")
    check("table", table, table is None or table in paper.tables(), "null or a number from 1 to 25")
    figure = composed["figure"]
    check("figure", figure, figure is None or isinstance(figure, str), "null or a name")
    check("total-epochs", total, total is None or is_number(total, 1), "null or an integer of at least 1")
    seeds = listed(composed["seeds"])
    check("seeds", seeds, bool(seeds) and all(is_number(seed, 0) for seed in seeds), "a list of integers from 0 on")
    for key in ("run", "cells", "data", "federation"):
        check(key, composed[key], isinstance(composed[key], dict), "left alone; its keys can be given")
    for key, value in composed["data"].items():
        check(f"data.{key}", value, isinstance(value, str), "a name or path")
    for key, value in composed["cells"].items():
        check(f"cells.{key}", value, value != [], "a value or several")
    defaults = default_run_config()
    for key in defaults:
        check(f"run.{key}", None, key in composed["run"], "there")
    for key, instead in (
        ("seed", "seeds=[1,2]"),
        ("results-dir", "results-dir=…"),
        ("resume", "the same command again"),
    ):
        if composed["run"][key] != defaults[key] or key in composed["cells"]:
            raise ConfigError(f"{key} is not for a single run of a sweep: give {instead}.")
    federation = composed["federation"]
    nodes, cpus, gpus = (
        federation.get(key) for key in ("num-supernodes", "client-resources-num-cpus", "client-resources-num-gpus")
    )
    check("federation.num-supernodes", nodes, nodes in ("auto", "clients") or is_number(nodes, 1),
          "auto, clients or an integer of at least 1")  # fmt: skip
    check("federation.client-resources-num-cpus", cpus, is_number(cpus, 1), "an integer of at least 1")
    check("federation.client-resources-num-gpus", gpus, gpus == "auto" or (type(gpus) in (int, float) and gpus >= 0),
          "auto or a number of at least 0")  # fmt: skip


def listed(values: Any) -> list[Any]:
    """A list, or a list of one value."""
    return values if isinstance(values, list) else [values]
