"""Where the scalars of a run go as they happen, besides the run folder, by the run config's `logger`."""

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fedbabu.errors import ConfigError

Log = Callable[[Mapping[str, Any]], None]
"""Takes scalars under their names, and other things, which are not logged; "round" is where they belong."""


def open_logger(name: str, run: Path, first_round: int) -> Log:
    """What logs the rounds of a run.

    Args:
        name: the value of `logger`.
        run: the run folder; TensorBoard's files are in its folder `tensorboard`.
        first_round: that will be logged; whatever a killed process has logged from there on is forgotten.
    """
    if not name:
        return lambda record: None
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(run / "tensorboard"), purge_step=first_round)

    def log(record: Mapping[str, Any]) -> None:
        for key, value in record.items():
            if type(value) in (int, float) and key != "round":
                writer.add_scalar(key, value, record["round"])
        writer.flush()

    return log


def check_logger(name: str) -> None:
    """Make sure that a logger's package is there.

    Raises:
        ConfigError: if not.
    """
    if name and find_spec(name) is None:
        raise ConfigError(f"logger = '{name}' is not installed: pip install -e \".[{name}]\", or leave logger empty.")
