"""What a node with local data keeps on its disk, client states and fine-tuned models: a folder for each run."""

import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from platformdirs import user_state_dir

from fedbabu.errors import ConfigError
from fedbabu.runs.files import write_whole

RUN_ID = re.compile("[0-9a-f]{16}")  # as RunFolder.create draws it
NAME_FILE = "run-name"  # in the folder of a run
PERSONAL_FOLDER = "personal"  # there, or in a run folder: the fine-tuned models, CLIENT.safetensors


def local_state_folder() -> Path:
    """The folder for client states on a node with local data: FEDBABU_STATE, or in the user's state folder."""
    return Path(os.environ.get("FEDBABU_STATE") or user_state_dir("fedbabu"))


def folder_of_run(run_id: str, name: str) -> Path:
    """The folder on this node for the client states of a run, in which the run's name is noted."""
    folder = local_state_folder() / run_id
    if not (folder / NAME_FILE).exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / NAME_FILE, name.encode())
    return folder


@dataclass(frozen=True)
class LocalStates:
    """The client states of one run on this node."""

    folder: Path

    @property
    def run_id(self) -> str:
        """The id of the run, as its config.json on the server has it."""
        return self.folder.name

    @property
    def run_name(self) -> str:
        """The name of the run folder on the server; a question mark if an earlier version did not note it."""
        note = self.folder / NAME_FILE
        return note.read_text(encoding="utf-8") if note.exists() else "?"

    @property
    def clients(self) -> list[int]:
        """The clients that have a state or a fine-tuned model here."""
        with_state = {int(path.name) for path in self.folder.glob("clients/*/")}
        return sorted(with_state | {int(path.stem) for path in self.folder.glob(f"{PERSONAL_FOLDER}/*.safetensors")})

    @property
    def num_bytes(self) -> int:
        """The size of all files."""
        return sum(file.stat().st_size for file in self._files())

    @property
    def last_written(self) -> datetime:
        """When a state was last saved."""
        return datetime.fromtimestamp(max(file.stat().st_mtime for file in self._files()))

    def remove(self) -> None:
        """Remove them all; the run cannot be resumed with this node's clients any more."""
        shutil.rmtree(self.folder)

    def _files(self) -> list[Path]:
        return [file for file in self.folder.rglob("*") if file.is_file()]


def local_states() -> list[LocalStates]:
    """The client states on this node, of the run that was written to longest ago first."""
    # Only what is named like a run: who set FEDBABU_STATE to a folder of their own may have others in it.
    found = [LocalStates(path) for path in local_state_folder().glob("*/") if RUN_ID.fullmatch(path.name)]
    return sorted((states for states in found if states.num_bytes), key=lambda states: states.last_written)


def find_states(run_ids: Sequence[str]) -> list[LocalStates]:
    """The client states of the runs with these ids; ConfigError is raised if there are none of one of them."""
    found = {states.run_id: states for states in local_states()}
    if unknown := [run_id for run_id in run_ids if run_id not in found]:
        raise ConfigError(f"There are no client states of {', '.join(unknown)} in {local_state_folder()}.")
    return [found[run_id] for run_id in run_ids]
