"""Sending a task to the nodes: one message per node, and again to other nodes if a node fails."""

from collections.abc import Collection, Iterable, Iterator
from typing import Any, TypeVar

from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from fedbabu.federation.clients import Federation
from fedbabu.federation.messages import EvaluateReply, Task, TrainReply
from fedbabu.federation.reply_checks import ReplyError, shorten

RESENDS = 2  # how many times the clients of a failed node are sent to another node, or again to the only one
EXTRA_SECONDS = 120.0  # that a node may take besides the work of its clients
NOT_CONNECTED = "no connected SuperNode offers it"  # the reason with which a client fails

Reply = TypeVar("Reply", TrainReply, EvaluateReply)


class NodeMessenger:
    """Sends tasks to the nodes, collects their replies, and knows which clients were not served, and why."""

    def __init__(self, federation: Federation, grid: Grid) -> None:
        self.federation = federation
        self.grid = grid
        self.failed: dict[int, str] = {}  # why clients of the task sent last have no result
        self.bytes_sent = self.bytes_received = 0  # in the arrays of that task's messages and of the replies
        self._silent_nodes: set[int] = set()  # did not answer in time when they were last sent a message
        self._asked_clients: dict[str, list[int]] = {}  # of each answered message, by the message's id

    def messages(
        self, message_type: str, task: Task, global_model: ArrayRecord, run_config: ConfigRecord
    ) -> list[Message]:
        """One message to each connected node, with its share of a new task's clients; a client without a node fails."""
        self.failed, self._asked_clients = {}, {}
        self.bytes_sent = self.bytes_received = 0
        return self._assign(message_type, task, global_model, run_config, self._silent_nodes)

    def _assign(
        self,
        message_type: str,
        task: Task,
        global_model: ArrayRecord,
        run_config: ConfigRecord,
        unreliable_nodes: Collection[int],
    ) -> list[Message]:
        """One message to each node that gets some of the clients of a task."""
        assigned = self.federation.assign(task.clients, set(self.grid.get_node_ids()), unreliable_nodes)
        self._fail(set(task.clients).difference(*assigned.values()), NOT_CONNECTED)
        contents = {
            node: task.restricted_to(ids).to_content(global_model, run_config) for node, ids in assigned.items()
        }
        return [Message(content, message_type=message_type, dst_node_id=node) for node, content in contents.items()]

    def send(self, messages: Iterable[Message], client_timeout: float) -> list[Message]:
        """Send the messages of a task and collect the replies.

        The clients of a node that fails are sent to another node, or again to the only one. The clients of a node that
        does not answer in time are given up: it may take client_timeout seconds per client and training round, and some
        more, or any time if client_timeout is 0.
        """
        replies: list[Message] = []
        failing_nodes: set[int] = set()
        waiting = list(messages)
        for resend in range(1 + RESENDS):
            tasks = [Task.from_content(message.content) for message in waiting]
            most_work = max((len(task.clients) * max(len(task.training_rounds), 1) for task in tasks), default=0)
            limit = client_timeout * most_work + EXTRA_SECONDS if client_timeout else float("inf")
            self.bytes_sent += sum(_num_bytes(message.content) for message in waiting)
            answers = {
                reply.metadata.reply_to_message_id: reply
                for reply in self.grid.send_and_receive(waiting, timeout=limit)
            }
            unserved: list[tuple[Message, Task]] = []
            for message, task in zip(waiting, tasks, strict=True):
                node, reply = message.metadata.dst_node_id, answers.get(message.metadata.message_id)
                if reply is None:
                    within = f" within {limit:.0f} s" if client_timeout else ""
                    self._fail(task.clients, f"node {node} did not answer{within}")
                    self._silent_nodes.add(node)
                elif reply.has_error():
                    self._fail(task.clients, f"node {node} failed: {reply.error.reason}")
                    failing_nodes.add(node)
                    unserved.append((message, task))
                else:
                    self.bytes_received += _num_bytes(reply.content)
                    self._asked_clients[message.metadata.message_id] = list(task.clients)
                    self._silent_nodes.discard(node)
                    replies.append(reply)
            if not unserved or resend == RESENDS:
                break
            unreliable, waiting = self._silent_nodes | failing_nodes, []
            for message, task in unserved:
                global_model, run_config = (
                    message.content.array_records["arrays"],
                    message.content.config_records["run-config"],
                )
                waiting += self._assign(message.metadata.message_type, task, global_model, run_config, unreliable)
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
                self._fail(clients, f"the reply of node {message.metadata.src_node_id} is refused: its {error}")
                continue
            for client in set(clients) - reply.failed.keys():
                self.failed.pop(client, None)  # another node had failed to serve it
            self.failed |= reply.failed
            yield reply

    def _fail(self, clients: Iterable[int], reason: str) -> None:
        self.failed |= dict.fromkeys(clients, shorten(reason))


def _num_bytes(content: RecordDict) -> int:
    """Bytes of all arrays."""
    return sum(len(array.data) for record in content.array_records.values() for array in record.values())
