"""Run configs of small federations in the process of a test."""

from pathlib import Path

from fedbabu.config import default_run_config


def small_run_config(results: Path) -> dict:
    """Eight clients with digits, of which four train in each of three rounds: a run takes two seconds."""
    return default_run_config() | {
        "dataset": "digits",
        "num-clients": 8,
        "fraction-train": 0.5,
        "num-server-rounds": 3,
        "num-local-epochs": 2,
        "num-finetune-epochs": 2,
        "batch-size": 40,
        "evaluate-every": 1,
        "seed": 7,
        "results-dir": str(results),
    }


def tiny_run_config(dataset: dict, results: Path) -> dict:
    """The same with ten or fourteen images of a dataset for each client, in batches of five: a run takes a second."""
    return small_run_config(results) | dataset | {"batch-size": 5}
