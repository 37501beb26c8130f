"""The comparison of run folders that a user chooses: a table, a picture, and differences of each client."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedbabu.errors import ConfigError, counted, plus_minus
from fedbabu.plots.style import algorithm_label, distinguishing_parts
from fedbabu.reproduction.comparison import mean_and_error
from fedbabu.runs.folder import RunFolder
from fedbabu.runs.records import METRIC_TITLES


@dataclass(frozen=True)
class Group:
    """The runs of one algorithm in one setting, by seed; of several with a seed, the newest."""

    label: str
    runs: Mapping[int, RunFolder]

    def accuracies(self, metric: str) -> dict[int, npt.NDArray[np.float64]]:
        """The accuracies of all clients in percent, float64 [clients], of each run that has them."""
        by_seed = {seed: run.accuracies().get(metric) for seed, run in self.runs.items()}
        return {seed: values for seed, values in by_seed.items() if values is not None}


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
    metrics = [metric for metric in METRIC_TITLES if any(group.accuracies(metric) for group in groups)]
    rows = [["", *(METRIC_TITLES[metric] for metric in metrics)]]
    for group in groups:
        for seed in group.runs:
            of_seed = [group.accuracies(metric).get(seed) for metric in metrics]
            rows.append([f"{group.label}, seed {seed}", *("" if a is None else _over_clients([a]) for a in of_seed)])
        if len(group.runs) > 1:
            over_seeds = [_over_clients(list(group.accuracies(metric).values())) for metric in metrics]
            rows.append([f"{group.label}, {len(group.runs)} seeds", *over_seeds])
        if paper := next(iter(group.runs.values())).summary["paper"]:
            printed = [paper.get(metric) for metric in metrics]
            cells = [plus_minus(cell["mean"], cell["std"]) if cell else "" for cell in printed]
            rows.append([f"{group.label}, the paper", *cells])
    return rows


def _over_clients(accuracies: Sequence[npt.NDArray[np.float64]]) -> str:
    """Mean ± std over clients of the accuracies of some runs, and the standard deviation of the mean if several."""
    if not accuracies:
        return ""
    means, stds = [np.nanmean(each) for each in accuracies], [np.nanstd(each) for each in accuracies]
    spread = f" / {np.std(means, ddof=1):.2f}" if len(means) > 1 else ""
    return plus_minus(float(np.mean(means)), float(np.mean(stds))) + spread


def paired_sentences(groups: Sequence[Group]) -> list[str]:
    """How much higher each group's accuracies are than the first one's, client by client, with standard errors.

    Runs are paired if they have the same seed and the same clients.
    """
    first, sentences = groups[0], []
    for group in groups[1:]:
        pairs = {
            seed: (run, first.runs[seed])
            for seed, run in group.runs.items()
            if seed in first.runs and run.recorded["clients-checksum"] == first.runs[seed].recorded["clients-checksum"]
        }
        if not pairs:
            sentences.append(f"{group.label} and {first.label} have no seed with the same clients in common.")
            continue
        for metric, title in METRIC_TITLES.items():
            differences = [
                _by_client(run, metric) - _by_client(other, metric)
                for run, other in pairs.values()
                if metric in run.accuracies() and metric in other.accuracies()
            ]
            if not differences:
                continue
            mean, error = mean_and_error(differences)
            one_seed = f"{counted(int(np.isfinite(differences[0]).sum()), 'client')} of one seed"
            over = counted(len(differences), "seed") if len(differences) > 1 else one_seed
            names = f"{title}: {group.label} - {first.label}"
            sentences.append(f"{names} = {mean:+.2f} ± {error:.2f} (standard error over {over})")
    return sentences


def _by_client(run: RunFolder, metric: str) -> npt.NDArray[np.float64]:
    """A run's accuracies by client id, with NaN for clients without one, so that two runs can be subtracted."""
    values = np.full(run.config["num-clients"], np.nan)
    values[[client["client"] for client in run.clients]] = run.accuracies()[metric]
    return values
