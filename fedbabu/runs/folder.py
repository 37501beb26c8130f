"""The run folder: the files that a run writes, when it writes them, and how they are read.

config.json           the run configuration, the data, the SuperNodes and the package versions; at the start
rounds.jsonl          one line per round, appended when the round is over
checkpoints/          the newest two checkpoints, from which the run can be resumed
clients/              the client states, as safetensors, if the algorithm keeps a part of the model on the clients
clients.jsonl         one line per client of the final evaluation
model.safetensors     the global model after the last round; written before the final evaluation
best-clients.jsonl    the same of the evaluated round in which the clients were best, if that is not the last
best-model.safetensors
similarity.json       the similarity of the clients' layers, with the diagnostic "similarity"
features.safetensors  the body's features of some images, with the diagnostic "features"
summary.json          mean ± std over clients, and the paper's numbers; at the end
plots/                the figures as PNG and SVG
"""

import errno
import json
import os
import platform
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from filelock import FileLock, Timeout
from torch import Tensor

from fedbabu.config import PROTOCOLS, Measurement, RunConfig, with_added_keys
from fedbabu.errors import ConfigError
from fedbabu.federation.clients import Federation
from fedbabu.formatting import clients_in_words
from fedbabu.models import SplitNetwork, build_model
from fedbabu.runs.accuracies import client_accuracies, means
from fedbabu.runs.checkpoints import Checkpoint, Checkpoints
from fedbabu.runs.files import json_lines, load_state, read_json_lines, save_state, write_whole
from fedbabu.runs.records import RoundRecord, client_record
from fedbabu.runs.settings import declared_algorithm, has_results_of_protocol
from fedbabu.training.evaluation import ClientResult

MODEL_FILE = "model.safetensors"
CLIENTS_FILE = "clients.jsonl"
BEST = "best-"  # begins the names of the files of the best round


class RunFolder:
    """A run on disk. Every file except rounds.jsonl appears whole or not at all."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @classmethod
    def create(cls, config: RunConfig, federation: Federation, start: Checkpoint) -> "RunFolder":
        """Make the folder of a new run, named after time, algorithm and data, with its first checkpoint in it."""
        parent = config.results_folder
        name = f"{datetime.now():%Y%m%d-%H%M%S}-{config.algorithm}-{Path(federation.dataset).name}"
        for number in count(1):
            run = cls(parent / (name if number == 1 else f"{name}-{number}"))
            with suppress(FileExistsError):  # another run started in the same second
                run.path.mkdir(parents=True)
                break
        Checkpoints(run.path).save(start)
        recorded = {
            "run-id": secrets.token_hex(8),
            "run-config": config.to_flower(),
            "dataset": {
                "name": federation.dataset,
                "image-shape": list(federation.image_shape),
                "num-classes": federation.num_classes,
            },
            "class-names": list(federation.class_names),
            "normalization": dict(zip(("mean", "std"), federation.normalization, strict=True))
            if federation.normalization
            else None,
            "federation": {"num-supernodes": federation.num_nodes, "devices": list(federation.devices)},
            "versions": software_versions(),
        }
        recorded = _with_clients(recorded, federation)
        run._write_json("config.json", recorded)  # last, because a folder with this file counts as a run
        return run

    def record_clients(self, federation: Federation) -> None:
        """Record the clients that have joined the run since it started."""
        self._write_json("config.json", _with_clients(self.recorded, federation))
        del self.recorded  # to be read anew

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from running this run; a ConfigError is raised if another process is running it."""
        try:
            with FileLock(self.path / ".lock", timeout=0):
                yield
        except Timeout as error:
            raise ConfigError(
                f"Another process is running the run in {self.path}: wait until it ends, or find its run id with `flwr "
                "list` and stop it with `flwr stop`."
            ) from error

    @property
    def is_running(self) -> bool:
        """Whether a process is running this run now."""
        try:
            with self.locked():
                return False
        except ConfigError:
            return True

    @property
    def finished(self) -> bool:
        """Whether the run came to its end."""
        return (self.path / "summary.json").exists()

    @cached_property
    def recorded(self) -> dict[str, Any]:
        """The content of config.json."""
        return self._read_json("config.json")

    @cached_property
    def config(self) -> dict[str, Any]:
        """The run configuration under Flower's key names, as it was recorded."""
        return with_added_keys(self.recorded["run-config"])

    @cached_property
    def run_config(self) -> RunConfig:
        """The checked run configuration; a ConfigError is raised if this version of the app does not accept it."""
        return RunConfig.from_recorded(self.config)

    @property
    def dataset(self) -> dict[str, Any]:
        """Name, image shape, number of classes and number of training examples of the data."""
        return self.recorded["dataset"]

    @property
    def client_checksums(self) -> dict[int, str]:
        """The checksum of the data of every client that took part so far; empty for a run of an earlier version."""
        return {int(client): checksum for client, checksum in self.recorded.get("client-checksums", {}).items()}

    def build_model(self) -> SplitNetwork:
        """The network of the run, with random weights."""
        config, dataset = self.run_config, self.dataset
        image_shape, num_classes = tuple(dataset["image-shape"]), dataset["num-classes"]
        return build_model(config.model_name, image_shape, num_classes, config.seed, head_blocks=config.head_blocks)

    @property
    def rounds(self) -> list[RoundRecord]:
        """The records of all rounds that are over, in order."""
        path = self.path / "rounds.jsonl"  # does not exist yet when the folder has just been made
        return [RoundRecord.from_json(record) for record in read_json_lines(path)] if path.exists() else []

    @cached_property
    def communication(self) -> list[int]:
        """The bytes that training must send in each round: the shared part of the model to its clients, and back.

        That is what a federation with a node per client sends, whatever the nodes of the run were; attempts that were
        repeated are left out.
        """
        state = self.build_model().state_dict()
        shared = self.run_config.algorithm_spec.shares.names(state)
        num_bytes = sum(state[name].numel() * state[name].element_size() for name in shared)
        return [2 * num_bytes * len(record.clients) for record in self.rounds]

    def append_round(self, record: RoundRecord) -> None:
        """Append the record of a round to rounds.jsonl; if that fails, the file is as before."""
        path, line = self.path / "rounds.jsonl", json_lines([record.to_json()])
        size = path.stat().st_size
        try:
            with path.open("ab", buffering=0) as file:
                if file.write(line) < len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            with suppress(OSError):
                os.truncate(path, size)
            raise OSError(error.errno, error.strerror, str(path)) from error

    def write_rounds(self, records: Sequence[RoundRecord]) -> None:
        """Write rounds.jsonl anew."""
        write_whole(self.path / "rounds.jsonl", json_lines(record.to_json() for record in records))

    @property
    def clients(self) -> list[dict[str, Any]]:
        """The records of all clients in the final evaluation, by client id; see `records.client_record`."""
        return read_json_lines(self.path / CLIENTS_FILE)

    @property
    def best_clients(self) -> list[dict[str, Any]]:
        """The records of all clients with the model of the best round; those of the last round if that is the best."""
        path = self.path / f"{BEST}{CLIENTS_FILE}"
        return read_json_lines(path) if path.exists() else self.clients

    def clients_with(self, evaluated_round: str) -> list[dict[str, Any]]:
        """The records of all clients with the model of the "last" or of the "best" round."""
        return self.best_clients if evaluated_round == "best" else self.clients

    @property
    def result_clients(self) -> list[dict[str, Any]]:
        """The records of all clients with the model that the run's results are of, by its evaluated-round."""
        return self.clients_with(self.measurement.evaluated_round)

    def write_clients(self, results: Mapping[int, ClientResult], federation: Federation, best: bool = False) -> None:
        """Write what each client holds and measured at the end, with the last or the best round's model."""
        records = (client_record(client, federation.clients[client], result) for client, result in results.items())
        write_whole(self.path / f"{BEST if best else ''}{CLIENTS_FILE}", json_lines(records))

    def model(self) -> dict[str, Tensor]:
        """The state dict of the final global model."""
        return load_state(self.path / MODEL_FILE)[0]

    def best_model(self) -> dict[str, Tensor]:
        """The state dict of the global model of the best round; the final one if the last round is the best."""
        path = self.path / f"{BEST}{MODEL_FILE}"
        return load_state(path)[0] if path.exists() else self.model()

    def result_model(self) -> dict[str, Tensor]:
        """The state dict of the global model that the run's results are of, by its evaluated-round."""
        return self.best_model() if self.measurement.evaluated_round == "best" else self.model()

    def write_model(self, state: Mapping[str, Tensor], best: bool = False) -> None:
        """Write the state dict of the global model after the last round, and then of the best one, as safetensors."""
        if not best:  # a run that stopped here may have left another best round
            for name in (MODEL_FILE, CLIENTS_FILE):
                (self.path / f"{BEST}{name}").unlink(missing_ok=True)
        save_state(self.path / f"{BEST if best else ''}{MODEL_FILE}", state)

    @cached_property
    def similarity(self) -> dict[str, list[float]]:
        """For each layer, the mean cosine similarity between clients after 0, 1, … epochs of fine-tuning."""
        return self._read_json("similarity.json")

    def write_similarity(self, similarity: Mapping[str, Sequence[float]]) -> None:
        """Write similarity.json, which `similarity` reads."""
        self._write_json("similarity.json", similarity)

    def features(self) -> tuple[dict[str, Tensor], dict[str, list[str]]]:
        """The body's features, and the names of the classes, as `training.diagnostics.body_features` returns them."""
        return load_state(self.path / "features.safetensors")

    def write_features(self, features: Mapping[str, Tensor], names: Mapping[str, Sequence[str]]) -> None:
        """Write features.safetensors, which `features` reads."""
        save_state(self.path / "features.safetensors", features, names)

    @property
    def measurement(self) -> Measurement:
        """Which of its accuracies are the results of the run, by its configuration."""
        return Measurement.from_run_config(self.config)

    def accuracies(
        self, measurement: Measurement | None = None, finetune_epochs: int | None = None
    ) -> dict[str, npt.NDArray[np.float64]]:
        """Accuracy of every evaluated client in percent, float64 [clients], by metric (`records.METRIC_TITLES`).

        Metrics that the run does not have are left out; NaN is a client without such test images. The measurement says
        which accuracies are meant, by default those that the run's configuration asks for. The personalized accuracy
        is taken after a number of epochs of fine-tuning, by default after all.
        """
        measurement = measurement or self.measurement
        clients = self.clients_with(measurement.evaluated_round)
        return client_accuracies(clients, declared_algorithm(self.config), measurement, finetune_epochs)

    def accuracies_by_client(
        self, measurement: Measurement | None = None, finetune_epochs: int | None = None
    ) -> dict[str, npt.NDArray[np.float64]]:
        """As `accuracies`, float64 [num-clients] by client id: NaN also for clients that could not be evaluated.

        Those of two runs with the same clients can be subtracted.
        """
        measurement = measurement or self.measurement
        clients, by_client = self.clients_with(measurement.evaluated_round), {}
        accuracies = client_accuracies(clients, declared_algorithm(self.config), measurement, finetune_epochs)
        for metric, values in accuracies.items():
            by_client[metric] = np.full(self.config["num-clients"], np.nan)
            by_client[metric][[client["client"] for client in clients]] = values
        return by_client

    def missing_clients(self, measurement: Measurement | None = None) -> dict[int, str]:
        """The clients that could not be evaluated with the model that a measurement is of, and why."""
        evaluated_round = (measurement or self.measurement).evaluated_round
        # An earlier version noted those of the last round alone.
        missing = self.summary.get("missing-by-round", {}).get(evaluated_round, self.summary["missing"])
        return {int(client): reason for client, reason in missing.items()}

    @property
    def protocols(self) -> dict[str, Measurement]:
        """The protocols whose numbers the run has, and which of its accuracies these are.

        They are both if the algorithm trains alike in the paper's text and in the authors' code, and otherwise the one
        that the run followed.
        """
        return {
            protocol: Measurement.from_run_config(values)
            for protocol, values in PROTOCOLS.items()
            if has_results_of_protocol(self.config, protocol, self.has_equal_clients)
        }

    @property
    def has_equal_clients(self) -> bool:
        """Whether all clients have the same number of training images, so that aggregation-weights does not matter."""
        return self.recorded.get("clients-hold-equally-many", False)  # an earlier version did not say

    @cached_property
    def summary(self) -> dict[str, Any]:
        """Accuracies over clients, the paper's numbers, and totals of time and bytes; see `summarize`."""
        return self._read_json("summary.json")

    def summarize(
        self,
        missing: Mapping[str, Mapping[int, str]],
        paper: Mapping[str, Mapping[str, Any]],
        best_round: int | None = None,
        privacy: Mapping[str, Any] | None = None,
    ) -> None:
        """Make the summary from the records of the clients and of the rounds, without writing summary.json yet.

        It gets the reason for each client that could not be evaluated with the model of the "last" or the "best" round,
        the paper's mean, std and table by metric, the best of the evaluated rounds, and what the run's differential
        privacy is worth, if it has any.
        """
        rounds = self.rounds
        totals = ("seconds", "train_seconds", "evaluate_seconds")
        self.summary = {
            "num-clients": len(self.result_clients),
            "missing": missing.get(self.measurement.evaluated_round, {}),
            "missing-by-round": missing,
            "best-round": best_round,
            "accuracy": means(self.accuracies()),
            "accuracy-by-protocol": {name: means(self.accuracies(each)) for name, each in self.protocols.items()},
            "paper": paper,
            **{name.replace("_", "-"): sum(getattr(record, name) for record in rounds) for name in totals},
            "failed": sum(len(record.failed) for record in rounds),
            "repeated-rounds": sum(record.attempts > 1 for record in rounds),
            **({"privacy": privacy} if privacy else {}),
        }

    def write_summary(self) -> None:
        """Write summary.json. From then on the run counts as finished."""
        self._write_json("summary.json", self.summary)

    @property
    def clients_covered(self) -> str:
        """How many clients the final evaluation covers, in words."""
        num_clients, num_missing = self.summary["num-clients"], len(self.summary["missing"])
        return clients_in_words(num_clients, num_clients + num_missing)

    def _read_json(self, name: str) -> dict[str, Any]:
        return json.loads((self.path / name).read_text(encoding="utf-8"))

    def _write_json(self, name: str, content: Mapping[str, Any]) -> None:
        write_whole(self.path / name, json.dumps(content, indent=2).encode())


def _with_clients(recorded: Mapping[str, Any], federation: Federation) -> dict[str, Any]:
    """What config.json says, with the clients of the federation.

    While clients are absent that took part before the run was resumed, what is said about all of them stays as it was.
    """
    checksums = {str(client): checksum for client, checksum in sorted(federation.checksums.items())}
    changed: dict[str, Any] = {"client-checksums": checksums}
    if federation.checksums.keys() == federation.clients.keys():
        num_train = federation.num_train.values()
        changed["dataset"] = {**recorded["dataset"], "num-train-examples": sum(num_train)}
        changed["clients-checksum"] = federation.checksum
        changed["clients-hold-equally-many"] = len(set(num_train)) == 1
    return {**recorded, **changed}


def software_versions() -> dict[str, str]:
    """The versions of Python and of the packages that results may depend on."""
    versions = {"python": platform.python_version()}
    for package in ("fedbabu", "flwr", "flwr-datasets", "torch", "numpy"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:  # this package itself, where Flower brings it
            versions[package] = "not installed"
    return versions
