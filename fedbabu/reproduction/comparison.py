"""The numbers of our runs for the cells of an experiment beside those that the paper prints, and which are highest."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan, nan, sqrt
from typing import Any

import numpy as np

from fedbabu.reproduction.experiment import Experiment, format_setting
from fedbabu.reproduction.paper.tables import is_dataset_of
from fedbabu.runs.folder import RunFolder
from fedbabu.runs.settings import finetunes_epoch_by_epoch


@dataclass(frozen=True)
class ComparedCell:
    """A cell with the accuracies of our runs and of the paper, in percent; NaN for a number that is missing."""

    axes: Mapping[str, Any]  # the run-config keys and values of the cell, "algorithm" and "metric" among them
    runs: Sequence[RunFolder]  # the newest finished run of each seed
    mean: float  # over clients, and then over seeds
    std: float  # over clients, the mean over seeds
    spread: float  # the standard deviation of our mean over seeds; 0 for one seed
    paper_mean: float  # over clients; NaN also if the paper has none for this setting and these data
    paper_std: float
    num_clients: int  # of each run

    @property
    def difference(self) -> float:
        """Our mean minus the paper's; NaN without one of them."""
        return self.mean - self.paper_mean

    @property
    def is_outside(self) -> bool:
        """Whether the difference is more than twice the standard error of the paper's mean, plus our spread."""
        return abs(self.difference) > 2 * self.paper_std / sqrt(self.num_clients) + self.spread

    @property
    def texts(self) -> list[str]:
        """Our number, the paper's and the difference, as a table shows them; an empty text for one that is missing."""
        star = "*" if any(run.summary["missing"] for run in self.runs) else ""  # some clients could not be evaluated
        ours = f"{self.mean:.2f} ± {self.std:.2f}{star}" if self.runs else ""
        paper = "" if isnan(self.paper_mean) else f"{self.paper_mean:.2f} ± {self.paper_std:.2f}"
        difference = "" if isnan(self.difference) else f"{self.difference:+.2f}{' !' if self.is_outside else ''}"
        return [ours, paper, difference]


def compare_with_paper(experiment: Experiment) -> list[ComparedCell]:
    """The compared cells of an experiment, in its order. A cell without a metric becomes one for each metric."""
    table, measured = experiment.table, []
    for cell in experiment.cells:
        finished = [run for run in experiment.runs_with_results_for(cell.config) if run.finished]
        newest = {run.config["seed"]: run for run in finished}
        # A run that fine-tuned for longer has the accuracy after the cell's number of epochs too.
        epochs = cell.config["num-finetune-epochs"] if finetunes_epoch_by_epoch(cell.config) else None
        measured.append({run: run.accuracies(epochs) for run in newest.values()})
    metrics = list(dict.fromkeys(metric for runs in measured for metrics in runs.values() for metric in metrics))
    compared = []
    for cell, runs in zip(experiment.cells, measured, strict=True):
        for metric in [cell.metric] if cell.metric else metrics or ["personalized"]:
            accuracies = {run: by_metric[metric] for run, by_metric in runs.items() if metric in by_metric}
            means = [float(np.nanmean(values)) for values in accuracies.values()]
            stds = [float(np.nanstd(values)) for values in accuracies.values()]
            printed = cell.printed if table and all(is_dataset_of(table, run.dataset) for run in accuracies) else None
            compared.append(
                ComparedCell(
                    axes={**cell.axes, "metric": metric},
                    runs=list(accuracies),
                    mean=float(np.mean(means)) if means else nan,
                    std=float(np.mean(stds)) if means else nan,
                    spread=float(np.std(means, ddof=1)) if len(means) > 1 else 0.0,
                    paper_mean=printed.mean if printed else nan,
                    paper_std=printed.std if printed else nan,
                    num_clients=cell.config["num-clients"],
                )
            )
    return compared


def winners_in_words(cells: Sequence[ComparedCell], compared_keys: Sequence[str]) -> list[str]:
    """Whether our runs have the highest accuracy where the paper has it, in sentences; none without complete lines.

    A line is what the paper compares: cells that differ only in the compared keys. It is complete if all have runs.
    """
    lines: dict[str, list[ComparedCell]] = {}
    for cell in cells:
        if not isnan(cell.paper_mean):
            setting = format_setting({key: value for key, value in cell.axes.items() if key not in compared_keys})
            lines.setdefault(setting, []).append(cell)
    lines = {setting: line for setting, line in lines.items() if len(line) > 1}
    complete = {setting: line for setting, line in lines.items() if all(cell.runs for cell in line)}
    if not complete:
        return []
    different = []
    for setting, line in complete.items():
        expected = max(line, key=lambda cell: cell.paper_mean)
        winner = max([expected, *line], key=lambda cell: cell.mean)  # in a tie, the paper's winner
        if winner is not expected:
            error = sqrt((winner.std**2 + expected.std**2) / winner.num_clients)
            close = ", within two standard errors" if winner.mean - expected.mean <= 2 * error else ""
            ours, papers = (
                format_setting({key: cell.axes[key] for key in compared_keys if key in cell.axes})
                for cell in (winner, expected)
            )
            different.append(f"  {setting or 'Here'}: {ours} ahead of the paper's {papers}{close}.")
    num_same = len(complete) - len(different)
    verdict = "holds in part" if num_same and different else "holds" if num_same else "does not hold"
    return [
        f"Who has the highest accuracy: the paper's claim {verdict}; in {num_same} of {len(complete)} lines with all "
        f"runs it is the same as in the paper{f', which has {len(lines)}' if len(lines) > 1 else ''}.",
        *different,
    ]
