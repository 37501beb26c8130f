"""The figures that the paper has; most need runs with the diagnostic that they show (the run-config key `record`)."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fedbabu.data.dataset import ImageDataset
from fedbabu.data.partitions.partition import all_class_counts, open_simulated_data, partition_title
from fedbabu.models import mean_row_cosine
from fedbabu.plots import style
from fedbabu.runs.folder import RunFolder

MAX_CLASSES = 20  # that a reader can distinguish by colour and marker
ROUNDING = 1e-6  # below which the distance between clients' weights is rounding
MAX_CLASS_NAMES = 30  # that fit beside an axis

# The classes of Figure 16, by dataset.
VEHICLES = {
    "cifar10": ("airplane", "automobile", "ship", "truck"),
    "cifar100": (
        "bicycle", "bus", "motorcycle", "pickup_truck", "train", "lawn_mower", "rocket", "streetcar", "tank", "tractor",
    ),
}  # fmt: skip


def centralized(runs: Sequence[RunFolder], varied_key: str) -> Figure:
    """Draw test accuracy over the epochs of centralized training, one curve for each run (the paper's Figures 2 to 9).

    The runs differ in the run-config key `server-part`, the trained part, or in `head-init`, the initialization of a
    head that is not trained. For the latter, the legend has the mean cosine similarity between the head's rows in
    parentheses, as in the paper.
    """
    figure, (axes,) = style.panels(runs, varied_key=varied_key)
    curves = [[(r.round, r.test_accuracy) for r in run.rounds if r.test_accuracy is not None] for run in runs]
    looks = style.looks_of(runs, max(map(len, curves)))
    label, title = {"server-part": (trained_part, "trained"), "head-init": (_head_init, "head initialized")}[varied_key]
    for curve, name, look in zip(curves, style.labels(runs, label), looks, strict=True):
        axes.plot(*zip(*curve, strict=True), label=name, **look)
    axes.set(xlabel="Epoch", ylabel="Accuracy on the test split (%)", xlim=(0, None), ylim=(0, None))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    style.legend(axes, beside=True, title=title)
    return figure


def trained_part(run: RunFolder) -> str:
    """The name of the part that the server trains in centralized training."""
    return (run.run_config.part_trained_on_server.name or "nothing").lower()


def _head_init(run: RunFolder) -> str:
    """The head's initialization, and the mean cosine similarity between its rows."""
    cosine = round(mean_row_cosine(run.model()[_head_layers(run.model())[-1]]), 3) + 0.0  # not -0.000
    return f"{run.config['head-init']} ({cosine:.3f})"


def _head_layers(names: Iterable[str]) -> list[str]:
    """The names among parameters' of the weights of the head's layers, the last one of the linear layer."""
    return [name for name in names if name.startswith("head.") and name.endswith("weight")]


def class_accuracy(runs: Sequence[RunFolder]) -> Figure:
    """Accuracy on the classes that a sampled client trains on, and on others, over local epochs (Figure 13).

    The first point of a round is the global model as the clients received it, the others are after each local epoch.
    It is measured on the whole test split. Runs need the diagnostic "class-accuracy".
    """
    titles = {"in_class": "Classes that the client has"}
    if any(value is not None for run in runs for record in run.rounds for value in record.out_of_class or ()):
        titles["out_of_class"] = "Other classes"
    figure, all_axes = style.panels(runs, len(titles))
    for axes, (kind, title) in zip(all_axes, titles.items(), strict=True):
        for index, (run, label, look) in enumerate(zip(runs, style.labels(runs), style.looks_of(runs), strict=True)):
            # A round in which no client trained has none; None, without images of other classes, becomes NaN.
            recorded = [curve for record in run.rounds if (curve := getattr(record, kind))]
            curves = [np.array(curve, dtype=float) for curve in recorded]
            # A round has a value before and after each of its epochs, so it ends one epoch before it has values.
            starts = np.cumsum([0, *(len(curve) - 1 for curve in curves[:-1])])
            epochs = [start + np.arange(len(curve)) for start, curve in zip(starts, curves, strict=True)]
            line = {"color": look["color"], "linestyle": style.LINES[index % len(style.LINES)], "linewidth": 1}
            axes.plot(np.concatenate(epochs), np.concatenate(curves), label=f"{label}, local training", **line)
            size = 4.5 + 3 * (len(runs) - 1 - index)  # so that no marker hides another
            received = look | {"linestyle": "none", "markevery": 1, "markersize": size}
            axes.plot(starts, [curve[0] for curve in curves], label=f"{label}, as received", **received)
        axes.set(xlabel="Local epochs of all rounds", ylabel="Accuracy, mean over the round's clients (%)")
        axes.set_title(title, fontsize=10)
        axes.set_ylim(bottom=0)
    style.legend(all_axes[0], columns_below=2 * len(titles))
    return figure


def layer_similarity(runs: Sequence[RunFolder]) -> Figure:
    """How far two clients' weights are apart over fine-tuning epochs, by layer: 1 minus their mean cosine (Figure 12).

    The paper draws the cosine itself, in which bodies are one line at 1. Before fine-tuning, all clients have the same
    weights, which a logarithmic axis cannot show. The body's layers go from light to dark, the head is black. Runs need
    the diagnostic "similarity".
    """
    figure, all_axes = style.panels(runs, len(runs))
    for axes, run, label in zip(all_axes, runs, style.labels(runs), strict=True):
        body = [name for name in run.similarity if not name.startswith("head.")]
        named = {body[0]: "first layer of the body", body[-1]: "last layer of the body"}  # others: not in the legend
        for place, name in enumerate(body):
            color = colormaps["viridis_r"](0.1 + 0.9 * place / len(body))
            width = 3.5 - 2.5 * place / len(body)  # since the lines cover each other
            axes.plot(*_distances(run, name), ".-", color=color, linewidth=width, label=named.get(name, "_"))
        for name in _head_layers(run.similarity):
            axes.plot(*_distances(run, name), color="black", marker="o", markersize=4.5, linewidth=2, label="head")
        axes.set(xlabel="Fine-tuning epochs", ylabel="1 - cosine similarity between clients", yscale="log")
        axes.set_title(label, fontsize=10)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        style.legend(axes, fontsize=8)
    limits = [axes.get_ylim() for axes in all_axes]
    for axes in all_axes:  # the same limits, so that the panels can be compared
        axes.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))
    return figure


def _distances(run: RunFolder, layer: str) -> tuple[list[int], list[float]]:
    """The epochs of fine-tuning from the first on, and 1 minus the clients' mean cosine similarity after each.

    What is below ROUNDING, because the layer is not fine-tuned, is drawn there.
    """
    distances = [max(1.0 - cosine, ROUNDING) for cosine in run.similarity[layer][1:]]
    return list(range(1, len(distances) + 1)), distances


def representations(runs: Sequence[RunFolder], classes: Sequence[str] = (), num_images: int = 500) -> Figure:
    """t-SNE of the body's features of training and test images, two panels for each run (Figures 15 and 16).

    Colours and markers are classes, or superclasses if there are too many. Runs need one dataset and the diagnostic
    "features". At most num_images of each split are shown, of the classes with these names, or of all if none is given.
    """
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits  # a dependency of scikit-learn

    figure = Figure(figsize=(9, 4.2 * len(runs)), dpi=style.SCREEN_DPI, layout="constrained")
    figure.suptitle(style.common_title(runs), fontsize=10)
    rows = figure.subplots(len(runs), 2, squeeze=False)
    for row, run, label in zip(rows, runs, style.labels(runs), strict=True):
        features, names = run.features()
        num_classes = run.dataset["num-classes"]
        class_names = np.array(names.get("class-names") or [str(number) for number in range(num_classes)])
        if unknown := set(classes).difference(class_names):
            raise ValueError(f"The classes {sorted(unknown)} are not among those of the run: {', '.join(class_names)}.")
        shown = np.isin(class_names, classes) if classes else np.ones(num_classes, bool)
        if shown.sum() > MAX_CLASSES and "superclasses" in names:
            class_names = np.array(names["superclasses"])
        groups = list(dict.fromkeys(class_names[shown]))
        for axes, split in zip(row, ("train", "test"), strict=True):
            labels_of_images = features[f"{split}-labels"].numpy()
            chosen = np.flatnonzero(shown[labels_of_images])[:num_images]
            tsne = TSNE(random_state=0, init="pca", perplexity=min(30, (len(chosen) - 1) / 3))
            with threadpool_limits(1):  # its steps are so short that threads would mostly wait for each other
                places = tsne.fit_transform(features[split].numpy()[chosen])
            for index, group in enumerate(groups):
                in_group = class_names[labels_of_images[chosen]] == group
                look = {
                    "color": style.CLASS_COLORS[index % len(style.CLASS_COLORS)],
                    "marker": style.MARKERS[index % len(style.MARKERS)],
                }
                axes.scatter(*places[in_group].T, s=14, linewidths=0, alpha=0.8, rasterized=True, label=group, **look)
            axes.set(xticks=[], yticks=[], xlabel="t-SNE, without units")
            axes.set_title(f"{label}, {len(chosen)} {'training' if split == 'train' else split} images", fontsize=10)
    handles, groups = figure.axes[0].get_legend_handles_labels()
    groups, fonts = style.readable_names(groups)
    columns = -(-len(groups) // (MAX_CLASSES * len(runs)))
    figure.legend(
        handles, groups, loc="outside right center", frameon=False, prop={"family": fonts, "size": 8}, markerscale=1.5,
        ncols=columns,
    )  # fmt: skip
    return figure


def vehicle_representations(runs: Sequence[RunFolder]) -> Figure:
    """t-SNE of the body's features of vehicles alone (Figure 16), of a dataset in VEHICLES."""
    return representations(runs, VEHICLES[runs[0].dataset["name"]])


def clients_and_classes_of(run: RunFolder) -> Figure:
    """How many images each client of a run holds of each class (Figures 10, 11 and 14). This opens its dataset."""
    spec = run.run_config.partition_spec
    dataset, partition = open_simulated_data(run.run_config.data_spec, spec)
    return clients_and_classes(all_class_counts(dataset, partition), partition_title(dataset, spec), dataset)


def clients_and_classes(counts: Mapping[str, npt.NDArray[np.int64]], title: str, dataset: ImageDataset) -> Figure:
    """How many images each client holds of each class: the counts, int64 [clients, classes], under "train" and "test".

    The names of the classes are shown if there are few. Classes with superclasses are in the order of these. Colours
    mean the same in both panels and for every partition of a dataset: from 1 image to all of the largest class.
    """
    (num_clients, num_classes), superclasses = counts["train"].shape, dataset.superclasses
    figure = Figure(figsize=(np.clip(num_clients / 90, 10, 18), 4.8), dpi=style.SCREEN_DPI, layout="constrained")
    figure.suptitle(title, fontsize=10)
    order = np.argsort(superclasses, kind="stable") if superclasses else np.arange(num_classes)
    colors = colormaps["viridis_r"].with_extremes(bad="white")
    scale = LogNorm(1, max(int(table.sum(axis=0).max()) for table in counts.values()))
    for axes, (split, table) in zip(figure.subplots(1, 2, sharey=True), counts.items(), strict=True):
        numbers = np.ma.masked_equal(table.T[order], 0)
        image = axes.imshow(numbers, aspect="auto", interpolation="nearest", cmap=colors, norm=scale)
        axes.set(title="Training" if split == "train" else "Test", xlabel="Client")
        axes.title.set_fontsize(10)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.colorbar(image, ax=figure.axes, label="Images", pad=0.01, format="%d")
    axes = figure.axes[0]
    axes.set_ylabel("Class, by superclass" if superclasses else "Class")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    if superclasses:
        names, first = np.unique(np.asarray(superclasses)[order], return_index=True)
        axes.set_yticks((first + np.append(first[1:], num_classes) - 1) / 2, names, fontsize=7)
        for panel in figure.axes[:2]:
            panel.hlines(first[1:] - 0.5, -0.5, num_clients - 0.5, color="black", linewidth=0.3)
    elif dataset.class_names and num_classes <= MAX_CLASS_NAMES:
        class_names, fonts = style.readable_names(dataset.class_names)
        axes.set_yticks(range(num_classes), class_names, fontsize=8, fontfamily=fonts)
    return figure
