"""The numbers of our runs for the cells of an experiment beside those that the paper prints, and which are highest."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import isnan, nan, sqrt
from typing import Any

import numpy as np

from fedbabu.config import PROTOCOLS, Measurement, under_protocol, with_protocol
from fedbabu.formatting import counted, plus_minus
from fedbabu.reproduction.experiment import Cell, Experiment, format_setting
from fedbabu.reproduction.paper.tables import is_dataset_of
from fedbabu.runs.folder import RunFolder
from fedbabu.runs.settings import finetunes_epoch_by_epoch

MIN_SEEDS = 5  # from which on the spread over seeds decides whether a difference from the paper is one
MISSING_NOTE = "* Not all clients were evaluated; summary.json in the run folder says which are missing, and why."
OWN = "ours"  # instead of a protocol, for cells that choose their own accuracies


@dataclass(frozen=True)
class OurNumber:
    """The accuracies of our runs for a cell, in percent; NaN for a number that is missing."""

    # By client id, for the newest finished run of each seed; NaN for a client that could not be evaluated.
    accuracies: Mapping[RunFolder, np.ndarray]
    measurement: Measurement | None = None  # which accuracies of the runs these are; None for the runs' own choice

    @property
    def runs(self) -> Sequence[RunFolder]:
        """The runs, one for each seed."""
        return list(self.accuracies)

    @property
    def means(self) -> list[float]:
        """The mean over clients of each run."""
        return [float(np.nanmean(values)) for values in self.accuracies.values()]

    @property
    def mean(self) -> float:
        """The mean over clients, and then over seeds."""
        return float(np.mean(self.means)) if self.accuracies else nan

    @property
    def std(self) -> float:
        """The standard deviation over clients, the mean over seeds."""
        return float(np.mean([np.nanstd(values) for values in self.accuracies.values()])) if self.accuracies else nan

    @property
    def spread(self) -> float:
        """The standard deviation of the mean over seeds; NaN for fewer than two seeds."""
        return float(np.std(self.means, ddof=1)) if len(self.accuracies) > 1 else nan

    def of_seeds(self, seeds: Collection[int]) -> "OurNumber":
        """The same number, of the runs with these seeds alone."""
        accuracies = {run: values for run, values in self.accuracies.items() if run.config["seed"] in seeds}
        return OurNumber(accuracies, self.measurement)

    @property
    def lacks_clients(self) -> bool:
        """Whether some clients could not be evaluated."""
        return any(run.missing_clients(self.measurement) for run in self.runs)

    def is_outside(self, papers_mean: float) -> bool | None:
        """Whether the paper's mean is outside of what one more seed would give, with a probability of 95 %.

        That is Student's prediction interval around our mean, for a paper's number that is of one seed. None if there
        are too few seeds to say.
        """
        num_seeds = len(self.accuracies)
        if num_seeds < MIN_SEEDS or isnan(papers_mean):
            return None
        from scipy.stats import t

        reach = t.ppf(0.975, num_seeds - 1) * self.spread * sqrt(1 + 1 / num_seeds)
        return bool(abs(self.mean - papers_mean) > reach)

    def text(self, papers_mean: float) -> str:
        """The number as a table shows it, with the difference from the paper's; an empty text if there is none."""
        if not self.accuracies:
            return ""
        over_seeds = "" if isnan(self.spread) else f" / {self.spread:.2f}"
        mark = " !" if self.is_outside(papers_mean) else ""
        difference = "" if isnan(papers_mean) else f" ({self.mean - papers_mean:+.2f}{mark})"
        return f"{plus_minus(self.mean, self.std)}{over_seeds}{star_if_incomplete(self)}{difference}"


@dataclass(frozen=True)
class ComparedCell:
    """A cell with the accuracies of our runs and of the paper, in percent; NaN for a number that is missing."""

    axes: Mapping[str, Any]  # the run-config keys and values of the cell, "algorithm" and "metric" among them
    ours: Mapping[str, OurNumber]  # measured as each of PROTOCOLS has it; or OWN, as the cell has it
    paper_mean: float  # over clients; NaN also if the paper has none for this setting and these data
    paper_std: float
    num_clients: int  # of each run

    @property
    def runs(self) -> list[RunFolder]:
        """All runs that have a number for the cell."""
        return list(dict.fromkeys(run for number in self.ours.values() for run in number.runs))

    @property
    def is_compared(self) -> bool:
        """Whether there is a number of ours and one of the paper."""
        return bool(self.runs) and not isnan(self.paper_mean)

    def texts(self, columns: Sequence[str]) -> list[str]:
        """Our number of each column and the paper's, as a table shows them; an empty text for one that is missing."""
        ours = [self.ours[column].text(self.paper_mean) if column in self.ours else "" for column in columns]
        return [*ours, "" if isnan(self.paper_mean) else plus_minus(self.paper_mean, self.paper_std)]


def compare_with_paper(experiment: Experiment) -> list[ComparedCell]:
    """The compared cells of an experiment, in its order. A cell without a metric becomes one for each metric."""
    table, compared = experiment.table, []
    measured = [_measure(experiment, cell) for cell in experiment.cells]
    everywhere = (by_metric for columns in measured for by_metric in columns.values())
    metrics = list(dict.fromkeys(metric for by_metric in everywhere for metric in by_metric))
    for cell, columns in zip(experiment.cells, measured, strict=True):
        for metric in [cell.metric] if cell.metric else metrics or ["personalized"]:
            ours = {column: by_metric.get(metric, OurNumber({})) for column, by_metric in columns.items()}
            runs = [run for number in ours.values() for run in number.runs]
            if not cell.metric and not runs and any(columns.values()):
                continue  # the algorithm has no such accuracy: local-only no initial one, for example
            printed = cell.printed if table and all(is_dataset_of(table, run.dataset) for run in runs) else None
            compared.append(
                ComparedCell(
                    axes={**cell.axes, "metric": metric},
                    ours=ours,
                    paper_mean=printed.mean if printed else nan,
                    paper_std=printed.std if printed else nan,
                    num_clients=cell.config["num-clients"],
                )
            )
    return compared


def _measure(experiment: Experiment, cell: Cell) -> dict[str, dict[str, OurNumber]]:
    """Our numbers for a cell, by column and metric, from the newest finished run of each seed."""
    chosen, measured = with_protocol(cell.config), {}
    configs = {protocol: under_protocol(cell.config, protocol) for protocol in PROTOCOLS}
    if chosen not in configs.values() or cell.axes.keys() & {"protocol", *PROTOCOLS["text"]}:
        configs = {OWN: chosen}
    for column, config in configs.items():
        finished = [run for run in experiment.runs_with_results_for(config) if run.finished]
        newest = {run.config["seed"]: run for run in finished}
        # A run that fine-tuned for longer has the accuracy after the cell's number of epochs too.
        epochs = config["num-finetune-epochs"] if finetunes_epoch_by_epoch(config) else None
        measurement = Measurement.from_run_config(config)
        by_run = {run: run.accuracies_by_client(measurement, epochs) for run in newest.values()}
        measured[column] = {
            metric: OurNumber({run: of[metric] for run, of in by_run.items() if metric in of}, measurement)
            for metric in dict.fromkeys(metric for of in by_run.values() for metric in of)
        }
    return measured


def star_if_incomplete(*numbers: OurNumber) -> str:
    """The star that MISSING_NOTE explains if some clients of one of the numbers could not be evaluated."""
    return "*" if any(number.lacks_clients for number in numbers) else ""


def differences_by_seed(first: OurNumber, second: OurNumber) -> dict[int, np.ndarray]:
    """The differences between two numbers client by client, for each seed that both have with the same clients.

    A client that could not be evaluated has NaN.
    """
    one, other = ({run.config["seed"]: run for run in number.runs} for number in (first, second))
    return {
        seed: first.accuracies[one[seed]] - second.accuracies[other[seed]]
        for seed in one
        if seed in other and one[seed].recorded["clients-checksum"] == other[seed].recorded["clients-checksum"]
    }


def mean_and_error(differences: Sequence[np.ndarray]) -> tuple[float, float]:
    """The mean of the differences of all clients, given for each seed, and its standard error.

    The error is over seeds, or over clients if there is one seed.
    """
    means = [np.nanmean(values) for values in differences]
    if len(means) > 1:
        return float(np.mean(means)), float(np.std(means, ddof=1) / sqrt(len(means)))
    (values,) = differences
    return float(means[0]), float(np.nanstd(values, ddof=1) / sqrt(np.isfinite(values).sum()))


@dataclass(frozen=True)
class PairedDifference:
    """How much higher the accuracies of one cell are than those of another, with the same seeds and clients."""

    first: ComparedCell
    second: ComparedCell
    column: str  # a protocol, or OWN
    by_seed: Mapping[int, np.ndarray]  # the differences of all clients in percent points, for each seed

    @property
    def mean(self) -> float:
        """The mean difference over clients and seeds."""
        return mean_and_error(list(self.by_seed.values()))[0]

    @property
    def standard_error(self) -> float:
        """The standard error of the mean: over seeds, or over clients if there is one seed."""
        return mean_and_error(list(self.by_seed.values()))[1]

    @property
    def text(self) -> str:
        """The difference in a sentence."""
        keys = [key for key in self.first.axes if self.first.axes[key] != self.second.axes.get(key)]
        one, other = (format_setting({key: cell.axes[key] for key in keys}) for cell in (self.first, self.second))
        common = {key: value for key, value in self.first.axes.items() if key not in keys}
        seeds = f"{len(self.by_seed)} seeds" if len(self.by_seed) > 1 else "one seed, error over clients"
        column = "" if self.column == OWN else f", as the {self.column}"
        numbers = (cell.ours[self.column].of_seeds(self.by_seed) for cell in (self.first, self.second))
        star = star_if_incomplete(*numbers)
        return (
            f"  {format_setting(common)}{column}: {one} - {other} = {self.mean:+.2f} ± {self.standard_error:.2f}{star} "
            f"({seeds})"
        )


def paired_differences(cells: Sequence[ComparedCell], compared_keys: Sequence[str]) -> Iterator[PairedDifference]:
    """Differences between cells that differ only in the compared keys, over the seeds that both have.

    Runs of one seed and setting have the same partition, sampled clients and initial model.
    """
    for first, second in combinations(cells, 2):
        keys = {key for key in first.axes.keys() | second.axes if first.axes.get(key) != second.axes.get(key)}
        for column in first.ours if keys and keys <= set(compared_keys) else ():
            if column not in second.ours:
                continue
            by_seed = differences_by_seed(first.ours[column], second.ours[column])
            if by_seed:
                yield PairedDifference(first, second, column, by_seed)


def winners_in_words(cells: Sequence[ComparedCell], compared_keys: Sequence[str]) -> list[str]:
    """Whether our runs have the highest accuracy where the paper has it, in sentences; none without complete lines.

    A line is what the paper compares: cells that differ only in the compared keys. It is complete if all have runs.
    """
    columns = dict.fromkeys(column for cell in cells for column in cell.ours)
    return [sentence for column in columns for sentence in _winners_of(column, cells, compared_keys)]


def _winners_of(column: str, cells: Sequence[ComparedCell], compared_keys: Sequence[str]) -> list[str]:
    lines: dict[str, list[ComparedCell]] = {}
    for cell in cells:
        if not isnan(cell.paper_mean):
            setting = format_setting({key: value for key, value in cell.axes.items() if key not in compared_keys})
            lines.setdefault(setting, []).append(cell)
    lines = {setting: line for setting, line in lines.items() if len(line) > 1}
    complete = {
        setting: line
        for setting, line in lines.items()
        if all(column in cell.ours and cell.ours[column].runs for cell in line)
    }
    if not complete:
        return []
    different = []
    for setting, line in complete.items():
        expected = max(line, key=lambda cell: cell.paper_mean)
        winner = max([expected, *line], key=lambda cell: cell.ours[column].mean)  # in a tie, the paper's winner
        if winner is not expected:
            first, second = winner.ours[column], expected.ours[column]
            error = sqrt((first.std**2 + second.std**2) / winner.num_clients)
            close = ", within two standard errors" if first.mean - second.mean <= 2 * error else ""
            ours, papers = (
                format_setting({key: cell.axes[key] for key in compared_keys if key in cell.axes})
                for cell in (winner, expected)
            )
            different.append(f"  {setting or 'Here'}: {ours} ahead of the paper's {papers}{close}.")
    num_same = len(complete) - len(different)
    verdict = "holds in part" if num_same and different else "holds" if num_same else "does not hold"
    measured = "" if column == OWN else f", as the {column}"
    fewest = min(len(cell.ours[column].runs) for line in complete.values() for cell in line)
    so_far = f"with {counted(fewest, 'seed')}, which cannot decide it, " if fewest < MIN_SEEDS else ""
    of_the_paper = f", which has {len(lines)}" if len(lines) > 1 else ""
    return [
        f"Who has the highest accuracy{measured}: {so_far}the paper's claim {verdict}; "
        f"in {num_same} of {len(complete)} lines with all runs it is the same as in the paper{of_the_paper}.",
        *different,
    ]
