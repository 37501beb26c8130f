"""How fast nodes work, and how many clients they are therefore sent at a time."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

PORTION_SECONDS = 8.0  # that the clients of a message should take, so that nodes answer, and progress shows, that often
FIRST_PORTION = 1  # the number of clients that a node is sent, for each of its places, while its pace is not known
PORTION_OVERHEADS = 10  # the clients of a message should take at least so many times as long as sending it


class Pace:
    """Learns from every answered message how long a node takes for an example, and sizes the next message by it."""

    def __init__(self) -> None:
        self._seconds_per_example: dict[tuple[int, str], float] = {}  # by node and kind of work
        self._overhead = math.inf  # the fewest seconds that a message took besides the work of its clients

    def note(self, node: int, kind: str, num_examples: int, seconds: float, work_seconds: float) -> None:
        """Learn from an answered message.

        Args:
            node: The node.
            kind: The kind of work, for example "train"; kinds differ in how long an example takes.
            num_examples: The number of training examples of the message's clients.
            seconds: How long the node took to answer.
            work_seconds: For how much of that time it worked on the clients, as it says itself.
        """
        work = work_seconds if 0 < work_seconds < seconds else seconds  # a node may say anything
        self._seconds_per_example[node, kind] = work / num_examples
        self._overhead = min(self._overhead, seconds - work)

    def portion(
        self, node: int, kind: str, clients: Sequence[int], num_train: Mapping[int, int], concurrency: int
    ) -> list[int]:
        """The first of the clients that wait at a node, for about PORTION_SECONDS of work.

        Unless all fit, it is a multiple of the number of clients for which the node works at a time, and that number
        while the node's pace is not known. Where messages themselves take long, as on a SuperNode, which starts a
        process for each, it is as many clients as make up for that.
        """
        if (pace := self._seconds_per_example.get((node, kind))) is None:
            return list(clients[: FIRST_PORTION * concurrency])
        seconds = max(PORTION_SECONDS, PORTION_OVERHEADS * self._overhead)
        work = np.cumsum([pace * num_train[client] for client in clients])
        fitting = int(np.searchsorted(work, seconds, side="right"))
        if fitting == len(clients):
            return list(clients)
        return list(clients[: max(fitting // concurrency, 1) * concurrency])
