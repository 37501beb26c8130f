"""Sending a task to the nodes that can serve its clients, and checking what they answer."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

from flwr.app import ArrayRecord, ConfigRecord, Message
from flwr.serverapp import Grid

from fedbabu.config import RunConfig
from fedbabu.federation.clients import Federation
from fedbabu.federation.delivery import NOT_CONNECTED, Delivery, Report
from fedbabu.federation.late_nodes import LateNodes
from fedbabu.federation.messages import EvaluateReply, Task, TrainReply
from fedbabu.federation.pace import Pace
from fedbabu.federation.reply_checks import ReplyError, one_line

Reply = TypeVar("Reply", TrainReply, EvaluateReply)


class NodeMessenger:
    """Sends tasks to the nodes, collects their replies, and knows which clients were not served, and why."""

    def __init__(self, federation: Federation, grid: Grid, config: RunConfig, report: Report) -> None:
        self.federation = federation
        self.grid = grid
        self.failed: dict[int, str] = {}  # why clients of the task sent last have no result
        self._report = report
        self.late_nodes = LateNodes(grid, config, federation)
        self._pace = Pace()
        self._silent_nodes: set[int] = set()  # did not answer in time when they were last sent a message
        self._asked_clients: dict[str, list[int]] = {}  # of each answered message, by the message's id

    def messages(
        self, message_type: str, task: Task, global_model: ArrayRecord, run_config: ConfigRecord
    ) -> list[Message]:
        """One message to each connected node, with its share of a new task's clients; a client without a node fails."""
        assigned = self.federation.assign(task.clients, set(self.grid.get_node_ids()), self._silent_nodes)
        self.failed = dict.fromkeys(set(task.clients).difference(*assigned.values()), NOT_CONNECTED)
        contents = {
            node: task.restricted_to(ids).to_content(global_model, run_config) for node, ids in assigned.items()
        }
        return [Message(content, message_type=message_type, dst_node_id=node) for node, content in contents.items()]

    def send(self, messages: Iterable[Message], client_timeout: float) -> list[Message]:
        """Deliver a task, given as a message to each node, in portions; returns all replies without an error.

        A client may take client_timeout seconds for a training round, or any time if that is 0.
        """
        if not (messages := list(messages)):
            return []
        delivery = Delivery(messages, self.federation, self.grid, self._pace, self._silent_nodes, client_timeout)
        replies = delivery.run(self._report)
        self._asked_clients = delivery.asked_clients
        self._fail(delivery.failed)
        return replies

    def parse(self, replies: Iterable[Message], kind: type[Reply], *expected: Any) -> Iterator[Reply]:
        """Unpack replies one by one, because they may be large, and check them; the clients of a refused reply fail.

        `expected` are further arguments of the `parse` method of TrainReply or EvaluateReply.
        """
        for message in replies:
            clients = self._asked_clients[message.metadata.reply_to_message_id]
            try:
                reply = kind.parse(message.content, clients, *expected)
            except ReplyError as error:
                refused = f"the reply of node {message.metadata.src_node_id} is refused: its {error}"
                self._fail(dict.fromkeys(clients, refused))
                continue
            for client in set(clients) - reply.failed.keys():
                self.failed.pop(client, None)  # another node had failed to serve it
            self.failed |= reply.failed
            yield reply

    def _fail(self, reasons: Mapping[int, str]) -> None:
        self.failed |= {client: one_line(reason) for client, reason in reasons.items()}
