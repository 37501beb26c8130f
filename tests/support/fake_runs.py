"""Run folders with made-up accuracies, which no training made."""

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from fedbabu.config import TEMPLATES
from fedbabu.reproduction.experiment import Cell, Experiment
from fedbabu.reproduction.paper.tables import tables
from fedbabu.runs.folder import RunFolder
from fedbabu.runs.records import RoundRecord

DIGITS = {"name": "digits", "num-classes": 10, "num-train-examples": 1440}


def ramp(mean: float, num_clients: int = 100, epochs: int = 5) -> list[list[float]]:
    """Accuracies of clients after 0, 1, … epochs of fine-tuning, a point more after each; at last they are mean ± 5."""
    return [
        [mean - epochs + epoch + (5 if client % 2 else -5) for epoch in range(epochs + 1)]
        for client in range(num_clients)
    ]


class FakeRuns:
    """Makes finished runs of the cells of experiments.

    Args:
        results_dir: The folder of run folders.
    """

    def __init__(self, results_dir: Path) -> None:
        self.results_dir = results_dir
        self.override = f"results-dir={results_dir}"

    def add(
        self,
        name: str,
        overrides: Sequence[str],
        accuracies: Sequence[Sequence[float]],
        seed: int = 42,
        dataset: dict | None = None,
        table: int = 13,
    ) -> RunFolder:
        """Make the run of an experiment with one cell.

        Args:
            name: The name of the run folder.
            overrides: Those that compose the experiment.
            accuracies: Of each client after 0, 1, … epochs of fine-tuning, in percent.
            seed: The seed.
            dataset: What the run recorded about its data; by default, those of the table.
            table: The number of the table.
        """
        cell = _only_cell(tuple(overrides))
        run = RunFolder(self.results_dir / name)
        run.path.mkdir(parents=True)
        recorded = {
            "run-id": name,
            "run-config": {**cell.config, "seed": seed},
            "dataset": dataset or tables()[table]["dataset"],
            "clients-checksum": "",
            "clients-hold-equally-many": True,
            "federation": {"num-supernodes": 2, "devices": ["cpu"]},
            "versions": {},
        }
        (run.path / "config.json").write_text(json.dumps(recorded))
        run.write_rounds([RoundRecord(1, num_examples=5000, train_seconds=1.0, seconds=2.0, evaluate_seconds=1.0)])
        clients = [
            {
                "client": client,
                "num-test-examples": 100,
                "accuracy": values,
                "without-head-accuracy": dict.fromkeys(TEMPLATES, values[0] / 2),
            }
            for client, values in enumerate(accuracies)
        ]
        (run.path / "clients.jsonl").write_text("".join(json.dumps(client) + "\n" for client in clients))
        run.summarize({}, {}, 1)
        run.write_summary()
        return RunFolder(run.path)


@cache
def _only_cell(overrides: tuple[str, ...]) -> Cell:
    (cell,) = Experiment.compose(overrides).cells
    return cell


def change_config(run: RunFolder, **keys: object) -> None:
    """Change keys of the configuration that a run recorded ("_" for "-"); None removes a key."""
    path = run.path / "config.json"
    recorded = json.loads(path.read_text())
    for name, value in keys.items():
        recorded["run-config"][name.replace("_", "-")] = value
        if value is None:
            del recorded["run-config"][name.replace("_", "-")]
    path.write_text(json.dumps(recorded))
