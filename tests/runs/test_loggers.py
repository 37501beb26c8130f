"""The scalars of a run in TensorBoard, Weights & Biases and MLflow."""

import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.errors import config_error
from support.faults import stopped_after_round
from support.in_process import run_server

from fedbabu.config import default_run_config
from fedbabu.runs import loggers
from fedbabu.runs.folder import RunFolder


@pytest.fixture
def run_in_two_parts(tiny_config) -> Callable[[str], RunFolder]:
    """A function that makes a run with a logger: it is stopped after the second of three rounds, and resumed."""

    def run_in_two_parts(logger: str) -> RunFolder:
        config = tiny_config | {"logger": logger, "checkpoint-every": 1}
        with stopped_after_round(2):
            run_server(config)
        (folder,) = Path(config["results-dir"]).glob("2*")
        given = {key: config[key] for key in ("logger", "results-dir")}
        return run_server(default_run_config() | given | {"resume": str(folder)})[0]

    return run_in_two_parts


def check_final(run: RunFolder, logged: dict[str, float]) -> None:
    """The final accuracies are logged."""
    for metric, ours in run.summary["accuracy"].items():
        assert logged[f"final/{metric}"] == pytest.approx(ours["mean"])


def test_tensorboard_has_the_scalars_of_a_resumed_run_once(run_in_two_parts):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = run_in_two_parts("tensorboard")
    events = EventAccumulator(str(run.path / "tensorboard")).Reload()
    tags = events.Tags()["scalars"]
    assert {"train-loss", "initial-accuracy", "learning-rate", "seconds"} <= set(tags)
    logged = {event.step: event.value for event in events.Scalars("train-loss")}
    assert logged == {record.round: pytest.approx(record.train_loss) for record in run.rounds}
    check_final(run, {tag: events.Scalars(tag)[0].value for tag in tags})


@pytest.mark.slow
def test_mlflow_has_the_scalars_of_a_resumed_run_in_one_run(run_in_two_parts, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    from mlflow import MlflowClient

    run = run_in_two_parts("mlflow")
    client = MlflowClient(tracking_uri=f"sqlite:///{run.path.parent / 'mlflow.db'}")
    (tracked,) = client.search_runs([client.get_experiment_by_name("fedbabu").experiment_id])
    assert (tracked.info.run_name, tracked.info.status) == (run.path.name, "FINISHED")
    assert tracked.data.params["algorithm"] == "fedbabu"
    history = client.get_metric_history(tracked.info.run_id, "train-loss")
    assert {each.step: each.value for each in history} == {r.round: pytest.approx(r.train_loss) for r in run.rounds}
    check_final(run, tracked.data.metrics)


@pytest.mark.slow
def test_wandb_has_the_scalars_offline_for_who_is_not_logged_in(run_in_two_parts, monkeypatch, tmp_path):
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))  # where a login would be kept
    run = run_in_two_parts("wandb")
    files = sorted((run.path / "wandb").glob(f"offline-run-*-{run.recorded['run-id']}/*.wandb"))
    assert len(files) == 2  # `wandb sync` makes one run of them, because they have one id
    logged: dict[int, dict[str, float]] = {}
    for values in (values for file in files for values in wandb_history(file)):
        logged.setdefault(int(values["round"]), {}).update(values)
    for record in run.rounds:
        assert logged[record.round]["train-loss"] == pytest.approx(record.train_loss)
        assert logged[record.round]["learning-rate"] == pytest.approx(record.learning_rate)
    check_final(run, logged[3])


def wandb_history(file: Path) -> Iterator[dict[str, float]]:
    """The numbers that an offline run of Weights & Biases has logged, read from its log of protocol buffers.

    After seven bytes, the file is a LevelDB log: blocks of 32 KiB, of pieces with a checksum, a length and a type.
    """
    from wandb.proto.wandb_internal_pb2 import Record

    content, place, data = file.read_bytes(), 7, b""
    while place + 7 <= len(content):
        if 32768 - place % 32768 < 7:  # no room for another piece in the block
            place += 32768 - place % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", content, place)
        data += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # a whole record, or the last piece of one
            record = Record()
            record.ParseFromString(data)
            data = b""
            if items := record.history.item:
                yield {item.key or ".".join(item.nested_key): float(item.value_json) for item in items}


@pytest.mark.parametrize("name", loggers.LOGGERS)
def test_a_logger_that_is_not_installed_is_refused(tiny_config, monkeypatch, name):
    monkeypatch.setattr(loggers, "find_spec", lambda name: None)
    with config_error(f"logger = '{name}'", f'pip install -e ".[{name}]"'):
        run_server(tiny_config | {"logger": name})


def test_a_logger_that_cannot_be_opened_is_refused(tiny_config, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nowhere://")
    with config_error("logger = 'mlflow' cannot be used", "nowhere"):
        run_server(tiny_config | {"logger": "mlflow"})


def test_a_logger_that_fails_later_does_not_stop_the_run(tiny_config, monkeypatch, capsys):
    from torch.utils.tensorboard import SummaryWriter

    def fail(*arguments):
        raise OSError("No space left on device")

    monkeypatch.setattr(SummaryWriter, "add_scalar", fail)
    run, _ = run_server(tiny_config | {"logger": "tensorboard"})
    assert run.finished
    line = "logger = 'tensorboard' failed, and the run goes on without it: No space left on device"
    assert capsys.readouterr().out.count(line) == 1
