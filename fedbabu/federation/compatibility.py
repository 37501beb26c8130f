"""Which nodes' data do not fit together, or do not fit to a run that has started, and why."""

from collections import Counter
from collections.abc import Mapping

from fedbabu.data.classes import ClassNames, listed_classes
from fedbabu.errors import ConfigError
from fedbabu.federation.class_names import unmatched
from fedbabu.federation.messages import NodeInfo
from fedbabu.formatting import image_in_words
from fedbabu.models import ImageShape


def incompatible_nodes(
    infos: Mapping[int, NodeInfo], class_names: ClassNames, all_are_here: bool
) -> dict[int, ConfigError]:
    """The nodes that cannot be used together with the others, with the reason; of two that differ, the later one.

    Args:
        infos: What each node offers.
        class_names: The classes of the run, if it has started; otherwise empty.
        all_are_here: Whether every client is on one of the nodes, so that it is known which classes are trained.
    """
    found = _of_other_owners(infos)
    shapes = Counter(info.image_shape for info in infos.values())
    usual = max(shapes, key=lambda shape: shapes[shape], default=None)  # the first of those that most nodes have
    first = next((node for node, info in infos.items() if info.image_shape == usual), 0)
    for node, info in infos.items():
        problem = None
        if class_names:
            problem = unknown_classes(node, info, class_names)
        if usual and info.image_shape != usual:
            problem = other_shape(node, info.image_shape, f"SuperNode {first}", usual)
        if problem:
            found.setdefault(node, problem)
    if not class_names:
        found = unmatched({node: info.class_names for node, info in infos.items()}) | found
    if all_are_here and not found:
        found = _testing_untrained_classes(infos)
    return found


def unknown_classes(node: int, info: NodeInfo, class_names: ClassNames) -> ConfigError | None:
    """Why a node's classes do not fit to those of a run that has started; None if they do."""
    unknown = [name for name in info.class_names if name not in class_names]
    if not unknown and (info.local_data or info.class_names == class_names):
        return None
    has = (
        f"classes that the run does not know ({listed_classes(unknown)})" if unknown else "its classes in another order"
    )
    return ConfigError(f"SuperNode {node} has {has}; the run started with the classes {listed_classes(class_names)}.")


def other_shape(node: int, image_shape: ImageShape, others: str, their_shape: ImageShape) -> ConfigError:
    """The error of a node whose images have another size or number of channels than those of others."""
    theirs, its = image_in_words(their_shape), image_in_words(image_shape)
    return ConfigError(
        f"{others} has images of {theirs}, and SuperNode {node} has images of {its}: they must have one size, and all "
        "be in colour or in grayscale."
    )


def _of_other_owners(infos: Mapping[int, NodeInfo]) -> dict[int, ConfigError]:
    """The nodes whose client id another node has too, with different data, of which some would not be used.

    A node that was restarted without authentication has the same data under another id.
    """
    found: dict[int, ConfigError] = {}
    first_of: dict[int, int] = {}
    for node, info in infos.items():
        for client, offered in info.clients.items():
            first = first_of.setdefault(client, node)
            if (info.local_data or infos[first].local_data) and infos[first].clients[client] != offered:
                found[node] = ConfigError(
                    f"Client {client} is on the SuperNodes {[first, node]}, but with local data a client is on one "
                    "node: start every SuperNode with a data-path, and with a partition-id that no other SuperNode has."
                )
    return found


def _testing_untrained_classes(infos: Mapping[int, NodeInfo]) -> dict[int, ConfigError]:
    """The nodes with local data that have test images of classes of which no client has training images."""
    trained = {
        info.class_names[label]
        for info in infos.values()
        for client in info.clients.values()
        for label in client.classes
    }
    untrained = {node: [name for name in info.tested_classes if name not in trained] for node, info in infos.items()}
    return {
        node: ConfigError(
            f"SuperNode {node} has test images of classes of which no client has training images: "
            f"{listed_classes(names)}. Remove them, or add training images."
        )
        for node, names in untrained.items()
        if names
    }
