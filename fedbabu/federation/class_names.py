"""One numbering of the classes for all nodes: owners of local data may know different classes, in different orders."""

from collections.abc import Mapping
from dataclasses import replace

from fedbabu.data.classes import ClassNames, listed_classes
from fedbabu.errors import ConfigError
from fedbabu.federation.clients import ClientInfo


def unmatched(class_names_of: Mapping[int, ClassNames]) -> dict[int, ConfigError]:
    """The nodes whose classes cannot be matched with those of the others, and why: of names and numbers, the fewer."""
    numbered = [node for node, names in class_names_of.items() if all(isinstance(name, int) for name in names)]
    named = [node for node in class_names_of if node not in numbered]
    if not numbered or not named:
        return {}
    names, numbers = (listed_classes(class_names_of[nodes[0]]) for nodes in (named, numbered))
    error = ConfigError(
        f"SuperNode {named[0]} has the classes {names}, and SuperNode {numbered[0]} only the numbers {numbers}, which "
        "cannot be matched: all owners must name their classes, or all must number them alike."
    )
    return dict.fromkeys(numbered if len(numbered) <= len(named) else named, error)


def agree_on_class_names(class_names_of: Mapping[int, ClassNames]) -> ClassNames:
    """The classes of all nodes, which can be matched: the list that all have, or else all of them in sorted order."""
    lists = set(class_names_of.values())
    if len(lists) == 1:
        return lists.pop()
    return tuple(sorted({name for names in lists for name in names}))  # type: ignore[return-value]


def renumbered(info: ClientInfo, own: ClassNames, agreed: ClassNames) -> ClientInfo:
    """A client whose classes have the numbers that all nodes agreed on, instead of its node's own."""
    if own == agreed:
        return info
    number_of = {name: number for number, name in enumerate(agreed)}
    return replace(info, classes=tuple(sorted(number_of[own[label]] for label in info.classes)))
