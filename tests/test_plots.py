"""Every figure shows what the run folder says: the data behind the axes, not pixels."""

import numpy as np
import pytest
from in_process import run_server

from fedbabu import client_app, plots, recording, report
from fedbabu.config import default_run_config
from fedbabu.errors import ConfigError
from fedbabu.experiment import Experiment
from fedbabu.results import RunFolder, all_runs

FIGURES_RUNS = (2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 15, 16)

SMALL = {
    "dataset": "digits", "num-clients": 8, "fraction-train": 0.5, "num-server-rounds": 3, "num-local-epochs": 1,
    "num-finetune-epochs": 2, "batch-size": 40, "evaluate-every": 1, "seed": 7,
}  # fmt: skip
CENTRALIZED = {"algorithm": "fedavg", "fraction-train": 0.0, "server-data-fraction": 1.0, "num-finetune-epochs": 0}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    results = str(tmp_path_factory.mktemp("results"))

    def run(**keys):
        given = {key.replace("_", "-"): value for key, value in keys.items()}
        return run_server(default_run_config() | SMALL | {"results-dir": results} | given)[0]

    return run


@pytest.fixture(scope="module")
def federated(run):
    return [run(algorithm="fedavg"), run(algorithm="fedbabu")]


def lines(figure):
    """The lines of a figure's first axes, by their label."""
    return {line.get_label(): line.get_xydata() for line in figure.axes[0].get_lines()}


def legend(figure):
    axes = figure.axes[0]
    return axes.get_legend().get_title().get_text(), [text.get_text() for text in axes.get_legend().get_texts()]


def test_accuracy_over_rounds(federated):
    drawn = lines(plots.accuracy_over_rounds(federated))
    assert list(drawn) == ["fedavg (seed 7)", "fedbabu (seed 7)"]
    for run, data in zip(federated, drawn.values(), strict=True):
        assert data.tolist() == [[record["round"], record["initial-accuracy"]] for record in run.rounds]


def test_accuracy_over_communication(federated):
    figure = plots.accuracy_over_communication(federated)
    drawn = lines(figure)
    for run, data in zip(federated, drawn.values(), strict=True):
        megabytes = np.cumsum([record["bytes-sent"] + record["bytes-received"] for record in run.rounds]) / 1e6
        np.testing.assert_allclose(data[:, 0], megabytes)
        assert data[:, 1].tolist() == [record["initial-accuracy"] for record in run.rounds]
    fedavg, fedbabu = drawn.values()
    assert fedbabu[-1, 0] < fedavg[-1, 0]  # the head stays at home
    assert "(MB)" in figure.axes[0].get_xlabel()


def test_centralized_accuracy_by_the_trained_part(run):
    runs = [run(**CENTRALIZED, server_part=part) for part in ("", "body", "head")]
    figure = plots.centralized_accuracy(runs)
    assert legend(figure) == ("trained", ["full", "body", "head"])
    for each, data in zip(runs, lines(figure).values(), strict=True):
        assert data.tolist() == [[record["round"], record["test-accuracy"]] for record in each.rounds]


def test_centralized_accuracy_by_the_heads_initialization(run):
    keys = CENTRALIZED | {"algorithm": "fedbabu"}
    runs = [run(**keys, head_init=name) for name in ("he", "orthogonal", "similar")]
    figure = plots.centralized_accuracy(runs)
    title, labels = legend(figure)
    assert title == "head initialized"
    for each, label in zip(runs, labels, strict=True):
        rows = each.model()["head.weight"].double()
        rows /= rows.norm(dim=1, keepdim=True)
        cosines = (rows @ rows.T)[~np.eye(len(rows), dtype=bool)]
        assert label == f"{each.config['head-init']} ({cosines.mean():.3f})"
    assert labels[1] in ("orthogonal (0.000)", "orthogonal (-0.000)")
    assert float(labels[2].split("(")[1][:-1]) > 0.99


def test_accuracy_by_a_key_of_the_run_config(run):
    runs = [run(algorithm=name, shards_per_client=s) for name in ("fedavg", "fedbabu") for s in (2, 5)]
    figure = plots.accuracy_by(runs, "shards-per-client")
    drawn = lines(figure)
    assert list(drawn) == ["fedavg", "fedbabu"]
    for name, data in drawn.items():
        of_algorithm = [each for each in runs if each.config["algorithm"] == name]
        assert data.tolist() == [
            [place, each.summary["accuracy"]["personalized"]["mean"]] for place, each in enumerate(of_algorithm)
        ]
    axes = figure.axes[0]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["2", "5"]
    title = figure.get_suptitle()
    assert "s = " not in title
    assert "f = 0.5" in title


def test_class_accuracy_is_what_the_clients_measure_and_changes_nothing(run):
    keys = {"algorithm": "fedbabu", "iid_test_set": True, "num_local_epochs": 2}
    plain, recorded = run(**keys), run(**keys, record="class-accuracy")
    for name, value in plain.model().items():
        assert value.equal(recorded.model()[name])
    figure = plots.class_accuracy([recorded])
    for axes, kind in zip(figure.axes, ("in-class", "out-of-class"), strict=True):
        curve, broadcast = (line.get_xydata() for line in axes.get_lines())
        assert curve[:, 0].tolist() == [0, 1, 2, 2, 3, 4, 4, 5, 6]
        assert curve[:, 1].tolist() == [value for record in recorded.rounds for value in record[kind]]
        assert broadcast.tolist() == [[2 * index, record[kind][0]] for index, record in enumerate(recorded.rounds)]
    inside, outside = (np.array([record[kind] for record in recorded.rounds]) for kind in ("in-class", "out-of-class"))
    assert (inside[:, -1] > inside[:, 0]).all()  # local updates are for the client's own classes,
    assert (outside[:, -1] < inside[:, -1]).all()


def test_without_images_of_other_classes_there_is_no_accuracy_on_them(run):
    recorded = run(algorithm="fedbabu", record="class-accuracy")
    assert [value for record in recorded.rounds for value in record["out-of-class"]] == [None] * 6
    plots.class_accuracy([recorded])


def test_the_similarity_of_layers_is_the_mean_cosine_of_all_pairs(run, monkeypatch):
    """Beside a computation from the clients' own weights."""
    seen = []

    def watch(model, epochs, directions):
        yield from recording.watch_directions(model, epochs, directions)
        seen.append({name: value.clone() for name, value in model.state_dict().items()})

    monkeypatch.setattr(client_app, "watch_directions", watch)
    recorded = run(algorithm="fedbabu", record="similarity")
    layers = {name for name, value in recorded.model().items() if name.endswith("weight") and value.dim() > 1}
    assert recorded.similarity.keys() == layers
    for name in layers:
        rows = np.array([state[name].flatten().double().numpy() for state in seen])
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        cosines = (rows @ rows.T)[~np.eye(len(rows), dtype=bool)]
        assert len(rows) == 8
        assert recorded.similarity[name][-1] == pytest.approx(cosines.mean(), abs=1e-9)
        assert recorded.similarity[name][0] == pytest.approx(1)  # all start from the global model
        assert len(recorded.similarity[name]) == 3
    figure = plots.layer_similarity([recorded])
    drawn = {line.get_label().lstrip("_"): line.get_ydata().tolist() for line in figure.axes[0].get_lines()}
    assert drawn["head"] == recorded.similarity["head.weight"]
    assert len(drawn) == len(layers)


def test_representations_show_the_features_of_the_classes_asked_for(run):
    recorded = run(algorithm="fedbabu", record="features")
    features, names = recorded.features()
    assert features["train"].shape == (1440, recorded.model()["head.weight"].shape[1])
    assert features["test"].shape[0] == len(features["test-labels"]) == 300
    assert names == {"class-names": [str(digit) for digit in range(10)]}
    figure = plots.representations([recorded], classes=("3", "7"), num_images=100)
    assert [axes.get_title() for axes in figure.axes] == ["fedbabu, train", "fedbabu, test"]
    for axes in figure.axes:
        three, seven = axes.collections
        assert (three.get_label(), seven.get_label()) == ("3", "7")
        assert len(three.get_offsets()) + len(seven.get_offsets()) == (100 if "train" in axes.get_title() else 60)
        centres = [points.get_offsets().mean(axis=0) for points in (three, seven)]
        spread = max(np.std(points.get_offsets(), axis=0).max() for points in (three, seven))
        assert np.linalg.norm(centres[0] - centres[1]) > spread  # the body tells them apart


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"record": "everything"}, "record = 'everything' is not allowed"),
        ({"record": "similarity", "num-finetune-epochs": 0}, "is about fine-tuning"),
        ({"record": "similarity", "algorithm": "ditto"}, "is about fine-tuning"),
    ],
)
def test_what_cannot_be_recorded_is_refused(tmp_path, keys, sentence):
    with pytest.raises(ConfigError, match=sentence):
        run_server(default_run_config() | SMALL | {"results-dir": str(tmp_path)} | keys)


def test_tensorboard_has_the_rounds_scalars_also_of_a_resumed_run(run, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    keys = {"algorithm": "fedbabu", "logger": "tensorboard", "checkpoint_every": 1, "seed": 8}
    append, fails = RunFolder.append_round, iter([False, True])

    def stop_in_the_second(self, record):
        append(self, record)
        if next(fails, False):
            raise KeyboardInterrupt

    monkeypatch.setattr(RunFolder, "append_round", stop_in_the_second)
    with pytest.raises(KeyboardInterrupt):
        run(**keys)
    results = run(seed=9).path.parent
    (stopped,) = (each for each in all_runs(results) if not each.finished)
    again = {"resume": str(stopped.path), "logger": "tensorboard", "results-dir": str(results)}
    finished, _ = run_server(default_run_config() | again)
    assert finished.path == stopped.path
    events = EventAccumulator(str(finished.path / "tensorboard")).Reload()
    assert {"train-loss", "initial-accuracy", "learning-rate", "seconds"} <= set(events.Tags()["scalars"])
    logged = {event.step: event.value for event in events.Scalars("train-loss")}
    assert logged == {record["round"]: pytest.approx(record["train-loss"]) for record in finished.rounds}


def test_a_logger_that_is_not_installed_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("fedbabu.loggers.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"logger = 'tensorboard' is not installed: pip install"):
        run_server(default_run_config() | SMALL | {"results-dir": str(tmp_path), "logger": "tensorboard"})


@pytest.mark.parametrize("number", FIGURES_RUNS)
def test_the_experiment_of_a_figure_names_what_to_draw(number):
    experiment = Experiment.compose([f"experiment=figure{number:02}"])
    assert experiment.figure in plots.FIGURES
    needed = {"class-accuracy": "class-accuracy", "layer-similarity": "similarity"}
    record = needed.get(experiment.figure, "features" if "representations" in experiment.figure else "")
    assert {cell.config["record"] for cell in experiment.cells} == {record}


def test_the_report_draws_the_figure_of_an_experiment(tmp_path, capsys):
    keys = ["run.num-clients=8", "run.num-server-rounds=2", "run.dataset=digits", "run.evaluate-every=1"]
    config = Experiment.compose(["experiment=figure04", *keys, "cells.server-part=body"]).cells[0].config
    run_server(default_run_config() | dict(config) | {"results-dir": str(tmp_path)})
    assert report.main(["experiment=figure04", *keys, f"results-dir={tmp_path}"]) == 0
    assert "cells have runs" in capsys.readouterr().out
    drawn = sorted(path.suffix for path in (tmp_path / "reports").iterdir())
    assert drawn == [".csv", ".md", ".png", ".svg"]
    assert report.main(["experiment=figure04", "figure=nonsense", *keys, f"results-dir={tmp_path}"]) == 1
    assert "figure = 'nonsense' is not allowed" in capsys.readouterr().err
