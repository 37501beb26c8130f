"""The paper's own figures, of runs with diagnostics."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.figures import check_nothing_is_clipped, lines
from support.run_folders import copy_run

from fedbabu.plots import paper_figures
from fedbabu.plots.paper_figures import VEHICLES


def test_centralized_accuracy_by_the_trained_part(centralized):
    figure = paper_figures.centralized(centralized, "server-part")
    assert figure.axes[0].get_legend().get_title().get_text() == "trained"
    drawn = lines(figure)
    assert list(drawn) == ["full", "body", "head"]
    for run, points in zip(centralized, drawn.values(), strict=True):
        assert points.tolist() == [[record.round, record.test_accuracy] for record in run.rounds]


def test_centralized_accuracy_by_the_heads_initialization(by_head_init):
    figure = paper_figures.centralized(by_head_init, "head-init")
    assert figure.axes[0].get_legend().get_title().get_text() == "head initialized"
    labels = list(lines(figure))
    for run, label in zip(by_head_init, labels, strict=True):
        rows = run.model()["head.weight"].double()
        rows /= rows.norm(dim=1, keepdim=True)
        cosines = (rows @ rows.T)[~np.eye(len(rows), dtype=bool)]
        assert label in {f"{run.config['head-init']} ({cosines.mean() + zero:.3f})" for zero in (0.0, 1e-9)}
    assert labels[1] == "orthogonal (0.000)"
    assert float(labels[2].split("(")[1][:-1]) > 0.99


def test_class_accuracy_is_that_of_all_local_epochs(diagnosed):
    run = diagnosed[1]
    figure = paper_figures.class_accuracy([run])
    for axes, kind in zip(figure.axes, ("in_class", "out_of_class"), strict=True):
        curve, received = (line.get_xydata() for line in axes.get_lines())
        assert axes.get_lines()[1].get_linestyle() == "None"
        assert curve[:, 0].tolist() == [0, 1, 2, 2, 3, 4, 4, 5, 6]
        assert curve[:, 1].tolist() == [value for record in run.rounds for value in getattr(record, kind)]
        assert received.tolist() == [[2 * index, getattr(record, kind)[0]] for index, record in enumerate(run.rounds)]
    inside, outside = (np.array([getattr(r, kind) for r in run.rounds]) for kind in ("in_class", "out_of_class"))
    assert (inside[:2, -1] > inside[:2, 0]).all()  # local training is for the client's classes,
    assert (outside[:, -1] < inside[:, -1]).all()  # until the learning rate falls


def test_without_images_of_other_classes_there_is_no_accuracy_on_them(federated, tmp_path):
    """As where a node has local data, with images of its own classes alone."""
    run, num_test = copy_run(federated[1], tmp_path / "run"), 300
    assert all(value is not None for record in run.rounds for value in record.out_of_class)
    assert sum(client["num-test-examples"] for client in run.clients) == num_test
    run.write_rounds([replace(record, out_of_class=[None] * len(record.in_class)) for record in run.rounds])
    assert [axes.get_title() for axes in paper_figures.class_accuracy([run]).axes] == ["Classes that the client has"]


def test_diagnostics_do_not_change_a_run(federated, diagnosed):
    for one, other in zip(federated, diagnosed, strict=True):
        assert all(value.equal(other.model()[name]) for name, value in one.model().items())


def test_the_similarity_of_layers_is_the_mean_cosine_of_all_pairs(diagnosed, fine_tuned_states):
    """Compared with a computation from the fine-tuned parameters of the clients."""
    run = diagnosed[1]
    layers = {name for name, value in run.model().items() if name.endswith("weight") and value.dim() > 1}
    assert run.similarity.keys() == layers
    for name in layers:
        # The eight clients with the last round's model; those with the best round's, if it is another, come after.
        rows = np.array([state[name].flatten() for state in fine_tuned_states[:8]])
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        cosines = (rows @ rows.T)[~np.eye(len(rows), dtype=bool)]
        assert run.similarity[name][-1] == pytest.approx(cosines.mean(), abs=1e-6)
        assert run.similarity[name][0] == pytest.approx(1)  # all start from the global model
        assert len(run.similarity[name]) == 3


def test_how_far_layers_are_apart_is_drawn_over_epochs(diagnosed):
    run = diagnosed[1]
    figure = paper_figures.layer_similarity([run])
    drawn = figure.axes[0].get_lines()
    for line, cosines in zip(drawn, run.similarity.values(), strict=True):
        assert line.get_xdata().tolist() == [1, 2]  # before the first epoch, all clients have the same weights
        np.testing.assert_allclose(1 - line.get_ydata(), cosines[1:])
    assert figure.axes[0].get_yscale() == "log"
    assert drawn[-1].get_label() == "head"
    first = lines(figure)["first layer of the body"][:, 1]
    np.testing.assert_allclose(1 - first, run.similarity["body.0.0.weight"][1:])


def test_representations_show_the_features_of_the_wanted_classes(diagnosed):
    run = diagnosed[1]
    features, names = run.features()
    assert features["train"].shape == (1440, run.model()["head.weight"].shape[1])
    assert features["test"].shape[0] == len(features["test-labels"]) == 300
    assert names == {"class-names": [str(digit) for digit in range(10)]}
    figure = paper_figures.representations([run], classes=("3", "7"), num_images=100)
    assert [axes.get_title() for axes in figure.axes] == ["FedBABU, 100 training images", "FedBABU, 60 test images"]
    for axes in figure.axes:
        three, seven = axes.collections
        assert (three.get_label(), seven.get_label()) == ("3", "7")
        assert len(three.get_offsets()) + len(seven.get_offsets()) == (100 if "training" in axes.get_title() else 60)
        centres = [points.get_offsets().mean(axis=0) for points in (three, seven)]
        spread = max(np.std(points.get_offsets(), axis=0).max() for points in (three, seven))
        assert np.linalg.norm(centres[0] - centres[1]) > spread  # the body separates the classes


def with_features(run, folder, name, num_classes, names, num_images):
    """A copy of a run with another dataset, and with random features of as many images of each split."""
    copied = copy_run(run, folder, {"name": name, "num-classes": num_classes})
    features = {split: torch.randn(num_images, 8) for split in ("train", "test")}
    labels = {f"{split}-labels": torch.arange(num_images) % num_classes for split in ("train", "test")}
    copied.write_features(features | labels, names)
    return copied


def test_vehicles_are_the_classes_of_figure_16(federated, tmp_path):
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    run = with_features(federated[0], tmp_path / "run", "cifar10", 10, {"class-names": names}, 100)
    figure = paper_figures.vehicle_representations([run])
    for axes in figure.axes:
        assert tuple(points.get_label() for points in axes.collections) == VEHICLES["cifar10"]
        assert [len(points.get_offsets()) for points in axes.collections] == [10] * 4
    markers = {points.get_paths()[0].vertices.tobytes() for points in figure.axes[0].collections}
    assert len(markers) == 4  # distinguishable without colours
    with pytest.raises(ValueError, match=r"lorry.*airplane"):
        paper_figures.representations([run], classes=("lorry", "truck"))


def test_too_many_classes_are_shown_by_superclass_or_in_columns(federated, tmp_path):
    class_names = [str(number) for number in range(100)]
    names = {"class-names": class_names, "superclasses": [f"super {number % 20}" for number in range(100)]}
    by_superclass = with_features(federated[0], tmp_path / "super", "cifar100", 100, names, 200)
    figure = paper_figures.representations([by_superclass])
    assert [len(points.get_offsets()) for points in figure.axes[0].collections] == [10] * 20
    letters = {"class-names": class_names[:62]}
    plain = with_features(federated[0], tmp_path / "plain", "letters", 62, letters, 20)
    figure = paper_figures.representations([plain])  # of fewer images than t-SNE has neighbours by default
    assert len(figure.axes[0].collections) == 62
    check_nothing_is_clipped(figure)


def test_nothing_is_clipped(diagnosed, centralized, by_head_init):
    check_nothing_is_clipped(paper_figures.class_accuracy(diagnosed))
    check_nothing_is_clipped(paper_figures.layer_similarity(diagnosed * 3))
    check_nothing_is_clipped(paper_figures.representations(diagnosed[:1], num_images=50))
    check_nothing_is_clipped(paper_figures.centralized(centralized, "server-part"))
    check_nothing_is_clipped(paper_figures.centralized(by_head_init, "head-init"))
