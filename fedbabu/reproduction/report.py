"""An experiment's numbers beside the paper's: `python -m fedbabu.reproduction.report experiment=table13`.

Every finished run that has a cell's numbers counts, from a sweep or a bare `flwr run`; a cell without one stays blank.
"""

import argparse
import csv
import io
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure
from rich.console import Console, Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from fedbabu.errors import ConfigError
from fedbabu.plots import FIGURES, figures, ours_and_the_papers, save_figure
from fedbabu.reproduction.comparison import Entry, Line, claims, entries
from fedbabu.reproduction.experiment import Experiment, told
from fedbabu.reproduction.paper import SYMBOLS
from fedbabu.runs.files import write_whole
from fedbabu.runs.folder import RunFolder
from fedbabu.runs.progress import TITLES

FILE_WIDTH = 1000  # of a line, where it is not shown on a terminal


@dataclass(frozen=True)
class Layout:
    """A table as the paper prints it: lines, columns, and the entry at each place."""

    down: Sequence[str]
    columns: Sequence[str]
    lines: Sequence[tuple[Sequence[str], Sequence[Entry | None]]]

    @classmethod
    def of(cls, found: Sequence[Entry], down: Sequence[str], across: Sequence[str]) -> "Layout":
        """Lay entries out by the keys that tell lines and columns apart."""

        def order(keys: Sequence[str], values: Sequence[Any]) -> list[int]:
            """Where in the order of the cells each value comes first."""
            return [
                next(place for place, entry in enumerate(found) if entry.of.get(key) == value)
                for key, value in zip(keys, values, strict=True)
            ]

        columns = list(dict.fromkeys(tuple(entry.of.get(key) for key in across) for entry in found))
        columns.sort(key=lambda column: order(across, column))
        lines: dict[tuple[Any, ...], dict[tuple[Any, ...], Entry]] = {}
        for entry in found:
            line = lines.setdefault(tuple(entry.of.get(key) for key in down), {})
            line[tuple(entry.of.get(key) for key in across)] = entry
        found_lines = sorted(lines.items(), key=lambda item: order(down, item[0]))
        return cls(
            [SYMBOLS.get(key, key) for key in down],
            [told({k: v for k, v in zip(across, column, strict=True) if v is not None}) for column in columns],
            [
                ([_shown(key, value) for key, value in zip(down, line, strict=True)], [of.get(c) for c in columns])
                for line, of in found_lines
            ],
        )


def _shown(key: str, value: Any) -> str:
    if key == "metric":
        return TITLES[value]
    return "" if value is None else str(value)


def terminal() -> Console:
    """Where a sweep and a report are shown: as wide as the terminal, or as they need where there is none."""
    width = None if sys.stdout.isatty() else FILE_WIDTH
    return Console(width=width, markup=False, emoji=False, highlight=False)


def write_report(experiment: Experiment, width: int) -> RenderableType:
    """Write the report as Markdown, CSV and a plot, into the folder `reports` beside the runs.

    Returns:
        It, to be shown in so many columns.

    Raises:
        ConfigError: if the experiment names a figure that there is not.
        OSError: if a file cannot be written.
    """
    if experiment.figure not in (None, *FIGURES):
        raise ConfigError(f"figure = '{experiment.figure}' is not allowed: it must be one of {', '.join(FIGURES)}.")
    table = experiment.table or {}
    title = experiment.heading
    folder = experiment.results / "reports"
    folder.mkdir(parents=True, exist_ok=True)

    def write(ending: str, text: str) -> str:
        write_whole(folder / f"{experiment.name}.{ending}", text.encode())
        return f"{experiment.name}.{ending}"

    if sizes := table.get("sizes"):
        rows = _composition(sizes, [run.folder for run in experiment.known_runs() if run.finished])
        written = [write("md", f"# {title}\n\n{_markdown_table(rows)}\n"), write("csv", _csv(rows))]
        return Group(_plain(title, rows), f"Written to {folder}: {', '.join(written)}")
    found = entries(experiment)
    layout = Layout.of(found, *_keys(experiment, found))
    notes = _notes(found, claims(found, table.get("compares", [])))
    notes += [table["note"]] if "note" in table else []
    if table and any(cell.printed is None for cell in experiment.cells):
        notes.append("The paper's numbers are of another setting than these cells.")
    written = [write("md", _markdown(title, layout, notes)), write("csv", _csv(_records(found)))]
    drawn = _figures(experiment, found)
    if any(entry.difference is not None for entry in found):
        drawn["-beside-the-paper"] = ours_and_the_papers(title, found)
    for ending, figure in drawn.items():
        for kind in ("png", "svg"):
            save_figure(figure, folder / f"{experiment.name}{ending}.{kind}")
            written.append(f"{experiment.name}{ending}.{kind}")
    head = Text(f"{title}\nAccuracy in %, mean ± std over clients")
    return Group(head, *_rich(layout, width), *map(Text, notes), Text(f"Written to {folder}: {', '.join(written)}"))


def _figures(experiment: Experiment, found: Sequence[Entry]) -> dict[str, Figure]:
    """What the experiment shows, of the runs that there are: a figure for each setting, by an ending of its name."""
    if experiment.figure is None:
        return {}
    runs = {run.path: run for entry in found for run in entry.runs}
    drawn = list(figures(experiment.figure, [runs[path] for path in sorted(runs)]))
    return {f"-{number}" if len(drawn) > 1 else "": figure for number, figure in enumerate(drawn, 1)}


def _composition(sizes: Mapping[str, Mapping[str, int]], runs: Sequence[RunFolder]) -> list[list[Any]]:
    """Table 8, with what the newest runs had: a line for each dataset and split, under a heading."""
    rows: list[list[Any]] = [["dataset", "", "ours", "the paper", "difference"]]
    for name, printed in sizes.items():
        ours: dict[str, int] = {}
        for run in runs:
            if run.dataset["name"] == name and not run.summary.get("missing"):
                num_test = sum(client["num-test-examples"] for client in run.clients)
                train, classes = run.dataset["num-train-examples"], run.dataset["num-classes"]
                ours = {"train": train, "test": num_test, "classes": classes}
        for kind, number in printed.items():
            mine = [ours[kind], number, ours[kind] - number] if ours else ["", number, ""]
            rows.append([name, kind, *mine])
    return rows


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


def _rich(layout: Layout, width: int) -> Iterator[RichTable]:
    """The table, in as many pieces as it takes to fit a width: each with some of the columns, and all lines."""
    heads = [[name, *(line[place] for line, _ in layout.lines)] for place, name in enumerate(layout.down)]
    heads.append(["difference"])
    left = 1 + sum(max(map(len, texts)) + 3 for texts in heads)
    pieces: list[list[int]] = []
    room = 0
    for place, name in enumerate(layout.columns):
        texts = [text for _, found in layout.lines if (entry := found[place]) for text in entry.lines]
        needed = max(map(len, [name, *texts])) + 3
        if needed > room:
            pieces.append([])
            room = width - left
        pieces[-1].append(place)
        room -= needed
    for piece in pieces:
        table = RichTable(*layout.down, "", show_lines=True)
        for place in piece:
            table.add_column(layout.columns[place], justify="right")
        for line, found in layout.lines:
            cells = [Text("\n".join(entry.lines) if (entry := found[place]) else "") for place in piece]
            for place, cell in zip(piece, cells, strict=True):
                if (entry := found[place]) and entry.outside:
                    cell.highlight_words([entry.lines[-1]], "red")
            table.add_row(*line, Text("ours\npaper\ndifference", style="dim"), *cells)
        yield table


def _plain(title: str, rows: Sequence[Sequence[Any]]) -> RichTable:
    table = RichTable(*map(str, rows[0]), title=title)
    for row in rows[1:]:
        table.add_row(*map(str, row))
    return table


def _markdown(title: str, layout: Layout, notes: Sequence[str]) -> str:
    rows = [[*layout.down, "", *layout.columns]]
    for line, found in layout.lines:
        rows.append([*line, "ours<br>paper<br>difference", *("<br>".join(e.lines) if e else "" for e in found)])
    below = "\n".join(f"- {note.strip()}" for note in notes)
    return f"# {title}\n\nAccuracy in %, mean ± std over clients.\n\n{_markdown_table(rows)}\n\n{below}\n"


def _markdown_table(rows: Sequence[Sequence[Any]]) -> str:
    lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def _records(found: Sequence[Entry]) -> list[list[Any]]:
    """A line for each entry, with all that is known of it, under a heading."""
    keys = list(dict.fromkeys(key for entry in found for key in entry.of))
    ours = ["mean", "std", "num-seeds", "std-over-seeds"]
    rows: list[list[Any]] = [[*keys, *ours, "paper-mean", "paper-std", "difference", "outside", "runs"]]
    for entry in found:
        row = [entry.of.get(key, "") for key in keys]
        row += [entry.mean, entry.std, len(entry.runs), entry.spread] if entry.mean is not None else ["", "", 0, ""]
        row += [entry.paper_mean, entry.paper_std] if entry.paper_mean is not None else ["", ""]
        row += ["", ""] if entry.difference is None else [entry.difference, entry.outside]
        rows.append([*row, " ".join(run.path.name for run in entry.runs)])
    return rows


def _csv(rows: Sequence[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def main(arguments: Sequence[str]) -> int:
    """Report; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m fedbabu.reproduction.report",
        description="Show an experiment of conf/: our numbers beside the paper's.",
    )
    parser.add_argument(
        "overrides", nargs="*", help="Hydra overrides, as for fedbabu.sweep: experiment=table13 cells.s=2"
    )
    given = parser.parse_args(arguments)
    try:
        console = terminal()
        console.print(write_report(Experiment.compose(given.overrides), console.width))
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        print(f"The report stopped at a file that it cannot use: {error}.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
