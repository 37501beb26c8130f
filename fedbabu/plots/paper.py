"""The paper's own figures, of runs that record what they need, and its numbers beside ours."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fedbabu.config import RunConfig
from fedbabu.models import mean_row_cosine
from fedbabu.plots.style import (
    COLORS,
    LINES,
    MARKERS,
    SCREEN_DPI,
    common_title,
    labels,
    legend,
    legend_below,
    looks,
    one_panel,
    panels,
)
from fedbabu.runs.folder import RunFolder
from fedbabu.runs.progress import TITLES

if TYPE_CHECKING:  # the comparison is made of runs, as the figures are
    from fedbabu.reproduction.comparison import Entry

MAX_CLASSES = 20  # that one can tell apart by colour and marker
NUM_HUES = 7  # of the palette; the others are the same darker
# The classes of Figure 16.
VEHICLES = {
    "cifar10": ("airplane", "automobile", "ship", "truck"),
    "cifar100": (
        "bicycle", "bus", "motorcycle", "pickup_truck", "train", "lawn_mower", "rocket", "streetcar", "tank", "tractor",
    ),
}  # fmt: skip


def centralized_by_part(runs: Sequence[RunFolder]) -> Figure:
    """Test accuracy over epochs of centralized training, by what is trained (Figures 2, 4, 6 and 8)."""
    return _centralized(runs, trained_part, "trained", across="server-part")


def centralized_by_head_init(runs: Sequence[RunFolder]) -> Figure:
    """Test accuracy over epochs of centralized training of the body, by the head's initialization (3, 5, 7 and 9).

    In parentheses, as in the paper, the mean cosine similarity between the head's rows: a head that is not trained is
    at the end as it was initialized.
    """
    return _centralized(runs, _head_init, "head initialized", across="head-init")


def _centralized(runs: Sequence[RunFolder], label: Callable[[RunFolder], str], title: str, across: str) -> Figure:
    figure, axes = one_panel(runs, across)
    curves = [[(r["round"], r["test-accuracy"]) for r in run.rounds if "test-accuracy" in r] for run in runs]
    for curve, of_run, look in zip(curves, labels(runs, label), looks(len(runs), max(map(len, curves))), strict=True):
        axes.plot(*zip(*curve, strict=True), label=of_run, **look)
    axes.set(xlabel="Epoch", ylabel="Accuracy on the test split (%)")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend(axes, runs, title=title, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def trained_part(run: RunFolder) -> str:
    """What the server trains in centralized training."""
    return (RunConfig.from_flower(run.complete_config).server_trains.name or "nothing").lower()


def _head_init(run: RunFolder) -> str:
    cosine = round(mean_row_cosine(run.model()["head.weight"]), 3) + 0.0  # not -0.000
    return f"{run.config['head-init']} ({cosine:.3f})"


def class_accuracy(runs: Sequence[RunFolder]) -> Figure:
    """Accuracy on classes that a sampled client trains on, and on others, over the epochs of all rounds (Figure 13).

    A round's first point is the model as the client received it, the others are after each local epoch; the mean over
    the round's clients. Runs need record = 'class-accuracy', and for other classes test images of them (iid-test-set).
    """
    kinds = {
        kind: title
        for kind, title in {"in-class": "Classes that the client has", "out-of-class": "Other classes"}.items()
        if any(value is not None for run in runs for record in run.rounds for value in record[kind])
    }
    figure, all_axes = panels(runs, len(kinds))
    for axes, (kind, title) in zip(all_axes, kinds.items(), strict=True):
        for index, (run, label, look) in enumerate(zip(runs, labels(runs), looks(len(runs)), strict=True)):
            rounds = [[np.nan if value is None else value for value in record[kind]] for record in run.rounds]
            starts = _epochs_before(rounds)
            epochs = [start + np.arange(len(curve)) for start, curve in zip(starts, rounds, strict=True)]
            line = {"color": look["color"], "linestyle": LINES[index % len(LINES)], "linewidth": 1}
            axes.plot(np.concatenate(epochs), np.concatenate(rounds), label=f"{label}, local training", **line)
            size = 4.5 + 3 * (len(runs) - 1 - index)  # so that none hides another
            received = look | {"linestyle": "none", "markevery": 1, "markersize": size}
            axes.plot(starts, [curve[0] for curve in rounds], label=f"{label}, as received", **received)
        axes.set(xlabel="Local epochs of all rounds", ylabel="Accuracy, mean over the round's clients (%)")
        axes.set_title(title, fontsize=10)
        axes.set_ylim(bottom=0)
    legend_below(figure, all_axes[0], columns=2 * len(kinds))
    return figure


def _epochs_before(rounds: Sequence[Sequence[float]]) -> list[int]:
    """How many local epochs were over when each round began; each has a value before and after each of its epochs."""
    return np.cumsum([0, *(len(curve) - 1 for curve in rounds[:-1])]).tolist()


def layer_similarity(runs: Sequence[RunFolder]) -> Figure:
    """The mean cosine similarity between two clients' weights over fine-tuning epochs, by layer (Figure 12).

    The body's layers go from light to dark, the head is black. Runs need record = 'similarity'.
    """
    figure, all_axes = panels(runs, len(runs))
    for axes, run, label in zip(all_axes, runs, labels(runs), strict=True):
        body = [name for name in run.similarity if not name.startswith("head.")]
        for name, similarity in run.similarity.items():
            if name in body:
                place = body.index(name)
                named = {0: "first layer of the body", len(body) - 1: "last layer of the body"}
                color = colormaps["viridis_r"](0.1 + 0.9 * place / len(body))
                width = 3.5 - 2.5 * place / len(body)  # since they lie upon each other
                shown = named.get(place, f"_{name}")  # _: not in the legend
                axes.plot(similarity, color=color, linewidth=width, label=shown)
            else:
                axes.plot(similarity, color="black", marker="o", markersize=4.5, linewidth=2, label="head")
        axes.set(xlabel="Fine-tuning epochs", ylabel="Cosine similarity between clients")
        axes.set_title(label, fontsize=10)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        legend(axes, (), fontsize=8)
    low = min(axes.get_ylim()[0] for axes in all_axes)
    for axes in all_axes:  # to be compared
        axes.set_ylim(low, 1 + (1 - low) / 20)
    return figure


def representations(runs: Sequence[RunFolder], classes: Sequence[str] = (), num_images: int = 500) -> Figure:
    """t-SNE of the body's features of training and test images, a row a run (Figures 15 and 16).

    Colours and markers are classes; superclasses, where there are too many classes. Runs need record = 'features'.

    Args:
        runs: of one dataset.
        classes: the names of those to show; all if empty. VEHICLES has the paper's choice.
        num_images: at most, of each split: t-SNE takes seconds for so many.

    Raises:
        ValueError: if there is no such class.
    """
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits  # scikit-learn's own

    figure = Figure(figsize=(9, 4.2 * len(runs)), dpi=SCREEN_DPI, layout="constrained")
    figure.suptitle(common_title(runs), fontsize=10)
    rows = figure.subplots(len(runs), 2, squeeze=False)
    for row, run, label in zip(rows, runs, labels(runs), strict=True):
        features, names = run.features()
        num_classes = run.dataset["num-classes"]
        of_class = np.array(names.get("class-names") or [str(number) for number in range(num_classes)])
        if unknown := set(classes).difference(of_class):
            raise ValueError(f"The classes {sorted(unknown)} are not among those of the run: {', '.join(of_class)}.")
        shown = np.isin(of_class, classes) if classes else np.ones(num_classes, bool)
        if shown.sum() > MAX_CLASSES and "superclasses" in names:
            of_class = np.array(names["superclasses"])
        groups = list(dict.fromkeys(of_class[shown]))
        for axes, split in zip(row, ("train", "test"), strict=True):
            of_images = features[f"{split}-labels"].numpy()
            chosen = np.flatnonzero(shown[of_images])[:num_images]
            tsne = TSNE(random_state=0, init="pca", perplexity=min(30, (len(chosen) - 1) / 3))
            with threadpool_limits(1):  # its steps are short: threads that share cores with others wait for each other
                places = tsne.fit_transform(features[split].numpy()[chosen])
            for index, group in enumerate(groups):
                of_group = of_class[of_images[chosen]] == group
                look = {"color": COLORS[index % NUM_HUES], "marker": MARKERS[index % len(MARKERS)]}
                axes.scatter(*places[of_group].T, s=14, linewidths=0, alpha=0.8, rasterized=True, label=group, **look)
            axes.set(xticks=[], yticks=[], xlabel="t-SNE, without units")
            axes.set_title(f"{label}, {len(chosen)} {'training' if split == 'train' else split} images", fontsize=10)
    handles, shown_names = figure.axes[0].get_legend_handles_labels()
    columns = -(-len(shown_names) // (MAX_CLASSES * len(runs)))
    options: dict[str, Any] = {"frameon": False, "fontsize": 8, "markerscale": 1.5, "ncols": columns}
    figure.legend(handles, shown_names, loc="outside right center", **options)
    return figure


def vehicle_representations(runs: Sequence[RunFolder]) -> Figure:
    """t-SNE of the body's features of vehicles alone (Figure 16), of a dataset in VEHICLES."""
    return representations(runs, VEHICLES[runs[0].dataset["name"]])


def ours_and_the_papers(title: str, entries: "Sequence[Entry]") -> Figure:
    """Every cell's mean accuracy: the paper's across, ours up, with twice the standard errors over clients."""
    figure = Figure(figsize=(6.5, 6), dpi=SCREEN_DPI, layout="constrained")
    axes = figure.subplots()
    both = [(e, e.mean, e.paper_mean) for e in entries if e.mean is not None and e.paper_mean is not None]
    metrics = {entry.of["metric"] for entry, _, _ in both}
    groups: dict[str, list[tuple[Entry, float, float]]] = {}
    for entry, ours, paper in both:
        metric = f", {TITLES[entry.of['metric']].lower()}" if len(metrics) > 1 else ""
        groups.setdefault(f"{entry.of['algorithm']}{metric}", []).append((entry, ours, paper))
    for (label, of_group), look in zip(groups.items(), looks(len(groups)), strict=True):
        axes.errorbar(
            [paper for _, _, paper in of_group],
            [ours for _, ours, _ in of_group],
            xerr=[2 * entry.paper_std / entry.num_clients**0.5 for entry, _, _ in of_group],
            yerr=[2 * entry.std / entry.num_clients**0.5 for entry, _, _ in of_group],
            elinewidth=0.8, label=label, **look | {"linestyle": "none"},
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
