"""Run folders for tests, made by copying a finished run and changing what it recorded."""

import json
import shutil
from pathlib import Path
from typing import Any

from fedbabu.runs.folder import RunFolder


def copy_run(run: RunFolder, folder: Path, data: dict[str, Any] | None = None, **keys: Any) -> RunFolder:
    """A copy of a run in another folder, with other run-config keys ("_" for "-") and another description of the data.

    Its numbers stay as they are, but its summary is made anew, without numbers of the paper.
    """
    for name in ("config.json", "rounds.jsonl", "clients.jsonl", "model.safetensors"):
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(run.path / name, folder)
    for path in [*run.path.glob("similarity.json"), *run.path.glob("best-*"), *run.path.glob("features.safetensors")]:
        shutil.copy(path, folder)
    recorded = json.loads((folder / "config.json").read_text())
    recorded["run-config"] |= {key.replace("_", "-"): value for key, value in keys.items()}
    recorded["dataset"] |= data or {}
    (folder / "config.json").write_text(json.dumps(recorded))
    return summarize(RunFolder(folder))


def summarize(run: RunFolder, paper: dict[str, dict] | None = None) -> RunFolder:
    """Write the summary of a run anew, with these numbers of the paper."""
    run.summarize({}, paper or {})
    run.write_summary()
    return RunFolder(run.path)
