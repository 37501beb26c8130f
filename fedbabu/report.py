"""An experiment's numbers beside the paper's: `python -m fedbabu.report experiment=table13`.

Every finished run that has a cell's numbers counts, from a sweep or a bare `flwr run`; a cell without one stays blank.
"""

import argparse
import csv
import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from fedbabu.comparison import Entry, Line, claims, entries, told
from fedbabu.errors import ConfigError
from fedbabu.experiment import Experiment
from fedbabu.paper import SYMBOLS
from fedbabu.plots import ours_and_the_papers, save_figure
from fedbabu.progress import TITLES
from fedbabu.storage import write_whole


@dataclass(frozen=True)
class Layout:
    """A table as the paper prints it: lines, columns, and the entry at each place."""

    down: Sequence[str]
    columns: Sequence[str]
    lines: Sequence[tuple[Sequence[str], Sequence[Entry | None]]]

    @classmethod
    def of(cls, found: Sequence[Entry], down: Sequence[str], across: Sequence[str]) -> "Layout":
        """Lay entries out by the keys that tell lines and columns apart."""
        columns = list(dict.fromkeys(tuple(entry.of.get(key) for key in across) for entry in found))
        columns.sort(key=lambda column: [_first(found, key, value) for key, value in zip(across, column, strict=True)])
        lines: dict[tuple[Any, ...], dict[tuple[Any, ...], Entry]] = {}
        for entry in found:
            line = lines.setdefault(tuple(entry.of.get(key) for key in down), {})
            line[tuple(entry.of.get(key) for key in across)] = entry
        return cls(
            [SYMBOLS.get(key, key) for key in down],
            [told({k: v for k, v in zip(across, column, strict=True) if v is not None}) for column in columns],
            [
                ([_shown(key, value) for key, value in zip(down, line, strict=True)], [of.get(c) for c in columns])
                for line, of in lines.items()
            ],
        )


def _first(found: Sequence[Entry], key: str, value: Any) -> int:
    """Where in the order of the paper a value comes first."""
    return next(place for place, entry in enumerate(found) if entry.of.get(key) == value)


def _shown(key: str, value: Any) -> str:
    if key == "metric":
        return TITLES[value]
    return "" if value is None else str(value)


def write_report(experiment: Experiment) -> RenderableType:
    """Write the report as Markdown, CSV and a plot, into the folder `reports` beside the runs, and return it.

    Raises:
        OSError: if a file cannot be written.
    """
    table = experiment.table or {}
    found = entries(experiment)
    down, across = _keys(experiment, found)
    layout = Layout.of(found, down, across)
    notes = _notes(found, claims(found, table.get("compares", [])))
    title = f"Table {table['table']}: {experiment.title}" if table else experiment.title
    folder = experiment.results / "reports"
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / f"{experiment.name}.md", _markdown(title, layout, notes).encode())
    write_whole(folder / f"{experiment.name}.csv", _csv(found).encode())
    written = [f"{experiment.name}.md", f"{experiment.name}.csv"]
    if any(entry.difference is not None for entry in found):
        save_figure(ours_and_the_papers(title, found), folder / f"{experiment.name}.png")
        written.append(f"{experiment.name}.png")
    notes = [*notes, f"Written to {folder}: {', '.join(written)}"]
    return Group(_rich(title, layout), *map(Text, notes))


def _keys(experiment: Experiment, found: Sequence[Entry]) -> tuple[list[str], list[str]]:
    """The keys that tell lines apart, and those that tell columns apart: the paper's, or the metric across."""
    keys = list(dict.fromkeys(key for entry in found for key in entry.of))
    across = experiment.table["across"] if experiment.table else ["metric"]
    down = experiment.table["down"] if experiment.table else []
    return [*down, *(key for key in keys if key not in [*down, *across] and (key != "metric" or not down))], across


def _notes(found: Sequence[Entry], lines: Sequence[Line]) -> list[str]:
    """What is to be said of the table below it."""
    ran = sum(entry.mean is not None for entry in found)
    seeds = sorted({len(entry.runs) for entry in found if entry.runs})
    notes = [
        f"{ran} of {len(found)} cells have runs" + (f", of {_range(seeds)} seeds" if seeds[-1:] > [1] else "") + "."
    ]
    if both := [entry for entry in found if entry.difference is not None]:
        outside = sum(entry.outside for entry in both)
        notes.append(
            f"{outside} of {len(both)} differ (!) from the paper's mean by more than twice its standard error over "
            "clients plus the spread over our seeds."
        )
    if any(entry.partial for entry in found):
        notes.append("* Not all clients were evaluated; the run folder names those that are missing.")
    if complete := [line for line in lines if line.ours]:
        same = [line for line in complete if line.ours == line.winner]
        verdict = "holds" if len(same) == len(complete) else "holds in part" if same else "does not hold"
        notes.append(
            f"Who has the highest accuracy: the paper's claim {verdict}; in {len(same)} of {len(complete)} lines with "
            f"all runs it is the same as in the paper{_of(len(lines))}."
        )
        for line in complete:
            if line.ours != line.winner:
                close = ", within two standard errors" if line.close else ""
                notes.append(f"  {line.of or 'Here'}: {line.ours} ahead of the paper's {line.winner}{close}.")
    return notes


def _of(lines: int) -> str:
    return f", which has {lines}" if lines > 1 else ""


def _range(numbers: Sequence[int]) -> str:
    return f"{numbers[0]} to {numbers[-1]}" if len(numbers) > 1 else str(numbers[0])


def _rich(title: str, layout: Layout) -> RichTable:
    table = RichTable(title=f"{title}\naccuracy in %, mean ± std over clients", show_lines=True)
    for name in [*layout.down, ""]:
        table.add_column(name)
    for name in layout.columns:
        table.add_column(name, justify="right", min_width=14)
    for line, found in layout.lines:
        cells = [Text("\n".join(entry.lines) if entry else "") for entry in found]
        for entry, cell in zip(found, cells, strict=True):
            if entry and entry.outside:
                cell.highlight_words([entry.lines[-1]], "red")
        table.add_row(*line, Text("ours\npaper\ndifference", style="dim"), *cells)
    return table


def _markdown(title: str, layout: Layout, notes: Sequence[str]) -> str:
    rows = [[*layout.down, "", *layout.columns], ["---"] * (len(layout.down) + 1 + len(layout.columns))]
    for line, found in layout.lines:
        rows.append([*line, "ours<br>paper<br>difference", *("<br>".join(e.lines) if e else "" for e in found)])
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    below = "\n".join(f"- {note.strip()}" for note in notes)
    return f"# {title}\n\nAccuracy in %, mean ± std over clients.\n\n{table}\n\n{below}\n"


def _csv(found: Sequence[Entry]) -> str:
    keys = list(dict.fromkeys(key for entry in found for key in entry.of))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        [
            *keys,
            "mean",
            "std",
            "num-seeds",
            "std-over-seeds",
            "paper-mean",
            "paper-std",
            "difference",
            "outside",
            "runs",
        ]
    )
    for entry in found:
        ours = [entry.mean, entry.std, len(entry.runs), entry.spread] if entry.mean is not None else ["", "", 0, ""]
        paper = [entry.paper_mean, entry.paper_std] if entry.paper_mean is not None else ["", ""]
        difference = ["", ""] if entry.difference is None else [entry.difference, entry.outside]
        runs = " ".join(run.path.name for run in entry.runs)
        writer.writerow([*(entry.of.get(key, "") for key in keys), *ours, *paper, *difference, runs])
    return text.getvalue()


def main(arguments: Sequence[str]) -> int:
    """Report; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m fedbabu.report", description="Show an experiment of conf/: our numbers beside the paper's."
    )
    parser.add_argument(
        "overrides", nargs="*", help="Hydra overrides, as for fedbabu.sweep: experiment=table13 cells.s=2"
    )
    given = parser.parse_args(arguments)
    try:
        Console().print(write_report(Experiment.compose(given.overrides)))
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        print(f"The report stopped at a file that it cannot use: {error}.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
