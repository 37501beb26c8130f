"""The folder of run folders: which runs are in it, and which of them can be compared."""

from collections.abc import Sequence
from pathlib import Path

from fedbabu.runs.folder import RunFolder
from fedbabu.runs.settings import comparable


def all_runs(results_dir: str | Path) -> list[RunFolder]:
    """All runs in a folder of run folders, oldest first, since their names start with the time."""
    return [RunFolder(path.parent) for path in sorted(Path(results_dir).glob("*/config.json"))]


def finished_runs(results_dir: str | Path) -> list[RunFolder]:
    """The finished runs in a folder of run folders, oldest first; what cannot be read is named and left out."""
    runs = []
    for run in all_runs(results_dir):
        try:
            if run.config["algorithm"] and run.dataset["name"] and run.finished and run.summary["accuracy"]:
                runs.append(run)
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            print(
                f"{run.path} is left out, because it is not the folder of a run that can be read: {error}", flush=True
            )
    return runs


def newest_per_algorithm(runs: Sequence[RunFolder]) -> list[RunFolder]:
    """Of runs, oldest first, those that can be compared with the last, the newest of each algorithm; sorted by name."""
    alike = [run for run in runs if run.dataset == runs[-1].dataset and comparable(run.config, runs[-1].config)]
    newest = {run.config["algorithm"]: run for run in alike}
    return [newest[algorithm] for algorithm in sorted(newest)]
