"""What plot.ipynb shows: a table of all runs, figures of those that it compares, and figures of the paper."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from fedbabu.errors import ConfigError
from fedbabu.formatting import plus_minus
from fedbabu.plots.style import algorithm_label, setting_title
from fedbabu.reproduction.figures import figures
from fedbabu.runs.folder import RunFolder
from fedbabu.runs.records import METRIC_TITLES
from fedbabu.runs.results_folder import finished_runs, newest_per_algorithm

PUBLISHED = "paper"  # the folder of the results-dir with the runs that come with the repository


@dataclass(frozen=True)
class Results:
    """The finished runs of a results-dir, oldest first, and those among them that are compared."""

    all_runs: Sequence[RunFolder]
    compared: Sequence[RunFolder]

    def table(self) -> pd.DataFrame:
        """A row for each run: accuracies in %, mean ± std over clients, the paper's beside them, and its minutes."""
        rows = []
        for run in self.all_runs:
            row = {"setting": setting_title(run), "algorithm": algorithm_label(run), "seed": run.config["seed"]}
            for metric, ours in run.summary["accuracy"].items():
                paper = run.summary["paper"].get(metric)
                printed = f" ({plus_minus(paper['mean'], paper['std'])})" if paper else ""
                row[f"{METRIC_TITLES[metric]} (the paper)"] = plus_minus(ours["mean"], ours["std"]) + printed
            rows.append(row | {"minutes": round(run.summary["seconds"] / 60)})
        return pd.DataFrame(rows).set_index(["setting", "algorithm", "seed"]).sort_index().fillna("")

    def draw(self, figure: Callable[..., Figure], *arguments: Any) -> Figure | None:
        """A figure of the compared runs, with further arguments; None if there are no runs."""
        return figure(self.compared, *arguments) if self.compared else None

    def of_the_paper(self, name: str, experiment: str, smaller: str = "") -> list[Figure]:
        """A figure of the paper, a key of FIGURES, for every setting that has runs for it.

        If there are none, it prints the command of the experiment that makes them, and a smaller one if there is any.
        """
        drawn = list(figures(name, self.all_runs))
        if not drawn:
            print(f"There are no runs of what this figure shows. The paper's: fedbabu sweep experiment={experiment}")
            if smaller:
                print(f"Smaller: {smaller}")
        return drawn


def open_results(folder: str | Path = "results", compared: Sequence[str] = ()) -> Results:
    """The runs of a results-dir; if it has no finished run, those that come with the repository, in its PUBLISHED.

    Args:
        folder: The results-dir.
        compared: The names of the run folders to compare; by default, the newest run, and the newest of every other
            algorithm in the same setting.
    """
    pd.options.display.max_colwidth = None  # settings are long
    all_runs = finished_runs(folder) or finished_runs(Path(folder) / PUBLISHED)
    if not all_runs:
        print(f"There is no finished run in '{folder}' yet. Make some, in two minutes, with")
        print("    fedbabu sweep experiment=quickstart")
    federated = [run for run in all_runs if run.config["fraction-train"]]
    on_own_classes = [run for run in federated if not run.config["iid-test-set"]]
    chosen = [run for run in all_runs if run.path.name in compared]
    if unknown := set(compared) - {run.path.name for run in chosen}:
        raise ConfigError(f"There is no finished run of the name {', '.join(sorted(unknown))} in '{folder}'.")
    newest = on_own_classes or federated or all_runs
    return Results(all_runs, chosen or (newest_per_algorithm(newest) if newest else []))
