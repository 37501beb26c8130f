"""Checkpoints: all that the server needs to go on with a run as if it had never stopped.

A checkpoint is one safetensors file: the global model and, as JSON in its metadata, the rest. Sampling needs no state
of its own, since a round's clients are drawn from the seed and the round's number.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from fedbabu.errors import RunError
from fedbabu.runs.files import ClientStore, DamagedError, load_state_and_metadata, save_state

STAYING = 2  # checkpoints of a run, in case the newest is damaged

Record = dict[str, Any]


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run after the training of a round.

    Attributes:
        server_round: the round.
        model: the global model's state dict.
        kept: for each client that keeps something, the round in which it kept it.
        history: the records of the rounds that are over.
        record: of this round, if its evaluation is still due; else None.
    """

    server_round: int
    model: Mapping[str, Tensor]
    kept: Mapping[int, int]
    history: list[Record]
    record: Record | None

    @classmethod
    def start(cls, model: nn.Module) -> "Checkpoint":
        """The state of a run before its first round."""
        return cls(0, {name: value.clone() for name, value in model.state_dict().items()}, {}, [], None)


class Checkpoints:
    """The checkpoints of a run, in the folder `checkpoints` of its run folder; the newest two stay."""

    def __init__(self, run: Path) -> None:
        self.folder = run / "checkpoints"
        self.clients = ClientStore(run / "clients")
        self._useless: list[Path] = []

    def save(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint, which appears whole or not at all, and remove the third newest.

        Raises:
            OSError: if it cannot be written.
        """
        self.folder.mkdir(exist_ok=True)
        path = self._path(checkpoint.server_round)
        rest = {key: value for key, value in vars(checkpoint).items() if key != "model"}
        save_state(path, checkpoint.model, {"checkpoint": json.dumps(rest)})
        older = [self._path(server_round) for server_round in self._rounds()[STAYING:]]
        for useless in {*self._useless, *older} - {path}:
            useless.unlink(missing_ok=True)
        self._useless = []

    def usable(self) -> list[Checkpoint]:
        """The checkpoints that are as they were written, newest first; of the others, it is said what is wrong.

        What clients keep is checked too, unless it is not in the run folder but on the clients' own disks.

        Raises:
            OSError: if one cannot be read, though it is there.
            RunError: if there is none.
        """
        usable = []
        for server_round in self._rounds():
            try:
                checkpoint = self._load(self._path(server_round))
                if self.clients.folder.is_dir():
                    for client, kept_in in checkpoint.kept.items():
                        self.clients.load(client, kept_in)
                usable.append(checkpoint)
            except (DamagedError, FileNotFoundError) as error:
                print(f"The checkpoint of round {server_round} cannot be used: {error}", flush=True)
                self._useless.append(self._path(server_round))
        if not usable:
            raise RunError(f"The run has no checkpoint in {self.folder} that can be used: start it again.")
        return usable

    def _load(self, path: Path) -> Checkpoint:
        model, texts = load_state_and_metadata(path)
        rest = json.loads(texts["checkpoint"])
        return Checkpoint(model=model, **rest | {"kept": {int(client): r for client, r in rest["kept"].items()}})

    def _path(self, server_round: int) -> Path:
        return self.folder / f"round-{server_round}.safetensors"

    def _rounds(self) -> list[int]:
        """The rounds of which there is a checkpoint, newest first."""
        names = [path.stem.removeprefix("round-") for path in self.folder.glob("round-*.safetensors")]
        return sorted((int(name) for name in names if name.isdecimal()), reverse=True)
