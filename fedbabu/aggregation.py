"""The mean that clients' models end in, taken twice: by a node over its clients, by the server over the nodes."""

from collections.abc import Iterable, Mapping

from torch import Tensor

State = Mapping[str, Tensor]


def weighted_mean(states: Iterable[tuple[State, int]]) -> tuple[dict[str, Tensor], int]:
    """The mean of states weighted by their example counts, and the sum of the counts (Algorithm 1, line 9).

    Float64 throughout: a float32 value times a count, and the sum of a few such, then has no rounding error, so
    the mean does not depend on how the clients were grouped into nodes. States are consumed one at a time.

    Raises:
        ValueError: if there are no states, or no examples at all.
    """
    sums: dict[str, Tensor] = {}
    total = 0
    for state, count in states:
        for name, value in state.items():
            weighted = value.double() * count
            sums[name] = sums[name].add_(weighted) if name in sums else weighted
        total += count
    if total == 0:
        raise ValueError("There is nothing to average: no client replied, or none has examples.")
    return {name: value / total for name, value in sums.items()}, total
