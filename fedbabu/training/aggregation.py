"""The weighted sum that the global model is made of: a node takes it over its clients, the server over its nodes."""

from collections.abc import Iterable, Mapping

from torch import Tensor

State = Mapping[str, Tensor]


def weighted_sum(states: Iterable[tuple[State, int]]) -> dict[str, Tensor]:
    """The sum of state dicts, each times its weight, in float64. States are consumed one at a time.

    A float32 value times an example count, and a sum of some such, has no rounding error in float64. So the sum
    does not depend on how clients are grouped into nodes, as long as it is divided only once, at the end.
    """
    sums: dict[str, Tensor] = {}
    for state, weight in states:
        add_weighted(sums, state, weight)
    return sums


def add_weighted(sums: dict[str, Tensor], state: State, weight: int = 1) -> None:
    """Add a state dict times its weight to sums, float64, in place."""
    for name, value in state.items():
        weighted = value.double() * weight
        sums[name] = sums[name].add_(weighted) if name in sums else weighted
