"""Every figure: of runs, drawn from run folders alone, and of a partition. plot.ipynb only calls these functions."""

from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fedbabu.config import RunConfig
from fedbabu.models import mean_row_cosine
from fedbabu.partitions import PARTITIONS
from fedbabu.progress import TITLES
from fedbabu.results import RunFolder
from fedbabu.storage import write_whole

if TYPE_CHECKING:  # the comparison is made of runs, as the figures are
    from fedbabu.comparison import Entry

MAX_CLASS_NAMES = 30  # that fit beside an axis
MAX_COLORS = 20  # of classes that one can tell apart
# The classes of Figure 16.
VEHICLES = {
    "cifar10": ("airplane", "automobile", "ship", "truck"),
    "cifar100": (
        "bicycle", "bus", "motorcycle", "pickup_truck", "train", "lawn_mower", "rocket", "streetcar", "tank", "tractor",
    ),
}  # fmt: skip
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
    """Write a figure as what its name ends with, .png or .svg, whole or not at all."""
    content = BytesIO()
    figure.savefig(content, format=path.suffix[1:])
    write_whole(path, content.getvalue())


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


def accuracy_over_communication(runs: Sequence[RunFolder]) -> Figure:
    """Accuracy before fine-tuning, the mean over all clients, against what was sent to the nodes and back so far."""
    figure, axes = _figure(runs)
    for run, color in zip(runs, _colors(runs), strict=True):
        rounds = run.rounds
        megabytes = np.cumsum([record["bytes-sent"] + record["bytes-received"] for record in rounds]) / 1e6
        points = [
            (sent, record["initial-accuracy"])
            for sent, record in zip(megabytes, rounds, strict=True)
            if "initial-accuracy" in record
        ]
        axes.plot(*zip(*points, strict=True), marker="o", markersize=4, color=color, label=_label(run))
    axes.set(xlabel="Sent to the nodes and back (MB)", ylabel="Accuracy before fine-tuning, mean over clients (%)")
    axes.set_xlim(left=0)
    _legend(axes, runs)
    return figure


def centralized_accuracy(runs: Sequence[RunFolder]) -> Figure:
    """Test accuracy over epochs of centralized training, by what is trained or how the head was initialized.

    The latter if only the body is trained in all runs (Figures 3, 5, 7 and 9; the former is in Figures 2, 4, 6 and 8).
    The label of an initialization has the mean cosine similarity between the head's rows in parentheses, as in the
    paper: a head that is not trained is at the end as it was initialized.
    """
    figure, axes = _figure(runs)
    parts = {_trained_part(run) for run in runs}
    for run, color in zip(runs, _colors(runs), strict=True):
        records = [record for record in run.rounds if "test-accuracy" in record]
        label = _trained_part(run)
        if parts == {"body"}:
            label = f"{run.config['head-init']} ({round(mean_row_cosine(run.model()['head.weight']), 3) + 0.0:.3f})"
        epochs, accuracy = zip(*((record["round"], record["test-accuracy"]) for record in records), strict=True)
        axes.plot(epochs, accuracy, color=color, label=label)
    axes.set(xlabel="Epoch", ylabel="Accuracy on the test split (%)")
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False, title="trained" if parts != {"body"} else "head initialized")
    return figure


def accuracy_by(runs: Sequence[RunFolder], key: str, metric: str = "personalized") -> Figure:
    """Accuracy, mean over clients, against a key of the run config, one line an algorithm; hollow where the paper is.

    So algorithms are compared over heterogeneity (`shards-per-client`; Tables 5 and 13), say, or by what is
    fine-tuned (`finetune-part`; Table 4).

    Args:
        runs: that differ in nothing else.
        key: the values of which are the places on the horizontal axis.
        metric: of the summary.
    """
    figure, axes = _figure(runs, besides=key)
    values = sorted({run.config[key] for run in runs})
    algorithms = list(dict.fromkeys(run.config["algorithm"] for run in runs))
    for algorithm, color in zip(algorithms, COLORS, strict=False):
        summaries = {run.config[key]: run.summary for run in runs if run.config["algorithm"] == algorithm}
        ours, papers = (
            [(values.index(value), of[metric]["mean"]) for value, of in sorted(found.items()) if metric in of]
            for found in (
                {value: summary[who] for value, summary in summaries.items()} for who in ("accuracy", "paper")
            )
        )
        axes.plot(*zip(*ours, strict=True), marker="o", color=color, label=algorithm)
        if papers:
            axes.plot(
                *zip(*papers, strict=True), "o--", color=color, mfc="white", alpha=0.5, label=f"{algorithm}, paper"
            )
    axes.set_xticks(range(len(values)), [str(value) or "own" for value in values])
    axes.set(xlabel=key, ylabel=f"{TITLES[metric]} accuracy, mean over clients (%)")
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def class_accuracy(runs: Sequence[RunFolder]) -> Figure:
    """Accuracy on classes that a sampled client trains on, and on others, over the epochs of all rounds (Figure 13).

    A round's first point is the global model as it was broadcast, the others are after each local epoch; the mean over
    the round's clients. Runs need record = 'class-accuracy', and test images of other classes (iid-test-set).
    """
    figure, panels = _panels(runs, 2)
    kinds = {"in-class": "Classes that the client has", "out-of-class": "Other classes"}
    for axes, (kind, title) in zip(panels, kinds.items(), strict=True):
        for run, color in zip(runs, _colors(runs), strict=True):
            rounds = [[np.nan if value is None else value for value in record[kind]] for record in run.rounds]
            starts = _epochs_before(rounds)
            epochs = [start + np.arange(len(curve)) for start, curve in zip(starts, rounds, strict=True)]
            axes.plot(np.concatenate(epochs), np.concatenate(rounds), color=color, linewidth=0.8, label=_label(run))
            axes.plot(starts, [curve[0] for curve in rounds], "o", markersize=2.5, color=color)
        axes.set(xlabel="Local epochs of all rounds; dots: as broadcast", ylabel="Accuracy (%)")
        axes.set_title(title, fontsize=10)
        axes.set_ylim(bottom=0)
    panels[0].legend(frameon=False)
    return figure


def layer_similarity(runs: Sequence[RunFolder]) -> Figure:
    """The mean cosine similarity between two clients' weights over fine-tuning epochs, by layer (Figure 12).

    Layers go from light to dark, the head is black. Runs need record = 'similarity'.
    """
    figure, panels = _panels(runs, len(runs))
    for axes, run in zip(panels, runs, strict=True):
        layers = list(run.similarity.items())
        for index, (name, similarity) in enumerate(layers):
            head = name.startswith("head.")
            color = "black" if head else colormaps["viridis_r"](0.1 + 0.9 * index / len(layers))
            label = "head" if head else name if index in (0, len(layers) - 2) else f"_{name}"
            axes.plot(range(len(similarity)), similarity, color=color, linewidth=2 if head else 1, label=label)
        axes.set(xlabel="Fine-tuning epochs", ylabel="Cosine similarity between clients")
        axes.set_title(_label(run), fontsize=10)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(frameon=False, fontsize=8)
    return figure


def representations(runs: Sequence[RunFolder], classes: Sequence[str] = (), num_images: int = 1000) -> Figure:
    """t-SNE of the body's features of training and test images, a row a run (Figures 15 and 16).

    Colours are classes; superclasses, where there are more classes than colours. Runs need record = 'features'.

    Args:
        runs: of one dataset.
        classes: the names of those to show; all if empty. VEHICLES has the paper's choice.
        num_images: at most, of each split: t-SNE takes seconds for a thousand.
    """
    from sklearn.manifold import TSNE

    figure = Figure(figsize=(9, 4.2 * len(runs)), dpi=120, layout="constrained")
    figure.suptitle(_common_title(runs), fontsize=10)
    for row, run in zip(figure.subplots(len(runs), 2, squeeze=False), runs, strict=True):
        features, names = run.features()
        num_classes = run.dataset["num-classes"]
        of_class = np.array(names.get("class-names") or [str(label) for label in range(num_classes)])
        shown = np.isin(of_class, classes) if classes else np.ones(num_classes, bool)
        if shown.sum() > MAX_COLORS and "superclasses" in names:
            of_class = np.array(names["superclasses"])
        groups = list(dict.fromkeys(of_class[shown]))
        palette = colormaps["tab20"].resampled(MAX_COLORS)
        for axes, split in zip(row, ("train", "test"), strict=True):
            labels = features[f"{split}-labels"].numpy()
            chosen = np.flatnonzero(shown[labels])[:num_images]
            places = TSNE(random_state=0, init="pca").fit_transform(features[split].numpy()[chosen])
            for index, group in enumerate(groups):
                of_group = of_class[labels[chosen]] == group
                axes.scatter(*places[of_group].T, s=5, linewidths=0, color=palette(index % MAX_COLORS), label=group)
            axes.set(xticks=[], yticks=[])
            axes.set_title(f"{run.config['algorithm']}, {split}", fontsize=10)
    handles, labels_ = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels_, loc="outside right center", frameon=False, fontsize=8, markerscale=3)
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


def _figure(runs: Sequence[RunFolder], besides: str = "") -> tuple[Figure, Axes]:
    figure, (axes,) = _panels(runs, 1, besides)
    return figure, axes


def _panels(runs: Sequence[RunFolder], number: int, besides: str = "") -> tuple[Figure, list[Axes]]:
    """A figure of panels side by side, under what the runs have in common but for a key of the run config."""
    figure = Figure(figsize=(max(7, 1.1 * len(runs), 4.5 * number), 4.5), dpi=120, layout="constrained")
    panels = list(figure.subplots(1, number, squeeze=False)[0])
    for axes in panels:
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(_common_title(runs, besides), fontsize=10)
    return figure, panels


def _legend(axes: Axes, runs: Sequence[RunFolder]) -> None:
    if len(runs) < 4:
        axes.legend(frameon=False, loc="lower right")
    else:  # too many to leave room among the lines
        axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))


def _columns(runs: Sequence[RunFolder]) -> int:
    """Of a legend below the axes, as many as the figure is wide."""
    return 2 if len(runs) < 4 else 3 if len(runs) < 9 else 4


def _common_title(runs: Sequence[RunFolder], besides: str = "") -> str:
    titles = {setting_title(run, besides) for run in runs}
    return titles.pop() if len(titles) == 1 else "Several settings"


def setting_title(run: RunFolder, besides: str = "") -> str:
    """The setting of a run in a line, but for a key of the run config."""
    config, data = run.config, f"{run.dataset['name']}, {run.config['model-name']}"
    if config["fraction-train"] == 0:
        return f"{data}: centralized, {config['num-server-rounds']} epochs"
    partition = PARTITIONS[config.get("partition", "shards")]  # older runs do not say
    parts = {
        "num-clients": f"N = {config['num-clients']}",
        besides if besides in partition.keys else "partition": partition.title(config),
        "fraction-train": f"f = {config['fraction-train']}",
        "num-local-epochs": f"τ = {config['num-local-epochs']}",
        "num-server-rounds": f"{config['num-server-rounds']} rounds",
    }
    return f"{data}: {', '.join(part for key, part in parts.items() if key != besides)}"


def _epochs_before(rounds: Sequence[Sequence[float]]) -> list[int]:
    """How many local epochs were over when each round began; each has a value before and after each of its epochs."""
    return np.cumsum([0, *(len(curve) - 1 for curve in rounds[:-1])]).tolist()


def _label(run: RunFolder) -> str:
    summary = run.summary
    covered = f", {run.covered}" if summary.get("missing") else ""
    return f"{run.config['algorithm']} (seed {run.config['seed']}{covered})"


def _trained_part(run: RunFolder) -> str:
    """What the server trains in centralized training."""
    return (RunConfig.from_flower(run.complete_config).server_trains.name or "nothing").lower()


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


def vehicle_representations(runs: Sequence[RunFolder]) -> Figure:
    """t-SNE of the body's features of vehicles alone (Figure 16); of all classes, if the dataset has none."""
    return representations(runs, VEHICLES.get(runs[0].dataset["name"], ()))


# What an experiment of conf/ can name as its figure.
FIGURES: dict[str, Callable[[Sequence[RunFolder]], Figure]] = {
    "centralized-accuracy": centralized_accuracy,
    "class-accuracy": class_accuracy,
    "layer-similarity": layer_similarity,
    "representations": representations,
    "vehicle-representations": vehicle_representations,
}
