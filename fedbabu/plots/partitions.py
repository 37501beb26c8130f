"""The figure of a partition: clients against classes."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fedbabu.config import RunConfig
from fedbabu.data import all_class_counts, open_simulated_data, partition_title
from fedbabu.plots.style import SCREEN_DPI
from fedbabu.runs.folder import RunFolder

MAX_CLASS_NAMES = 30  # that fit beside an axis


def clients_and_classes_of(run: RunFolder) -> Figure:
    """How many images each client of a run holds of each class; its data are partitioned again.

    Raises:
        ConfigError: if the data are not there.
    """
    config = RunConfig.from_flower(run.complete_config)
    dataset, partition = open_simulated_data(config)
    counts, title = all_class_counts(dataset, partition), partition_title(dataset, config)
    return clients_and_classes(counts, title, dataset.class_names, dataset.superclasses)


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
    figure = Figure(figsize=(np.clip(num_clients / 90, 10, 18), 4.8), dpi=SCREEN_DPI, layout="constrained")
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
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    if superclasses:
        names, first = np.unique(np.asarray(superclasses)[order], return_index=True)
        axes.set_yticks((first + np.append(first[1:], num_classes) - 1) / 2, names, fontsize=7)
        axes.set_ylabel("Class, by superclass")
        for panel in figure.axes[:2]:
            panel.hlines(first[1:] - 0.5, -0.5, num_clients - 0.5, color="black", linewidth=0.3)
    elif class_names and num_classes <= MAX_CLASS_NAMES:
        axes.set_yticks(range(num_classes), class_names, fontsize=8)
    return figure
