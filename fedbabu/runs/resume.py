"""How an interrupted run is resumed.

1. `check_resumable` finds the folder that the run-config key `resume` names, `resumed_config` the configuration.
2. `check_same_clients` makes sure that the clients of the federation are those with which the run started.
3. `Checkpoints.usable` reads the newest undamaged checkpoint. The records of later rounds are removed.
4. The strategy continues with the evaluation of the checkpoint's round, or with the next round if that is done.

The result is the same as without the interruption, because everything random depends only on the seed, the round and
the client, and because client states are saved by round.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from fedbabu.config import RUNTIME_KEYS, GivenKeys, RunConfig, default_run_config, toml_value, with_protocol
from fedbabu.errors import ConfigError
from fedbabu.federation.clients import Federation
from fedbabu.formatting import listed
from fedbabu.runs.folder import RunFolder, software_versions


def check_resumable(path_text: str) -> RunFolder:
    """The unfinished run whose folder is given; a ConfigError is raised if it is none, or finished."""
    run = RunFolder(os.path.abspath(Path(path_text).expanduser()))
    try:
        run.run_config  # noqa: B018  read to see whether it is one
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ConfigError(f"resume = '{path_text}' is not the folder of a run ({run.path}: {error}).") from error
    if run.finished:
        raise ConfigError(f"resume = '{path_text}' is a finished run (in {run.path}): there is nothing to resume.")
    return run


def resumed_config(given: GivenKeys, recorded: Mapping[str, object]) -> RunConfig:
    """The configuration of a resumed run: as recorded, with new RUNTIME_KEYS and dataset; no other key may be new."""
    values, defaults = given.to_flower(), with_protocol(default_run_config())
    here = {key: values[key] for key in RUNTIME_KEYS} | {"resume": ""}
    if given.dataset != defaults["dataset"]:
        here["dataset"] = given.dataset
    config = RunConfig.from_recorded({**recorded, **here})
    for key, value in config.to_flower().items():
        if values[key] not in (value, defaults[key]) and key not in ("resume", "results-dir"):
            raise ConfigError(
                f"{key} = {values[key]!r} was given, but resume = '{given.resume}' is a run with {key} = {value!r}."
            )
    return config


def runtime_overrides(config: RunConfig) -> str:
    """The runtime keys that differ from their defaults, as `--run-config` takes them, each after a space."""
    values, defaults = config.to_flower(), default_run_config()
    return "".join(f" {key}={toml_value(values[key])}" for key in RUNTIME_KEYS if values[key] != defaults[key])


def check_same_clients(run: RunFolder, federation: Federation) -> None:
    """Raise a ConfigError if the clients are not those with which the run started; print which software has changed."""
    recorded = run.recorded
    before = recorded["versions"] | {"devices": ", ".join(recorded["federation"]["devices"])}
    now = software_versions() | {"devices": ", ".join(federation.devices)}
    if changed := [f"{name} {before.get(name)} → {now[name]}" for name in now if before.get(name) != now[name]]:
        print(f"The environment has changed, so the last digits may differ: {'; '.join(changed)}.", flush=True)
    if run.dataset["image-shape"] != list(federation.image_shape):
        raise ConfigError(f"The clients of the run in {run.path} had images of another size or number of channels.")
    if checksums := run.client_checksums:
        others = [client for client, each in federation.checksums.items() if checksums.get(client, each) != each]
        if others:
            raise ConfigError(
                f"Clients of the run in {run.path} had other data, of '{run.config['dataset']}': "
                f"{listed(sorted(others))}."
            )
        federation.checksums.update(checksums)
        run.record_clients(federation)
    elif run.recorded["clients-checksum"] != federation.checksum:  # a run of an earlier version
        raise ConfigError(
            f"The clients of the run in {run.path} had other data, of '{run.config['dataset']}', or some are absent."
        )
