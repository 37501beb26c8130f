"""How figures look: the setting in the title, and lines that the colour-blind and a grey printer tell apart."""

from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from fedbabu.algorithms import ALGORITHMS
from fedbabu.config import default_run_config
from fedbabu.data.partitions import PARTITIONS
from fedbabu.reproduction.paper import PROTOCOL
from fedbabu.runs.files import write_whole
from fedbabu.runs.folder import APART, RunFolder
from fedbabu.runs.settings import setting

SCREEN_DPI, PRINT_DPI = 120, 200
# The run-config keys that a title names, as the paper does, but for the partition's.
NAMED = {
    "num-clients": "N",
    "fraction-train": "f",
    "num-local-epochs": "τ",
    "num-server-rounds": "K",
    "num-finetune-epochs": "τ_f",
}
MANY = 4  # runs, which leave no room for a legend among their lines

# Okabe and Ito's palette, told apart by the colour-blind, and then the same darker; without colours, markers differ.
COLORS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
COLORS += ["#003A5B", "#6B2F00", "#004F3A", "#6B3D56", "#735000"]
LINES = ["-", "--", ":"]
MARKERS = ["o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h", "*"]
PAPER_LABEL = "the paper's"
PAPER: dict[str, Any] = {"linestyle": "none", "markerfacecolor": "white", "markersize": 7, "alpha": 0.6, "zorder": 1}


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as what its name ends with, .png or .svg, whole or not at all."""
    content = BytesIO()
    figure.savefig(content, format=path.suffix[1:], dpi=PRINT_DPI)
    write_whole(path, content.getvalue())


def panels(runs: Sequence[RunFolder], number: int, across: str = "") -> tuple[Figure, list[Axes]]:
    """A figure of panels, up to three in a row, under what the runs have in common but for a key of the run config."""
    columns = min(number, 3)
    rows = -(-number // columns)
    width = max(7, 4.5 * columns, 1.1 * len(runs) if number == 1 else 0)
    figure = Figure(figsize=(width, 4.5 * rows), dpi=SCREEN_DPI, layout="constrained")
    all_axes = [figure.add_subplot(rows, columns, place) for place in range(1, number + 1)]
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
            "linestyle": LINES[index // len(COLORS) % len(LINES)],
            "marker": MARKERS[index % len(MARKERS)],
            "markersize": 4.5,
            "clip_on": False,  # a marker at 0 is whole
            "markevery": (index % every, every),  # not all at the same place, where lines lie upon each other
        }
        for index in range(number)
    ]


def paper_markers(
    axes: Axes, x: ArrayLike, y: ArrayLike, look: Mapping[str, Any], std: ArrayLike | None = None
) -> None:
    """What the paper says, as hollow markers that the legend explains once."""
    axes.errorbar(x, y, std, color=look["color"], marker=look["marker"], capsize=2, **PAPER)
    if PAPER_LABEL not in axes.get_legend_handles_labels()[1]:
        axes.plot([], [], "o", color="grey", label=PAPER_LABEL, **PAPER)


def legend(axes: Axes, runs: Sequence[RunFolder], **options: Any) -> None:
    """A legend among the lines of few runs, beside those of many."""
    beside = {"loc": "center left", "bbox_to_anchor": (1, 0.5)}
    axes.legend(*_entries(axes), frameon=False, **(beside if len(runs) >= MANY else {"loc": "best"}) | options)


def legend_below(figure: Figure, axes: Axes, columns: int) -> None:
    """A legend below the axes."""
    figure.legend(*_entries(axes), loc="outside lower center", ncols=columns, frameon=False)


def _entries(axes: Axes) -> tuple[list[Artist], list[str]]:
    """A legend's handles and labels: each label once, the paper's last."""
    found = dict(zip(*axes.get_legend_handles_labels()[::-1], strict=True))
    names = sorted(found, key=lambda name: name == PAPER_LABEL)
    return [found[name] for name in names], names


def common_title(runs: Sequence[RunFolder], across: str = "") -> str:
    """The setting of all runs, if they have one."""
    titles = {setting_title(run, across) for run in runs}
    return titles.pop() if len(titles) == 1 else "Several settings"


def setting_title(run: RunFolder, across: str = "") -> str:
    """What a run's numbers depend on, in a line, but for algorithm, seed and a key of the run config.

    What is as in all of the paper's tables goes without saying, so that runs of one title may be compared.
    """
    config, dataset = run.complete_config, run.dataset
    data = f"{dataset['name']}, {dataset['num-train-examples']:,} images, {config['model-name']}"
    partition, algorithm = PARTITIONS[config["partition"]], ALGORITHMS[config["algorithm"]]
    unsaid = {"partition", "server-data-fraction", *NAMED, *partition.keys, *algorithm.keys, *APART, across}
    unusual = [f"{key} = {value}" for key, value in _unusual(config).items() if key not in unsaid]
    share = config["server-data-fraction"]
    if config["fraction-train"] == 0:
        of_data = "" if share == 1 else f" on {100 * share:g} % of the data"
        parts = [f"centralized{of_data}", f"{config['num-server-rounds']} epochs"]
    else:
        parts = [f"{symbol} = {config[key]}" for key, symbol in NAMED.items() if key != across]
        parts[1:1] = [] if across in partition.keys else [partition.title(config)]
        parts += [f"p = {share}"] if share and across != "server-data-fraction" else []
    return f"{data}: {', '.join(parts + unusual)}"


def algorithm_of(run: RunFolder) -> str:
    """The algorithm of a run, and its own coefficients, if they are not the usual ones."""
    config = run.complete_config
    own = {key: value for key, value in _unusual(config).items() if key in ALGORITHMS[config["algorithm"]].keys}
    return ", ".join([config["algorithm"], *(f"{key} = {value}" for key, value in own.items())])


def _unusual(config: Mapping[str, Any]) -> dict[str, Any]:
    """In what a setting is not as in all of the paper's tables."""
    own, defaults = ALGORITHMS[config["algorithm"]].keys, default_run_config()
    usual = {key: defaults[key] for key in own} | PROTOCOL | {key: config[key] for key in NAMED}
    usual = setting({**config, **usual})
    return {key: value for key, value in setting(config).items() if value != usual.get(key)}


def labels(runs: Sequence[RunFolder], of: Callable[[RunFolder], str] = algorithm_of) -> list[str]:
    """Each run's name; its seed, if they have several; and how many clients there are, if some are missing."""
    seeds = {run.config["seed"] for run in runs}
    return [
        of(run)
        + (f", seed {run.config['seed']}" if len(seeds) > 1 else "")
        + (f", {run.covered}" if run.summary.get("missing") else "")
        for run in runs
    ]
