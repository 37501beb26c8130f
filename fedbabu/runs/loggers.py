"""Experiment trackers: a run's scalars in TensorBoard, Weights & Biases or MLflow, besides the run folder."""

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from importlib.util import find_spec
from typing import Any

from fedbabu.errors import ConfigError
from fedbabu.runs.folder import RunFolder

PROJECT = "fedbabu"  # the name of the project in Weights & Biases and of the experiment in MLflow
RUN_ID_TAG = "fedbabu.run-id"  # by which a resumed run is found in MLflow

Log = Callable[[Mapping[str, Any]], None]
"""Logs the numbers in a mapping by their names, at the round that the mapping has under "round"."""


@contextmanager
def open_logger(name: str, run: RunFolder, first_round: int) -> Iterator[Log]:
    """The logger of a run, a key of LOGGERS or empty for none, which is closed at the end of the context.

    A run that is resumed continues what it has logged before, from first_round on. A logger that fails while the run
    goes on is not used any more, and a line says so.

    Raises:
        ConfigError: If the logger cannot be opened.
    """
    if not name:
        yield lambda scalars: None
        return
    stack, failed = ExitStack(), False
    try:
        opened = stack.enter_context(LOGGERS[name](run, first_round))
    except Exception as error:  # of any kind: each logger has its own
        raise ConfigError(f"logger = '{name}' cannot be used: {error}") from error

    def log(scalars: Mapping[str, Any]) -> None:
        nonlocal failed
        if not failed:
            try:
                opened(scalars)
            except Exception as error:
                failed = True
                print(f"logger = '{name}' failed, and the run goes on without it: {error}", flush=True)

    try:
        yield log
    except BaseException:
        _close(name, stack, sys.exc_info())
        raise
    _close(name, stack, (None, None, None))


def _close(name: str, stack: ExitStack, run_error: tuple[Any, Any, Any]) -> None:
    """Close a logger, which is told with what error the run stopped; a line says if that fails."""
    try:
        stack.__exit__(*run_error)
    except Exception as error:
        if error is not run_error[1]:
            print(f"logger = '{name}' could not be closed: {error}", flush=True)


def check_logger(name: str) -> None:
    """Raise a ConfigError if the package of a logger is not installed."""
    if name and find_spec(name) is None:
        raise ConfigError(f"logger = '{name}' is not installed: pip install -e \".[{name}]\", or leave logger empty.")


@contextmanager
def _tensorboard(run: RunFolder, first_round: int) -> Iterator[Log]:
    """Log into the folder `tensorboard` of the run."""
    from torch.utils.tensorboard import SummaryWriter

    # What a killed process logged from the first round on is discarded.
    with SummaryWriter(str(run.path / "tensorboard"), purge_step=first_round) as writer:

        def log(scalars: Mapping[str, Any]) -> None:
            for key, value in _numbers(scalars).items():
                writer.add_scalar(key, value, scalars["round"])
            writer.flush()

        yield log


@contextmanager
def _wandb(run: RunFolder, first_round: int) -> Iterator[Log]:
    """Log to Weights & Biases; offline, into the folder `wandb` of the run, for a user who is not logged in."""
    import wandb

    # Otherwise wandb would ask for a login, which nobody can answer in a ServerApp.
    offline = not os.environ.get("WANDB_MODE") and not wandb.login(prompt=False)
    tracked = wandb.init(
        project=os.environ.get("WANDB_PROJECT", PROJECT),
        id=run.recorded["run-id"],
        name=run.path.name,
        config=run.config,
        dir=str(run.path),
        resume="allow",
        mode="offline" if offline else None,
        settings=wandb.Settings(silent=True, console="off"),
    )
    tracked.define_metric("*", step_metric="round")
    try:
        yield lambda scalars: tracked.log({**_numbers(scalars), "round": scalars["round"]})
    except BaseException:
        tracked.finish(exit_code=1)
        raise
    tracked.finish()


@contextmanager
def _mlflow(run: RunFolder, first_round: int) -> Iterator[Log]:
    """Log to MLflow: to MLFLOW_TRACKING_URI, or else to the database mlflow.db beside the run folder."""
    from mlflow import MlflowClient

    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{run.path.parent / 'mlflow.db'}"
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name(PROJECT)
    experiment_id = experiment.experiment_id if experiment else client.create_experiment(PROJECT)
    earlier = client.search_runs([experiment_id], f"tags.`{RUN_ID_TAG}` = '{run.recorded['run-id']}'")
    if earlier:
        tracked = earlier[0].info.run_id
        client.update_run(tracked, status="RUNNING")
    else:
        tags = {RUN_ID_TAG: run.recorded["run-id"]}
        tracked = client.create_run(experiment_id, run_name=run.path.name, tags=tags).info.run_id
        for key, value in run.config.items():
            client.log_param(tracked, key, value)

    def log(scalars: Mapping[str, Any]) -> None:
        for key, value in _numbers(scalars).items():
            client.log_metric(tracked, key, value, step=scalars["round"])

    try:
        yield log
    except BaseException:
        client.set_terminated(tracked, status="FAILED")
        raise
    client.set_terminated(tracked)


def _numbers(scalars: Mapping[str, Any]) -> dict[str, int | float]:
    """The numbers in a mapping, without the round."""
    return {key: value for key, value in scalars.items() if type(value) in (int, float) and key != "round"}


LOGGERS: dict[str, Callable[[RunFolder, int], AbstractContextManager[Log]]] = {
    "tensorboard": _tensorboard,
    "wandb": _wandb,
    "mlflow": _mlflow,
}
