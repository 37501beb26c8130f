"""What a run records: what happened in each round, and what each client measured in the final evaluation."""

from collections.abc import Mapping
from dataclasses import field
from typing import Any

import numpy as np
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass as checked_dataclass

from fedbabu.federation.clients import ClientInfo
from fedbabu.training.evaluation import ClientResult

# The accuracies of a summary, and their names in tables and figures.
METRIC_TITLES = {
    "initial": "Initial",
    "without-head": "Without head",
    "personalized": "Personalized",
    "id-initial": "In-distribution, initial",
    "id-personalized": "In-distribution, personalized",
    "ood-initial": "Out-of-distribution, initial",
    "ood-personalized": "Out-of-distribution, personalized",
}


@checked_dataclass(config=ConfigDict(extra="ignore"))
class RoundRecord:
    """What is written about a round: a line of rounds.jsonl, which has these fields with "-" for "_".

    A field that is None is left out of the JSON: it does not apply to this round, or the round is not over yet.
    Accuracies are in percent.
    """

    round: int  # counted from 1
    failed: dict[int, str] = field(default_factory=dict)  # why clients that were sampled are not part of the mean
    attempts: int = 0  # more than one if too few clients trained successfully
    learning_rate: float = 0.0  # of the last training round that the clients went through
    clients: list[int] = field(default_factory=list)  # sampled in the last attempt
    # Accuracies before local training and after each of its epochs, mean over the sampled clients.
    in_class: list[float | None] | None = None  # on the classes that a client trains on
    out_of_class: list[float | None] | None = None  # on the other classes
    num_examples: int = 0  # of all clients that trained successfully
    train_loss: float | None = None  # mean over these examples
    server_loss: float | None = None  # mean of the training on the server
    train_seconds: float = 0.0
    test_accuracy: float | None = None  # of the global model on the whole test split, with data on the server
    initial_accuracy: float | None = None  # before fine-tuning, mean over all clients
    personalized_accuracy: float | None = None  # the same after fine-tuning, if clients are fine-tuned in every round
    missing: dict[int, str] | None = None  # why clients could not be evaluated
    seconds: float | None = None  # of the whole round
    evaluate_seconds: float | None = None

    def to_json(self) -> dict[str, Any]:
        """The record as a JSON object, in the order of the fields."""
        return {name.replace("_", "-"): value for name, value in vars(self).items() if value is not None}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "RoundRecord":
        """The record that a JSON object holds; keys that are not fields are ignored."""
        return cls(**{key.replace("-", "_"): value for key, value in record.items()})


def client_record(client: int, info: ClientInfo, result: ClientResult) -> dict[str, Any]:
    """What is written about a client of the final evaluation: a line of clients.jsonl."""
    record = {
        "client": client,
        "num-train-examples": info.num_train,
        "num-test-examples": info.num_test,
        "classes": list(info.classes),
        "accuracy": result.accuracy,
        "loss": result.loss,
        "without-head-accuracy": result.without_head_accuracy,
    }
    for key, values in (("id-accuracy", result.id_accuracy), ("ood-accuracy", result.ood_accuracy)):
        if values:
            record[key] = [None if np.isnan(value) else value for value in values]
    return record
