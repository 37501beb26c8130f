"""Every figure, drawn from run folders alone, and of a partition. plot.ipynb only calls these functions.

A new figure is a function that takes runs; with a line in FIGURES, an experiment of conf/ can name it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from fedbabu.plots.paper import (
    centralized_by_head_init,
    centralized_by_part,
    class_accuracy,
    layer_similarity,
    ours_and_the_papers,
    representations,
    trained_part,
    vehicle_representations,
)
from fedbabu.plots.partitions import clients_and_classes
from fedbabu.plots.runs import (
    accuracy_beside_the_paper,
    accuracy_by,
    accuracy_by_finetuned_part,
    accuracy_by_heterogeneity,
    accuracy_over_clients,
    accuracy_over_communication,
    accuracy_over_finetune_epochs,
    accuracy_over_rounds,
    save_plots,
)
from fedbabu.plots.style import save_figure, setting_title
from fedbabu.results import RunFolder

__all__ = [
    "FIGURES", "accuracy_beside_the_paper", "accuracy_by", "accuracy_by_finetuned_part", "accuracy_by_heterogeneity",
    "accuracy_over_clients", "accuracy_over_communication", "accuracy_over_finetune_epochs", "accuracy_over_rounds",
    "centralized_by_head_init", "centralized_by_part", "class_accuracy", "clients_and_classes", "figures",
    "layer_similarity", "ours_and_the_papers", "representations", "save_figure", "save_plots", "setting_title",
    "vehicle_representations",
]  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """A figure that an experiment can name.

    Attributes:
        draw: it, of runs of one setting.
        shows: whether a run has what it takes.
        across: the key of the run config in which its runs may differ, since that is an axis.
    """

    draw: Callable[[Sequence[RunFolder]], Figure]
    shows: Callable[[RunFolder], bool]
    across: str = ""


def _recorded(what: str) -> Callable[[RunFolder], bool]:
    return lambda run: what in run.config.get("record", "").split()


def _centralized(run: RunFolder) -> bool:
    return run.config["fraction-train"] == 0


def _federated(run: RunFolder) -> bool:
    return not _centralized(run)


FIGURES = {
    "centralized-by-part": Kind(centralized_by_part, lambda run: _centralized(run) and run.config["head-init"] == "he"),
    "centralized-by-head-init": Kind(
        centralized_by_head_init, lambda run: _centralized(run) and trained_part(run) == "body"
    ),
    "class-accuracy": Kind(class_accuracy, _recorded("class-accuracy")),
    "layer-similarity": Kind(layer_similarity, _recorded("similarity")),
    "representations": Kind(representations, _recorded("features")),
    "vehicle-representations": Kind(vehicle_representations, _recorded("features")),
    "accuracy-over-finetune-epochs": Kind(accuracy_over_finetune_epochs, _federated),
    "accuracy-by-finetuned-part": Kind(accuracy_by_finetuned_part, _federated, "finetune-part"),
    "accuracy-by-heterogeneity": Kind(accuracy_by_heterogeneity, _federated, "shards-per-client"),
}


def figures(name: str, runs: Sequence[RunFolder]) -> Iterator[Figure]:
    """A figure of FIGURES for each setting that some of the runs have what it takes to show, in the runs' order."""
    kind = FIGURES[name]
    of_setting: dict[str, list[RunFolder]] = {}
    for run in filter(kind.shows, runs):
        of_setting.setdefault(setting_title(run, kind.across), []).append(run)
    yield from map(kind.draw, of_setting.values())
