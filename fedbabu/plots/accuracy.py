"""Figures of the accuracies that every run measures; the paper's numbers are hollow markers."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from fedbabu.plots import style
from fedbabu.runs.folder import RunFolder
from fedbabu.runs.records import METRIC_TITLES
from fedbabu.runs.settings import setting_of

METRICS = ("initial", "without-head", "personalized")
KEY_TITLES = {
    "shards-per-client": "s, shards of one class each that a client holds",
    "finetune-part": "Fine-tuned part",
}

PaperByEpoch = Callable[[RunFolder], Mapping[int, float]]
"""Returns the paper's mean accuracies in percent for the setting of a run, by epoch: `accuracy_by_finetune_epoch`."""


def save_plots(run: RunFolder, paper: PaperByEpoch) -> None:
    """Draw the figures of one run into its `plots` folder as PNG and SVG."""
    folder = run.path / "plots"
    folder.mkdir(exist_ok=True)
    figures = {
        "accuracy_over_rounds": accuracy_over_rounds([run]),
        "accuracy_over_clients": accuracy_over_clients([run]),
        "accuracy_over_finetune_epochs": accuracy_over_finetune_epochs([run], paper),
    }
    for name, figure in figures.items():
        for ending in ("png", "svg"):
            style.save_figure(figure, folder / f"{name}.{ending}")


def accuracy_over_rounds(runs: Sequence[RunFolder]) -> Figure:
    """Accuracy before fine-tuning, mean over all clients, against the round; the paper's after the last round."""
    figure, axes = _before_fine_tuning(runs, [[record.round for record in run.rounds] for run in runs])
    centralized = all(run.config["fraction-train"] == 0 for run in runs)
    axes.set_xlabel("Epoch on the server" if centralized else "Communication round")
    evaluated = (record.round for run in runs for record in run.rounds if record.initial_accuracy is not None)
    style.round_ticks(axes, sorted(set(evaluated)))
    return figure


def accuracy_over_communication(runs: Sequence[RunFolder]) -> Figure:
    """Accuracy before fine-tuning, mean over all clients, against the bytes that training has sent so far."""
    figure, axes = _before_fine_tuning(runs, [np.cumsum(run.communication) / 1e6 for run in runs])
    axes.set_xlabel("Shared parameters sent to clients and back (MB)")
    return figure


def _before_fine_tuning(runs: Sequence[RunFolder], positions: Sequence[ArrayLike]) -> tuple[Figure, Axes]:
    """Accuracy before fine-tuning; `positions` has the horizontal position of each round of each run."""
    figure, (axes,) = style.panels(runs)
    accuracies = [np.array([each.initial_accuracy for each in run.rounds], dtype=float) for run in runs]
    looks = style.looks_of(runs, max(int(np.isfinite(accuracy).sum()) for accuracy in accuracies))
    beside_paper = _runs_beside_the_paper(runs)
    for index, (run, label, look) in enumerate(zip(runs, style.labels(runs), looks, strict=True)):
        points = np.column_stack([positions[index], accuracies[index]])
        axes.plot(*points[np.isfinite(points[:, 1])].T, label=label, **look)  # None has become NaN
        partial = [bool(each.missing) for each in run.rounds]
        if any(partial):
            axes.plot(*points[partial].T, "x", markersize=9, color="grey", label="not of all clients")
        if run in beside_paper and (paper := run.summary["paper"].get("initial")):
            style.paper_markers(axes, points[-1, 0], paper["mean"], look)
    axes.set(ylabel="Accuracy before fine-tuning,\nmean over clients (%)", xlim=(0, None), ylim=(0, None))
    style.legend(axes, beside=len(runs) >= style.MANY)
    return figure, axes


def _runs_beside_the_paper(runs: Sequence[RunFolder]) -> list[RunFolder]:
    """The runs beside which the paper's numbers are drawn: of those that differ in their seed alone, the last."""
    return list({(style.algorithm_label(run), style.setting_title(run)): run for run in runs}.values())


def accuracy_over_clients(runs: Sequence[RunFolder]) -> Figure:
    """The distribution over clients of initial, without-head and personalized accuracy: a dot is a client.

    Bars are means over clients; hollow markers are the paper's mean ± std over clients.
    """
    figure, (axes,) = style.panels(runs)
    rng = np.random.default_rng(0)  # only moves the dots sideways
    width = 0.8 / len(runs)
    beside_paper = _runs_beside_the_paper(runs)
    upright = len(runs) < style.MANY - 1  # the numbers above the dots
    for index, (run, label, look) in enumerate(zip(runs, style.labels(runs), style.looks_of(runs), strict=True)):
        accuracies, dots = run.accuracies(), {key: look[key] for key in ("color", "marker")} | {"linewidths": 0}
        for place, metric in enumerate(METRICS):
            if metric not in accuracies:
                continue
            values = accuracies[metric]
            x = place + (index - (len(runs) - 1) / 2) * width
            axes.scatter(x + rng.uniform(-0.3, 0.3, len(values)) * width, values, s=14, alpha=0.5, **dots)
            axes.plot(x + np.array([-0.36, 0.36]) * width, [values.mean()] * 2, color="black", linewidth=1.5)
            if run in beside_paper and (paper := run.summary["paper"].get(metric)):
                style.paper_markers(axes, x + 0.4 * width, paper["mean"], look | {"color": "black"}, paper["std"])
            text, rotation = f"{values.mean():.1f} ± {values.std():.1f}", 0 if upright else 90
            axes.annotate(text, (x, 103), ha="center", va="bottom", rotation=rotation, fontsize=8)
        axes.scatter([], [], s=25, label=label, **dots)
    axes.set_xticks(range(len(METRICS)), [METRIC_TITLES[metric] for metric in METRICS])
    axes.set(ylabel="Accuracy of a client (%)", yticks=range(0, 101, 20), ylim=(-3, 110 if upright else 130))
    style.legend(axes, columns_below=3 if len(runs) < 9 else 4)
    return figure


def accuracy_over_finetune_epochs(runs: Sequence[RunFolder], paper: PaperByEpoch = lambda run: {}) -> Figure:
    """Accuracy against fine-tuning epochs, mean and, for few runs, std over clients (Table 6)."""
    figure, (axes,) = style.panels(runs)
    beside_paper = _runs_beside_the_paper(runs)
    for run, label, look in zip(runs, style.labels(runs), style.looks_of(runs), strict=True):
        accuracy = np.array([client["accuracy"] for client in run.result_clients])
        mean, std = accuracy.mean(axis=0), accuracy.std(axis=0)
        epochs = np.arange(len(mean))
        axes.plot(epochs, mean, label=label, **look)
        if len(runs) < style.MANY:
            below, above = style.spread(mean, std)
            axes.fill_between(epochs, mean - below, mean + above, color=look["color"], alpha=0.15, linewidth=0)
        if run in beside_paper and (printed := paper(run)):
            style.paper_markers(axes, list(printed), list(printed.values()), look)
    spread = " ± std" if len(runs) < style.MANY else ""
    axes.set(xlabel="Fine-tuning epochs", ylabel=f"Accuracy, mean{spread} over clients (%)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    style.legend(axes, beside=len(runs) >= style.MANY, loc="lower right")
    return figure


def accuracy_beside_the_paper(runs: Sequence[RunFolder]) -> Figure:
    """Initial, without-head and personalized accuracy, mean ± std over clients, beside the paper's."""
    figure, (axes,) = style.panels(runs)
    step = 0.8 / len(runs)
    beside_paper = _runs_beside_the_paper(runs)
    for index, (run, label, look) in enumerate(zip(runs, style.labels(runs), style.looks_of(runs), strict=True)):
        bar = {"color": look["color"], "marker": look["marker"], "linestyle": "none", "capsize": 3}
        for place, metric in enumerate(METRICS):
            x = place + (index - (len(runs) - 1) / 2) * step
            if ours := run.summary["accuracy"].get(metric):
                axes.errorbar(x - step / 8, ours["mean"], style.spread(ours["mean"], ours["std"]), **bar)
            if run in beside_paper and (paper := run.summary["paper"].get(metric)):
                style.paper_markers(axes, x + step / 8, paper["mean"], look, paper["std"])
        axes.errorbar([], [], label=label, **bar)
    axes.set_xticks(range(len(METRICS)), [METRIC_TITLES[metric] for metric in METRICS])
    axes.set(ylabel="Accuracy, mean ± std over clients (%)", ylim=(0, 105))
    style.legend(axes, columns_below=3 if len(runs) < 9 else 4)
    return figure


def accuracy_by(runs: Sequence[RunFolder], varied_key: str) -> Figure:
    """Personalized accuracy, mean over clients, against the values of a run-config key (Tables 4, 5 and 13).

    There is a line for each algorithm, or unconnected markers if the values are words. Runs differ in nothing but the
    varied key, the algorithm and the seed; of several seeds the mean is drawn.
    """
    figure, (axes,) = style.panels(runs, varied_key=varied_key)
    value_of_run = [setting_of(run.config)[varied_key] for run in runs]
    values = sorted(set(value_of_run))

    def means(label: str, source: str) -> dict[int, float]:
        """The mean over seeds at each place where runs with this label have an accuracy in this part of the summary."""
        found: dict[int, list[float]] = {place: [] for place in range(len(values))}
        for run, value in zip(runs, value_of_run, strict=True):
            if style.algorithm_label(run) == label and "personalized" in run.summary[source]:
                found[values.index(value)].append(run.summary[source]["personalized"]["mean"])
        return {place: float(np.mean(accuracies)) for place, accuracies in found.items() if accuracies}

    names = list(dict.fromkeys(map(style.algorithm_label, runs)))
    for name, look in zip(names, style.looks(len(names)), strict=True):
        ours, paper = means(name, "accuracy"), means(name, "paper")
        unconnected = {"linestyle": "none"} if isinstance(values[0], str) else {}
        axes.plot(list(ours), list(ours.values()), label=name, **look | unconnected)
        if paper:
            style.paper_markers(axes, list(paper), list(paper.values()), look)
    axes.set_xticks(range(len(values)), list(map(str, values)))
    axes.set_xmargin(0.1)
    axes.set(xlabel=KEY_TITLES.get(varied_key, varied_key), ylabel="Personalized accuracy,\nmean over clients (%)")
    style.legend(axes, beside=True)
    return figure
