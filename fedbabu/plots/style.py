"""How figures look: the setting in the title, and lines that the colour-blind and a grey printer tell apart."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fedbabu.partitions import PARTITIONS
from fedbabu.results import RunFolder
from fedbabu.storage import write_whole

SCREEN_DPI, PRINT_DPI = 120, 200
MANY = 4  # runs, which leave no room for a legend among their lines

# Okabe and Ito's palette, told apart by the colour-blind, and then the same darker; without colours, markers differ.
COLORS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
COLORS += ["#003A5B", "#6B2F00", "#004F3A", "#6B3D56", "#735000"]
MARKERS = ["o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h", "*"]
# What the paper says, behind what we measured.
PAPER: dict[str, Any] = {"linestyle": "none", "markerfacecolor": "white", "markersize": 7, "alpha": 0.6, "zorder": 1}


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as what its name ends with, .png or .svg, whole or not at all."""
    content = BytesIO()
    figure.savefig(content, format=path.suffix[1:], dpi=PRINT_DPI)
    write_whole(path, content.getvalue())


def panels(runs: Sequence[RunFolder], number: int, across: str = "") -> tuple[Figure, list[Axes]]:
    """A figure of panels side by side, under what the runs have in common but for a key of the run config."""
    width = max(7, 1.1 * len(runs), 4.5 * number)
    figure = Figure(figsize=(width, 4.5), dpi=SCREEN_DPI, layout="constrained")
    all_axes = list(figure.subplots(1, number, squeeze=False)[0])
    for axes in all_axes:
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(common_title(runs, across), fontsize=10)
    return figure, all_axes


def one_panel(runs: Sequence[RunFolder], across: str = "") -> tuple[Figure, Axes]:
    """A figure under what the runs have in common but for a key of the run config."""
    figure, (axes,) = panels(runs, 1, across)
    return figure, axes


def looks(number: int, num_points: int = 1) -> list[dict[str, Any]]:
    """How so many lines look, as arguments of `Axes.plot`; of many points, some have markers."""
    every = max(1, num_points // 10)
    return [
        {
            "color": COLORS[index % len(COLORS)],
            "marker": MARKERS[index % len(MARKERS)],
            "markersize": 4.5,
            # not all at the same place, where lines lie upon each other
            "markevery": (index % every, every),
        }
        for index in range(number)
    ]


def legend(axes: Axes, runs: Sequence[RunFolder], **options: Any) -> None:
    """A legend among the lines of few runs, beside those of many."""
    beside = {"loc": "center left", "bbox_to_anchor": (1, 0.5)}
    axes.legend(frameon=False, **(beside if len(runs) >= MANY else {"loc": "best"}) | options)


def legend_below(figure: Figure, runs: Sequence[RunFolder]) -> None:
    """A legend below the axes, of as many columns as the figure is wide."""
    columns = 3 if len(runs) < 9 else 4
    figure.legend(loc="outside lower center", ncols=columns, frameon=False)


def explain_paper_markers(axes: Axes) -> None:
    """A legend's line for the hollow markers."""
    axes.plot([], [], "o", color="grey", label="the paper's", **PAPER)


def common_title(runs: Sequence[RunFolder], across: str = "") -> str:
    """The setting of all runs, if they have one."""
    titles = {setting_title(run, across) for run in runs}
    return titles.pop() if len(titles) == 1 else "Several settings"


def setting_title(run: RunFolder, across: str = "") -> str:
    """The setting of a run in a line, but for a key of the run config."""
    config, dataset = run.config, run.dataset
    data = f"{dataset['name']}, {dataset['num-train-examples']:,} images, {config['model-name']}"
    if config["fraction-train"] == 0:
        part = (
            "" if config["server-data-fraction"] == 1 else f" on {100 * config['server-data-fraction']:g} % of the data"
        )
        return f"{data}: centralized{part}, {config['num-server-rounds']} epochs"
    partition = PARTITIONS[config.get("partition", "shards")]  # older runs do not say
    parts = {
        "num-clients": f"N = {config['num-clients']}",
        across if across in partition.keys else "partition": partition.title(config),
        "fraction-train": f"f = {config['fraction-train']}",
        "num-local-epochs": f"τ = {config['num-local-epochs']}",
        "num-server-rounds": f"{config['num-server-rounds']} rounds",
    }
    return f"{data}: {', '.join(part for key, part in parts.items() if key != across)}"


def labels(runs: Sequence[RunFolder]) -> list[str]:
    """Each run's algorithm; its seed, if they have several; and how many clients there are, if some are missing."""
    seeds = {run.config["seed"] for run in runs}
    return [
        run.config["algorithm"]
        + (f", seed {run.config['seed']}" if len(seeds) > 1 else "")
        + (f", {run.covered}" if run.summary.get("missing") else "")
        for run in runs
    ]
