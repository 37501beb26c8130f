"""How fast nodes work, and how many clients they are therefore sent at a time."""

import math
from collections.abc import Mapping, Sequence

PORTION_SECONDS = 8.0  # that the clients of a message should take, so that nodes answer, and progress shows, that often
FIRST_PORTION = 1  # the number of clients that a node is sent while its pace is not known
PORTION_OVERHEADS = 10  # how many times as long as sending a message its clients should take at least


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

    def portion(self, node: int, kind: str, clients: Sequence[int], num_train: Mapping[int, int]) -> list[int]:
        """The first of the clients that wait at a node, for about PORTION_SECONDS of work, but at least one.

        While the node's pace is not known, it is one client. Where messages themselves take long, as on a SuperNode,
        which starts a process for each, it is as many clients as make up for that.
        """
        if (pace := self._seconds_per_example.get((node, kind))) is None:
            return list(clients[:FIRST_PORTION])
        seconds = max(PORTION_SECONDS, PORTION_OVERHEADS * self._overhead)
        portion: list[int] = []
        work = 0.0
        for client in clients:
            work += pace * num_train[client]
            if portion and work > seconds:
                break
            portion.append(client)
        return portion
