"""Every figure, drawn from run folders alone, and of a partition. plot.ipynb only calls these functions.

A new figure is a function that takes runs; with a line in FIGURES, an experiment of conf/ can name it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from fedbabu.plots.paper import (
    VEHICLES,
    centralized_by_head_init,
    centralized_by_part,
    class_accuracy,
    layer_similarity,
    ours_and_the_papers,
    representations,
    trained_part,
    vehicle_representations,
)
from fedbabu.plots.partitions import clients_and_classes, clients_and_classes_of
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
from fedbabu.plots.style import algorithm_of, save_figure, setting_title
from fedbabu.runs.folder import RunFolder
from fedbabu.runs.settings import setting

__all__ = [
    "FIGURES", "VEHICLES", "accuracy_beside_the_paper", "accuracy_by", "accuracy_by_finetuned_part",
    "accuracy_by_heterogeneity", "accuracy_over_clients", "accuracy_over_communication",
    "accuracy_over_finetune_epochs", "accuracy_over_rounds", "centralized_by_head_init", "centralized_by_part",
    "class_accuracy", "clients_and_classes", "clients_and_classes_of", "figures", "layer_similarity",
    "ours_and_the_papers", "representations", "save_figure", "save_plots", "setting_title",
    "vehicle_representations",
]  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """A figure that an experiment can name.

    Attributes:
        draw: it, of runs of one setting.
        shows: whether a run has what it takes.
        across: the key of the run config in which its runs differ, besides the algorithm.
        tells: what tells runs apart besides that key and the seed; of runs that are alike, the newest is drawn.
    """

    draw: Callable[[Sequence[RunFolder]], Figure]
    shows: Callable[[RunFolder], bool]
    across: str = ""
    tells: Callable[[RunFolder], str] = algorithm_of


def _recorded(what: str) -> Callable[[RunFolder], bool]:
    return lambda run: what in run.complete_config["record"].split()


def _by(key: str) -> Callable[[RunFolder], bool]:
    return lambda run: bool(run.config["fraction-train"]) and key in setting(run.complete_config)


def _has_file(file: str) -> Callable[[RunFolder], bool]:
    return lambda run: (run.path / file).exists()


def _centralized(run: RunFolder) -> bool:
    return run.config["fraction-train"] == 0


FIGURES = {
    "centralized-by-part": Kind(centralized_by_part, _centralized, "server-part", trained_part),
    "centralized-by-head-init": Kind(
        centralized_by_head_init,
        lambda run: _centralized(run) and trained_part(run) == "body",
        "head-init",
        trained_part,
    ),
    "class-accuracy": Kind(class_accuracy, _recorded("class-accuracy")),
    "layer-similarity": Kind(layer_similarity, _has_file("similarity.json")),
    "representations": Kind(representations, _has_file("features.safetensors")),
    "vehicle-representations": Kind(
        vehicle_representations,
        lambda run: run.dataset["name"] in VEHICLES and _has_file("features.safetensors")(run),
    ),
    "accuracy-over-finetune-epochs": Kind(accuracy_over_finetune_epochs, lambda run: not _centralized(run)),
    "accuracy-by-finetuned-part": Kind(accuracy_by_finetuned_part, _by("finetune-part"), "finetune-part"),
    "accuracy-by-heterogeneity": Kind(accuracy_by_heterogeneity, _by("shards-per-client"), "shards-per-client"),
}


def figures(name: str, runs: Sequence[RunFolder]) -> Iterator[Figure]:
    """A figure of FIGURES for each setting that some of the runs have what it takes to show, in the runs' order.

    Of a figure across a key of the run config, those that have several of its values, if there are any.

    Args:
        name: of the figure.
        runs: finished ones, oldest first.
    """
    kind = FIGURES[name]
    of_setting: dict[str, dict[tuple[Any, ...], RunFolder]] = {}
    for run in filter(kind.shows, runs):
        told_apart = setting(run.complete_config).get(kind.across), kind.tells(run), run.config["seed"]
        of_setting.setdefault(setting_title(run, kind.across), {})[told_apart] = run
    compared = [found for found in of_setting.values() if len({across for across, _, _ in found}) > 1]
    for found in compared or of_setting.values():
        yield kind.draw(list(found.values()))
