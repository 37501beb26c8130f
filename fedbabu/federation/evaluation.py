"""What all clients measured in one evaluation, collected from the replies of their nodes."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from flwr.app import Message
from torch import Tensor

from fedbabu.config import TEMPLATES, RunConfig
from fedbabu.federation.messages import EvaluateReply
from fedbabu.federation.messenger import NodeMessenger
from fedbabu.training.aggregation import State, add_weighted
from fedbabu.training.diagnostics import directions_without_values, layer_similarity
from fedbabu.training.evaluation import ClientResult


@dataclass(frozen=True)
class Evaluation:
    """What the clients measured in one evaluation."""

    results: Mapping[int, ClientResult] = field(default_factory=dict)  # by client id
    missing: dict[int, str] = field(default_factory=dict)  # why other clients have no result
    similarity: Mapping[str, list[float]] = field(default_factory=dict)  # of the clients' layers, if it is recorded

    def mean_accuracy(self, epoch: int) -> float:
        """The accuracy after an epoch of fine-tuning in percent, mean over the clients that have a result."""
        return sum(each.accuracy[epoch] for each in self.results.values()) / len(self.results)


def collect_evaluation(
    messenger: NodeMessenger,
    replies: Iterable[Message],
    config: RunConfig,
    model: State,
    personalize: bool,
    not_asked: Mapping[int, str],
) -> Evaluation:
    """Collect what every client measured.

    Args:
        messenger: The messenger that got the replies.
        replies: The replies of the nodes.
        config: The run configuration, which says how many accuracies each client must have.
        model: The global model, for the names and shapes of its weights.
        personalize: Whether the clients were fine-tuned.
        not_asked: Clients that were not asked, because they have no model or no node, with the reason.
    """
    num_values = {"accuracy": 1 + personalize * config.total_finetune_epochs}
    num_values["loss"] = num_values["accuracy"]
    num_values["id_accuracy"] = num_values["accuracy"] if personalize and config.iid_test_set else 0
    num_values["ood_accuracy"] = num_values["id_accuracy"]
    num_values["without_head_accuracy"] = len(TEMPLATES) if personalize else 0
    directions = {}
    if personalize and "similarity" in config.diagnostics:
        directions = directions_without_values(model, num_values["accuracy"])
    direction_sums: dict[str, Tensor] = {}  # added reply by reply, because they may be large
    results: dict[int, ClientResult] = {}
    for reply in messenger.parse(replies, EvaluateReply, num_values, directions):
        results |= reply.results
        add_weighted(direction_sums, reply.direction_sums)
    missing = dict(sorted({**not_asked, **messenger.failed}.items()))
    similarity = layer_similarity(direction_sums, len(results)) if len(results) > 1 else {}
    return Evaluation(dict(sorted(results.items())), missing, similarity)
