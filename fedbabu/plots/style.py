"""How figures look: the setting in the title, and lines that remain distinguishable without colours."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from io import BytesIO
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from fedbabu.algorithms import ALGORITHMS
from fedbabu.config import PAPER_FIXED_VALUES, PROTOCOLS, default_run_config, partition_keys
from fedbabu.data.known import dataset_title
from fedbabu.data.partitions import PARTITIONS
from fedbabu.errors import ConfigError
from fedbabu.models import MODELS
from fedbabu.runs.files import write_whole
from fedbabu.runs.folder import RunFolder
from fedbabu.runs.settings import COMPARED_KEYS, declared_algorithm, setting_of

FloatArray = NDArray[np.float64]

SCREEN_DPI, PRINT_DPI = 120, 200
DEFAULT_FONT = "DejaVu Sans"  # which Matplotlib brings
MAX_TICKS = 10  # of an axis of rounds
MAX_LIGHTENING = 0.7  # the share of white in the colour of an algorithm's lightest seed is below this
MANY = 4  # runs: from this number on, there is no room for a legend among their lines

# The run-config keys that every title names, by the paper's symbols.
SYMBOLS = {
    "num-clients": "N",
    "fraction-train": "f",
    "num-local-epochs": "τ",
    "num-server-rounds": "K",
    "num-finetune-epochs": "τ_f",
}

# The palette of Okabe and Ito, which colour-blind readers can distinguish, and then its colours again, darker.
COLORS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
COLORS += ["#003A5B", "#6B2F00", "#004F3A", "#6B3D56", "#735000"]
# As many different hues as CIFAR-10 has classes.
CLASS_COLORS = [*COLORS[:7], "#F0E442", "#8C564B", "#999999"]
LINES = ["-", "--", ":"]
MARKERS = ["o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h", "*"]
PAPER_LABEL = "Oh et al. (2022)"
PAPER: dict[str, Any] = {"linestyle": "none", "markerfacecolor": "white", "markersize": 7, "alpha": 0.6, "zorder": 1}


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure to a .png or .svg file, which appears whole or not at all."""
    content = BytesIO()
    figure.savefig(content, format=path.suffix[1:], dpi=PRINT_DPI)
    write_whole(path, content.getvalue())


def save_picture(figure: Figure, output: Path, name: str) -> Path:
    """Write a figure where the user wants it; returns its absolute path.

    In a folder it gets the given name, and a name without the ending of a format that Matplotlib knows gets .png.

    Raises:
        ConfigError: If it cannot be written there.
    """
    path = output.absolute()
    path = path / name if path.is_dir() else path
    path = path if path.suffix[1:].lower() in FigureCanvasBase.filetypes else path.with_name(f"{path.name}.png")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_figure(figure, path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"The picture {path} cannot be written: {error}.") from error
    return path


def readable_names(names: Sequence[object]) -> tuple[list[str], list[str]]:
    """Names for a figure, and the fonts that have their characters.

    If no installed font has all of them, the names are numbers instead, and what they stand for is printed.
    """
    texts, fonts = list(map(str, names)), [DEFAULT_FONT]
    missing = {ord(letter) for letter in "".join(texts)} - _characters(font_manager.findfont(DEFAULT_FONT))
    for entry in font_manager.fontManager.ttflist if missing else ():
        if found := missing & _characters(entry.fname):
            fonts.append(entry.name)
            missing -= found
    if missing:
        numbered = ", ".join(f"{number} = {text}" for number, text in enumerate(texts))
        print(
            f"No installed font has the characters of these names, so that figures have numbers: {numbered}", flush=True
        )
        return list(map(str, range(len(texts)))), fonts[:1]
    return texts, fonts


@cache
def _characters(font: str) -> frozenset[int]:
    """The code points of the characters that the file of a font has."""
    return frozenset(font_manager.get_font(font).get_charmap())


def panels(runs: Sequence[RunFolder], number: int = 1, varied_key: str = "") -> tuple[Figure, list[Axes]]:
    """A figure with panels, up to three beside each other, and the setting of all runs but the varied key as title."""
    columns = min(number, 3)
    rows = -(-number // columns)
    width = max(7, 4.5 * columns, 1.1 * len(runs) if number == 1 else 0)
    figure = Figure(figsize=(width, 4.5 * rows), dpi=SCREEN_DPI, layout="constrained")
    all_axes = [figure.add_subplot(rows, columns, place) for place in range(1, number + 1)]
    for axes in all_axes:
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(fill(common_title(runs, varied_key), int(12 * width)), fontsize=10)  # in lines that fit
    return figure, all_axes


def looks(number: int, num_points: int = 1) -> list[dict[str, Any]]:
    """Distinguishable looks for a number of lines, as arguments of `Axes.plot`; of many points, some have markers."""
    every = max(1, num_points // 10)
    return [
        {
            "color": COLORS[index % len(COLORS)],
            "linestyle": LINES[index // len(COLORS) % len(LINES)],
            "marker": MARKERS[index % len(MARKERS)],
            "markersize": 4.5,
            "clip_on": False,  # so that a marker at 0 is whole
            "markevery": (index % every, every),  # at different places, since lines may cover each other
        }
        for index in range(number)
    ]


def looks_of(runs: Sequence[RunFolder], num_points: int = 1) -> list[dict[str, Any]]:
    """The looks of runs: an algorithm has the same colour and marker in every figure, lighter from seed to seed.

    In a figure with several runs of an algorithm that differ in more than their seed, every run has its own colour.
    """
    names = list(ALGORITHMS)
    places = [names.index(run.config["algorithm"]) for run in runs]
    if len(set(zip(places, (run.config["seed"] for run in runs), strict=True))) < len(runs):
        return looks(len(runs), num_points)
    of_all = looks(len(names), num_points)
    of_runs = []
    for index, place in enumerate(places):
        rank, look = places[:index].count(place), of_all[place]
        color = _lighter(look["color"], MAX_LIGHTENING * rank / places.count(place))
        line = LINES[
            (rank + place // len(COLORS)) % len(LINES)
        ]  # algorithms that share a colour begin with other lines
        of_runs.append(look | {"color": color, "linestyle": line})
    return of_runs


def _lighter(color: str, share: float) -> str:
    """A colour mixed with a share of white."""
    red, green, blue = (share + (1 - share) * part for part in to_rgb(color))
    return to_hex((red, green, blue))


def paper_markers(axes: Axes, x: ArrayLike, y: ArrayLike, look: Mapping[str, Any], std: float | None = None) -> None:
    """Draw the paper's numbers as hollow markers, which the legend explains once."""
    error = None if std is None else spread(y, std)
    axes.errorbar(x, y, error, color=look["color"], marker=look["marker"], capsize=2, **PAPER)
    if PAPER_LABEL not in axes.get_legend_handles_labels()[1]:
        axes.plot([], [], "o", color="grey", label=PAPER_LABEL, **PAPER)


def spread(mean: ArrayLike, std: ArrayLike) -> FloatArray:
    """How far standard deviations reach below and above means in percent, within 0 and 100: float64 [2, n]."""
    mean = np.atleast_1d(mean)
    return np.minimum(std, [mean, 100.0 - mean])


def round_ticks(axes: Axes, rounds: Sequence[int]) -> None:
    """Ticks at the rounds that have points, if these are few, or otherwise at some whole numbers."""
    if len(rounds) <= MAX_TICKS:
        axes.set_xticks(rounds)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def legend(axes: Axes, beside: bool = False, columns_below: int = 0, **options: Any) -> None:
    """Add a legend beside the axes, or below them in a number of columns, or otherwise among their lines."""
    handles = dict(zip(*axes.get_legend_handles_labels()[::-1], strict=True))  # each label once, and the paper's last
    names = sorted(handles, key=lambda name: name == PAPER_LABEL)
    entries = [handles[name] for name in names], names
    if columns_below:
        axes.figure.legend(*entries, loc="outside lower center", ncols=columns_below, frameon=False)
    else:
        place = {"loc": "center left", "bbox_to_anchor": (1, 0.5)} if beside else {}
        axes.legend(*entries, frameon=False, **options | place)


def common_title(runs: Sequence[RunFolder], varied_key: str = "") -> str:
    """What the settings of all runs have in common in one line, without a run-config key in which they differ."""
    (data, parts), *others = (_setting_parts(run, varied_key) for run in runs)
    if any(data != other for other, _ in others):
        return "Several settings"
    return f"{data}: {', '.join(part for part in parts if all(part in theirs for _, theirs in others))}"


def distinguishing_parts(runs: Sequence[RunFolder]) -> list[str]:
    """The part of the setting of each run that not all of them have, in one line; empty if there is none."""
    of_runs = [[data, *parts] for data, parts in map(_setting_parts, runs)]
    common = set(of_runs[0]).intersection(*of_runs)
    return [", ".join(part for part in parts if part not in common) for parts in of_runs]


def setting_title(run: RunFolder, varied_key: str = "") -> str:
    """The setting of a run in one line, without its algorithm, its seed and a run-config key in which runs differ.

    Values that are the same in all of the paper's tables are left out, so that runs with one title may be compared.
    """
    data, parts = _setting_parts(run, varied_key)
    return f"{data}: {', '.join(parts)}"


def _setting_parts(run: RunFolder, varied_key: str = "") -> tuple[str, list[str]]:
    """The data and network of a run, and the other parts of its setting, as `setting_title` has them."""
    config, dataset = run.config, run.dataset
    scheme, share = config["partition"], config["server-data-fraction"]
    left_out = {"partition", "server-data-fraction", varied_key, *SYMBOLS, *partition_keys(scheme), *COMPARED_KEYS}
    left_out.update(declared_algorithm(config).coefficients)
    if config["fraction-train"] == 0:
        part_of_data = "" if share == 1 else f" on {100 * share:g} % of the data"
        parts = [f"centralized{part_of_data}", f"{config['num-server-rounds']} epochs"]
    else:
        parts = [f"{symbol} = {config[key]}" for key, symbol in SYMBOLS.items() if key != varied_key]
        if varied_key not in partition_keys(scheme):
            parts.insert(1, PARTITIONS[scheme].title(run.run_config.partition_spec))
        if share and varied_key != "server-data-fraction":
            parts.append(f"p = {share}")
    parts += [f"{key} = {value}" for key, value in _unusual_values(config).items() if key not in left_out]
    network = MODELS[config["model-name"]].title or config["model-name"]
    return f"{dataset_title(dataset['name'])}, {dataset['num-train-examples']:,} images, {network}", parts


def algorithm_label(run: RunFolder) -> str:
    """The algorithm of a run, whether it is the code's, and those of its coefficients that are not the usual ones."""
    declared, unusual = declared_algorithm(run.config), _unusual_values(run.config)
    algorithm = declared.title or declared.name
    keys = [key for key in unusual if key == "protocol" or key in declared_algorithm(run.config).coefficients]
    return ", ".join([algorithm, *(f"{key} = {unusual[key]}" for key in keys)])


def _unusual_values(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a setting that is not the same as in all of the paper's tables, nor fixed by the protocol."""
    defaults, declared = default_run_config(), declared_algorithm(config)
    usual = {key: defaults[key] for key in declared.coefficients}
    usual |= {"protocol": defaults["protocol"], "partition-seed": defaults["partition-seed"]}
    usual["aggregation-weights"] = PROTOCOLS[config["protocol"]]["aggregation-weights"]
    usual |= PAPER_FIXED_VALUES | {key: config[key] for key in (*SYMBOLS, *declared.fixes)}
    usual_setting = setting_of({**config, **usual})
    # A key without a value says that there is nothing: no part is fine-tuned, say.
    return {key: value for key, value in setting_of(config).items() if value not in ("", usual_setting.get(key))}


def labels(runs: Sequence[RunFolder], label: Callable[[RunFolder], str] = algorithm_label) -> list[str]:
    """A label for each run, with its seed if the runs have several, and the number of clients if some are missing."""
    several_seeds = len({run.config["seed"] for run in runs}) > 1
    return [
        label(run)
        + (f", seed {run.config['seed']}" if several_seeds else "")
        + (f", {run.clients_covered}" if run.missing_clients() else "")
        for run in runs
    ]
