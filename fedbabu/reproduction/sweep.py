"""Run an experiment of conf/, all its runs through `flwr run`, one by one.

A run that is finished is not run again, and one that was interrupted goes on: the folders of the runs tell.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import psutil
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.table import Table

from fedbabu.config import CONDUCT_KEYS, RunConfig, default_run_config
from fedbabu.errors import ConfigError, RunError
from fedbabu.reproduction.experiment import Cell, Experiment
from fedbabu.reproduction.local_superlink import local_superlink, stop
from fedbabu.reproduction.report import terminal, write_report
from fedbabu.runs.folder import RunFolder
from fedbabu.runs.progress import TITLES, duration
from fedbabu.runs.settings import by_epoch, setting
from fedbabu.runs.speed import seconds_of

PROJECT = Path(__file__).parents[2]
POLL_SECONDS = 0.5
NODES_PER_GPU = 4


@dataclass
class PlannedRun:
    """A run that an experiment needs.

    Attributes:
        experiment: that it is for.
        config: its whole run configuration; of an algorithm that continues a run, all but `initial-model`.
        cells: that it is for; none if it is only where another run starts from.
        start: the run from whose model it starts, for an algorithm that continues one.
    """

    experiment: Experiment
    config: dict[str, Any]
    cells: list[Cell] = field(default_factory=list)
    start: "PlannedRun | None" = None

    @property
    def label(self) -> str:
        """What tells it from the experiment's other runs."""
        label = self.cells[0].label if self.cells else f"{self.config['algorithm']} to start from"
        return label + (f", seed = {self.config['seed']}" if len(self.experiment.seeds) > 1 else "")

    def folder(self) -> RunFolder | None:
        """The newest folder of this run, a finished one if there is any."""
        found = [run for run in self.experiment.runs_of(self.config) if run.config["seed"] == self.config["seed"]]
        newest = max(found, key=lambda run: (run.finished, run.folder.path.name), default=None)
        return newest.folder if newest else None

    @cached_property
    def num_rounds(self) -> int:
        """The rounds that the server runs."""
        return self.checked.num_rounds

    @property
    def checked(self) -> RunConfig:
        """The checked configuration."""
        return RunConfig.from_flower(self.config | ({"initial-model": "of its start"} if self.start else {}))


def plan(experiment: Experiment) -> list[PlannedRun]:
    """The runs that an experiment needs, each after the one that it starts from; cells that one run serves share it."""
    runs: dict[str, PlannedRun] = {}

    def planned(config: dict[str, Any], continues: str | None) -> PlannedRun:
        told = setting(config) | {key: config[key] for key in ("dataset", "image-column", "label-column", "seed")}
        longest = by_epoch(config) and told.pop("num-finetune-epochs")
        if not experiment.table:  # whose accuracies on the way count
            told["evaluate-every"] = config["evaluate-every"]
        key = json.dumps(told, sort_keys=True)
        if key not in runs:
            start = planned(config | {"algorithm": continues, "initial-model": ""}, None) if continues else None
            runs[key] = PlannedRun(experiment, config, start=start)
        elif longest:
            runs[key].config["num-finetune-epochs"] = max(longest, runs[key].config["num-finetune-epochs"])
        return runs[key]

    for seed in experiment.seeds:
        for cell in experiment.cells:
            config = dict(cell.config) | {"seed": seed, "results-dir": str(experiment.results)}
            planned(config, cell.continues).cells.append(cell)
    return list(runs.values())


def federation_config(federation: Mapping[str, Any], num_clients: int) -> dict[str, Any]:
    """What `--federation-config` takes, for this machine.

    Args:
        federation: of the experiment; `auto` is what fits on the machine, `clients` a node for every client.
        num_clients: of the run.
    """
    num_cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    num_gpus, resolved = torch.cuda.device_count(), dict(federation)
    fitting = max(num_cpus // resolved["client-resources-num-cpus"], 1)
    if resolved["client-resources-num-gpus"] == "auto":
        per_gpu = min(NODES_PER_GPU, max(fitting // num_gpus, 1)) if num_gpus else 0
        resolved["client-resources-num-gpus"] = 1 / per_gpu if num_gpus else 0
    if share := resolved["client-resources-num-gpus"]:
        fitting = min(fitting, max(int(num_gpus / share), 1))
    nodes = {"auto": min(fitting, num_clients), "clients": num_clients}
    resolved["num-supernodes"] = nodes.get(resolved["num-supernodes"], resolved["num-supernodes"])
    return resolved


class Sweep:
    """An experiment's runs, and what became of them."""

    def __init__(self, experiment: Experiment, console: Console) -> None:
        self.experiment = experiment
        self.console = console
        self.runs = plan(experiment)
        self.failed: dict[int, str] = {}  # why, by the run's place in `runs`
        finished = [run.folder for run in experiment.known_runs() if run.finished]

        def seconds(run: PlannedRun) -> float | None:
            num_nodes = self._federation(run)["num-supernodes"]
            return seconds_of(run.checked, experiment.data_name(run.config), finished, num_nodes)

        self.seconds = [seconds(run) for run in self.runs]

    def _federation(self, run: PlannedRun) -> dict[str, Any]:
        return federation_config(self.experiment.federation, run.config["num-clients"])

    def summary(self) -> str:
        """What the experiment is, how much of it is done, and how long the rest will take."""
        experiment, states = self.experiment, [self._state(run) for run in self.runs]
        todo = [seconds for seconds, state in zip(self.seconds, states, strict=True) if state != "finished"]
        known = [seconds for seconds in todo if seconds is not None]
        left = f", about {duration(sum(known))} on this machine" if known else ""
        if known and len(known) < len(todo):
            left += f" and {len(todo) - len(known)} runs of unknown data"
        done = states.count("finished")
        return f"{experiment.heading}\n{len(experiment.cells)} cells of {len(self.runs)} runs, {done} finished{left}"

    def _state(self, run: PlannedRun) -> str:
        folder = run.folder()
        if folder is None:
            return ""
        return "finished" if folder.finished else f"round {len(folder.rounds)}/{run.num_rounds}"

    def listing(self) -> Table:
        """Every cell, the paper's number, and how long its run takes; of cells that share a run, the first says it."""
        table = Table("run", "cell", "accuracy", "the paper", "time", "state")
        for number, (run, seconds) in enumerate(zip(self.runs, self.seconds, strict=True), 1):
            time = "?" if seconds is None else duration(seconds)
            seed = f", seed = {run.config['seed']}" if len(self.experiment.seeds) > 1 else ""
            rows = [(cell.label + seed, cell.metric, cell.printed) for cell in run.cells] or [(run.label, None, None)]
            for place, (label, metric, printed) in enumerate(rows):
                paper = f"{printed.mean:.2f} ± {printed.std:.2f}" if printed else ""
                first = (str(number), time, self._state(run)) if not place else ("", "", "")
                table.add_row(first[0], label, TITLES[metric] if metric else "", paper, first[1], first[2])
        return table

    def run(self) -> None:
        """Do all runs that are not finished."""
        numbered = [(number, run) for number, run in enumerate(self.runs) if self._state(run) != "finished"]
        if not numbered:
            return
        columns = (
            TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(),
            TextColumn("{task.fields[left]}", markup=False),
        )  # fmt: skip
        with (
            local_superlink(self.experiment.results / ".sweep") as (environment, _),
            Progress(*columns, console=self.console) as bars,
        ):
            pace = Pace([self.seconds[number] for number, _ in numbered])
            whole = bars.add_task("runs", total=len(numbered), left="")
            for place, (number, run) in enumerate(numbered):
                rounds = bars.add_task(run.label, total=run.num_rounds, left="")
                bars.print(f"{place + 1} of {len(numbered)}: {run.label} …")

                def show(done: int, of: TaskID = rounds, run: PlannedRun = run) -> None:
                    bars.update(of, completed=done)
                    bars.update(whole, left=pace.left(done / run.num_rounds))

                self._do(number, run, environment, show)
                bars.remove_task(rounds)
                bars.advance(whole)
                pace.next()
                bars.print(f"    {self._outcome(number, run)}")

    def _outcome(self, number: int, run: PlannedRun) -> str:
        if number in self.failed:
            return f"failed: {self.failed[number]}"
        folder = run.folder()
        assert folder is not None
        accuracy = ", ".join(
            f"{TITLES[metric].lower()} {of['mean']:.2f} ± {of['std']:.2f}"
            for metric, of in folder.summary["accuracy"].items()
        )
        return f"{accuracy} %, {duration(folder.summary['seconds'])}"

    def _do(self, number: int, run: PlannedRun, environment: Mapping[str, str], show: Callable[[int], None]) -> None:
        """Do one run, or go on with it; why it failed, if it did, goes to `failed`."""
        start = run.start and run.start.folder()
        if run.start and not (start and start.finished):
            self.failed[number] = f"it starts from the run '{run.start.label}', which failed"
            return
        begun = run.folder()
        if begun and begun.finished:  # meanwhile, by another run
            return
        if begun:
            given = {key: run.config[key] for key in CONDUCT_KEYS} | {"resume": str(begun.path)}
            if run.config["dataset"] != default_run_config()["dataset"]:
                given["dataset"] = run.config["dataset"]
        else:
            given = run.config | ({"initial-model": str(start.path)} if start else {})
        folder = self.experiment.results / ".sweep"
        run_config, log = folder / "run-config.toml", folder / f"{self.experiment.name}-{number + 1}.log"
        run_config.write_text(
            "".join(f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in given.items()), "utf-8"
        )
        federation = " ".join(f"{key}={value}" for key, value in self._federation(run).items())
        command = [
            "flwr", "run", str(PROJECT), "--stream", "--federation-config", federation, "--run-config", str(run_config),
        ]  # fmt: skip
        with log.open("w") as output:
            process = psutil.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
            try:
                while process.poll() is None or (begun and begun.going_on):  # even if its output is cut off
                    sleep(POLL_SECONDS)
                    begun = begun or run.folder()
                    show(len(begun.rounds) if begun else 0)
            finally:
                stop(process)
        done = run.folder()
        if done is None or not done.finished:
            self.failed[number] = f"{_reason(log)} ({log} has all that it said)"


class Pace:
    """How long the rest takes: as estimated, corrected by how long what is done took."""

    def __init__(self, estimates: Sequence[float | None]) -> None:
        known = [each for each in estimates if each is not None]
        self.estimates = [sum(known) / len(known) if each is None else each for each in estimates] if known else []
        self.done = 0
        self.started = monotonic()

    def next(self) -> None:
        """Go on to the next run."""
        self.done += 1

    def left(self, part: float) -> str:
        """The time left, when that part of the present run is done."""
        if not self.estimates:
            return ""
        done = sum(self.estimates[: self.done]) + part * self.estimates[self.done]
        elapsed, rest = monotonic() - self.started, sum(self.estimates) - done
        return f"{duration(rest * elapsed / done if done else rest)} left"


def _reason(log: Path) -> str:
    """The sentence with which a run failed."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", log.read_text(encoding="utf-8", errors="replace"))
    errors = re.findall(r"^ERROR *:(?! *Exit Code) *(.*)$", text, flags=re.MULTILINE)
    lines = errors or [said for line in text.splitlines() if (said := line.strip(" │╭╮╰╯─"))] or ["it said nothing"]
    return lines[-1].strip()


def main(arguments: Sequence[str]) -> int:
    """Sweep; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m fedbabu.reproduction.sweep",
        description="Run all cells of an experiment of conf/ that are not finished.",
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        help="Hydra overrides: experiment=table13 cells.s=2 algorithm=fedbabu,fedavg seeds=[1,2]",
    )
    parser.add_argument("--dry-run", action="store_true", help="list the cells and how long they would take")
    given = parser.parse_intermixed_args(arguments)
    console = terminal()
    try:
        sweep = Sweep(Experiment.compose(given.overrides), console)
        if given.dry_run:
            console.print(sweep.listing())
        console.print(sweep.summary())
        if given.dry_run:
            return 0
        sweep.run()
        console.print(write_report(sweep.experiment, console.width))
    except (ConfigError, RunError) as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        print(f"The sweep stopped at a file that it cannot use: {error}.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted. The same command goes on where it stopped.", file=sys.stderr)
        return 130
    for number, reason in sweep.failed.items():
        console.print(f"Failed: {sweep.runs[number].label}: {reason}", style="red")
    return 1 if sweep.failed else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stops like Ctrl-C, with all that was started
    sys.exit(main(sys.argv[1:]))
