"""The run folder: what a run writes, when, and how it is read back.

config.json        the resolved configuration, what the data are, and the package versions; at the start
rounds.jsonl       one line per round, appended as it happens
checkpoints/       the newest two checkpoints, from which the run can be resumed
clients/           what each client keeps, as safetensors, if the algorithm keeps anything
clients.jsonl      one line per client of the final evaluation
model.safetensors  the global model after the last round; written before the final evaluation
summary.json       mean ± std over clients, beside the paper's
plots/             the figures as PNG and SVG
"""

import errno
import json
import os
import platform
import secrets
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple
from datetime import datetime
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from torch import Tensor

from fedbabu.algorithms import ALGORITHMS
from fedbabu.config import RunConfig, default_run_config
from fedbabu.errors import ConfigError
from fedbabu.federation.clients import Federation
from fedbabu.reproduction.paper import PROTOCOL, find_cells
from fedbabu.runs.checkpoints import Checkpoint, Checkpoints
from fedbabu.runs.files import load_state, load_state_and_metadata, remove_unfinished, save_state, write_whole
from fedbabu.runs.settings import agree, relevant
from fedbabu.training.evaluation import ClientResult

PACKAGES = ("fedbabu", "flwr", "flwr-datasets", "torch", "numpy")
MODEL_FILE = "model.safetensors"
# Without which a run configuration is none: they are as old as the app, and have no value that goes without saying.
OLDEST_KEYS = (
    "algorithm", "model-name", "dataset", "num-clients", "shards-per-client", "fraction-train", "num-server-rounds",
    "num-local-epochs", "num-finetune-epochs", "seed",
)  # fmt: skip
APART = ("algorithm", "initial-model")  # in which runs that are compared may differ

Record = dict[str, Any]


class RunFolder:
    """A run on disk. Every file but rounds.jsonl appears whole or not at all."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._summary: Record = {}  # before it is written

    @classmethod
    def create(cls, config: RunConfig, federation: Federation, start: Checkpoint) -> "RunFolder":
        """Make the folder of a new run, named by time, algorithm and dataset, with its configuration and its start.

        Raises:
            OSError: if it cannot be written.
        """
        parent = results_path(config)
        name = f"{datetime.now():%Y%m%d-%H%M%S}-{config.algorithm}-{Path(federation.dataset).name}"
        for number in count(1):
            path = parent / (name if number == 1 else f"{name}-{number}")
            try:
                path.mkdir(parents=True)
                break
            except FileExistsError:  # another run in the same second
                continue
        run = cls(path)
        data = {
            "name": federation.dataset,
            "image-shape": list(federation.image_shape),
            "num-classes": federation.num_classes,
            "num-train-examples": sum(client.num_train for client in federation.clients.values()),
        }
        nodes = {"num-supernodes": federation.num_nodes, "devices": list(federation.devices)}
        Checkpoints(path).save(start)
        run._write_json(  # last, since it makes the folder a run
            "config.json",
            {
                "run-id": secrets.token_hex(8),
                "run-config": config.to_flower(),
                "dataset": data,
                "clients-checksum": _checksum(federation),
                "federation": nodes,
                "versions": _versions(),
            },
        )
        return run

    @classmethod
    def resumable(cls, resume: str) -> "RunFolder":
        """The folder of a run that was begun and is not finished.

        Raises:
            ConfigError: if there is no such run there.
        """
        run = cls(os.path.abspath(Path(resume).expanduser()))
        given = f"resume = '{resume}'"
        try:
            recorded = run._recorded
        except (OSError, ValueError) as error:
            raise ConfigError(f"{given} must be the folder of a run, but {run.path} is not ({error}).") from error
        if run.finished:
            raise ConfigError(f"{given} is a finished run ({run.path / 'summary.json'}): there is nothing to resume.")
        needed = {"run-id", "run-config", "clients-checksum", "versions", "federation"}
        if not isinstance(recorded, dict) or not needed <= recorded.keys() or not isinstance(run.config, dict):
            raise ConfigError(f"{given} is a run of another version of this app, or of none: start it again.")
        return run

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep this run to one process, until it ends.

        Raises:
            ConfigError: if another one has it.
        """
        try:
            with FileLock(self.path / ".lock", timeout=0):
                yield
        except Timeout as error:
            raise ConfigError(
                f"The run in {self.path} is going on in another process: wait for it, or stop it."
            ) from error

    @property
    def going_on(self) -> bool:
        """Whether a process has this run."""
        try:
            with self.locked():
                return False
        except ConfigError:
            return True

    def check_federation(self, federation: Federation) -> None:
        """Make sure that a resumed run finds the clients that it began with; say if the software is another.

        Raises:
            ConfigError: if there are others, or they hold other examples.
        """
        recorded = self._recorded
        then = recorded["versions"] | {"devices": ", ".join(recorded["federation"]["devices"])}
        now = _versions() | {"devices": ", ".join(federation.devices)}
        if other := [f"{name} {then.get(name)} → {now[name]}" for name in now if then.get(name) != now[name]]:
            print(f"Not all is as when the run began, so the last digits may differ: {'; '.join(other)}.", flush=True)
        if recorded["clients-checksum"] != _checksum(federation):
            raise ConfigError(
                f"The clients of the run in {self.path} held other examples than these clients do: give it the same "
                f"data ('{self.config['dataset']}'), or start a new run."
            )

    def rewind(self, history: Sequence[Record]) -> None:
        """Forget all that came after a checkpoint, and what a killed process left unfinished."""
        remove_unfinished(self.path)
        self._write("rounds.jsonl", _lines(history))

    def append_round(self, record: Mapping[str, Any]) -> None:
        """Append a round's record to rounds.jsonl.

        Raises:
            OSError: if it cannot be written; then the file is as before.
        """
        path = self.path / "rounds.jsonl"
        with path.open("ab", buffering=0) as file:
            before = file.tell()
            try:
                if file.write(line := _lines([record])) < len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError as error:
                file.truncate(before)
                raise OSError(error.errno, error.strerror, str(path)) from error

    def write_clients(self, results: Mapping[int, ClientResult], federation: Federation) -> None:
        """Write clients.jsonl: a line per client, with what it holds and what it measured."""
        lines = [
            {
                "client": client,
                "num-train-examples": federation.clients[client].num_train,
                "num-test-examples": federation.clients[client].num_test,
                "classes": list(federation.clients[client].classes),
                "accuracy": result.accuracy,
                "loss": result.loss,
                "without-head-accuracy": result.without_head_accuracy,
            }
            | {
                f"{kind}-accuracy": [None if np.isnan(value) else value for value in values]
                for kind, values in (("id", result.id_accuracy), ("ood", result.ood_accuracy))
                if values
            }
            for client, result in results.items()
        ]
        self._write("clients.jsonl", _lines(lines))

    def write_model(self, state: Mapping[str, Tensor]) -> None:
        """Write the final global model's state dict as safetensors."""
        save_state(self.path / MODEL_FILE, state)

    def write_similarity(self, similarity: Mapping[str, Sequence[float]]) -> None:
        """Write similarity.json: of each layer, the clients' mean cosine similarity after 0, 1, … epochs."""
        self._write_json("similarity.json", similarity)

    def write_features(self, features: Mapping[str, Tensor], names: Mapping[str, Sequence[str]]) -> None:
        """Write features.safetensors: what `recording.body_features` found."""
        texts = {kind: json.dumps(of_kind) for kind, of_kind in names.items()}
        save_state(self.path / "features.safetensors", features, texts)

    def summarize(self, missing: Mapping[int, str]) -> None:
        """Sum up the clients' and rounds' records, and which clients are missing, and why; not written yet."""
        paper = {
            metric: {"mean": cell.mean, "std": cell.std, "table": cell.table}
            for metric, cell in find_cells(self.config, self.dataset).items()
        }
        accuracy = {
            metric: {
                "mean": float(np.nanmean(values)),
                "std": float(np.nanstd(values)),
                "num-clients": int(np.isfinite(values).sum()),
            }
            for metric, values in self.accuracies().items()
        }
        totals = {
            key: sum(record[key] for record in self.rounds)
            for key in ("seconds", "train-seconds", "evaluate-seconds", "bytes-sent", "bytes-received")
        }
        totals["failed"] = sum(len(record["failed"]) for record in self.rounds)
        totals["repeated-rounds"] = sum(record["attempts"] > 1 for record in self.rounds)
        clients = {"num-clients": len(self.clients), "missing": missing}
        self._summary = {**clients, "accuracy": accuracy, "paper": paper, **totals}

    def write_summary(self) -> None:
        """Write summary.json, which makes the run a finished one."""
        self._write_json("summary.json", self.summary)

    def accuracies(self, finetune_epochs: int | None = None) -> dict[str, np.ndarray]:
        """The accuracy of every client in percent, float64 [clients], by metric.

        Personalized is after so many epochs of fine-tuning, or after all.

        "initial" is there only if all clients start from one global model; "id-initial" and the like, in- and
        out-of-distribution accuracy before and after fine-tuning, only if they were asked for. NaN is a client
        without such test images.
        """
        rows, keeps = self.clients, ALGORITHMS[self.config["algorithm"]].keeps
        last = -1 if finetune_epochs is None else finetune_epochs

        def column(key: str, epoch: int) -> np.ndarray:
            return np.array([row[key][epoch] for row in rows], dtype=float)

        accuracies = {} if keeps else {"initial": column("accuracy", 0)}
        accuracies["without-head"] = np.array([row["without-head-accuracy"] for row in rows])
        accuracies["personalized"] = column("accuracy", last)
        for kind in ("id", "ood"):
            if f"{kind}-accuracy" in rows[0]:
                if not keeps:
                    accuracies[f"{kind}-initial"] = column(f"{kind}-accuracy", 0)
                accuracies[f"{kind}-personalized"] = column(f"{kind}-accuracy", last)
        return {metric: values for metric, values in accuracies.items() if not np.isnan(values).all()}

    @property
    def run_id(self) -> str:
        """What tells this run from others of the same name."""
        return self._recorded["run-id"]

    @property
    def complete_config(self) -> Record:
        """The run config with what keys that are newer than the run meant for it.

        Raises:
            ConfigError: if that is no run configuration.
            OSError, ValueError, KeyError, TypeError: if config.json is not as this app writes it.
        """
        recorded = {key: self.config[key] for key in OLDEST_KEYS} | self.config
        return RunConfig.from_flower(default_run_config() | PROTOCOL | recorded).to_flower()

    @property
    def finished(self) -> bool:
        """Whether the run came to its end."""
        return (self.path / "summary.json").exists()

    @property
    def covered(self) -> str:
        """Of how many clients the final evaluation is: "100 clients", or "97 of 100 clients"."""
        summary = self.summary
        return clients_covered(summary["num-clients"], summary["num-clients"] + len(summary.get("missing", {})))

    @property
    def config(self) -> Record:
        """The run config under Flower's key names."""
        return self._recorded["run-config"]

    @property
    def dataset(self) -> Record:
        """Name, image shape, number of classes and of training examples of the data."""
        return self._recorded["dataset"]

    @property
    def num_supernodes(self) -> int:
        """How many SuperNodes the run began with."""
        return self._recorded["federation"]["num-supernodes"]

    @property
    def summary(self) -> Record:
        """Mean, std and number of clients of every metric, the paper's cells, and totals of time and bytes."""
        return self._summary or self._read_json("summary.json")

    @cached_property
    def similarity(self) -> Record:
        """The clients' mean cosine similarity by layer, after 0, 1, … epochs of fine-tuning, if it was recorded."""
        return self._read_json("similarity.json")

    def features(self) -> tuple[dict[str, Tensor], dict[str, list[str]]]:
        """What `recording.body_features` found, if it was recorded."""
        features, texts = load_state_and_metadata(self.path / "features.safetensors")
        return features, {kind: json.loads(text) for kind, text in texts.items()}

    @property
    def rounds(self) -> list[Record]:
        """The records of all rounds so far, in order."""
        begun = (self.path / "rounds.jsonl").exists()  # soon after config.json
        return self._read_lines("rounds.jsonl") if begun else []

    @property
    def clients(self) -> list[Record]:
        """The records of all clients in the final evaluation, by client id."""
        return self._read_lines("clients.jsonl")

    def model(self) -> dict[str, Tensor]:
        """The final global model's state dict."""
        return load_state(self.path / MODEL_FILE)

    @cached_property
    def _recorded(self) -> Record:
        return self._read_json("config.json")

    def _read_json(self, name: str) -> Record:
        return json.loads((self.path / name).read_text(encoding="utf-8"))

    def _read_lines(self, name: str) -> list[Record]:
        text = (self.path / name).read_text(encoding="utf-8")
        whole = text[: text.rfind("\n") + 1]  # a running run may be writing the last line
        return [json.loads(line) for line in whole.splitlines()]

    def _write_json(self, name: str, content: Mapping[str, Any]) -> None:
        self._write(name, json.dumps(content, indent=2).encode())

    def _write(self, name: str, content: bytes) -> None:
        write_whole(self.path / name, content)


def finished_runs(results_dir: str | Path) -> list[RunFolder]:
    """The finished runs of a results folder, oldest first (by name, which starts with the time)."""
    return [run for run in all_runs(results_dir) if run.finished]


def all_runs(results_dir: str | Path) -> list[RunFolder]:
    """The runs of a results folder that were begun, oldest first."""
    return [RunFolder(path.parent) for path in sorted(Path(results_dir).glob("*/config.json"))]


def newest_per_algorithm(runs: Sequence[RunFolder]) -> list[RunFolder]:
    """The runs to compare: the newest of each algorithm in the setting of the newest of all, by algorithm name.

    Runs of one setting may differ in algorithm, seed, where they started from, and where the data came from or the
    results went.
    """
    newest: dict[str, RunFolder] = {}
    for run in reversed(runs):
        if _same_setting(run, runs[-1]):
            newest.setdefault(run.config["algorithm"], run)
    return [newest[algorithm] for algorithm in sorted(newest)]


def _same_setting(run: RunFolder, other: RunFolder) -> bool:
    """Whether two runs may be compared. A key that one of them does not know, being older, has its default value."""
    one, two = (
        {k: v for k, v in relevant(default_run_config() | r.config).items() if k not in APART} for r in (run, other)
    )
    return run.dataset == other.dataset and agree(one, two)


def clients_covered(num: int, of: int) -> str:
    """How many there are, and of how many if these are not all: "97 of 100 clients"."""
    return f"{num} clients" if num == of else f"{num} of {of} clients"


def _lines(records: Iterable[Mapping[str, Any]]) -> bytes:
    """Records as JSON lines."""
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def _checksum(federation: Federation) -> str:
    """The CRC-32 of what the images are like and what every client holds, as far as the server knows."""
    clients = [[client, *astuple(info)] for client, info in sorted(federation.clients.items())]
    form = [federation.image_shape, federation.num_classes, clients]
    return f"{zlib.crc32(json.dumps(form).encode()):08x}"


def _versions() -> dict[str, str]:
    return {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # this package itself, where Flower brings it
        return "not installed"


def results_path(config: RunConfig) -> Path:
    """The absolute path of the folder of run folders."""
    return Path(os.path.abspath(Path(config.results_dir).expanduser()))
