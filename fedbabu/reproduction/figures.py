"""Which figure an experiment draws of its runs, and the figure that compares all cells with the paper's.

A new figure is a function that takes runs; with an entry in FIGURES, an experiment of conf/ can name it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from matplotlib.figure import Figure

from fedbabu.plots import paper_figures, style
from fedbabu.plots.accuracy import accuracy_by, accuracy_over_clients, accuracy_over_finetune_epochs
from fedbabu.reproduction.comparison import OWN, ComparedCell, OurNumber
from fedbabu.reproduction.paper.tables import accuracy_by_finetune_epoch
from fedbabu.runs.folder import RunFolder
from fedbabu.runs.records import METRIC_TITLES
from fedbabu.runs.settings import setting_of


@dataclass(frozen=True)
class FigureKind:
    """A figure that an experiment can name."""

    draw: Callable[[Sequence[RunFolder]], Figure]  # from runs that have the same setting apart from the varied key
    can_show: Callable[[RunFolder], bool]  # whether a run recorded what the figure shows
    varied_key: str = ""  # the run-config key in which its runs differ, besides the algorithm, if there is one


def _is_centralized(run: RunFolder) -> bool:
    return run.config["fraction-train"] == 0


def _is_federated(run: RunFolder) -> bool:
    return not _is_centralized(run)


def _recorded(diagnostic: str) -> Callable[[RunFolder], bool]:
    return lambda run: diagnostic in run.config["record"].split()


def _by(draw: Callable[..., Figure], key: str, can_show: Callable[[RunFolder], bool]) -> FigureKind:
    return FigureKind(partial(draw, varied_key=key), can_show, key)


FIGURES = {
    "centralized-by-part": _by(paper_figures.centralized, "server-part", _is_centralized),
    "centralized-by-head-init": _by(
        paper_figures.centralized,
        "head-init",
        lambda run: _is_centralized(run) and paper_figures.trained_part(run) == "body",
    ),
    "class-accuracy": FigureKind(paper_figures.class_accuracy, _recorded("class-accuracy")),
    "layer-similarity": FigureKind(paper_figures.layer_similarity, _recorded("similarity")),
    "representations": FigureKind(paper_figures.representations, _recorded("features")),
    "vehicle-representations": FigureKind(
        paper_figures.vehicle_representations,
        lambda run: run.dataset["name"] in paper_figures.VEHICLES and "features" in run.config["record"].split(),
    ),
    "accuracy-over-clients": FigureKind(accuracy_over_clients, _is_federated),
    "accuracy-over-finetune-epochs": FigureKind(
        partial(accuracy_over_finetune_epochs, paper=accuracy_by_finetune_epoch), _is_federated
    ),
    "accuracy-by-finetuned-part": _by(accuracy_by, "finetune-part", _is_federated),
    "accuracy-by-heterogeneity": _by(
        accuracy_by, "shards-per-client", lambda run: _is_federated(run) and run.config["partition"] == "shards"
    ),
}


def figures(name: str, runs: Sequence[RunFolder]) -> Iterator[Figure]:
    """Draw a figure for each setting of the runs that can be shown; they are finished, and the oldest are first.

    If the figure has a varied key and some settings have runs with several values of it, only these are drawn.
    """
    kind = FIGURES[name]
    runs_by_setting: dict[str, dict[tuple[Any, ...], RunFolder]] = {}
    for run in filter(kind.can_show, runs):
        value = setting_of(run.config).get(kind.varied_key)
        same_setting = runs_by_setting.setdefault(style.setting_title(run, kind.varied_key), {})
        same_setting[value, style.algorithm_label(run), run.config["seed"]] = run  # of several, the newest
    several_values = [found for found in runs_by_setting.values() if len({value for value, _, _ in found}) > 1]
    for found in several_values or runs_by_setting.values():
        yield kind.draw(list(found.values()))


def comparison_figure(title: str, cells: Sequence[ComparedCell]) -> Figure:
    """The paper's mean accuracy of each cell (horizontal) against ours (vertical), with twice their standard errors."""
    figure = Figure(figsize=(6.5, 6), dpi=style.SCREEN_DPI, layout="constrained")
    axes = figure.subplots()
    both = [cell for cell in cells if cell.is_compared]
    several_metrics = len({cell.axes["metric"] for cell in both}) > 1
    groups: dict[str, list[tuple[ComparedCell, OurNumber]]] = {}
    for cell in both:
        metric = f", {METRIC_TITLES[cell.axes['metric']].lower()}" if several_metrics else ""
        for column, ours in cell.ours.items():
            if ours.runs:
                measured = "" if column == OWN else f", as the {column}"
                groups.setdefault(f"{cell.axes['algorithm']}{metric}{measured}", []).append((cell, ours))
    for (label, group), look in zip(groups.items(), style.looks(len(groups)), strict=True):
        axes.errorbar(
            [cell.paper_mean for cell, _ in group],
            [ours.mean for _, ours in group],
            xerr=[2 * cell.paper_std / cell.num_clients**0.5 for cell, _ in group],
            yerr=[2 * ours.std / cell.num_clients**0.5 for cell, ours in group],
            elinewidth=0.8, label=label, **look | {"linestyle": "none"},
        )  # fmt: skip
    low, high = (limit(*axes.get_xlim(), *axes.get_ylim()) for limit in (min, max))
    axes.plot([low, high], [low, high], color="black", linewidth=0.7, alpha=0.5)
    axes.set(xlim=(low, high), ylim=(low, high), aspect="equal")
    axes.set(xlabel="The paper's accuracy in %", ylabel="Our accuracy in %")
    axes.set_title(title, fontsize=10)
    axes.legend(frameon=False, fontsize=8)
    axes.grid(alpha=0.25)
    return figure
