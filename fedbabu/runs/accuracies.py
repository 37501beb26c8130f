"""The accuracies of a run's clients, from what they recorded: which ones are meant, and their means."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fedbabu.algorithms import Algorithm
from fedbabu.config import PROTOCOLS, Measurement


def client_accuracies(
    clients: Sequence[Mapping[str, Any]], algorithm: Algorithm, measurement: Measurement, finetune_epochs: int | None
) -> dict[str, npt.NDArray[np.float64]]:
    """Accuracy of every client in percent, float64 [clients], for each metric of `records.METRIC_TITLES`.

    Args:
        clients: The clients' records, as `records.client_record` makes them.
        algorithm: The algorithm, which has no initial accuracy if clients keep a part of the model.
        measurement: How accuracy without the head is measured.
        finetune_epochs: The number of epochs of fine-tuning after which a client is personalized; None for all.

    Returns:
        The metrics that the clients have; NaN is a client without such test images.
    """
    accuracies = {}
    for prefix in ("", "id-", "ood-"):
        if f"{prefix}accuracy" in clients[0]:
            after_epochs = np.array([client[f"{prefix}accuracy"] for client in clients], dtype=float)
            if not algorithm.keeps:  # all clients start from one global model
                accuracies[f"{prefix}initial"] = after_epochs[:, 0]
            if not prefix:
                without_head = [_without_head_accuracy(client, measurement) for client in clients]
                accuracies["without-head"] = np.array(without_head)
            last = -1 if finetune_epochs is None else finetune_epochs
            accuracies[f"{prefix}personalized"] = after_epochs[:, last]
    return {metric: values for metric, values in accuracies.items() if not np.isnan(values).all()}


def _without_head_accuracy(client: Mapping[str, Any], measurement: Measurement) -> float:
    """A client's accuracy without the head in percent; NaN if it was not measured in this way."""
    measured = client["without-head-accuracy"]
    if not isinstance(measured, dict):  # an earlier version measured as the text has it
        measured = {Measurement.from_run_config(PROTOCOLS["text"]).templates: measured}
    return measured.get(measurement.templates, np.nan)


def means(accuracies: Mapping[str, npt.NDArray[np.float64]]) -> dict[str, dict[str, Any]]:
    """Mean and standard deviation over the clients that have an accuracy, and their number, for each metric."""
    return {
        metric: {
            "mean": float(np.nanmean(values)),
            "std": float(np.nanstd(values)),
            "num-clients": int(np.isfinite(values).sum()),
        }
        for metric, values in accuracies.items()
    }
