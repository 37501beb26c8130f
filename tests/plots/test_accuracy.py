"""Figures of the accuracies that every run measures."""

import json
from functools import partial

import numpy as np
import pytest
from matplotlib.container import ErrorbarContainer
from support.figures import check_nothing_is_clipped, dots, hollow_markers, legend_texts, lines, x_labels
from support.run_folders import copy_run, summarize

from fedbabu.plots import style
from fedbabu.plots.accuracy import (
    accuracy_beside_the_paper,
    accuracy_by,
    accuracy_over_clients,
    accuracy_over_communication,
    accuracy_over_finetune_epochs,
    accuracy_over_rounds,
    save_plots,
)
from fedbabu.reproduction.paper import accuracy_by_finetune_epoch
from fedbabu.runs.folder import RunFolder
from fedbabu.runs.records import METRIC_TITLES

METRICS = ("initial", "without-head", "personalized")


def error_bars(figure) -> list[ErrorbarContainer]:
    return [bar for bar in figure.axes[0].containers if bar[0].get_xydata().size]


def test_accuracy_over_rounds(federated):
    drawn = lines(accuracy_over_rounds(federated))
    assert list(drawn) == ["FedAvg", "FedBABU"]
    for run, points in zip(federated, drawn.values(), strict=True):
        assert points.tolist() == [[record.round, record.initial_accuracy] for record in run.rounds]


def test_rounds_without_an_evaluation_have_no_point_and_incomplete_ones_are_marked(federated, tmp_path):
    run = copy_run(federated[0], tmp_path / "run")
    records = run.rounds
    records[0].initial_accuracy = records[0].missing = None
    records[1].missing = {3: "it failed"}
    run.write_rounds(records)
    drawn = lines(accuracy_over_rounds([run]))
    assert drawn["FedAvg"].tolist() == [[record.round, record.initial_accuracy] for record in records[1:]]
    assert drawn["not of all clients"].tolist() == [[2, records[1].initial_accuracy]]


def test_accuracy_over_communication(federated):
    figure = accuracy_over_communication(federated)
    drawn = lines(figure)
    for run, points in zip(federated, drawn.values(), strict=True):
        np.testing.assert_allclose(points[:, 0], np.cumsum(run.communication) / 1e6)
        assert points[:, 1].tolist() == [record.initial_accuracy for record in run.rounds]
    fedavg, fedbabu = drawn.values()
    assert (fedbabu[:, 0] < fedavg[:, 0]).all()  # the head is not sent
    assert "(MB)" in figure.axes[0].get_xlabel()


def test_the_papers_numbers_are_hollow_markers(as_in_the_paper):
    papers = [run.summary["paper"] for run in as_in_the_paper]
    initial = [paper["initial"]["mean"] for paper in papers]
    assert initial == [26.72, 44.39]  # Table 12
    assert hollow_markers(accuracy_over_rounds(as_in_the_paper)) == [[[3, value]] for value in initial]
    assert [points[0][1] for points in hollow_markers(accuracy_over_communication(as_in_the_paper))] == initial
    by_epoch = hollow_markers(accuracy_over_finetune_epochs(as_in_the_paper, accuracy_by_finetune_epoch))
    assert by_epoch == [[[0, paper["initial"]["mean"]], [2, paper["personalized"]["mean"]]] for paper in papers]
    by_s = hollow_markers(accuracy_by(as_in_the_paper[:1], "shards-per-client"))
    assert by_s == [[[0, 85.94]]]  # Table 13
    for draw in (accuracy_over_clients, accuracy_beside_the_paper):
        points = [point for markers in hollow_markers(draw(as_in_the_paper)) for point in markers]
        assert [mean for _, mean in points] == [paper[metric]["mean"] for paper in papers for metric in METRICS]
        assert [round(place) for place, _ in points] == [0, 1, 2] * 2


def test_the_model_whose_accuracies_are_drawn_is_that_of_the_results(federated, tmp_path):
    """With evaluated-round = 'best', that is the model of the best round."""
    best = copy_run(federated[0], tmp_path / "best", evaluated_round="best")
    clients = [client | {"accuracy": [value / 2 for value in client["accuracy"]]} for client in best.clients]
    (best.path / "best-clients.jsonl").write_text("".join(json.dumps(client) + "\n" for client in clients))
    for run, share in ((federated[0], 1), (RunFolder(best.path), 0.5)):
        (points,) = lines(accuracy_over_finetune_epochs([run])).values()
        expected = share * np.mean([client["accuracy"] for client in federated[0].clients], axis=0)
        assert points[:, 1] == pytest.approx(expected)


def test_the_papers_numbers_are_drawn_once_for_all_seeds_of_an_algorithm(as_in_the_paper, tmp_path):
    paper = as_in_the_paper[0].summary["paper"]
    other_seed = summarize(copy_run(as_in_the_paper[0], tmp_path / "other", seed=3), paper)
    runs = [as_in_the_paper[0], other_seed, as_in_the_paper[1]]
    for draw in (accuracy_over_rounds, accuracy_over_clients, accuracy_beside_the_paper):
        drawn = [[mean for _, mean in points] for points in hollow_markers(draw(runs))]
        assert drawn == [[mean for _, mean in points] for points in hollow_markers(draw(as_in_the_paper))]


def test_the_papers_numbers_after_fewer_epochs_are_drawn_if_they_are_given(federated, tmp_path):
    """Table 6 has the accuracies after several numbers of epochs."""
    data = {"name": "cifar100", "num-classes": 100, "num-train-examples": 50_000}
    run = copy_run(
        federated[1], tmp_path / "run", data, model_name="MobileNet", num_clients=100, shards_per_client=10,
        fraction_train=0.1, num_local_epochs=10, num_server_rounds=32, num_finetune_epochs=2, batch_size=50,
    )  # fmt: skip
    run = summarize(run, {metric: {"mean": 1.5, "std": 1.0, "table": 6} for metric in ("initial", "personalized")})
    assert hollow_markers(accuracy_over_finetune_epochs([run])) == []
    by_epoch = hollow_markers(accuracy_over_finetune_epochs([run], accuracy_by_finetune_epoch))
    assert by_epoch == [[[0, 1.5], [1, 63.29], [2, 1.5]]]


def test_without_the_papers_numbers_there_are_no_hollow_markers(federated):
    for draw in (accuracy_over_rounds, accuracy_over_clients, accuracy_over_finetune_epochs):
        figure = draw(federated)
        assert hollow_markers(figure) == []
        assert "Oh et al. (2022)" not in legend_texts(figure)


def test_every_client_is_a_dot(federated):
    figure = accuracy_over_clients(federated)
    expected = [(run, place, values) for run in federated for place, values in enumerate(run.accuracies().values())]
    bars = [line.get_xydata() for line in figure.axes[0].get_lines() if len(line.get_xydata())]
    for (run, place, values), points, bar in zip(expected, dots(figure), bars, strict=True):
        assert len(values) == 8
        assert points[:, 1].tolist() == values.tolist()
        assert (np.round(points[:, 0]) == place).all()
        side = -1 if run is federated[0] else 1
        assert (np.sign(points[:, 0] - place) == side).all()
        np.testing.assert_allclose(bar[:, 1], values.mean())
        assert bar[0, 0] < points[:, 0].min()
        assert bar[1, 0] > points[:, 0].max()
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts == [f"{values.mean():.1f} ± {values.std():.1f}" for _, _, values in expected]
    assert x_labels(figure) == [METRIC_TITLES[metric] for metric in METRICS]


def test_an_algorithm_with_client_states_has_no_initial_accuracy(federated, tmp_path):
    fedper = copy_run(federated[0], tmp_path / "fedper", algorithm="fedper")
    assert [round(points[0, 0]) for points in dots(accuracy_over_clients([fedper]))] == [1, 2]
    bars = error_bars(accuracy_beside_the_paper([fedper]))
    assert [round(bar[0].get_xdata()[0]) for bar in bars] == [1, 2]


def test_accuracy_over_finetune_epochs(federated):
    figure = accuracy_over_finetune_epochs(federated)
    bands = figure.axes[0].collections
    for run, points, band in zip(federated, lines(figure).values(), bands, strict=True):
        accuracy = np.array([client["accuracy"] for client in run.clients])
        np.testing.assert_allclose(points, np.column_stack([range(3), accuracy.mean(axis=0)]))
        edges = band.get_paths()[0].vertices
        for epoch in range(3):
            mean, std = accuracy[:, epoch].mean(), accuracy[:, epoch].std()
            heights = edges[edges[:, 0] == epoch, 1]
            np.testing.assert_allclose([heights.min(), heights.max()], np.clip([mean - std, mean + std], 0, 100))


def test_accuracy_beside_the_paper_has_mean_and_std(federated):
    bars = error_bars(accuracy_beside_the_paper(federated))
    expected = [accuracy for run in federated for accuracy in run.summary["accuracy"].values()]
    for bar, accuracy in zip(bars, expected, strict=True):
        (low, high) = bar[2][0].get_segments()[0][:, 1]
        mean, std = accuracy["mean"], accuracy["std"]
        np.testing.assert_allclose([low, high], np.clip([mean - std, mean + std], 0, 100))


@pytest.fixture(scope="module")
def by_shards(federated, tmp_path_factory):
    """Copies of the federated runs with two values of shards-per-client, and accuracies that tell them apart."""
    folder, runs = tmp_path_factory.mktemp("by-shards"), []
    for run in federated:
        for s in (2, 5):
            copied = copy_run(run, folder / f"{run.config['algorithm']}-{s}", shards_per_client=s)
            text = (copied.path / "clients.jsonl").read_text()
            (copied.path / "clients.jsonl").write_text(text if s == 2 else text.split("\n", 1)[1])
            runs.append(summarize(copied))
    return runs


def test_accuracy_by_a_key_of_the_run_config(by_shards):
    figure = accuracy_by(by_shards, "shards-per-client")
    drawn = lines(figure)
    assert list(drawn) == ["FedAvg", "FedBABU"]
    for name, points in drawn.items():
        means = [
            run.summary["accuracy"]["personalized"]["mean"]
            for run in by_shards
            if run.config["algorithm"] == name.lower()
        ]
        assert points.tolist() == [[place, mean] for place, mean in enumerate(means)]
    assert x_labels(figure) == ["2", "5"]
    assert "s = " not in figure.get_suptitle()
    assert "f = 0.25" in figure.get_suptitle()


def test_accuracy_by_a_key_is_the_mean_over_seeds(by_shards, tmp_path):
    first, second = by_shards[:2]
    head = [copy_run(run, tmp_path / f"{seed}", finetune_part="head", seed=seed, shards_per_client=2)
            for seed, run in enumerate((first, second))]  # fmt: skip
    body = copy_run(first, tmp_path / "body", finetune_part="body")
    figure = accuracy_by([*head, body], "finetune-part")
    means = [run.summary["accuracy"]["personalized"]["mean"] for run in [*head, body]]
    np.testing.assert_allclose(lines(figure)["FedAvg"], [[0, means[2]], [1, np.mean(means[:2])]])
    assert x_labels(figure) == ["body", "head"]
    assert figure.axes[0].get_lines()[0].get_linestyle() == "None"  # there is nothing between words


def test_the_figures_of_a_run_are_saved_with_the_papers_numbers_that_are_given(federated, tmp_path, monkeypatch):
    run, drawn = copy_run(federated[0], tmp_path / "run"), []
    monkeypatch.setattr(style, "save_figure", lambda figure, path: drawn.append((path.name, figure)))
    save_plots(run, lambda run: {1: 50.0})
    assert len(drawn) == 6
    assert hollow_markers(dict(drawn)["accuracy_over_finetune_epochs.svg"]) == [[[1, 50.0]]]


def test_nothing_is_clipped(federated, as_in_the_paper):
    for draw in (
        accuracy_over_rounds,
        accuracy_over_clients,
        accuracy_over_communication,
        accuracy_over_finetune_epochs,
        accuracy_beside_the_paper,
        partial(accuracy_by, varied_key="shards-per-client"),
        partial(accuracy_by, varied_key="finetune-part"),
    ):
        for runs in (as_in_the_paper, federated * 7):
            check_nothing_is_clipped(draw(runs))
