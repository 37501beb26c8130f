"""The weighted sum behind the server's mean: a node sums over its clients, the server over its nodes."""

from collections.abc import Iterable, Mapping

from torch import Tensor

State = Mapping[str, Tensor]
"""A state dict, or a part of one: tensors by the names of parameters."""


def weighted_sum(states: Iterable[tuple[State, int]]) -> dict[str, Tensor]:
    """Sum of state dicts, each multiplied by its integer weight, in float64.

    A float32 value times an example count, and a sum of such products, has no rounding error in float64. The sum
    therefore does not depend on how clients are grouped into nodes, as long as it is divided only once, at the end.
    """
    sums: dict[str, Tensor] = {}
    for state, weight in states:
        add_weighted(sums, state, weight)
    return sums


def add_weighted(sums: dict[str, Tensor], state: State, weight: int = 1) -> None:
    """Add a state dict, multiplied by its weight, to float64 sums in place."""
    for name, value in state.items():
        weighted = value.double() * weight
        sums[name] = sums[name].add_(weighted) if name in sums else weighted
