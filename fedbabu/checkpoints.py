"""Checkpoints: all that the server needs to go on with a run as if it had never stopped.

A checkpoint is one safetensors file: the global model and, as JSON in its metadata, the rest. Sampling needs no state
of its own, since a round's clients are drawn from the seed and the round's number.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from fedbabu.storage import ClientStore, load_state_and_metadata, save_state

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

    def save(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint, which appears whole or not at all, and remove the third newest.

        Raises:
            OSError: if it cannot be written.
        """
        self.folder.mkdir(exist_ok=True)
        rest = {key: value for key, value in vars(checkpoint).items() if key != "model"}
        save_state(self._path(checkpoint.server_round), checkpoint.model, {"checkpoint": json.dumps(rest)})
        for server_round in self._rounds()[STAYING:]:
            self._path(server_round).unlink(missing_ok=True)

    def usable(self, elsewhere: bool) -> Iterator[Checkpoint]:
        """The checkpoints that are as they were written, newest first; says what is wrong with others and renames them.

        Args:
            elsewhere: whether clients keep what they keep on their own disks, where it cannot be checked.
        """
        for server_round in self._rounds():
            path = self._path(server_round)
            try:
                checkpoint = self._load(path)
                if not elsewhere:
                    for client, kept_in in checkpoint.kept.items():
                        self.clients.load(client, kept_in)
                yield checkpoint
            except (OSError, ValueError, KeyError, TypeError) as error:
                print(f"The checkpoint of round {server_round} cannot be used: {error}", flush=True)
                with suppress(OSError):
                    path.replace(path.with_suffix(".damaged"))

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
