"""The paper's own figures, of runs that record what they need, and its numbers beside ours."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fedbabu.config import RunConfig
from fedbabu.models import mean_row_cosine
from fedbabu.plots.style import COLORS, MARKERS, SCREEN_DPI, common_title, labels, looks, one_panel, panels
from fedbabu.progress import TITLES
from fedbabu.results import RunFolder

if TYPE_CHECKING:  # the comparison is made of runs, as the figures are
    from fedbabu.comparison import Entry

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
    return _centralized(runs, trained_part, "trained")


def centralized_by_head_init(runs: Sequence[RunFolder]) -> Figure:
    """Test accuracy over epochs of centralized training of the body, by the head's initialization (3, 5, 7 and 9).

    In parentheses, as in the paper, the mean cosine similarity between the head's rows: a head that is not trained is
    at the end as it was initialized.
    """
    return _centralized(runs, _head_init, "head initialized")


def _centralized(runs: Sequence[RunFolder], label: Callable[[RunFolder], str], title: str) -> Figure:
    figure, axes = one_panel(runs)
    curves = [[(r["round"], r["test-accuracy"]) for r in run.rounds if "test-accuracy" in r] for run in runs]
    for run, curve, look in zip(runs, curves, looks(len(runs), max(map(len, curves))), strict=True):
        axes.plot(*zip(*curve, strict=True), label=label(run), **look)
    axes.set(xlabel="Epoch", ylabel="Accuracy on the test split (%)")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False, title=title, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def trained_part(run: RunFolder) -> str:
    """What the server trains in centralized training."""
    return (RunConfig.from_flower(run.complete_config).server_trains.name or "nothing").lower()


def _head_init(run: RunFolder) -> str:
    cosine = round(mean_row_cosine(run.model()["head.weight"]), 3) + 0.0  # not -0.000
    return f"{run.config['head-init']} ({cosine:.3f})"


def class_accuracy(runs: Sequence[RunFolder]) -> Figure:
    """Accuracy on classes that a sampled client trains on, and on others, over the epochs of all rounds (Figure 13).

    A round's first point is the global model as it was broadcast, the others are after each local epoch; the mean over
    the round's clients. Runs need record = 'class-accuracy', and test images of other classes (iid-test-set).
    """
    figure, all_axes = panels(runs, 2)
    kinds = {"in-class": "Classes that the client has", "out-of-class": "Other classes"}
    for axes, (kind, title) in zip(all_axes, kinds.items(), strict=True):
        for run, label, look in zip(runs, labels(runs), looks(len(runs)), strict=True):
            rounds = [[np.nan if value is None else value for value in record[kind]] for record in run.rounds]
            starts = _epochs_before(rounds)
            epochs = [start + np.arange(len(curve)) for start, curve in zip(starts, rounds, strict=True)]
            line = look | {"marker": "", "linewidth": 0.8, "alpha": 0.7}
            axes.plot(np.concatenate(epochs), np.concatenate(rounds), label=f"{label}, local", **line)
            broadcast = look | {"linestyle": "none", "markevery": 1}
            axes.plot(starts, [curve[0] for curve in rounds], label=f"{label}, as broadcast", **broadcast)
        axes.set(xlabel="Local epochs of all rounds", ylabel="Accuracy, mean over the round's clients (%)")
        axes.set_title(title, fontsize=10)
        axes.set_ylim(bottom=0)
    figure.legend(*all_axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
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
                named = name.removeprefix("body.").removesuffix(".weight")
                shown = "" if place in (0, len(body) - 1) else "_"  # which keeps it out of the legend
                color = colormaps["viridis_r"](0.1 + 0.9 * place / len(body))
                axes.plot(similarity, color=color, label=f"{shown}{named}")
            else:
                axes.plot(similarity, color="black", marker="o", markersize=4.5, linewidth=2, label="head")
        axes.set(xlabel="Fine-tuning epochs", ylabel="Cosine similarity between clients")
        axes.set_title(label, fontsize=10)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(frameon=False, fontsize=8, title="layer, from light to dark", title_fontsize=8)
    low = min(axes.get_ylim()[0] for axes in all_axes)
    for axes in all_axes:  # to be compared
        axes.set_ylim(low, 1 + (1 - low) / 20)
    return figure


def representations(runs: Sequence[RunFolder], classes: Sequence[str] = (), num_images: int = 1000) -> Figure:
    """t-SNE of the body's features of training and test images, a row a run (Figures 15 and 16).

    Colours and markers are classes; superclasses, where there are too many classes. Runs need record = 'features'.

    Args:
        runs: of one dataset.
        classes: the names of those to show; all if empty. VEHICLES has the paper's choice.
        num_images: at most, of each split: t-SNE takes seconds for a thousand.
    """
    from sklearn.manifold import TSNE

    figure = Figure(figsize=(9, 4.2 * len(runs)), dpi=SCREEN_DPI, layout="constrained")
    figure.suptitle(common_title(runs), fontsize=10)
    rows = figure.subplots(len(runs), 2, squeeze=False)
    for row, run, label in zip(rows, runs, labels(runs), strict=True):
        features, names = run.features()
        num_classes = run.dataset["num-classes"]
        of_class = np.array(names.get("class-names") or [str(number) for number in range(num_classes)])
        shown = np.isin(of_class, classes) if classes else np.ones(num_classes, bool)
        if shown.sum() > MAX_CLASSES and "superclasses" in names:
            of_class = np.array(names["superclasses"])
        groups = list(dict.fromkeys(of_class[shown]))
        for axes, split in zip(row, ("train", "test"), strict=True):
            of_images = features[f"{split}-labels"].numpy()
            chosen = np.flatnonzero(shown[of_images])[:num_images]
            places = TSNE(random_state=0, init="pca").fit_transform(features[split].numpy()[chosen])
            for index, group in enumerate(groups):
                of_group = of_class[of_images[chosen]] == group
                look = {"color": COLORS[index % NUM_HUES], "marker": MARKERS[index // NUM_HUES % len(MARKERS)]}
                axes.scatter(*places[of_group].T, s=9, linewidths=0, alpha=0.8, rasterized=True, label=group, **look)
            axes.set(xticks=[], yticks=[], xlabel="t-SNE, without units")
            axes.set_title(f"{label}, {len(chosen)} {'training' if split == 'train' else split} images", fontsize=10)
    handles, names_of_handles = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, names_of_handles, loc="outside right center", frameon=False, fontsize=8, markerscale=2)
    return figure


def vehicle_representations(runs: Sequence[RunFolder]) -> Figure:
    """t-SNE of the body's features of vehicles alone (Figure 16); of all classes, if the dataset has none."""
    return representations(runs, VEHICLES.get(runs[0].dataset["name"], ()))


def ours_and_the_papers(title: str, entries: "Sequence[Entry]") -> Figure:
    """Every cell's mean accuracy: the paper's across, ours up, with twice the standard errors over clients."""
    figure = Figure(figsize=(6.5, 6), dpi=SCREEN_DPI, layout="constrained")
    axes = figure.subplots()
    both = [entry for entry in entries if entry.mean is not None and entry.paper_mean is not None]
    metrics = {entry.of["metric"] for entry in both}
    groups: dict[str, list[Entry]] = {}
    for entry in both:
        metric = f", {TITLES[entry.of['metric']].lower()}" if len(metrics) > 1 else ""
        groups.setdefault(f"{entry.of['algorithm']}{metric}", []).append(entry)
    for (name, of_name), look in zip(groups.items(), looks(len(groups)), strict=True):
        axes.errorbar(
            [e.paper_mean or 0.0 for e in of_name],
            [e.mean or 0.0 for e in of_name],
            xerr=[2 * e.paper_std / e.num_clients**0.5 for e in of_name],
            yerr=[2 * e.std / e.num_clients**0.5 for e in of_name],
            linestyle="none", elinewidth=0.8, label=name, **look,
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
