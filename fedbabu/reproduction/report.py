"""The report of an experiment: our numbers beside the paper's, in the terminal and as Markdown, LaTeX, CSV and figures.

Every finished run that has the numbers of a cell counts, from a sweep or `flwr run`; a cell without a run is blank.
"""

import re
import sys
from collections.abc import Sequence
from itertools import zip_longest
from math import isnan
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from rich.console import Console

from fedbabu.errors import ConfigError
from fedbabu.formatting import counted
from fedbabu.plots.style import save_figure
from fedbabu.reproduction.comparison import (
    MIN_SEEDS,
    MISSING_NOTE,
    ComparedCell,
    compare_with_paper,
    paired_differences,
    winners_in_words,
)
from fedbabu.reproduction.experiment import Experiment, format_setting
from fedbabu.reproduction.figures import FIGURES, comparison_figure, figures
from fedbabu.reproduction.paper.tables import SYMBOLS
from fedbabu.runs.files import write_whole
from fedbabu.runs.records import METRIC_TITLES

CAPTION = "Accuracy in %: mean ± std over clients / std over seeds (minus the paper's)"
# What the tables have beyond ASCII, for LaTeX.
LATEX_SYMBOLS = {"±": r"$\pm$", "τ": r"$\tau$", "β": r"$\beta$", "μ": r"$\mu$", "λ": r"$\lambda$", "−": "-"}
MAX_PAIRS = 12  # of paired differences that the report shows; its CSV file has all


def terminal() -> Console:
    """The console for tables: as wide as the terminal, or as wide as the tables need if there is no terminal."""
    return Console(width=None if sys.stdout.isatty() else 1000, markup=False, emoji=False, highlight=False)


def write_report(experiment: Experiment, width: int) -> str:
    """Write the report as Markdown, LaTeX, CSV and figures, into the folder `reports` beside the runs.

    Returns the report for a terminal of a width. Where a table does not fit, its columns are in several pieces.
    """
    if experiment.figure not in (None, *FIGURES):
        raise ConfigError(f"figure = '{experiment.figure}' is not allowed: it must be one of {', '.join(FIGURES)}.")
    drawn: dict[str, Figure] = {}
    pairs = pd.DataFrame()
    if experiment.table and "sizes" in experiment.table:
        caption, notes, records = "", [], _dataset_sizes(experiment)
        rows = [list(records), *records.astype(str).values.tolist()]
    else:
        cells = compare_with_paper(experiment)
        caption, notes, records = CAPTION, _notes(experiment, cells), _records(cells)
        rows, drawn, pairs = _rows(experiment, cells), _figures(experiment, cells), _pairs(experiment, cells)
    lines = [f"| {' | '.join(row)} |".replace("\n", "<br>") for row in [rows[0], ["---"] * len(rows[0]), *rows[1:]]]
    paragraphs = [f"# {experiment.title}", caption, "\n".join(lines), "\n".join(f"- {note.strip()}" for note in notes)]
    markdown = "\n\n".join(filter(None, paragraphs)) + "\n"

    printed = [line for row in rows[1:] for line in zip_longest(*(text.split("\n") for text in row), fillvalue="")]
    table = pd.DataFrame(printed, columns=rows[0])
    folder = experiment.results_dir / "reports"
    folder.mkdir(parents=True, exist_ok=True)
    title = f"{experiment.title}. {caption}".removesuffix(". ")
    written = {".md": markdown, ".tex": _latex(table, title), ".csv": records.to_csv(index=False)}
    if len(pairs):
        written["-pairs.csv"] = pairs.to_csv(index=False)
    for ending, text in written.items():
        write_whole(folder / f"{experiment.name}{ending}", text.encode())
    for ending, figure in drawn.items():
        save_figure(figure, folder / f"{experiment.name}{ending}")
    heads = rows[0][: rows[0].index("") + 1]  # the last one has no name
    shown = table.set_index(heads).to_string(line_width=width)
    files = ", ".join(f"{experiment.name}{ending}" for ending in (*written, *drawn))
    return "\n".join([experiment.title, caption, shown, *notes, f"Written to {folder}: {files}"])


def _latex(table: pd.DataFrame, caption: str) -> str:
    """A table as LaTeX, for the package booktabs."""
    text = table.style.hide(axis="index").format(escape="latex").format_index(escape="latex", axis="columns")
    caption = re.sub(r"([%&#_])", r"\\\1", caption)
    return text.to_latex(hrules=True, caption=caption, position="htbp").translate(str.maketrans(LATEX_SYMBOLS))


def _figures(experiment: Experiment, cells: Sequence[ComparedCell]) -> dict[str, Figure]:
    """The experiment's figure for each setting of the runs, and our accuracies against the paper's, by file ending."""
    drawn: dict[str, Figure] = {}
    if experiment.figure is not None:
        runs = {run.path: run for cell in cells for run in cell.runs}
        of_settings = list(figures(experiment.figure, [runs[path] for path in sorted(runs)]))
        drawn = {f"-{number}" if len(of_settings) > 1 else "": each for number, each in enumerate(of_settings, 1)}
    if any(cell.is_compared for cell in cells):
        drawn["-beside-the-paper"] = comparison_figure(experiment.title, cells)
    return {f"{name}.{kind}": figure for name, figure in drawn.items() for kind in ("png", "svg")}


def _dataset_sizes(experiment: Experiment) -> pd.DataFrame:
    """Table 8, with the numbers of the newest complete run on each dataset."""
    ours: dict[str, dict[str, int]] = {}
    for run in experiment.usable_runs():
        if run.finished and not run.missing_clients():
            num_test = sum(client["num-test-examples"] for client in run.result_clients)
            train, classes = run.dataset["num-train-examples"], run.dataset["num-classes"]
            ours[run.dataset["name"]] = {"train": train, "test": num_test, "classes": classes}
    rows = []
    for name, printed in (experiment.table or {})["sizes"].items():
        for kind, number in printed.items():
            numbers = [ours[name][kind], number, ours[name][kind] - number] if name in ours else ["", number, ""]
            rows.append([name, kind, *numbers])
    return pd.DataFrame(rows, columns=["dataset", "", "ours", "the paper", "difference"], dtype=object)


def _records(cells: Sequence[ComparedCell]) -> pd.DataFrame:
    """The content of the CSV file: a row for each cell of the table, with our numbers and the paper's; NaN is blank."""
    keys = dict.fromkeys(key for cell in cells for key in cell.axes)
    records = []
    for cell in cells:
        record: dict[str, Any] = {**keys, **cell.axes}
        for column, ours in cell.ours.items():
            numbers = {
                "mean": ours.mean,
                "std": ours.std,
                "std-over-seeds": ours.spread,
                "num-seeds": len(ours.runs),
                "difference": ours.mean - cell.paper_mean,
                "outside": ours.is_outside(cell.paper_mean),
                "runs": " ".join(run.path.name for run in ours.runs),
            }
            record |= {f"{column}-{name}": number for name, number in numbers.items()}
        records.append(record | {"paper-mean": cell.paper_mean, "paper-std": cell.paper_std})
    return pd.DataFrame(records, dtype=object)


def _pairs(experiment: Experiment, cells: Sequence[ComparedCell]) -> pd.DataFrame:
    """The content of the second CSV file: a row for each pair of cells that differ only in what is compared."""
    records = [
        {
            **{f"first-{key}": value for key, value in pair.first.axes.items()},
            **{f"second-{key}": value for key, value in pair.second.axes.items()},
            "measured-as": pair.column,
            "difference": pair.mean,
            "standard-error": pair.standard_error,
            "num-seeds": len(pair.by_seed),
        }
        for pair in paired_differences(cells, _compared_keys(experiment))
    ]
    return pd.DataFrame(records, dtype=object)


def _compared_keys(experiment: Experiment) -> Sequence[str]:
    """The keys whose values an experiment compares with each other."""
    return experiment.table.get("compares", []) if experiment.table else ["algorithm"]


def _rows(experiment: Experiment, cells: Sequence[ComparedCell]) -> list[list[str]]:
    """The table as texts, under a heading: the keys of the paper's lines down and of its columns across.

    In an experiment of the user, the metrics are across. The values of each key are in the order of the cells.
    """
    keys = list(dict.fromkeys(key for cell in cells for key in cell.axes))
    down, across = (experiment.table["down"], experiment.table["across"]) if experiment.table else ([], ["metric"])
    down = [*down, *(key for key in keys if key not in [*down, *across, "metric"])]
    values = {key: list(dict.fromkeys(cell.axes.get(key) for cell in cells)) for key in [*down, *across]}

    def place(cell: ComparedCell, keys: Sequence[str]) -> tuple[int, ...]:
        return tuple(values[key].index(cell.axes.get(key)) for key in keys)

    sources = list(dict.fromkeys(source for cell in cells for source in cell.ours))
    printed = [] if all(isnan(cell.paper_mean) for cell in cells) else ["paper"]
    num_lines = len(sources) + len(printed)
    texts = {(place(cell, down), place(cell, across)): "\n".join(cell.texts(sources)[:num_lines]) for cell in cells}
    columns = sorted({column for _, column in texts})
    rows = [[*(SYMBOLS.get(key, key) for key in down), ""]]
    for column in columns:
        given = {key: values[key][position] for key, position in zip(across, column, strict=True)}
        rows[0].append(format_setting({key: value for key, value in given.items() if value is not None}))
    for line in sorted({line for line, _ in texts}):
        shown = {key: values[key][position] for key, position in zip(down, line, strict=True)}
        if "metric" in shown:
            shown["metric"] = METRIC_TITLES[str(shown["metric"])]
        heads = ["" if value is None else str(value) for value in shown.values()]
        rows.append([*heads, "\n".join([*sources, *printed]), *(texts.get((line, column), "") for column in columns)])
    return rows


def _notes(experiment: Experiment, cells: Sequence[ComparedCell]) -> list[str]:
    """Sentences about the runs and about the differences from the paper."""
    table, num_runs = experiment.table or {}, [len(cell.runs) for cell in cells if cell.runs]
    notes = [f"{len(num_runs)} of {counted(len(cells), 'cell')} {'has a run' if len(cells) == 1 else 'have runs'}."]
    numbers = [(ours, cell.paper_mean) for cell in cells for ours in cell.ours.values() if ours.runs]
    compared = [(ours, paper) for ours, paper in numbers if not isnan(paper)]
    if decided := [ours for ours, paper in compared if ours.is_outside(paper) is not None]:
        outside = sum(bool(ours.is_outside(paper)) for ours, paper in compared)
        notes.append(
            f"{outside} of {len(decided)} numbers with at least {MIN_SEEDS} seeds differ (!) from the paper's by more "
            "than another seed would, with a probability of 95 %."
        )
    if undecided := [len(ours.runs) for ours, paper in compared if ours.is_outside(paper) is None]:
        seeds = "one seed" if max(undecided) == 1 else f"fewer than {MIN_SEEDS} seeds"
        notes.append(
            f"For {len(undecided)} numbers, {seeds} cannot decide whether the difference from the paper is more than "
            f"the spread from seed to seed: run seeds={','.join(map(str, range(1, MIN_SEEDS + 1)))}."
        )
    if any(ours.lacks_clients for cell in cells for ours in cell.ours.values()):
        notes.append(MISSING_NOTE)
    notes += winners_in_words(cells, table.get("compares", []))
    pairs = list(paired_differences(cells, _compared_keys(experiment)))
    if 0 < len(pairs) <= MAX_PAIRS:
        notes += ["Paired differences, with the same partition, sampled clients and start:", *(p.text for p in pairs)]
    if "note" in table:
        notes.append(table["note"])
    if table and any(cell.printed is None for cell in experiment.cells):
        notes.append("The paper's numbers are of another setting than these cells.")
    return notes
