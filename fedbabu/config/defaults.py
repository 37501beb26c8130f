"""The run config of pyproject.toml, overrides as `flwr run` accepts them, and which keys are special in what way."""

import json
import re
import tomllib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from fedbabu.config.protocols import PROTOCOLS
from fedbabu.errors import ConfigError

PACKAGE = Path(__file__).parents[1]
IN_WHEEL = PACKAGE / "_app"  # where a wheel has the files that are beside the package in the repository


def app_file(name: str) -> Path:
    """The path of a file or folder of the app that is no Python, for example "pyproject.toml" or "conf"."""
    return (IN_WHEEL if IN_WHEEL.is_dir() else PACKAGE.parent) / name


PYPROJECT = app_file("pyproject.toml")

# Runtime keys say how a run is carried out, and change no result if no client fails or is absent. A resumed run may be
# given new values.
RUNTIME_KEYS = (
    "device", "checkpoint-every", "client-timeout", "min-available-clients", "min-fit-clients", "max-round-retries",
    "logger",
)  # fmt: skip

# Keys of earlier versions that no longer exist and never changed a result; a recorded configuration may have them.
RETIRED_KEYS = ("cuda-graph",)

# Keys that an earlier version did not have, with the values that say what it did; a recorded config may lack them.
ADDED_KEYS: dict[str, Any] = {
    "protocol": "text", "partition-seed": -1, "head-blocks": 0, "weight-decay": 0.0, **PROTOCOLS["text"],
    "crop-padding": -1, "horizontal-flip": "", "min-examples-per-owner": 2, "device": "auto",
    "keep-personalized": False, "dp-clipping-norm": 0.0, "dp-noise-multiplier": 0.0, "dp-noise-by": "server",
    "dp-delta": 1e-5, "min-available-clients": 0,
}  # fmt: skip

# The values that the paper keeps fixed in every table (Section 3, "Experimental setup" and "Evaluation").
PAPER_FIXED_VALUES: dict[str, Any] = json.loads(
    Path(__file__).with_name("paper_fixed_values.json").read_text(encoding="utf-8")
)


def default_run_config() -> dict[str, Any]:
    """The run config of pyproject.toml, under Flower's key names."""
    return dict(_run_config_written_at(PYPROJECT.stat().st_mtime_ns))


@cache
def _run_config_written_at(time: int) -> dict[str, Any]:
    """The run config of pyproject.toml, which is read again when it has changed, since the cells of a table need it."""
    return tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["tool"]["flwr"]["app"]["config"]


def key_meanings() -> dict[str, str]:
    """The meaning of each run-config key: the comment above it in pyproject.toml, without the full stop."""
    section = PYPROJECT.read_text(encoding="utf-8").split("[tool.flwr.app.config]")[1].split("\n[")[0]
    documented = re.findall(r"^((?:# .+\n)+)([\w-]+) =", section, flags=re.MULTILINE)
    return {key: " ".join(comment.replace("# ", "").split()).removesuffix(".") for comment, key in documented}


def key_groups() -> dict[str, list[str]]:
    """The run-config keys in the groups of pyproject.toml, by the name of the group."""
    section = PYPROJECT.read_text(encoding="utf-8").split("[tool.flwr.app.config]")[1].split("\n[")[0]
    _, *parts = re.split(r"^# ---- (.+) ----$", section, flags=re.MULTILINE)
    keys = (re.findall(r"^([\w-]+) =", part, flags=re.MULTILINE) for part in parts[1::2])
    return dict(zip(parts[::2], keys, strict=True))


def parse_overrides(texts: Sequence[str]) -> dict[str, Any]:
    """The run-config keys in what `flwr run --run-config` accepts: one TOML file, or texts like "a=1 b='two'".

    Raises:
        ConfigError: If a text or the file is not of that form, or the file cannot be read.
    """
    try:
        if len(texts) == 1 and texts[0].endswith(".toml"):
            return tomllib.loads(Path(texts[0]).expanduser().read_text(encoding="utf-8"))
        pairs = re.findall(r"(\S+?)=('[^']*'|\"[^\"]*\"|\S+)", " ".join(texts))
        if not all("=" in text for text in texts):
            raise ValueError("there is a text without an equals sign")
        return tomllib.loads("\n".join(f"{key} = {value}" for key, value in pairs))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"--run-config {' '.join(texts)} cannot be read ({error}): it must be one TOML file, or keys and values "
            "like \"num-clients=100 algorithm='fedavg'\"."
        ) from error


def toml_value(value: object) -> str:
    """A value as TOML writes it, with single quotes around text."""
    return str(value).lower() if isinstance(value, bool) else repr(value)
