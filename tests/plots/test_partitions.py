"""The figure of a partition (Figures 10, 11 and 14)."""

from types import SimpleNamespace

import numpy as np
from matplotlib.font_manager import fontManager
from support.figures import check_nothing_is_clipped

from fedbabu.plots.paper_figures import clients_and_classes, clients_and_classes_of
from fedbabu.plots.style import readable_names

NO_NAMES = SimpleNamespace(class_names=(), superclasses=None)
COUNTS = {"train": np.array([[5, 0, 1], [0, 7, 2]]), "test": np.array([[1, 0, 1], [0, 3, 0]])}


def counts_drawn(axes) -> list[list[int]]:
    (image,) = axes.get_images()
    return image.get_array().filled(0).T.tolist()


def y_labels(figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].get_yticklabels()]


def test_clients_and_classes_are_those_of_the_partition():
    names = SimpleNamespace(class_names=["a", "b", "c"], superclasses=None)
    figure = clients_and_classes(COUNTS, "Who has what", names)
    for axes, counts in zip(figure.axes, COUNTS.values(), strict=False):
        assert counts_drawn(axes) == counts.tolist()
        assert (axes.images[0].norm.vmin, axes.images[0].norm.vmax) == (1, 7)  # the training images of class b
    assert y_labels(figure) == ["a", "b", "c"]


def test_names_that_no_font_has_are_numbers_and_a_text(capsys, monkeypatch):
    names = SimpleNamespace(class_names=["cat", "地下鉄", "emu"], superclasses=None)
    monkeypatch.setattr("matplotlib.font_manager.fontManager.ttflist", [])
    assert y_labels(clients_and_classes(COUNTS, "", names)) == ["0", "1", "2"]
    assert "0 = cat, 1 = 地下鉄, 2 = emu" in capsys.readouterr().out


def test_names_are_drawn_in_a_font_that_has_their_characters(monkeypatch):
    """Let one of Matplotlib's own fonts be the only one that has a character."""
    letter, (font, *_) = "\u27e8", [each for each in fontManager.ttflist if each.name == "STIXGeneral"]
    monkeypatch.setattr("fedbabu.plots.style._characters", lambda file: {ord(letter)} if file == font.fname else set())
    assert readable_names([letter]) == ([letter], ["DejaVu Sans", "STIXGeneral"])


def test_classes_are_grouped_by_their_superclasses():
    figure = clients_and_classes(COUNTS, "", SimpleNamespace(class_names=(), superclasses=["x", "y", "x"]))
    assert counts_drawn(figure.axes[0]) == COUNTS["train"][:, [0, 2, 1]].tolist()
    assert y_labels(figure) == ["x", "y"]


def test_ticks_are_at_classes():
    ticks = clients_and_classes(COUNTS, "", NO_NAMES).axes[0].get_yticks()
    assert (ticks == ticks.round()).all()


def test_the_partition_of_a_run_can_be_drawn_again(federated):
    figure = clients_and_classes_of(federated[0])
    for client, counts in zip(federated[0].clients, counts_drawn(figure.axes[0]), strict=True):
        assert sum(counts) == client["num-train-examples"]
        assert np.flatnonzero(counts).tolist() == client["classes"]
    check_nothing_is_clipped(figure)
