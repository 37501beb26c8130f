"""A sweep: all runs that an experiment needs, through `flwr run`, one after the other.

A finished run is not run again, and an interrupted one is resumed. The run folders alone say what is done.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedbabu.config import RUNTIME_KEYS, RunConfig
from fedbabu.federation.resources import clients_at_a_time, fitting_federation, num_cpus_of_machine
from fedbabu.formatting import counted, format_duration, plus_minus
from fedbabu.heartbeat import Heartbeat
from fedbabu.reproduction.app_folder import app_folder
from fedbabu.reproduction.experiment import Cell, Experiment, dataset_name
from fedbabu.reproduction.local_superlink import local_superlink, start, stop
from fedbabu.runs.folder import RunFolder
from fedbabu.runs.records import METRIC_TITLES
from fedbabu.runs.settings import declared_algorithm, finetunes_epoch_by_epoch, setting_of
from fedbabu.runs.time_estimates import Cost, estimated_seconds, time_left

POLL_SECONDS = 0.5
TAIL_BYTES = 4000  # of a log, in which its last line is looked for


@dataclass(eq=False)
class PlannedRun:
    """A run that an experiment needs."""

    experiment: Experiment
    number: int  # from 1 on, in the order in which they are carried out
    config: dict[str, Any]  # the whole run configuration; without `initial-model` if it starts from another run
    cells: list[Cell] = field(default_factory=list)  # whose numbers it has; none if it is only for another run's start
    start: "PlannedRun | None" = None  # the run from whose model this one starts, if the algorithm needs one
    failure: str = ""  # why the run failed in this sweep

    @property
    def labels(self) -> list[str]:
        """A line for each cell, different for all runs of the experiment; the first one is the name of the run."""
        seed = f", seed = {self.config['seed']}" if len(self.experiment.seeds) > 1 else ""
        return [cell.label + seed for cell in self.cells] or [f"{self.config['algorithm']} to start from{seed}"]

    def folder(self) -> RunFolder | None:
        """The newest folder of this run, a finished one if there is any; None if the run has not begun."""
        runs = self.experiment.runs_with_results_for(self.config)
        same_seed = [run for run in runs if run.config["seed"] == self.config["seed"]]
        return max(same_seed, key=lambda run: (run.finished, run.path.name), default=None)

    @cached_property
    def run_config(self) -> RunConfig:
        """The checked run configuration."""
        return RunConfig.from_flower(self.config | ({"initial-model": "its start"} if self.start else {}))

    @property
    def federation(self) -> dict[str, Any]:
        """Flower's federation config for this machine."""
        return fitting_federation(self.experiment.federation, self.config["num-clients"])

    @cached_property
    def seconds(self) -> float | None:
        """How long the run will take as estimated; None if that is not known."""
        data = dataset_name(self.config["dataset"], self.experiment.dataset_locations)
        finished = [run for run in self.experiment.usable_runs() if run.finished]
        federation, at_a_time = self.federation, self.federation["num-supernodes"]
        if not federation["client-resources-num-gpus"]:
            cpus, machines = federation["client-resources-num-cpus"], [num_cpus_of_machine()]
            at_a_time = clients_at_a_time(at_a_time, cpus, self.config["num-clients"], machines)
        return estimated_seconds(self.run_config, data, finished, at_a_time)

    @property
    def state(self) -> str:
        """How far the run is, in words; empty if it has not begun."""
        if not (folder := self.folder()):
            return ""
        return "finished" if folder.finished else f"round {len(folder.rounds)}/{self.run_config.num_rounds}"


def plan(experiment: Experiment) -> list[PlannedRun]:
    """The runs that an experiment needs, each after the one that it starts from. Cells share a run if one suffices."""
    runs: dict[str, PlannedRun] = {}

    def planned(config: dict[str, Any], starts_from: str | None) -> PlannedRun:
        other_keys = ("dataset", "image-column", "label-column", "seed")
        identity = setting_of(config) | {key: config[key] for key in other_keys}
        finetune_epochs = finetunes_epoch_by_epoch(config) and identity.pop("num-finetune-epochs")
        if not experiment.table:  # then the accuracies after some of the rounds count too
            identity["evaluate-every"] = config["evaluate-every"]
        key = json.dumps(identity, sort_keys=True)
        if key not in runs:
            start = planned(config | {"algorithm": starts_from, "initial-model": ""}, None) if starts_from else None
            runs[key] = PlannedRun(experiment, len(runs) + 1, config, start=start)
        elif finetune_epochs:
            longest = max(finetune_epochs, runs[key].config["num-finetune-epochs"])
            runs[key].config["num-finetune-epochs"] = longest
        return runs[key]

    for seed in experiment.seeds:
        for cell in experiment.cells:
            config = dict(cell.config) | {"seed": seed, "results-dir": str(experiment.results_dir)}
            planned(config, declared_algorithm(config).starts_from).cells.append(cell)
    return list(runs.values())


def summary(experiment: Experiment, runs: Sequence[PlannedRun]) -> str:
    """What an experiment is, how much of it is done, and how long the rest will take, in two lines."""
    todo = [run for run in runs if run.state != "finished"]
    known = [run.seconds for run in todo if run.seconds is not None]
    left = f", about {format_duration(sum(known))} on this machine" if known else ""
    if known and len(known) < len(todo):
        left += f" and {counted(len(todo) - len(known), 'run')} of unknown data"
    finished = f"{len(runs) - len(todo)} finished"
    size = f"{counted(len(experiment.cells), 'cell')} of {counted(len(runs), 'run')}"
    return f"{experiment.title}\n{size}, {finished}{left}"


def listing(runs: Sequence[PlannedRun]) -> Table:
    """A table of all cells with the paper's numbers. The first cell of a run also has its time and its state."""
    table = Table("run", "cell", "accuracy", "the paper", "time", "state")
    for run in runs:
        of_run = [str(run.number), "?" if run.seconds is None else format_duration(run.seconds), run.state]
        cells: Sequence[Cell | None] = run.cells or [None]
        for cell, label in zip(cells, run.labels, strict=True):
            metric = METRIC_TITLES[cell.metric] if cell and cell.metric else ""
            paper = plus_minus(cell.printed.mean, cell.printed.std) if cell and cell.printed else ""
            table.add_row(of_run[0], label, metric, paper, *of_run[1:])
            of_run = ["", "", ""]
    return table


def carry_out(runs: Sequence[PlannedRun], folder: Path, console: Console) -> None:
    """Carry out all runs that are not finished, with a SuperLink and logs in a folder, and show the progress."""
    todo = [run for run in runs if run.state != "finished"]
    if not todo:
        return
    estimates, started = [run.seconds for run in todo], monotonic()
    with local_superlink(folder) as (environment, _), console.status("") as status:
        heartbeat = Heartbeat(console.print)  # in a log, where there is no line to update

        def show(run: PlannedRun, done: float, line: str) -> None:
            """Show the newest line of a run, of which a part is done, and the time left of all runs."""
            left = time_left(estimates, todo.index(run) + done, monotonic() - started)
            how_far = "   ".join(part for part in (line, left and f"(sweep: {left})") if part)
            status.update(Text(f"{run.labels[0]}   {how_far}"))
            if not console.is_terminal:
                heartbeat.beat(f"    {how_far}")

        for position, run in enumerate(todo, 1):
            console.print(f"{position} of {len(todo)}: {run.labels[0]} …")
            run.failure = _carry_out_one(run, folder, environment, show)
            console.print(f"    {f'failed: {run.failure}' if run.failure else _results_in_words(run)}")


def _carry_out_one(
    run: PlannedRun, files: Path, environment: Mapping[str, str], show: Callable[[PlannedRun, float, str], None]
) -> str:
    """Start or resume a run, show its progress, and wait for its end; returns why it failed, or an empty text."""
    start_folder, folder = run.start.folder() if run.start else None, run.folder()
    if run.start and not (start_folder and start_folder.finished):
        return f"it starts from the run '{run.start.labels[0]}', which failed"
    if folder and folder.finished:  # another process has finished it meanwhile
        return ""
    if folder:
        given = {key: run.config[key] for key in (*RUNTIME_KEYS, "dataset")} | {"resume": str(folder.path)}
    else:
        given = run.config | ({"initial-model": str(start_folder.path)} if start_folder else {})
    run_config, log = files / "run-config.toml", files / f"{run.experiment.name}-{run.number}.log"
    lines = (f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in given.items())
    run_config.write_text("".join(lines), encoding="utf-8")
    federation = " ".join(f"{key}={value}" for key, value in run.federation.items())
    command = ["flwr", "run", str(app_folder()), "--stream", "--run-config", str(run_config)]
    process = start([*command, "--federation-config", federation], environment, log)
    try:
        # If `flwr run` loses its connection, it ends before the run does.
        while process.poll() is None or (folder and folder.is_running):
            sleep(POLL_SECONDS)
            folder = folder or run.folder()
            done = share_done(run, folder.dataset["num-train-examples"], len(folder.rounds)) if folder else 0.0
            show(run, done, newest_line(log))
    finally:
        stop(process)
    folder = run.folder()
    return "" if folder and folder.finished else f"{_error_in(log)} ({log} has all that it printed)"


def share_done(run: PlannedRun, num_train: int, finished_rounds: int) -> float:
    """The part of a run's work that is done after some rounds; of the final evaluation, nothing before it is over."""
    cost = Cost(run.run_config, num_train, num_test=0)  # the number of test images is not known, and their work small
    return 1.0 - cost.left(finished_rounds) / cost.left(0)


def newest_line(log: Path) -> str:
    """What a run printed last."""
    with log.open("rb") as file:
        file.seek(max(log.stat().st_size - TAIL_BYTES, 0))
        lines = _plain(file.read()).splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _plain(text: bytes) -> str:
    """A text without the control sequences that colour it."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text.decode("utf-8", errors="replace"))


def _results_in_words(run: PlannedRun) -> str:
    """The accuracies of a finished run and its duration, in one line."""
    folder = run.folder()
    assert folder is not None
    accuracies = ", ".join(
        f"{METRIC_TITLES[metric].lower()} {plus_minus(accuracy['mean'], accuracy['std'])}"
        for metric, accuracy in folder.summary["accuracy"].items()
    )
    return f"{accuracies} %, {format_duration(folder.summary['seconds'])}"


def _error_in(log: Path) -> str:
    """The sentence with which a run failed: the last error in its log, otherwise the last line."""
    text = _plain(log.read_bytes())
    errors = re.findall(r"^ERROR *:(?! *Exit Code) *(.*)$", text, flags=re.MULTILINE)
    lines = errors or [stripped for line in text.splitlines() if (stripped := line.strip(" │╭╮╰╯─"))]
    return lines[-1].strip() if lines else "it printed nothing"
