"""The two protocols: what the paper's text says, and what the authors' code does, as values of run-config keys.

A key of the run config that is empty has the value of the protocol. Where the two differ in how an algorithm trains,
the algorithm has a second declaration instead (`algorithms.AS_IN_THE_CODE`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from itertools import product
from typing import Any

from fedbabu.algorithms import AS_IN_THE_CODE

# What each protocol means. The code is github.com/jhoon-oh/FedBABU at commit e34c15b; docs/reproduction.md says which
# function does what, and what each difference is worth.
PROTOCOLS: dict[str, dict[str, str]] = {
    "text": {
        "evaluated-round": "last",
        "template-distance": "cosine",
        "template-images": "plain",
        "template-batches": "mixed",
        "aggregation-weights": "examples",
    },
    "code": {
        "evaluated-round": "best",
        "template-distance": "euclidean",
        "template-images": "augmented",
        "template-batches": "class-by-class",
        "aggregation-weights": "clients",
    },
}

DISTANCES, IMAGES, BATCHES = ("cosine", "euclidean"), ("plain", "augmented"), ("mixed", "class-by-class")
# Every way to measure accuracy without the head, as `Measurement.templates` names it. Each run measures all of them.
TEMPLATES = tuple(map(" ".join, product(DISTANCES, IMAGES, BATCHES)))


@dataclass(frozen=True)
class Measurement:
    """Which of the accuracies that a run measures are meant: the run-config keys of these names."""

    evaluated_round: str  # the model of the "last" round, or of the "best" one by the clients' accuracy
    template_distance: str
    template_images: str
    template_batches: str

    @classmethod
    def from_run_config(cls, run_config: Mapping[str, Any]) -> "Measurement":
        """The accuracies that a run configuration, under Flower's key names, asks for."""
        values = with_protocol(run_config)
        return cls(*(values[field.name.replace("_", "-")] for field in fields(cls)))

    @property
    def templates(self) -> str:
        """The way in which accuracy without the head is measured, one of TEMPLATES."""
        return f"{self.template_distance} {self.template_images} {self.template_batches}"


# The run-config keys that choose among the accuracies of a run and do not change what the run does.
MEASUREMENT_KEYS = tuple(field.name.replace("_", "-") for field in fields(Measurement))


def with_protocol(run_config: Mapping[str, Any]) -> dict[str, Any]:
    """A run configuration whose empty keys have the values of its protocol; unchanged if it names no protocol.

    With the protocol "code", it also has the values that the code fixes for its algorithm.
    """
    chosen = PROTOCOLS.get(str(run_config.get("protocol")), {})
    values = {key: chosen[key] if key in chosen and value == "" else value for key, value in run_config.items()}
    if values.get("protocol") == "code" and (declared := AS_IN_THE_CODE.get(str(values.get("algorithm")))):
        values |= {key: values.get(value) if isinstance(value, str) else value for key, value in declared.fixes.items()}
    return values


def under_protocol(run_config: Mapping[str, Any], protocol: str) -> dict[str, Any]:
    """A run configuration with all that a protocol decides."""
    return with_protocol({**run_config, "protocol": protocol, **PROTOCOLS[protocol]})
