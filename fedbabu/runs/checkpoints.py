"""Checkpoints, from which the server continues a run as if it had never stopped, and the clients' states on disk.

A checkpoint is one safetensors file: the global model and, as JSON in the file's metadata, everything else.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from fedbabu.errors import RunError
from fedbabu.runs.best_rounds import BestRound, ClientsBestRounds
from fedbabu.runs.files import DamagedError, load_state, save_state
from fedbabu.runs.records import RoundRecord
from fedbabu.training.aggregation import State

CHECKPOINTS_KEPT = 2  # of a run; the older one is used if the newer one is damaged
# What the names of tensors in a checkpoint begin with, besides those of the global model.
BEST, EVALUATED, SHARED = "best/", "evaluated/", "shared-"


class ClientStore:
    """The client states of one run: a file for each client and each round in which the client was trained.

    The server says from which round's state a client starts, so that a resumed run uses those of its checkpoint.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def load(self, client: int, saved_round: int) -> dict[str, Tensor]:
        """A client's state as it was saved in a round, on the CPU; empty for round 0, before its first training."""
        return load_state(self.path(client, saved_round))[0] if saved_round else {}

    def save(self, client: int, server_round: int, state: Mapping[str, Tensor], needed_rounds: Collection[int]) -> None:
        """Save a client's state after a round, and remove its states of earlier rounds that are not needed any more."""
        path = self.path(client, server_round)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_state(path, state)
        for saved_round, earlier in _files_by_round(path.parent).items():
            # A slow node may save the state of a round from which the server has long gone on: later ones are in use.
            if saved_round < server_round and saved_round not in needed_rounds:
                earlier.unlink(missing_ok=True)

    def keep_only(self, state_rounds: Sequence[Mapping[int, int]]) -> None:
        """Remove all states but those of the given rounds, each mapping from a client to a round."""
        for folder in self.folder.glob("*/"):
            for saved_round, file in _files_by_round(folder).items():
                if all(rounds.get(int(folder.name)) != saved_round for rounds in state_rounds):
                    file.unlink(missing_ok=True)

    def path(self, client: int, saved_round: int) -> Path:
        """The file of a client's state as it was saved in a round."""
        return self.folder / str(client) / f"round-{saved_round}.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run after the training of a round."""

    server_round: int
    model: Mapping[str, Tensor]  # the state dict of the global model
    client_state_rounds: Mapping[int, int]  # for each client with a client state, the round in which it was saved
    history: list[RoundRecord]  # of the rounds that are over
    record: RoundRecord | None  # of this round, if its evaluation is still to be done
    best: BestRound | None = None  # of the rounds that are over; None if none of them was evaluated
    clients_best: ClientsBestRounds | None = None  # if the algorithm chooses a best round for each client
    evaluated_model: Mapping[str, Tensor] | None = None  # the model to evaluate after this round, if it is another one

    @property
    def needed_client_states(self) -> list[Mapping[int, int]]:
        """The client states that a run needs to continue from here: for each client, the rounds in which they are."""
        best = [each.client_state_rounds for each in (self.best, self.clients_best) if each]
        return [self.client_state_rounds, *best]

    @classmethod
    def start(cls, model: nn.Module) -> "Checkpoint":
        """The state of a run before its first round."""
        state = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
        return cls(0, state, {}, [], None)


class Checkpoints:
    """The checkpoints of a run, in the folder `checkpoints` of its run folder."""

    def __init__(self, run: Path) -> None:
        self.folder = run / "checkpoints"
        self.clients = ClientStore(run / "clients")

    def save(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint, and remove all but the newest CHECKPOINTS_KEPT."""
        self.folder.mkdir(exist_ok=True)
        rest = {
            "server_round": checkpoint.server_round,
            "kept": checkpoint.client_state_rounds,
            "history": [record.to_json() for record in checkpoint.history],
            "record": checkpoint.record and checkpoint.record.to_json(),
        }
        states = {"": checkpoint.model}
        if best := checkpoint.best:
            rest["best"] = {"round": best.server_round, "accuracy": best.accuracy, "kept": best.client_state_rounds}
            states[BEST] = best.model
        if clients_best := checkpoint.clients_best:
            rest["clients_best"] = {
                "rounds": clients_best.rounds,
                "accuracies": clients_best.accuracies,
                "kept": clients_best.client_state_rounds,
            }
            states |= {f"{SHARED}{each}/": shared for each, shared in clients_best.shared.items()}
        if checkpoint.evaluated_model:
            states[EVALUATED] = checkpoint.evaluated_model
        # Cloned, because a file cannot hold a tensor twice, and the models may have some in common.
        tensors = {
            f"{prefix}{name}": value.clone() for prefix, state in states.items() for name, value in state.items()
        }
        path = self.folder / f"round-{checkpoint.server_round}.safetensors"
        save_state(path, tensors, {"checkpoint": rest})
        for older in list(_files_by_round(self.folder).values())[CHECKPOINTS_KEPT:]:
            if older != path:
                older.unlink(missing_ok=True)

    def clean_up(self, results: Sequence[Mapping[int, int]]) -> None:
        """After the run, remove all but the newest checkpoint and the client states that it or the results need."""
        newest, *older = _files_by_round(self.folder).values()
        needed = _read(newest).needed_client_states
        for path in older:
            path.unlink(missing_ok=True)
        self.clients.keep_only([*results, *needed])

    def usable(self) -> list[Checkpoint]:
        """The undamaged checkpoints, newest first, after printing what is wrong with the others.

        Client states are checked too, if they are in the run folder. A RunError is raised if no checkpoint is usable.
        """
        usable = []
        for server_round, path in _files_by_round(self.folder).items():
            try:
                checkpoint = _read(path)
                if self.clients.folder.is_dir():
                    for state_rounds in checkpoint.needed_client_states:
                        for client, saved_round in state_rounds.items():
                            self.clients.load(client, saved_round)
                usable.append(checkpoint)
            except (DamagedError, FileNotFoundError) as error:
                print(f"The checkpoint of round {server_round} cannot be used: {error}", flush=True)
        if not usable:
            raise RunError(f"The run has no usable checkpoint in {self.folder}: start it again.")
        return usable


def _read(path: Path) -> Checkpoint:
    """The checkpoint in a file; raises a DamagedError or FileNotFoundError if it cannot be read."""
    tensors, values = load_state(path)
    rest = values["checkpoint"]
    states: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        *prefix, own_name = name.rpartition("/")
        states.setdefault("".join(prefix), {})[own_name] = value
    best = clients_best = None
    if of_best := rest.get("best"):
        best = BestRound(of_best["round"], of_best["accuracy"], states[BEST], _by_client(of_best["kept"]))
    if of_clients := rest.get("clients_best"):
        rounds, accuracies, kept = (_by_client(of_clients[key]) for key in ("rounds", "accuracies", "kept"))
        shared: dict[int, State] = {each: states[f"{SHARED}{each}/"] for each in set(rounds.values())}
        clients_best = ClientsBestRounds(rounds, accuracies, kept, shared)
    return Checkpoint(
        server_round=rest["server_round"],
        model=states[""],
        client_state_rounds=_by_client(rest["kept"]),
        history=[RoundRecord.from_json(record) for record in rest["history"]],
        record=rest["record"] and RoundRecord.from_json(rest["record"]),
        best=best,
        clients_best=clients_best,
        evaluated_model=states.get(EVALUATED),
    )


def _by_client(values: Mapping[str, Any]) -> dict[int, Any]:
    """Values by client as JSON has them, with the clients as numbers again."""
    return {int(client): value for client, value in values.items()}


def _files_by_round(folder: Path) -> dict[int, Path]:
    """The files in a folder that are named after a round, newest first."""
    paths = {path.stem.removeprefix("round-"): path for path in folder.glob("round-*.safetensors")}
    numbered = {int(name): path for name, path in paths.items() if name.isdecimal()}
    return dict(sorted(numbered.items(), reverse=True))
