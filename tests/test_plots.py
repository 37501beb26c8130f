"""Every figure shows what the run folder says: the data behind the axes, not pixels."""

import json
import re
import shutil
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest
import torch
from in_process import run_server
from matplotlib.container import ErrorbarContainer
from notebooks import NOTEBOOK, execute_notebook, text_of
from PIL import Image

from fedbabu import client_app, plots
from fedbabu import show_partition as partition
from fedbabu.config import default_run_config
from fedbabu.errors import ConfigError
from fedbabu.reproduction import report
from fedbabu.reproduction.experiment import Experiment
from fedbabu.reproduction.paper import find_cells
from fedbabu.runs.folder import RunFolder, all_runs
from fedbabu.training import diagnostics as recording

SMALL = {
    "dataset": "digits", "num-clients": 8, "fraction-train": 0.5, "num-server-rounds": 3, "num-local-epochs": 1,
    "num-finetune-epochs": 2, "batch-size": 40, "evaluate-every": 1, "seed": 7,
}  # fmt: skip
CENTRALIZED = {"algorithm": "fedavg", "fraction-train": 0.0, "server-data-fraction": 1.0, "num-finetune-epochs": 0}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    results = str(tmp_path_factory.mktemp("results"))
    done = {}

    def run(**keys):
        """A run of SMALL with other keys; one that there is already, if they are the same."""
        given = {key.replace("_", "-"): value for key, value in keys.items()}
        name = json.dumps(given, sort_keys=True)
        if name not in done:
            done[name] = run_server(default_run_config() | SMALL | {"results-dir": results} | given)[0]
        return done[name]

    return run


@pytest.fixture(scope="module")
def federated(run):
    return [run(algorithm="fedavg"), run(algorithm="fedbabu")]


def lines(figure):
    """The lines of a figure's first axes, by their label."""
    return {line.get_label(): line.get_xydata() for line in figure.axes[0].get_lines()}


def hollow(figure):
    """The data of the paper's markers in a figure's first axes."""
    drawn = [line for line in figure.axes[0].get_lines() if line.get_markerfacecolor() == "white"]
    return [line.get_xydata().tolist() for line in drawn if len(line.get_xydata())]


def legend(figure):
    axes = figure.axes[0]
    return axes.get_legend().get_title().get_text(), [text.get_text() for text in axes.get_legend().get_texts()]


def test_accuracy_over_rounds(federated):
    drawn = lines(plots.accuracy_over_rounds(federated))
    assert list(drawn) == ["fedavg", "fedbabu"]
    for run, data in zip(federated, drawn.values(), strict=True):
        assert data.tolist() == [[record["round"], record["initial-accuracy"]] for record in run.rounds]


@pytest.fixture(scope="module")
def as_in_the_paper(federated, tmp_path_factory):
    """Runs that the paper has cells for: small ones under another name."""
    runs = []
    for run in federated:
        folder = tmp_path_factory.mktemp("results") / run.path.name
        shutil.copytree(run.path, folder)
        recorded = json.loads((folder / "config.json").read_text())
        setting = {"dataset": "cifar10", "num-clients": 100, "fraction-train": 0.1, "num-local-epochs": 4}
        setting |= {"num-server-rounds": 80, "num-finetune-epochs": 5, "batch-size": 50}
        rows = run.clients
        for row in rows:  # which was fine-tuned for five epochs
            row["accuracy"] = np.linspace(row["accuracy"][0], row["accuracy"][-1], 6).tolist()
        (folder / "clients.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        recorded["run-config"] |= setting
        recorded["dataset"] |= {"name": "cifar10", "num-train-examples": 50000}
        (folder / "config.json").write_text(json.dumps(recorded))
        runs.append(RunFolder(folder))
        runs[-1].summarize({})
        runs[-1].write_summary()
    return runs


def test_the_papers_numbers_are_hollow_markers(as_in_the_paper):
    papers = [find_cells(run.config, run.dataset) for run in as_in_the_paper]
    initial = [of_run["initial"].mean for of_run in papers]
    assert initial == [26.72, 44.39]  # Table 12
    assert hollow(plots.accuracy_over_rounds(as_in_the_paper)) == [[[3, value]] for value in initial]
    assert [points[0][1] for points in hollow(plots.accuracy_over_communication(as_in_the_paper))] == initial
    drawn = hollow(plots.accuracy_over_finetune_epochs(as_in_the_paper))
    assert drawn == [[[0, of_run["initial"].mean], [5, of_run["personalized"].mean]] for of_run in papers]
    (by_s,) = {tuple(map(tuple, points)) for points in hollow(plots.accuracy_by_heterogeneity(as_in_the_paper[:1]))}
    assert by_s == ((0, 85.94),)  # Table 13
    for draw in (plots.accuracy_over_clients, plots.accuracy_beside_the_paper):
        places = [point[0] for points in hollow(draw(as_in_the_paper)) for point in points]
        means = [point[1] for points in hollow(draw(as_in_the_paper)) for point in points]
        metrics = ("initial", "without-head", "personalized")
        assert means == [of_run[metric].mean for of_run in papers for metric in metrics]
        assert [round(place) for place in places] == [0, 1, 2] * 2


def test_without_the_papers_numbers_there_are_no_hollow_markers(federated):
    for draw in (plots.accuracy_over_rounds, plots.accuracy_over_clients, plots.accuracy_over_finetune_epochs):
        figure = draw(federated)
        assert hollow(figure) == []
        for legend in [*figure.legends, figure.axes[0].get_legend()]:
            assert legend is None or "the paper's" not in [text.get_text() for text in legend.get_texts()]


def test_every_client_is_a_dot(federated):
    figure = plots.accuracy_over_clients(federated)
    axes = figure.axes[0]
    dots = [points.get_offsets().data for points in axes.collections if len(points.get_offsets())]
    expected = [(run, place, values) for run in federated for place, values in enumerate(run.accuracies().values())]
    bars = [line.get_xydata() for line in axes.get_lines() if len(line.get_xydata())]
    for (run, place, values), points, bar in zip(expected, dots, bars, strict=True):
        assert len(values) == 8
        assert points[:, 1].tolist() == values.tolist()
        assert (np.round(points[:, 0]) == place).all()
        side = -1 if run is federated[0] else 1
        assert (np.sign(points[:, 0] - place) == side).all()
        np.testing.assert_allclose(bar[:, 1], values.mean())
        assert bar[0, 0] < points[:, 0].min()
        assert bar[1, 0] > points[:, 0].max()
    texts = [text.get_text() for text in axes.texts]
    assert texts == [f"{values.mean():.1f} ± {values.std():.1f}" for _, _, values in expected]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["Initial", "Without head", "Personalized"]


def test_an_algorithm_that_keeps_a_part_has_no_initial_accuracy(run):
    kept = run(algorithm="fedper")
    axes = plots.accuracy_over_clients([kept]).axes[0]
    dots = [points.get_offsets() for points in axes.collections if len(points.get_offsets())]
    assert [round(float(points[0, 0])) for points in dots] == [1, 2]
    bars = [drawn for drawn in plots.accuracy_beside_the_paper([kept]).axes[0].containers if drawn[0].get_xydata().size]
    assert [round(drawn[0].get_xdata()[0]) for drawn in bars] == [1, 2]


def test_accuracy_over_finetune_epochs(federated):
    figure = plots.accuracy_over_finetune_epochs(federated)
    bands = figure.axes[0].collections
    for run, data, band in zip(federated, lines(figure).values(), bands, strict=True):
        accuracy = np.array([row["accuracy"] for row in run.clients])
        np.testing.assert_allclose(data, np.column_stack([range(3), accuracy.mean(axis=0)]))
        edges = band.get_paths()[0].vertices
        for epoch in range(3):
            mean, std = accuracy[:, epoch].mean(), accuracy[:, epoch].std()
            of_epoch = edges[edges[:, 0] == epoch, 1]
            np.testing.assert_allclose([of_epoch.min(), of_epoch.max()], [mean - std, mean + std])


def test_accuracy_beside_the_paper_has_mean_and_std(federated):
    axes = plots.accuracy_beside_the_paper(federated).axes[0]
    bars = [drawn for drawn in axes.containers if isinstance(drawn, ErrorbarContainer) and drawn[0].get_xydata().size]
    expected = [of for run in federated for of in run.summary["accuracy"].values()]
    for bar, of in zip(bars, expected, strict=True):
        (low, high) = bar[2][0].get_segments()[0][:, 1]
        np.testing.assert_allclose([low, high], [of["mean"] - of["std"], of["mean"] + of["std"]])


def test_labels_have_what_tells_the_runs_apart(run, federated):
    other = run(algorithm="fedbabu", seed=3)
    assert list(lines(plots.accuracy_over_rounds([federated[1], other]))) == ["fedbabu, seed 7", "fedbabu, seed 3"]
    held, held_less = (run(algorithm="fedprox", proximal_mu=mu) for mu in (0.01, 0.001))
    assert list(lines(plots.accuracy_over_rounds([held, held_less]))) == ["fedprox", "fedprox, proximal-mu = 0.001"]


def test_no_two_of_many_lines_look_alike():
    looks = plots.style.looks(30)
    assert len({(look["color"], look["linestyle"], look["marker"]) for look in looks}) == 30
    assert len({look["marker"] for look in looks[:12]}) == 12  # in grey


def test_a_run_from_before_a_key_was_there_is_drawn(federated, tmp_path):
    shutil.copytree(federated[0].path, tmp_path / "old")
    recorded = json.loads((tmp_path / "old" / "config.json").read_text())
    for key in ("finetune-part", "partition", "record", "iid-test-set", "server-data-fraction", "head-init"):
        del recorded["run-config"][key]
    (tmp_path / "old" / "config.json").write_text(json.dumps(recorded))
    old = RunFolder(tmp_path / "old")
    for name in plots.FIGURES:
        for figure in plots.figures(name, [old]):
            assert figure.get_suptitle()
    (figure,) = plots.figures("accuracy-by-finetuned-part", [old])
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["full"]
    assert plots.setting_title(old) == plots.setting_title(federated[0])


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
    figure = plots.centralized_by_part(runs)
    assert legend(figure) == ("trained", ["full", "body", "head"])
    for each, data in zip(runs, lines(figure).values(), strict=True):
        assert data.tolist() == [[record["round"], record["test-accuracy"]] for record in each.rounds]


def test_centralized_accuracy_by_the_heads_initialization(run):
    runs = [run(**CENTRALIZED, server_part="body", head_init=name) for name in ("he", "orthogonal", "similar")]
    figure = plots.centralized_by_head_init(runs)
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
    figure = plots.accuracy_by_heterogeneity(runs)
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


def test_accuracy_by_a_key_is_the_mean_over_seeds(run):
    runs = [run(algorithm="fedavg", finetune_part=part, seed=seed) for part in ("head", "body") for seed in (1, 2)]
    figure = plots.accuracy_by_finetuned_part(runs)
    means = [each.summary["accuracy"]["personalized"]["mean"] for each in runs]
    expected = [[0, np.mean(means[2:])], [1, np.mean(means[:2])]]
    np.testing.assert_allclose(lines(figure)["fedavg"], expected)
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["body", "head"]
    assert figure.axes[0].get_lines()[0].get_linestyle() == "None"  # there is nothing between words


def test_a_figure_for_every_setting_of_the_runs_that_have_what_it_takes(run, federated):
    centralized = [run(**CENTRALIZED, server_part=part) for part in ("", "body", "head")]
    similar = run(**CENTRALIZED, server_part="body", head_init="similar")
    recorded = run(algorithm="fedbabu", record="similarity features")
    two_s = [run(algorithm="fedavg", shards_per_client=s) for s in (5, 10)]
    slower = run(algorithm="fedavg", learning_rate=0.05)
    longer = run(algorithm="fedavg", num_finetune_epochs=3)
    runs = [*federated, *centralized, similar, recorded, *two_s, slower, longer]

    def drawn(name):
        return [[line.get_label() for line in figure.axes[0].get_lines()] for figure in plots.figures(name, runs)]

    assert drawn("centralized-by-part") == [["full", "body", "head"]]  # and not the other initialization alone
    ((he, other),) = drawn("centralized-by-head-init")
    assert (he.split(" ")[0], other.split(" ")[0]) == ("he", "similar")
    assert len(drawn("layer-similarity")) == len(drawn("representations")) == 1
    assert drawn("class-accuracy") == drawn("vehicle-representations") == []
    of_settings = list(plots.figures("accuracy-over-finetune-epochs", runs))
    # The newer FedBABU run, with the same numbers, is there in the place of the older.
    assert [list(lines(figure)) for figure in of_settings] == [["fedavg", "fedbabu"], *[["fedavg"]] * 4]
    titles = [figure.get_suptitle() for figure in of_settings]
    assert len(set(titles)) == 5
    assert titles[3] == titles[0].replace("batch-size", "learning-rate = 0.05, batch-size")
    assert titles[4] == titles[0].replace("τ_f = 2", "τ_f = 3")
    (by_s,) = plots.figures("accuracy-by-heterogeneity", runs)
    assert lines(by_s)["fedavg"][:, 0].tolist() == [0, 1, 2]
    assert lines(by_s)["fedbabu"][:, 0].tolist() == [0]
    alone = plots.figures("accuracy-by-heterogeneity", [slower, longer])
    assert [lines(figure)["fedavg"][:, 0].tolist() for figure in alone] == [[0], [0]]


def within(figure):
    """Nothing is clipped: what is drawn reaches the edge of no picture, and no legend is over a line's points."""
    figure.draw_without_rendering()
    box, whole = figure.get_tightbbox(), figure.bbox_inches
    assert whole.x0 <= box.x0 < box.x1 <= whole.x1, figure.get_suptitle()
    assert whole.y0 <= box.y0 < box.y1 <= whole.y1, figure.get_suptitle()
    for axes in figure.axes:
        if axes.get_legend():
            covered = axes.get_legend().get_window_extent()
            for line in axes.get_lines():
                if line.get_transform() == axes.transData and len(line.get_xydata()):
                    points = axes.transData.transform(line.get_xydata())
                    assert not covered.count_contains(points[np.isfinite(points).all(axis=1)]), figure.get_suptitle()


def test_every_label_and_legend_is_within_the_figure_and_not_over_data(run, federated, as_in_the_paper):
    many = [*federated, *[run(algorithm=name) for name in ("fedper", "fedprox", "ditto")]]
    recorded = [
        run(algorithm=name, record="similarity class-accuracy features", iid_test_set=True)
        for name in ("fedavg", "fedbabu")
    ]
    centralized = [run(**CENTRALIZED, server_part=part) for part in ("", "body", "head")]
    drawn = [
        draw(runs)
        for draw in (
            plots.accuracy_over_rounds,
            plots.accuracy_over_clients,
            plots.accuracy_over_communication,
            plots.accuracy_over_finetune_epochs,
            plots.accuracy_beside_the_paper,
            plots.accuracy_by_heterogeneity,
            plots.accuracy_by_finetuned_part,
        )
        for runs in (federated, as_in_the_paper, many, many * 3)
    ]
    names = ("class-accuracy", "layer-similarity", "representations")
    drawn += [figure for name in names for figure in plots.figures(name, recorded)]
    drawn += [figure for name in plots.FIGURES for figure in plots.figures(name, centralized)]
    drawn += [plots.layer_similarity(recorded * 3), plots.clients_and_classes_of(federated[0])]
    for figure in drawn:
        within(figure)


def test_ours_and_the_papers_are_at_the_same_place(tmp_path):
    values = [("fedavg", 80.0, 5.0, 85.94, 10.72), ("fedbabu", 88.0, 8.0, 87.85, 8.57), ("ditto", None, None, 1.0, 2.0)]
    entries = [
        SimpleNamespace(
            of={"algorithm": name, "metric": "personalized"},
            mean=mean,
            std=std,
            paper_mean=paper,
            paper_std=paper_std,
            num_clients=100,
        )
        for name, mean, std, paper, paper_std in values
    ]
    axes = plots.ours_and_the_papers("Table 13", entries).axes[0]
    for bar, (name, mean, std, paper, paper_std) in zip(axes.containers, values[:2], strict=True):
        assert bar.get_label() == name
        assert bar[0].get_xydata().tolist() == [[paper, mean]]
        across, up = (lines.get_segments()[0] for lines in bar[2])
        np.testing.assert_allclose(across[:, 0], [paper - paper_std / 5, paper + paper_std / 5])
        np.testing.assert_allclose(up[:, 1], [mean - std / 5, mean + std / 5])


def test_the_notebook_draws_all_that_runs_recorded(run):
    recorded = {"record": "similarity class-accuracy features", "iid_test_set": True}
    for name in ("fedavg", "fedbabu"):
        results = run(algorithm=name, **recorded).path.parent
    for part in ("", "body", "head"):
        run(**CENTRALIZED, server_part=part)
    run(**CENTRALIZED, server_part="body", head_init="similar")
    folder = results.parent / "notebook"
    folder.mkdir()
    (folder / "results").symlink_to(results)
    text = execute_notebook(folder)
    assert text.count("No run") == 1  # with vehicles: digits are none
    assert text.count("<image/png>") >= 11


def test_the_committed_notebook_has_the_pictures_of_real_runs():
    assert NOTEBOOK.stat().st_size < 2e6
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert all(cell.outputs for cell in notebook.cells if cell.cell_type == "code")
    text = text_of(notebook)
    assert text.count("<image/png>") >= 11
    assert "over 100 clients" in text
    assert "No run" not in text
    outputs = json.dumps([cell.get("outputs") for cell in notebook.cells])
    assert not re.search(r"/(tmp|home|work|root|Users)/", outputs)  # of the machine where it was made


def test_class_accuracy_is_what_the_clients_measure_and_changes_nothing(run):
    keys = {"algorithm": "fedbabu", "iid_test_set": True, "num_local_epochs": 2}
    plain, recorded = run(**keys), run(**keys, record="class-accuracy")
    for name, value in plain.model().items():
        assert value.equal(recorded.model()[name])
    figure = plots.class_accuracy([recorded])
    for axes, kind in zip(figure.axes, ("in-class", "out-of-class"), strict=True):
        curve, broadcast = (line.get_xydata() for line in axes.get_lines())
        assert axes.get_lines()[1].get_linestyle() == "None"
        assert curve[:, 0].tolist() == [0, 1, 2, 2, 3, 4, 4, 5, 6]
        assert curve[:, 1].tolist() == [value for record in recorded.rounds for value in record[kind]]
        assert broadcast.tolist() == [[2 * index, record[kind][0]] for index, record in enumerate(recorded.rounds)]
    inside, outside = (np.array([record[kind] for record in recorded.rounds]) for kind in ("in-class", "out-of-class"))
    assert (inside[:, -1] > inside[:, 0]).all()  # local updates are for the client's own classes,
    assert (outside[:, -1] < inside[:, -1]).all()


def test_without_images_of_other_classes_there_is_no_accuracy_on_them(run):
    recorded = run(algorithm="fedbabu", record="class-accuracy")
    assert [value for record in recorded.rounds for value in record["out-of-class"]] == [None] * 6
    assert [axes.get_title() for axes in plots.class_accuracy([recorded]).axes] == ["Classes that the client has"]


def test_the_mean_of_clients_is_of_those_that_have_such_images():
    of_clients = np.array([[10.0, np.nan, np.nan], [30.0, 50.0, np.nan]])
    assert recording.mean_of_known(of_clients) == [20.0, 50.0, None]


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
        assert recorded.similarity[name][-1] == pytest.approx(cosines.mean(), abs=1e-6)
        assert recorded.similarity[name][0] == pytest.approx(1)  # all start from the global model
        assert len(recorded.similarity[name]) == 3
    figure = plots.layer_similarity([recorded])
    drawn = figure.axes[0].get_lines()
    assert [line.get_ydata().tolist() for line in drawn] == list(recorded.similarity.values())
    assert [line.get_xdata().tolist() for line in drawn] == [[0, 1, 2]] * len(layers)
    assert drawn[-1].get_label() == "head"
    assert lines(figure)["first layer of the body"][:, 1].tolist() == recorded.similarity["body.0.0.weight"]


def test_representations_show_the_features_of_the_classes_asked_for(run):
    recorded = run(algorithm="fedbabu", record="features")
    features, names = recorded.features()
    assert features["train"].shape == (1440, recorded.model()["head.weight"].shape[1])
    assert features["test"].shape[0] == len(features["test-labels"]) == 300
    assert names == {"class-names": [str(digit) for digit in range(10)]}
    figure = plots.representations([recorded], classes=("3", "7"), num_images=100)
    assert [axes.get_title() for axes in figure.axes] == ["fedbabu, 100 training images", "fedbabu, 60 test images"]
    for axes in figure.axes:
        three, seven = axes.collections
        assert (three.get_label(), seven.get_label()) == ("3", "7")
        assert len(three.get_offsets()) + len(seven.get_offsets()) == (100 if "training" in axes.get_title() else 60)
        centres = [points.get_offsets().mean(axis=0) for points in (three, seven)]
        spread = max(np.std(points.get_offsets(), axis=0).max() for points in (three, seven))
        assert np.linalg.norm(centres[0] - centres[1]) > spread  # the body tells them apart


def with_features(run, folder, name, num_classes, names, num_images):
    """A run folder of another dataset, with random features of as many images a split."""
    shutil.copytree(run.path, folder)
    recorded = json.loads((folder / "config.json").read_text())
    recorded["dataset"] |= {"name": name, "num-classes": num_classes}
    (folder / "config.json").write_text(json.dumps(recorded))
    features = {split: torch.randn(num_images, 8) for split in ("train", "test")}
    labels = {f"{split}-labels": torch.arange(num_images) % num_classes for split in ("train", "test")}
    found = RunFolder(folder)
    found.write_features(features | labels, names)
    return found


def test_vehicles_are_the_classes_of_figure_16(federated, tmp_path):
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    run = with_features(federated[0], tmp_path / "run", "cifar10", 10, {"class-names": names}, 100)
    (figure,) = plots.figures("vehicle-representations", [run])
    for axes in figure.axes:
        assert [points.get_label() for points in axes.collections] == ["airplane", "automobile", "ship", "truck"]
        assert [len(points.get_offsets()) for points in axes.collections] == [10] * 4
    markers = {points.get_paths()[0].vertices.tobytes() for points in figure.axes[0].collections}
    assert len(markers) == 4  # told apart in grey
    with pytest.raises(ValueError, match=r"The classes \['lorry'\] are not among those of the run: airplane"):
        plots.representations([run], classes=("lorry", "truck"))


def test_too_many_classes_are_shown_by_superclass_or_in_columns(federated, tmp_path):
    names = {
        "class-names": [str(number) for number in range(100)],
        "superclasses": [f"super {n % 20}" for n in range(100)],
    }
    of_super = with_features(federated[0], tmp_path / "super", "cifar100", 100, names, 200)
    figure = plots.representations([of_super])
    assert [len(points.get_offsets()) for points in figure.axes[0].collections] == [10] * 20
    plain = with_features(
        federated[0], tmp_path / "plain", "letters", 62, {"class-names": names["class-names"][:62]}, 20
    )
    figure = plots.representations([plain])  # and of fewer images than t-SNE has neighbours by default
    assert len(figure.axes[0].collections) == 62
    within(figure)


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"record": "everything"}, "record = 'everything' is not allowed"),
        ({"record": "similarity", "num-finetune-epochs": 0}, "is about fine-tuning"),
        ({"record": "similarity", "algorithm": "ditto"}, "is about fine-tuning"),
        ({"record": "features", "algorithm": "local-only"}, "is about the global body"),
        ({"record": "class-accuracy", **CENTRALIZED}, "is about local training"),
    ],
)
def test_what_cannot_be_recorded_is_refused(tmp_path, keys, sentence):
    with pytest.raises(ConfigError, match=sentence):
        run_server(default_run_config() | SMALL | {"results-dir": str(tmp_path)} | keys)


def test_tensorboard_has_the_runs_scalars_also_of_a_resumed_run(run, monkeypatch):
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
    for metric, of in finished.summary["accuracy"].items():
        (final,) = events.Scalars(f"final/{metric}")
        assert (final.step, final.value) == (3, pytest.approx(of["mean"]))


def test_a_logger_that_is_not_installed_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("fedbabu.runs.loggers.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"logger = 'tensorboard' is not installed: pip install"):
        run_server(default_run_config() | SMALL | {"results-dir": str(tmp_path), "logger": "tensorboard"})


def test_clients_and_classes_are_what_the_partition_says(tmp_path, capsys):
    """Figures 10, 11 and 14."""
    train = np.array([[5, 0, 1], [0, 7, 2]])
    test = np.array([[1, 0, 1], [0, 3, 0]])
    figure = plots.clients_and_classes({"train": train, "test": test}, "Who has what", ["a", "b", "c"])
    for axes, counts in zip(figure.axes, (train, test), strict=False):
        (image,) = axes.get_images()
        assert image.get_array().filled(0).T.tolist() == counts.tolist()
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["a", "b", "c"]
    grouped = plots.clients_and_classes({"train": train, "test": test}, "", None, ["x", "y", "x"])
    assert grouped.axes[0].get_images()[0].get_array().filled(0).T.tolist() == train[:, [0, 2, 1]].tolist()
    assert [text.get_text() for text in grouped.axes[0].get_yticklabels()] == ["x", "y"]
    ticks = plots.clients_and_classes({"train": train, "test": test}, "").axes[0].get_yticks()
    assert (ticks == ticks.round()).all()  # there is no class between two
    for ending in ("png", "svg"):
        keys = "dataset='digits' partition='dirichlet' num-clients=5"
        partition.main(["--run-config", keys, "--output", str(tmp_path / f"some.{ending}")])
    assert Image.open(tmp_path / "some.png").width > 1000
    assert "<svg" in (tmp_path / "some.svg").read_text()


def test_a_runs_partition_can_be_drawn_again(federated):
    figure = plots.clients_and_classes_of(federated[0])
    counts = figure.axes[0].get_images()[0].get_array().filled(0).T
    for row, of_client in zip(federated[0].clients, counts, strict=True):
        assert of_client.sum() == row["num-train-examples"]
        assert np.flatnonzero(of_client).tolist() == row["classes"]


BY_PART, BY_INIT = "centralized-by-part", "centralized-by-head-init"
BOTH = {("cifar10", "FourConvNet", 32), ("cifar100", "MobileNet", 32)}


@pytest.mark.parametrize(
    ("name", "figure", "record", "setups"),
    [
        ("figure02", BY_PART, "", {("cifar100", "MobileNet", 160)}),
        ("figure03", BY_INIT, "", {("cifar100", "MobileNet", 160)}),
        ("figure04", BY_PART, "", {("cifar10", "FourConvNet", 160)}),
        ("figure05", BY_INIT, "", {("cifar10", "FourConvNet", 160)}),
        ("figure06", BY_PART, "", {("cifar100", "ResNet18", 160)}),
        ("figure07", BY_INIT, "", {("cifar100", "ResNet18", 160)}),
        ("figure08", BY_PART, "", {("cifar100", "ResNet50", 160)}),
        ("figure09", BY_INIT, "", {("cifar100", "ResNet50", 160)}),
        ("figure12", "layer-similarity", "similarity", {("cifar100", "MobileNet", 32)}),
        ("figure13", "class-accuracy", "class-accuracy", {("cifar100", "MobileNet", 32)}),
        ("figure15", "representations", "features", BOTH),
        (
            "figure16",
            "vehicle-representations",
            "features",
            {("cifar10", "FourConvNet", 32), ("cifar100", "MobileNet", 32)},
        ),
        ("table04", "accuracy-by-finetuned-part", "", {("cifar100", "MobileNet", K) for K in (320, 80, 32)}),
        ("table05", "accuracy-by-heterogeneity", "", {("cifar100", "MobileNet", K) for K in (320, 80, 32)}),
        ("table06", "accuracy-over-finetune-epochs", "", {("cifar100", "MobileNet", 32)}),
        ("table13", "accuracy-by-heterogeneity", "", {("cifar10", "FourConvNet", K) for K in (320, 80, 32)}),
    ],
)
def test_an_experiment_names_what_to_draw_of_runs_that_record_it(name, figure, record, setups):
    experiment = Experiment.compose([f"experiment={name}"])
    assert experiment.figure == figure
    assert figure in plots.FIGURES
    configs = [cell.config for cell in experiment.cells]
    assert {config["record"] for config in configs} == {record}
    assert {(config["dataset"], config["model-name"], config["num-server-rounds"]) for config in configs} == setups
    if figure in (BY_PART, BY_INIT):
        varied = "server-part" if figure == BY_PART else "head-init"
        assert [config[varied] for config in configs] == {
            BY_PART: ["full", "body", "head"],
            BY_INIT: ["he", "xavier-uniform", "xavier-normal", "orthogonal", "similar"],
        }[figure]
        assert figure == BY_PART or {config["server-part"] for config in configs} == {"body"}


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
