"""Figures of the accuracies that every run measures."""

from collections.abc import Iterable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fedbabu.paper import find_cells
from fedbabu.plots.style import (
    MANY,
    PAPER,
    explain_paper_markers,
    labels,
    legend,
    legend_below,
    looks,
    one_panel,
    save_figure,
)
from fedbabu.progress import TITLES
from fedbabu.results import RunFolder
from fedbabu.setting import by_epoch

METRICS = ("initial", "without-head", "personalized")


def save_plots(run: RunFolder) -> None:
    """Draw a finished run's figures into its `plots` folder as PNG and SVG."""
    folder = run.path / "plots"
    folder.mkdir(exist_ok=True)
    for draw in (accuracy_over_rounds, accuracy_over_clients, accuracy_over_finetune_epochs):
        figure = draw([run])
        for ending in ("png", "svg"):
            save_figure(figure, folder / f"{draw.__name__}.{ending}")


def accuracy_over_rounds(runs: Sequence[RunFolder]) -> Figure:
    """Accuracy before fine-tuning, the mean over all clients, against the round; hollow: the paper's, at the end."""
    figure, axes = _before_fine_tuning(runs, [[record["round"] for record in run.rounds] for run in runs])
    axes.set_xlabel("Communication round")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def accuracy_over_communication(runs: Sequence[RunFolder]) -> Figure:
    """Accuracy before fine-tuning, the mean over all clients, against what was sent to the nodes and back so far."""
    sent = [np.cumsum([r["bytes-sent"] + r["bytes-received"] for r in run.rounds]) / 1e6 for run in runs]
    figure, axes = _before_fine_tuning(runs, sent)
    axes.set_xlabel("Sent to the nodes and back (MB)")
    return figure


def _before_fine_tuning(runs: Sequence[RunFolder], places: Sequence[Iterable[float]]) -> tuple[Figure, Axes]:
    """Accuracy before fine-tuning against what is at the places of each run's rounds."""
    figure, axes = one_panel(runs)
    any_paper = False
    for run, of_run, label, look in zip(runs, places, labels(runs), looks(len(runs)), strict=True):
        found = [(x, record) for x, record in zip(of_run, run.rounds, strict=True) if "initial-accuracy" in record]
        points = [(x, record["initial-accuracy"]) for x, record in found]
        axes.plot(*zip(*points, strict=True), label=label, **look)
        if partial := [point for point, (_, record) in zip(points, found, strict=True) if record.get("missing")]:
            axes.plot(*zip(*partial, strict=True), "x", markersize=9, color=look["color"], label="not of all clients")
        if paper := run.summary["paper"].get("initial"):
            axes.plot(points[-1][0], paper["mean"], **look | PAPER)
            any_paper = True
    if any_paper:
        explain_paper_markers(axes)
    axes.set_ylabel("Accuracy before fine-tuning,\nmean over clients (%)")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    legend(axes, runs)
    return figure, axes


def accuracy_over_clients(runs: Sequence[RunFolder]) -> Figure:
    """The distribution over clients of initial, without-head and personalized accuracy; a dot is a client.

    Bars are means; hollow markers are the paper's mean ± std over clients.
    """
    figure, axes = one_panel(runs)
    rng = np.random.default_rng(0)  # only spreads the dots sideways
    width = 0.8 / len(runs)
    for index, (run, label, look) in enumerate(zip(runs, labels(runs), looks(len(runs)), strict=True)):
        accuracies, color = run.accuracies(), look["color"]
        for place, metric in enumerate(METRICS):
            if metric not in accuracies:
                continue
            values = accuracies[metric]
            x = place + (index - (len(runs) - 1) / 2) * width
            spread = rng.uniform(-0.3, 0.3, len(values)) * width
            axes.scatter(x + spread, values, s=12, alpha=0.5, color=color, linewidths=0)
            axes.plot(x + np.array([-0.36, 0.36]) * width, [values.mean()] * 2, color="black", linewidth=1.5)
            if paper := run.summary["paper"].get(metric):
                mean_and_std = paper["mean"], paper["std"]
                axes.errorbar(x + 0.4 * width, *mean_and_std, color="black", marker="o", capsize=2, **PAPER)
            axes.annotate(
                f"{values.mean():.1f} ± {values.std():.1f}",
                (x, 103),
                ha="center",
                va="bottom",
                rotation=0 if len(runs) < MANY - 1 else 90,
                fontsize=8,
                color=color,
            )
        axes.scatter([], [], s=20, color=color, label=label)
    if any(run.summary["paper"] for run in runs):
        explain_paper_markers(axes)
    axes.set_xticks(range(len(METRICS)), [TITLES[metric] for metric in METRICS])
    axes.set(ylabel="Accuracy of a client (%)", yticks=range(0, 101, 20))
    axes.set_ylim(-3, 110 if len(runs) < MANY - 1 else 130)
    legend_below(figure, runs)
    return figure


def accuracy_over_finetune_epochs(runs: Sequence[RunFolder]) -> Figure:
    """Accuracy against fine-tuning epochs, mean and, for few runs, std over clients; hollow: the paper's (Table 6)."""
    figure, axes = one_panel(runs)
    any_paper = False
    for run, label, look in zip(runs, labels(runs), looks(len(runs)), strict=True):
        accuracy = np.array([row["accuracy"] for row in run.clients])
        mean, std = accuracy.mean(axis=0), accuracy.std(axis=0)
        epochs = np.arange(len(mean))
        axes.plot(epochs, mean, label=label, **look)
        if len(runs) < MANY:
            axes.fill_between(epochs, mean - std, mean + std, color=look["color"], alpha=0.15, linewidth=0)
        if papers := _papers_by_epoch(run, len(mean)):
            axes.plot(*zip(*papers.items(), strict=True), **look | PAPER)
            any_paper = True
    if any_paper:
        explain_paper_markers(axes)
    spread = " ± std" if len(runs) < MANY else ""
    axes.set(xlabel="Fine-tuning epochs", ylabel=f"Accuracy, mean{spread} over clients (%)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend(axes, runs, **({} if len(runs) >= MANY else {"loc": "lower right"}))
    return figure


def _papers_by_epoch(run: RunFolder, num_values: int) -> dict[int, float]:
    """The paper's mean accuracies of a run's setting, by the epochs of fine-tuning before them."""
    if not by_epoch(run.config):
        return {}
    initial = run.summary["paper"].get("initial")
    found = {0: initial["mean"]} if initial else {}
    for epoch in range(1, num_values):
        cells = find_cells(run.complete_config | {"num-finetune-epochs": epoch}, run.dataset)
        if cell := cells.get("personalized"):
            found[epoch] = cell.mean
    return found


def accuracy_beside_the_paper(runs: Sequence[RunFolder]) -> Figure:
    """Initial, without-head and personalized accuracy, mean ± std over clients; hollow where the paper has them."""
    figure, axes = one_panel(runs)
    step = 0.8 / len(runs)
    for index, (run, label, look) in enumerate(zip(runs, labels(runs), looks(len(runs)), strict=True)):
        summary, bar = run.summary, {key: look[key] for key in ("color", "marker")} | {"capsize": 3}
        for place, metric in enumerate(METRICS):
            x = place + (index - (len(runs) - 1) / 2) * step
            ours, paper = summary["accuracy"].get(metric), summary["paper"].get(metric)
            if ours:
                axes.errorbar(x - step / 8, ours["mean"], ours["std"], linestyle="none", **bar)
            if ours and paper:
                axes.errorbar(x + step / 8, paper["mean"], paper["std"], **bar | PAPER)
        axes.errorbar([], [], linestyle="none", label=label, **bar)
    if any(run.summary["paper"] for run in runs):
        explain_paper_markers(axes)
    axes.set_xticks(range(len(METRICS)), [TITLES[metric] for metric in METRICS])
    axes.set(ylabel="Accuracy, mean ± std over clients (%)", ylim=(0, 105))
    legend_below(figure, runs)
    return figure


def accuracy_by(runs: Sequence[RunFolder], key: str, metric: str = "personalized") -> Figure:
    """Accuracy, mean over clients, against a key of the run config, one line an algorithm; hollow where the paper is.

    Args:
        runs: that differ in nothing else but the seed; of several seeds, the mean is drawn.
        key: the values of which are the places on the horizontal axis.
        metric: of the summary.
    """
    figure, axes = one_panel(runs, across=key)
    values = sorted({run.config[key] for run in runs})
    algorithms = list(dict.fromkeys(run.config["algorithm"] for run in runs))
    any_paper = False
    for algorithm, look in zip(algorithms, looks(len(algorithms)), strict=True):
        ours: dict[int, list[float]] = {}
        papers: dict[int, float] = {}
        for run in (run for run in runs if run.config["algorithm"] == algorithm):
            place, accuracies = values.index(run.config[key]), run.accuracies()
            if metric in accuracies:
                ours.setdefault(place, []).append(float(np.nanmean(accuracies[metric])))
                if cell := find_cells(run.complete_config, run.dataset).get(metric):
                    papers[place] = cell.mean
        if ours:
            places = sorted(ours)
            axes.plot(places, [np.mean(ours[place]) for place in places], label=algorithm, **look)
        if papers:
            axes.plot(*zip(*sorted(papers.items()), strict=True), **look | PAPER)
            any_paper = True
    if any_paper:
        explain_paper_markers(axes)
    axes.set_xticks(range(len(values)), [str(value) or "own" for value in values])
    axes.set_xmargin(0.1)
    axes.set(xlabel=key, ylabel=f"{TITLES[metric]} accuracy,\nmean over clients (%)")
    legend(axes, runs, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def accuracy_by_heterogeneity(runs: Sequence[RunFolder]) -> Figure:
    """Personalized accuracy against s, the shards of a client (Tables 5 and 13)."""
    figure = accuracy_by(runs, "shards-per-client")
    figure.axes[0].set_xlabel("s, shards of one class each that a client holds")
    return figure


def accuracy_by_finetuned_part(runs: Sequence[RunFolder]) -> Figure:
    """Personalized accuracy against what fine-tuning moves (Table 4)."""
    figure = accuracy_by(runs, "finetune-part")
    figure.axes[0].set_xlabel("Fine-tuned part")
    return figure
