"""A task's way to the nodes and back: who is asked, who is asked instead, and whom nobody answered for."""

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from fedbabu.federation.clients import Federation
from fedbabu.federation.messages import MAX_REASON, EvaluateReply, ReplyError, Task, TrainReply

RESENDS = 2  # times that the clients of a node that failed are given to another node, or again to the only one
NOT_CONNECTED = "no connected SuperNode offers it"
SLACK = 120.0  # seconds that a node may take besides its clients' work

Reply = TypeVar("Reply", TrainReply, EvaluateReply)


@dataclass
class Exchange:
    """One task, the messages that carry it to the nodes, and what is known of its clients.

    Attributes:
        federation: the clients, and the nodes that offer them.
        grid: the nodes.
        message_type: "train" or "evaluate".
        task: with all its clients.
        global_model: sent along.
        run_config: likewise.
        silent: nodes that did not answer last time; they get only clients that no other offers.
        failed: why a client has no result.
        bytes_sent, bytes_received: of arrays, to and from the nodes.
    """

    federation: Federation
    grid: Grid
    message_type: str
    task: Task
    global_model: ArrayRecord
    run_config: ConfigRecord
    silent: set[int]
    failed: dict[int, str] = field(default_factory=dict)
    bytes_sent: int = 0
    bytes_received: int = 0
    _asked: dict[str, list[int]] = field(default_factory=dict)  # the clients of an answered message, by its id

    def messages(self, clients: Collection[int] | None = None, failing: Collection[int] = ()) -> list[Message]:
        """One message to each connected node, with its share of the task's clients, or of some of them.

        Nodes that are failing get only clients that no other node offers.
        """
        clients = self.task.clients if clients is None else clients
        assigned = self.federation.assign(clients, set(self.grid.get_node_ids()), self.silent.union(failing))
        self._fail(set(clients).difference(*assigned.values()), NOT_CONNECTED)
        return [
            Message(
                self.task.of(ids).to_content(self.global_model, self.run_config),
                message_type=self.message_type,
                dst_node_id=node,
            )
            for node, ids in assigned.items()
        ]

    def send(self, messages: Iterable[Message], timeout: float) -> list[Message]:
        """Send messages and collect the replies; what a node failed to do is given to another one, if there is one.

        The clients of a node that does not answer in time are left out; that is `timeout` seconds for each client, and
        some slack, or any time if it is 0.
        """
        replies: list[Message] = []
        failing: set[int] = set()  # nodes
        waiting = list(messages)
        for resend in range(1 + RESENDS):
            asked = [Task.from_content(message.content).clients for message in waiting]
            limit = timeout * max(map(len, asked), default=0) + SLACK if timeout else float("inf")
            self.bytes_sent += sum(_num_bytes(message.content) for message in waiting)
            answers = {
                reply.metadata.reply_to_message_id: reply
                for reply in self.grid.send_and_receive(waiting, timeout=limit)
            }
            unserved: list[int] = []
            for message, clients in zip(waiting, asked, strict=True):
                node, reply = message.metadata.dst_node_id, answers.get(message.metadata.message_id)
                if reply is None:
                    self._fail(clients, f"node {node} did not answer" + (f" within {limit:.0f} s" if timeout else ""))
                    self.silent.add(node)
                elif reply.has_error():
                    self._fail(clients, f"node {node} failed: {reply.error.reason}")
                    failing.add(node)
                    unserved += clients
                else:
                    self.bytes_received += _num_bytes(reply.content)
                    self._asked[message.metadata.message_id] = clients
                    self.silent.discard(node)
                    replies.append(reply)
            if not unserved or resend == RESENDS:
                break
            waiting = self.messages(unserved, failing)
        return replies

    def checked(
        self, replies: Iterable[Message], parse: Callable[[RecordDict, Collection[int]], Reply]
    ) -> Iterator[Reply]:
        """What nodes replied, if it is what they were asked for; `parse` raises ReplyError if not."""
        for message in replies:
            clients = self._asked[message.metadata.reply_to_message_id]
            try:
                reply = parse(message.content, clients)
            except ReplyError as error:
                self._fail(clients, f"the reply of node {message.metadata.src_node_id} is refused: {error}")
                continue
            for client in set(clients) - reply.failed.keys():
                self.failed.pop(client, None)  # of another node that failed
            self.failed |= reply.failed
            yield reply

    def _fail(self, clients: Iterable[int], reason: str) -> None:
        reason = " ".join(reason.split())[:MAX_REASON]
        self.failed |= dict.fromkeys(clients, reason)


def _num_bytes(content: RecordDict) -> int:
    return sum(len(array.data) for record in content.array_records.values() for array in record.values())
