"""The scalars of a run in TensorBoard."""

from pathlib import Path

import pytest
from support.errors import config_error
from support.in_process import run_server

from fedbabu.config import default_run_config
from fedbabu.runs.folder import RunFolder


def test_tensorboard_has_the_scalars_of_a_resumed_run_once(tiny_config, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = tiny_config | {"logger": "tensorboard", "checkpoint-every": 1}
    append = RunFolder.append_round

    def append_and_stop(run, record):
        append(run, record)
        if record.round == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "append_round", append_and_stop)
        with pytest.raises(KeyboardInterrupt):
            run_server(config)
    (folder,) = Path(config["results-dir"]).iterdir()
    given = {key: config[key] for key in ("logger", "results-dir")}
    run, _ = run_server(default_run_config() | given | {"resume": str(folder)})
    events = EventAccumulator(str(run.path / "tensorboard")).Reload()
    assert {"train-loss", "initial-accuracy", "learning-rate", "seconds"} <= set(events.Tags()["scalars"])
    logged = {event.step: event.value for event in events.Scalars("train-loss")}
    assert logged == {record.round: pytest.approx(record.train_loss) for record in run.rounds}
    for metric, ours in run.summary["accuracy"].items():
        (final,) = events.Scalars(f"final/{metric}")
        assert (final.step, final.value) == (3, pytest.approx(ours["mean"]))


def test_a_logger_that_is_not_installed_is_refused(tiny_config, monkeypatch):
    monkeypatch.setattr("fedbabu.runs.progress.find_spec", lambda name: None)
    with config_error("logger = 'tensorboard'", "pip install"):
        run_server(tiny_config | {"logger": "tensorboard"})
