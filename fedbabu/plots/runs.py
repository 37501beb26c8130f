"""Figures of the accuracies that every run measures."""

from collections.abc import Iterable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fedbabu.plots.style import (
    MANY,
    algorithm_of,
    labels,
    legend,
    legend_below,
    looks,
    one_panel,
    paper_markers,
    save_figure,
)
from fedbabu.reproduction.paper import find_cells
from fedbabu.runs.folder import RunFolder
from fedbabu.runs.progress import TITLES
from fedbabu.runs.settings import by_epoch, setting

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
    centralized = all(run.config["fraction-train"] == 0 for run in runs)
    axes.set_xlabel("Epoch on the server" if centralized else "Communication round")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def accuracy_over_communication(runs: Sequence[RunFolder]) -> Figure:
    """Accuracy before fine-tuning, the mean over all clients, against all that was sent to the nodes and back so far.

    That is what the messages of these runs had, those of evaluations and of what `record` asks for included. A node
    that serves several clients has one message for all of them, so the number of SuperNodes matters.
    """
    sent = [np.cumsum([r["bytes-sent"] + r["bytes-received"] for r in run.rounds]) / 1e6 for run in runs]
    figure, axes = _before_fine_tuning(runs, sent)
    nodes = sorted({run.num_supernodes for run in runs})
    number = str(nodes[0]) if len(nodes) == 1 else f"{nodes[0]} to {nodes[-1]}"
    axes.set_xlabel(f"All that was sent to {number} SuperNodes and back, evaluations included (MB)")
    return figure


def _before_fine_tuning(runs: Sequence[RunFolder], places: Sequence[Iterable[float]]) -> tuple[Figure, Axes]:
    """Accuracy before fine-tuning against what is at the places of each run's rounds."""
    figure, axes = one_panel(runs)
    of_runs = [
        [(x, record) for x, record in zip(of_run, run.rounds, strict=True) if "initial-accuracy" in record]
        for run, of_run in zip(runs, places, strict=True)
    ]
    drawn = zip(runs, of_runs, labels(runs), looks(len(runs), max(map(len, of_runs))), strict=True)
    for run, found, label, look in drawn:
        axes.plot([x for x, _ in found], [record["initial-accuracy"] for _, record in found], label=label, **look)
        if partial := [(x, record["initial-accuracy"]) for x, record in found if record.get("missing")]:
            axes.plot(*zip(*partial, strict=True), "x", markersize=9, color="grey", label="not of all clients")
        if paper := run.summary["paper"].get("initial"):
            paper_markers(axes, found[-1][0], paper["mean"], look)
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
    upright = len(runs) < MANY - 1  # the numbers above the dots
    for index, (run, label, look) in enumerate(zip(runs, labels(runs), looks(len(runs)), strict=True)):
        accuracies, dots = run.accuracies(), {key: look[key] for key in ("color", "marker")} | {"linewidths": 0}
        for place, metric in enumerate(METRICS):
            if metric not in accuracies:
                continue
            values = accuracies[metric]
            x = place + (index - (len(runs) - 1) / 2) * width
            axes.scatter(x + rng.uniform(-0.3, 0.3, len(values)) * width, values, s=14, alpha=0.5, **dots)
            axes.plot(x + np.array([-0.36, 0.36]) * width, [values.mean()] * 2, color="black", linewidth=1.5)
            if paper := run.summary["paper"].get(metric):
                black = {"color": "black", "marker": look["marker"]}
                paper_markers(axes, x + 0.4 * width, paper["mean"], black, paper["std"])
            axes.annotate(
                f"{values.mean():.1f} ± {values.std():.1f}",
                (x, 103),
                ha="center",
                va="bottom",
                rotation=0 if upright else 90,
                fontsize=8,
            )
        axes.scatter([], [], s=25, label=label, **dots)
    axes.set_xticks(range(len(METRICS)), [TITLES[metric] for metric in METRICS])
    axes.set(ylabel="Accuracy of a client (%)", yticks=range(0, 101, 20), ylim=(-3, 110 if upright else 130))
    legend_below(figure, axes, 3 if len(runs) < 9 else 4)
    return figure


def accuracy_over_finetune_epochs(runs: Sequence[RunFolder]) -> Figure:
    """Accuracy against fine-tuning epochs, mean and, for few runs, std over clients; hollow: the paper's (Table 6)."""
    figure, axes = one_panel(runs)
    for run, label, look in zip(runs, labels(runs), looks(len(runs)), strict=True):
        accuracy = np.array([row["accuracy"] for row in run.clients])
        mean, std = accuracy.mean(axis=0), accuracy.std(axis=0)
        epochs = np.arange(len(mean))
        axes.plot(epochs, mean, label=label, **look)
        if len(runs) < MANY:
            axes.fill_between(epochs, mean - std, mean + std, color=look["color"], alpha=0.15, linewidth=0)
        if papers := _papers_by_epoch(run, len(mean)):
            paper_markers(axes, list(papers), list(papers.values()), look)
    spread = " ± std" if len(runs) < MANY else ""
    axes.set(xlabel="Fine-tuning epochs", ylabel=f"Accuracy, mean{spread} over clients (%)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend(axes, runs, **({} if len(runs) >= MANY else {"loc": "lower right"}))
    return figure


def _papers_by_epoch(run: RunFolder, num_values: int) -> dict[int, float]:
    """The paper's mean accuracies of a run's setting, by the epochs of fine-tuning before them."""
    config, summary = run.complete_config, run.summary["paper"]
    found = {
        epoch: cells["personalized"].mean
        for epoch in range(1, num_values)
        if by_epoch(config)
        and "personalized" in (cells := find_cells(config | {"num-finetune-epochs": epoch}, run.dataset))
    }
    for epoch, metric in ((num_values - 1, "personalized"), (0, "initial")):
        if metric in summary:
            found[epoch] = summary[metric]["mean"]
    return dict(sorted(found.items()))


def accuracy_beside_the_paper(runs: Sequence[RunFolder]) -> Figure:
    """Initial, without-head and personalized accuracy, mean ± std over clients; hollow where the paper has them."""
    figure, axes = one_panel(runs)
    step = 0.8 / len(runs)
    for index, (run, label, look) in enumerate(zip(runs, labels(runs), looks(len(runs)), strict=True)):
        summary = run.summary
        bar = {"color": look["color"], "marker": look["marker"], "linestyle": "none", "capsize": 3}
        for place, metric in enumerate(METRICS):
            x = place + (index - (len(runs) - 1) / 2) * step
            if ours := summary["accuracy"].get(metric):
                axes.errorbar(x - step / 8, ours["mean"], ours["std"], **bar)
            if paper := summary["paper"].get(metric):
                paper_markers(axes, x + step / 8, paper["mean"], look, paper["std"])
        axes.errorbar([], [], label=label, **bar)
    axes.set_xticks(range(len(METRICS)), [TITLES[metric] for metric in METRICS])
    axes.set(ylabel="Accuracy, mean ± std over clients (%)", ylim=(min(0, axes.get_ylim()[0]), 105))
    legend_below(figure, axes, 3 if len(runs) < 9 else 4)
    return figure


def accuracy_by(runs: Sequence[RunFolder], key: str, metric: str = "personalized") -> Figure:
    """Accuracy, mean over clients, against a key of the run config, one line an algorithm; hollow where the paper is.

    Args:
        runs: that differ in nothing else but the seed; of several seeds, the mean is drawn.
        key: the values of which are the places on the horizontal axis; words are not connected by lines.
        metric: of the summary.
    """
    figure, axes = one_panel(runs, across=key)
    values = sorted({setting(run.complete_config)[key] for run in runs})
    names = list(dict.fromkeys(map(algorithm_of, runs)))
    for of_line, look in zip(names, looks(len(names)), strict=True):
        ours: dict[int, list[float]] = {}
        papers: dict[int, float] = {}
        for run in (run for run in runs if algorithm_of(run) == of_line):
            config, accuracies = run.complete_config, run.accuracies()
            place = values.index(setting(config)[key])
            if metric in accuracies:
                ours.setdefault(place, []).append(float(np.nanmean(accuracies[metric])))
            if cell := find_cells(config, run.dataset).get(metric):
                papers[place] = cell.mean
        means = {place: np.mean(ours[place]) for place in sorted(ours)}
        connected = {} if not isinstance(values[0], str) else {"linestyle": "none"}
        axes.plot(list(means), list(means.values()), label=of_line, **look | connected)
        if papers:
            paper_markers(axes, list(papers), list(papers.values()), look)
    axes.set_xticks(range(len(values)), list(map(str, values)))
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
