"""What our runs have for an experiment's cells, beside what the paper prints, and who wins."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np

from fedbabu.reproduction.experiment import Cell, Experiment, told
from fedbabu.reproduction.paper import is_dataset
from fedbabu.runs.folder import RunFolder
from fedbabu.runs.settings import by_epoch


@dataclass(frozen=True)
class Entry:
    """A cell with what our runs and the paper have for it; accuracies in percent.

    Attributes:
        of: run-config keys and values, "algorithm" and "metric" among them.
        mean: over clients, and then over seeds; None without a run.
        std: over clients, the mean of the seeds'.
        spread: the standard deviation of the mean over seeds; 0 for one seed.
        runs: the newest of every seed.
        partial: whether a run lacks clients.
        paper_mean: the paper's mean over clients, if it has one for this setting and these data.
        paper_std: over clients.
        num_clients: that the paper's is of.
    """

    of: Mapping[str, Any]
    mean: float | None
    std: float
    spread: float
    runs: Sequence[RunFolder]
    partial: bool
    paper_mean: float | None
    paper_std: float
    num_clients: int

    @property
    def difference(self) -> float | None:
        """Ours minus the paper's."""
        return None if self.mean is None or self.paper_mean is None else self.mean - self.paper_mean

    @property
    def outside(self) -> bool:
        """Whether the difference is more than twice the standard error of the paper's mean, plus our spread."""
        allowed = 2 * self.paper_std / sqrt(self.num_clients) + self.spread
        return self.difference is not None and abs(self.difference) > allowed

    @property
    def lines(self) -> list[str]:
        """Ours, the paper's and the difference, as a table shows them; empty for what there is not."""
        ours = "" if self.mean is None else f"{self.mean:.2f} ± {self.std:.2f}{'*' if self.partial else ''}"
        paper = "" if self.paper_mean is None else f"{self.paper_mean:.2f} ± {self.paper_std:.2f}"
        difference = "" if self.difference is None else f"{self.difference:+.2f}{' !' if self.outside else ''}"
        return [ours, paper, difference]


def entries(experiment: Experiment) -> list[Entry]:
    """What there is for every cell, in the order of the experiment; a cell without a run has entries without a mean."""
    runs_of = [_newest(experiment, cell) for cell in experiment.cells]
    measured = [
        {run: run.accuracies(_epochs(cell)) for run in runs}
        for cell, runs in zip(experiment.cells, runs_of, strict=True)
    ]
    metrics = list(dict.fromkeys(metric for runs in measured for metrics in runs.values() for metric in metrics))
    return [
        _entry(experiment, cell, metric, accuracies)
        for cell, accuracies in zip(experiment.cells, measured, strict=True)
        for metric in ([cell.metric] if cell.metric else metrics or ["personalized"])
    ]


def _newest(experiment: Experiment, cell: Cell) -> list[RunFolder]:
    """The newest finished run of every seed."""
    runs = [run for run in experiment.runs_of(cell.config) if run.finished]
    return list({run.config["seed"]: run.folder for run in runs}.values())


def _epochs(cell: Cell) -> int | None:
    """The epochs of fine-tuning after which a cell's accuracy counts; None for all of its runs'."""
    return cell.config["num-finetune-epochs"] if by_epoch(cell.config) else None


def _entry(
    experiment: Experiment, cell: Cell, metric: str, accuracies: Mapping[RunFolder, Mapping[str, np.ndarray]]
) -> Entry:
    runs = [run for run, measured in accuracies.items() if metric in measured]
    values = [accuracies[run][metric] for run in runs]
    means = [float(np.nanmean(each)) for each in values]
    table = experiment.table
    printed = cell.printed if table and all(is_dataset(table, run.dataset) for run in runs) else None
    return Entry(
        of={**cell.of, "metric": metric},
        mean=float(np.mean(means)) if means else None,
        std=float(np.mean([np.nanstd(each) for each in values])) if means else 0.0,
        spread=float(np.std(means, ddof=1)) if len(means) > 1 else 0.0,
        runs=runs,
        partial=any(run.summary.get("missing") for run in runs),
        paper_mean=printed.mean if printed else None,
        paper_std=printed.std if printed else 0.0,
        num_clients=cell.config["num-clients"],
    )


@dataclass(frozen=True)
class Line:
    """Cells that the paper sets against each other, and who has the highest mean.

    Attributes:
        of: what they have in common.
        winner: the paper's, as a text.
        ours: our runs' winner; None if some have no run.
        close: whether ours is no more than two standard errors ahead of the paper's winner.
    """

    of: str
    winner: str
    ours: str | None
    close: bool


def claims(found: Sequence[Entry], compares: Sequence[str]) -> list[Line]:
    """Who wins, line by line, where the paper has more than one to compare."""
    lines: dict[str, list[Entry]] = {}
    for entry in found:
        if entry.paper_mean is not None:
            lines.setdefault(told({k: v for k, v in entry.of.items() if k not in compares}), []).append(entry)
    result = []
    for of, compared in lines.items():
        if len(compared) < 2:
            continue
        best = max(compared, key=lambda entry: entry.paper_mean or 0.0)
        ours, close = None, False
        if all(entry.mean is not None for entry in compared):
            top = max([best, *compared], key=lambda entry: entry.mean or 0.0)  # the paper's winner, if there is a tie
            ours = told({key: top.of[key] for key in compares if key in top.of})
            error = sqrt((top.std**2 + best.std**2) / top.num_clients)
            close = top is not best and (top.mean or 0.0) - (best.mean or 0.0) <= 2 * error
        result.append(Line(of, told({key: best.of[key] for key in compares if key in best.of}), ours, close))
    return result
