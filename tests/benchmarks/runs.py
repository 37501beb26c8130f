"""Runs through `flwr run` that are measured, and the bare loop in two processes."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

import psutil
import torch
from safetensors.torch import save_file

from fedbabu.config import RunConfig, default_run_config
from fedbabu.data.partitions.partition import open_simulated_data
from fedbabu.data.transforms import client_examples
from fedbabu.reproduction.local_superlink import flower_environment, free_port, local_superlink, stop
from fedbabu.runs.folder import RunFolder
from fedbabu.runs.records import RoundRecord
from fedbabu.runs.results_folder import all_runs

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parents[1]
NODES = 2
POLL_SECONDS = 2.0  # between two looks at the workers' memory, which cost them a little time
# Nothing but training: no evaluation in between, no fine-tuning at the end.
TRAINING_ONLY = {"evaluate-every": 0, "num-finetune-epochs": 0}


@dataclass(frozen=True)
class Measured:
    """A measured run.

    Attributes:
        run: Its folder; None for another app than ours.
        typed: The time at which its command was started.
        noted: The times that the app wrote into FEDBABU_FIRST_STEP.
        memory: The largest memory of a worker, in MB.
    """

    run: RunFolder | None
    typed: float
    noted: list[float]
    memory: float

    @property
    def rounds(self) -> list[RoundRecord]:
        """The records of all rounds."""
        assert self.run
        return self.run.rounds

    @property
    def training(self) -> float:
        """Median seconds of the training in a round, with the sending and averaging.

        The first round, in which processes warm up, does not count.
        """
        return median(record.train_seconds for record in self.rounds[1:])

    @property
    def whole(self) -> float:
        """Mean seconds of a round, with its checkpoints and records.

        The first round does not count, nor the last, after which all clients are evaluated.
        """
        return fmean(record.seconds for record in self.rounds[1:-1])

    @property
    def start(self) -> float:
        """Seconds from the start of the command to the first training step."""
        return self.noted[0] - self.typed


class Bench:
    """Runs apps on one dataset, with a folder for all their files."""

    def __init__(self, folder: Path, dataset: str, num_rounds: int) -> None:
        self.folder, self.dataset, self.num_rounds = folder, dataset, num_rounds

    def flwr_run(
        self,
        num_nodes: int = NODES,
        cpus_per_node: int = 1,
        app: Path = PROJECT,
        managed: bool = False,
        own: bool = True,
        **overrides: Any,
    ) -> Measured:
        """Run an app through `flwr run`, with a SuperLink that already runs, or with one that Flower starts (managed).

        If the app is not our own, it has no run folder.
        """
        results = Path(tempfile.mkdtemp(dir=self.folder))
        keys = {"dataset": self.dataset, "num-server-rounds": self.num_rounds, **TRAINING_ONLY}
        keys |= {"results-dir": str(results), **{name.replace("_", "-"): value for name, value in overrides.items()}}
        # Warm caches: a worker that has to decode or partition a dataset keeps in memory what that takes.
        config = RunConfig.from_flower(default_run_config() | keys)
        open_simulated_data(config.data_spec, config.partition_spec)
        note = results / "noted"
        command = [
            "flwr", "run", str(app), "--stream",
            "--run-config", " ".join(f"{key}={json.dumps(value)}" for key, value in keys.items()),
            "--federation-config", f"num-supernodes={num_nodes} client-resources-num-cpus={cpus_per_node}",
        ]  # fmt: skip
        memory = 0.0
        if app != PROJECT:  # our own app does not write it, and may run several times at once
            os.environ["FEDBABU_FIRST_STEP"] = str(note)
        with (flowers_superlink if managed else local_superlink)(results / "superlink") as (environment, superlink):
            typed = time.time()
            with (results / "log").open("w") as log:
                running = psutil.Popen(command, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
                while running.poll() is None:
                    time.sleep(POLL_SECONDS)
                    memory = max(memory, *map(own_memory, workers(superlink)), 0.0) if superlink else 0.0
        noted = [float(line) for line in note.read_text().split()] if note.exists() else []
        run = next(iter(all_runs(results)), None)
        # flwr itself succeeds if the app fails, and a client that fails is fast.
        well = run and run.finished and all(not r.failed and r.attempts == 1 for r in run.rounds)
        if not (well if own else noted):
            raise SystemExit((results / "log").read_text())
        return Measured(run, typed, noted, memory)

    def flwr_runs_at_once(self, number: int, **arguments: Any) -> list[Measured]:
        """Run our app several times at the same time."""
        with ThreadPoolExecutor(number) as pool:
            return [each.result() for each in [pool.submit(self.flwr_run, **arguments) for _ in range(number)]]

    def app(self, name: str, **components: str) -> Path:
        """Copy the project, and replace its components by those in a file of the folder of this module."""
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        shutil.copytree(PROJECT, folder, ignore=shutil.ignore_patterns(".*", "results"), dirs_exist_ok=True)
        project = (PROJECT / "pyproject.toml").read_text()
        for kind, place in components.items():
            project = re.sub(rf'^{kind} = ".*"$', f'{kind} = "{place}"', project, flags=re.MULTILINE)
        (folder / "pyproject.toml").write_text(project)
        shutil.copy(HERE / f"{name}.py", folder)
        return folder


@contextmanager
def flowers_superlink(folder: Path) -> Iterator[tuple[dict[str, str], None]]:
    """The environment in which `flwr run` starts its own SuperLink, which is stopped in the end."""
    try:
        yield flower_environment(str(folder), free_port()), None
    finally:
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get("FLWR_HOME") == str(folder):
                    stop(process)


def workers(superlink: psutil.Process) -> list[psutil.Process]:
    """The processes of Ray in which ClientApps run."""
    found = []
    for process in superlink.children(recursive=True):
        with suppress(psutil.Error):
            if "ClientAppActor" in " ".join(process.cmdline()):
                found.append(process)
    return found


def own_memory(process: psutil.Process) -> float:
    """Resident memory of a process in MB, without the decoded images, which all processes share."""
    with suppress(psutil.Error):
        shared = sum(each.rss for each in process.memory_maps() if each.path.endswith("-images.npy"))
        return (process.memory_info().rss - shared) / 1e6
    return 0.0


class Loop:
    """A loop beside the app, in a number of processes, each of which trains a part of a round's clients.

    The clients are the first ten; those that the app samples have as many images. The loop is a script of this folder,
    which is given a file with their images, as bytes and normalized, and some options.
    """

    def __init__(self, bench: Bench, config: RunConfig, script: str, *options: str, num_processes: int = NODES) -> None:
        dataset, partition = open_simulated_data(config.data_spec, config.partition_spec)
        clients = partition.clients[: config.clients_per_round]
        self.processes = []
        for number in range(num_processes):
            examples = [
                client_examples(dataset.images["train"], dataset.labels["train"], rows, torch.device("cpu"))
                for rows in (partition.rows["train"][client] for client in clients[number::num_processes])
            ]
            file = bench.folder / f"batches-{number}-of-{num_processes}.safetensors"
            tensors = {
                "images": torch.stack([dataset.transform.normalize(each.images) for each in examples]),
                "pixels": torch.stack([each.images.permute(0, 2, 3, 1) for each in examples]),
                "labels": torch.stack([each.labels for each in examples]),
            }
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)
            command, pipe = [sys.executable, str(HERE / script), str(file), *options], subprocess.PIPE
            self.processes.append(subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True))
        for process in self.processes:
            process.stdout.readline()
        self.seconds()  # not counted: the first steps allocate memory

    def seconds(self) -> float:
        """Train for one round of the default configuration; returns the seconds that it took."""
        started = time.perf_counter()
        for process in self.processes:
            process.stdin.write("\n")
            process.stdin.flush()
        for process in self.processes:
            process.stdout.readline()
        return time.perf_counter() - started

    def close(self) -> None:
        """Stop the processes."""
        for process in self.processes:
            process.stdin.close()
            process.wait()
