"""Every figure: of runs, drawn from run folders alone, and of a partition. plot.ipynb only calls these functions."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fedbabu.partitions import PARTITIONS
from fedbabu.progress import TITLES
from fedbabu.results import RunFolder
from fedbabu.storage import write_whole

if TYPE_CHECKING:  # the comparison is made of runs, as the figures are
    from fedbabu.comparison import Entry

MAX_CLASS_NAMES = 30  # that fit beside an axis
METRICS = ("initial", "without-head", "personalized")

# Okabe and Ito's palette, told apart by the colour-blind, and then the same darker.
COLORS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
COLORS += ["#003A5B", "#6B2F00", "#004F3A", "#6B3D56", "#735000"]


def save_plots(run: RunFolder) -> None:
    """Draw a finished run's figures into its `plots` folder as PNG."""
    folder = run.path / "plots"
    folder.mkdir(exist_ok=True)
    for draw in (accuracy_over_rounds, accuracy_over_clients, accuracy_over_finetune_epochs):
        save_figure(draw([run]), folder / f"{draw.__name__}.png")


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, whole or not at all."""
    png = BytesIO()
    figure.savefig(png, format="png")
    write_whole(path, png.getvalue())


def accuracy_over_rounds(runs: Sequence[RunFolder]) -> Figure:
    """Accuracy before fine-tuning, the mean over all clients, against the round, one line a run."""
    figure, axes = _figure(runs)
    for run, color in zip(runs, _colors(runs), strict=True):
        records = [record for record in run.rounds if "initial-accuracy" in record]
        points = [(record["round"], record["initial-accuracy"]) for record in records]
        axes.plot(*zip(*points, strict=True), marker="o", markersize=4, color=color, label=_label(run))
        if partial := [point for record, point in zip(records, points, strict=True) if record.get("missing")]:
            axes.plot(*zip(*partial, strict=True), "x", markersize=9, color=color, label="not of all clients")
    axes.set(xlabel="Communication round", ylabel="Accuracy before fine-tuning, mean over clients (%)")
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _legend(axes, runs)
    return figure


def accuracy_over_clients(runs: Sequence[RunFolder]) -> Figure:
    """The distribution over clients of initial, without-head and personalized accuracy; a dot is a client."""
    figure, axes = _figure(runs)
    rng = np.random.default_rng(0)  # only spreads the dots sideways
    width = 0.8 / len(runs)
    for index, (run, color) in enumerate(zip(runs, _colors(runs), strict=True)):
        accuracies = run.accuracies()
        for place, metric in enumerate(METRICS):
            if metric not in accuracies:
                continue
            values = accuracies[metric]
            x = place + (index - (len(runs) - 1) / 2) * width
            axes.scatter(
                x + rng.uniform(-0.3, 0.3, len(values)) * width, values, s=12, alpha=0.5, color=color, linewidths=0
            )
            axes.plot(x + np.array([-0.4, 0.4]) * width, [values.mean()] * 2, color="black", linewidth=1.5)
            axes.annotate(
                f"{values.mean():.1f} ± {values.std():.1f}",
                (x, 103),
                ha="center",
                va="bottom",
                rotation=0 if len(runs) < 3 else 90,
                fontsize=8,
                color=color,
            )
        axes.scatter([], [], s=20, color=color, label=_label(run))
    axes.set_xticks(range(len(METRICS)), [TITLES[metric] for metric in METRICS])
    axes.set(ylabel="Accuracy of a client (%)", ylim=(-3, 110 if len(runs) < 3 else 130), yticks=range(0, 101, 20))
    figure.legend(loc="outside lower center", ncols=_columns(runs), frameon=False)
    return figure


def accuracy_over_finetune_epochs(runs: Sequence[RunFolder]) -> Figure:
    """Accuracy against fine-tuning epochs, mean and, for few runs, standard deviation over clients (as in Table 6)."""
    figure, axes = _figure(runs)
    for run, color in zip(runs, _colors(runs), strict=True):
        accuracy = np.array([row["accuracy"] for row in run.clients])
        mean, std = accuracy.mean(axis=0), accuracy.std(axis=0)
        epochs = np.arange(len(mean))
        axes.plot(epochs, mean, marker="o", markersize=4, color=color, label=_label(run))
        if len(runs) < 4:
            axes.fill_between(epochs, mean - std, mean + std, color=color, alpha=0.15, linewidth=0)
    spread = " ± std" if len(runs) < 4 else ""
    axes.set(xlabel="Fine-tuning epochs", ylabel=f"Accuracy, mean{spread} over clients (%)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _legend(axes, runs)
    return figure


def accuracy_beside_the_paper(runs: Sequence[RunFolder]) -> Figure:
    """Initial, without-head and personalized accuracy, mean ± std over clients; hollow where the paper has them."""
    figure, axes = _figure(runs)
    step = 0.8 / len(runs)
    for index, (run, color) in enumerate(zip(runs, _colors(runs), strict=True)):
        summary = run.summary
        for place, metric in enumerate(METRICS):
            x = place + (index - (len(runs) - 1) / 2) * step
            ours, paper = summary["accuracy"].get(metric), summary["paper"].get(metric)
            if not ours:
                continue
            axes.errorbar(x - step / 8, ours["mean"], ours["std"], fmt="o", color=color, capsize=3)
            if paper:
                axes.errorbar(
                    x + step / 8, paper["mean"], paper["std"], fmt="o", color=color, capsize=3, mfc="white", alpha=0.5
                )
        axes.errorbar([], [], fmt="o", color=color, label=_label(run))
        if summary["paper"]:
            label = f"{run.config['algorithm']}, the paper"
            axes.errorbar([], [], fmt="o", color=color, mfc="white", alpha=0.5, label=label)
    axes.set_xticks(range(len(METRICS)), [TITLES[metric] for metric in METRICS])
    axes.set(ylabel="Accuracy, mean ± std over clients (%)", ylim=(0, 105))
    figure.legend(loc="outside lower center", ncols=_columns(runs), frameon=False)
    return figure


def clients_and_classes(
    counts: Mapping[str, npt.NDArray[np.int64]],
    title: str,
    class_names: Sequence[str] | None = None,
    superclasses: Sequence[str] | None = None,
) -> Figure:
    """How many images each client holds of each class, in training and in testing (Figures 10, 11 and 14).

    Args:
        counts: int64 [clients, classes], under "train" and "test".
        title: of the figure.
        class_names: one per class; shown if there are few.
        superclasses: each class's; classes are then ordered by them.
    """
    num_clients, num_classes = counts["train"].shape
    figure = Figure(figsize=(np.clip(num_clients / 90, 10, 18), 4.8), dpi=120, layout="constrained")
    figure.suptitle(title, fontsize=10)
    order = np.argsort(superclasses, kind="stable") if superclasses else np.arange(num_classes)
    colors = colormaps["viridis_r"].with_extremes(bad="white")
    for axes, (split, table) in zip(figure.subplots(1, 2, sharey=True), counts.items(), strict=True):
        held = np.ma.masked_equal(table.T[order], 0)
        image = axes.imshow(held, aspect="auto", interpolation="nearest", cmap=colors, vmin=1)
        axes.set(title="Training" if split == "train" else "Test", xlabel="Client")
        axes.title.set_fontsize(10)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        figure.colorbar(image, ax=axes, label="Images", pad=0.01, ticks=MaxNLocator(8, integer=True, min_n_ticks=1))
    axes = figure.axes[0]
    axes.set_ylabel("Class")
    if superclasses:
        names, first = np.unique(np.asarray(superclasses)[order], return_index=True)
        axes.set_yticks((first + np.append(first[1:], num_classes) - 1) / 2, names, fontsize=7)
        axes.set_ylabel("Class, by superclass")
        for panel in figure.axes[:2]:
            panel.hlines(first[1:] - 0.5, -0.5, num_clients - 0.5, color="black", linewidth=0.3)
    elif class_names and num_classes <= MAX_CLASS_NAMES:
        axes.set_yticks(range(num_classes), class_names, fontsize=8)
    return figure


def _figure(runs: Sequence[RunFolder]) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(max(7, 1.1 * len(runs)), 4.5), dpi=120, layout="constrained")
    axes = figure.subplots()
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    titles = {_title(run) for run in runs}
    axes.set_title(titles.pop() if len(titles) == 1 else "Several settings", fontsize=10)
    return figure, axes


def _legend(axes: Axes, runs: Sequence[RunFolder]) -> None:
    if len(runs) < 4:
        axes.legend(frameon=False, loc="lower right")
    else:  # too many to leave room among the lines
        axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))


def _columns(runs: Sequence[RunFolder]) -> int:
    """Of a legend below the axes, as many as the figure is wide."""
    return 2 if len(runs) < 4 else 3 if len(runs) < 9 else 4


def _title(run: RunFolder) -> str:
    config = run.config
    partition = PARTITIONS[config.get("partition", "shards")].title(config)  # older runs do not say
    return (
        f"{run.dataset['name']}, {config['model-name']}: N = {config['num-clients']}, {partition}, "
        f"f = {config['fraction-train']}, τ = {config['num-local-epochs']}, {config['num-server-rounds']} rounds"
    )


def _label(run: RunFolder) -> str:
    summary = run.summary
    covered = f", {run.covered}" if summary.get("missing") else ""
    return f"{run.config['algorithm']} (seed {run.config['seed']}{covered})"


def _colors(runs: Sequence[RunFolder]) -> list[str]:
    return [COLORS[index % len(COLORS)] for index in range(len(runs))]


def ours_and_the_papers(title: str, entries: "Sequence[Entry]") -> Figure:
    """Every cell's mean accuracy: the paper's across, ours up, with twice the standard errors over clients."""
    figure = Figure(figsize=(6.5, 6), dpi=120, layout="constrained")
    axes = figure.subplots()
    both = [entry for entry in entries if entry.mean is not None and entry.paper_mean is not None]
    metrics = {entry.of["metric"] for entry in both}
    groups: dict[str, list[Entry]] = {}
    for entry in both:
        metric = f", {TITLES[entry.of['metric']].lower()}" if len(metrics) > 1 else ""
        groups.setdefault(f"{entry.of['algorithm']}{metric}", []).append(entry)
    for index, (name, of_name) in enumerate(groups.items()):
        axes.errorbar(
            [e.paper_mean or 0.0 for e in of_name],
            [e.mean or 0.0 for e in of_name],
            xerr=[2 * e.paper_std / e.num_clients**0.5 for e in of_name],
            yerr=[2 * e.std / e.num_clients**0.5 for e in of_name],
            fmt="o", markersize=4, elinewidth=0.8, color=COLORS[index % len(COLORS)], label=name,
        )  # fmt: skip
    low, high = (limit(*axes.get_xlim(), *axes.get_ylim()) for limit in (min, max))
    axes.plot([low, high], [low, high], color="black", linewidth=0.7, alpha=0.5)
    axes.set_xlim(low, high)
    axes.set_ylim(low, high)
    axes.set_aspect("equal")
    axes.set_xlabel("The paper's accuracy in %")
    axes.set_ylabel("Our accuracy in %")
    axes.set_title(title, fontsize=10)
    axes.legend(frameon=False, fontsize=8)
    axes.grid(alpha=0.25)
    return figure
