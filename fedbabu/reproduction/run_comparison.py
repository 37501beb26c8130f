"""The comparison of run folders that a user chooses: a table, a picture, and differences of each client."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import nan

import numpy as np
import numpy.typing as npt

from fedbabu.errors import ConfigError
from fedbabu.formatting import counted, plus_minus
from fedbabu.plots.style import algorithm_label, distinguishing_parts
from fedbabu.reproduction.comparison import (
    MISSING_NOTE,
    OurNumber,
    differences_by_seed,
    mean_and_error,
    star_if_incomplete,
)
from fedbabu.runs.folder import RunFolder
from fedbabu.runs.records import METRIC_TITLES


@dataclass(frozen=True)
class Group:
    """The runs of one algorithm in one setting, by seed; of several with a seed, the newest."""

    label: str
    runs: Mapping[int, RunFolder]

    @cached_property
    def _accuracies(self) -> dict[RunFolder, dict[str, npt.NDArray[np.float64]]]:
        """The accuracies of each run, float64 [clients], by metric."""
        return {run: run.accuracies_by_client() for run in self.runs.values()}

    def number(self, metric: str) -> OurNumber:
        """An accuracy of all runs that have it."""
        return OurNumber({run: of_run[metric] for run, of_run in self._accuracies.items() if metric in of_run})


def groups_of(runs: Sequence[RunFolder]) -> list[Group]:
    """The runs in groups that differ in nothing but the seed, in the order in which they were given.

    Raises:
        ConfigError: If a run is not finished.
    """
    for run in runs:
        if not run.finished:
            raise ConfigError(f"{run.path} is not a finished run: only finished ones can be compared.")
    by_label: dict[str, dict[int, RunFolder]] = {}
    for run, setting in zip(runs, distinguishing_parts(runs), strict=True):
        label = algorithm_label(run) + (f" ({setting})" if setting else "")
        by_label.setdefault(label, {})[run.config["seed"]] = run
    return [Group(label, of_label) for label, of_label in by_label.items()]


def comparison_table(groups: Sequence[Group]) -> list[list[str]]:
    """Mean ± std over clients of each accuracy of each run, under a heading.

    A group with several seeds has another line, with the means over them; the standard deviation of the mean over seeds
    follows after a slash. The last line of a group has the paper's numbers, where it has this setting.
    """
    metrics = [metric for metric in METRIC_TITLES if any(group.number(metric).runs for group in groups)]
    rows = [["", *(METRIC_TITLES[metric] for metric in metrics)]]
    for group in groups:
        for seed in group.runs:
            rows.append(
                [
                    f"{group.label}, seed {seed}",
                    *(group.number(metric).of_seeds([seed]).text(nan) for metric in metrics),
                ]
            )
        if len(group.runs) > 1:
            over_seeds = [group.number(metric).text(nan) for metric in metrics]
            rows.append([f"{group.label}, {len(group.runs)} seeds", *over_seeds])
        if paper := next(iter(group.runs.values())).summary["paper"]:
            printed = [paper.get(metric) for metric in metrics]
            cells = [plus_minus(cell["mean"], cell["std"]) if cell else "" for cell in printed]
            rows.append([f"{group.label}, the paper", *cells])
    return rows


def paired_sentences(groups: Sequence[Group]) -> list[str]:
    """How much higher each group's accuracies are than the first one's, client by client, with standard errors.

    Runs are paired if they have the same seed and the same clients.
    """
    first = groups[0]
    sentences: list[str] = []
    for group in groups[1:]:
        found = len(sentences)
        for metric, title in METRIC_TITLES.items():
            ours, firsts = group.number(metric), first.number(metric)
            if by_seed := differences_by_seed(ours, firsts):
                differences = list(by_seed.values())
                mean, error = mean_and_error(differences)
                one_seed = f"{counted(int(np.isfinite(differences[0]).sum()), 'client')} of one seed"
                over = counted(len(differences), "seed") if len(differences) > 1 else one_seed
                names, star = (
                    f"{title}: {group.label} - {first.label}",
                    star_if_incomplete(ours.of_seeds(by_seed), firsts.of_seeds(by_seed)),
                )
                sentences.append(f"{names} = {mean:+.2f} ± {error:.2f}{star} (standard error over {over})")
        if len(sentences) == found:
            sentences.append(f"{group.label} and {first.label} have no seed with the same clients in common.")
    if any(run.missing_clients() for group in groups for run in group.runs.values()):
        sentences.append(MISSING_NOTE)
    return sentences
