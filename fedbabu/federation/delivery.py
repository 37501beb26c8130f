"""The delivery of one task to the nodes: its clients in portions, and those of a node that fails again to others."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, inf
from time import monotonic, sleep

from flwr.app import Message
from flwr.serverapp import Grid

from fedbabu.federation.clients import Federation
from fedbabu.federation.messages import Task, work_seconds
from fedbabu.federation.pace import Pace

# A client whose node has failed is sent to another node, or again to the only one, after so many seconds the first and
# the second time: in a simulation, a worker that died needs some to start again, and fails what it is sent meanwhile.
RESEND_PAUSES = (2.0, 20.0)
EXTRA_SECONDS = 120.0  # that a node may take besides the work of its clients
RECONNECT_SECONDS = 10.0  # that disconnected nodes are given, before their clients fail or a round is repeated
PULL_SECONDS = 1.0  # between two looks for replies in a real federation; a simulation's grid has its own interval
NOT_CONNECTED = "no connected SuperNode offers it"  # the reason with which a client fails

Report = Callable[[int, int, float | None], None]
"""Is called again and again while nodes work: with how many clients are done, of how many, and the estimated seconds
until all are, or None as long as that cannot be estimated."""


@dataclass(frozen=True)
class _Sent:
    """A message that is not answered yet."""

    node: int
    clients: list[int]
    at: float  # monotonic seconds
    limit: float  # seconds within which it must be answered


class Delivery:
    """One task on its way to the nodes.

    Args:
        messages: One message of the task to each node, with the clients that it shall serve.
        federation: The clients and their nodes.
        grid: Flower's grid.
        pace: What is known of the nodes' speed; learns more.
        silent_nodes: Nodes that are used only for clients that no other node can serve; it learns of more.
        client_timeout: The seconds that a client may take for a training round; 0 for any time.
    """

    def __init__(
        self,
        messages: Sequence[Message],
        federation: Federation,
        grid: Grid,
        pace: Pace,
        silent_nodes: set[int],
        client_timeout: float,
    ) -> None:
        self.federation = federation
        self.grid = grid
        self.pace = pace
        self.silent_nodes = silent_nodes
        self.client_timeout = client_timeout
        self.failed: dict[int, str] = {}  # why clients have no reply, or had none from the first node
        self.asked_clients: dict[str, list[int]] = {}  # of each answered message, by the message's id
        tasks = {message.metadata.dst_node_id: Task.from_content(message.content) for message in messages}
        first, *others = tasks.values()
        self._task = first.joined_with(others)
        self._message_type, self._content = messages[0].metadata.message_type, messages[0].content
        self._kind = f"{self._message_type}, personalize = {self._task.personalize}"
        self._waiting = {node: list(task.clients) for node, task in tasks.items()}  # to be sent to each node
        self._sent: dict[str, _Sent] = {}  # the messages that are not answered yet, by id
        self._failing_nodes: set[int] = set()  # answered with an error
        self._failures: Counter[int] = Counter()  # how often each client's node failed
        self._paused: dict[int, float] = {}  # from when on each client whose node failed is sent again

    def run(self, report: Report) -> list[Message]:
        """Send the task's clients to their nodes, portion by portion; returns all replies without an error.

        A node gets its next clients when it has answered. A node that has none left takes some from the node where most
        wait. The clients of a node that fails are sent to another node, or again to the only one. Those of a node that
        does not answer in time are given up.
        """
        replies: list[Message] = []
        started = answered = monotonic()
        connected = monotonic()  # when some node was last busy, or about to be
        while self._send_portions() or self._paused or any(self._waiting.values()):
            answers = list(self.grid.pull_messages(list(self._sent)))
            replies += [answer for answer in answers if self._is_success(answer)]
            self._give_up_silent_nodes()
            if answers:
                answered = monotonic()
            else:
                self._report(report, answered - started, monotonic() - answered)
                sleep(pull_seconds(self.grid))
            if self._sent or self._paused:
                connected = monotonic()
            elif monotonic() - connected > RECONNECT_SECONDS:  # the nodes of those that wait have disconnected
                break
        not_sent = [client for clients in self._waiting.values() for client in clients]
        self.failed |= dict.fromkeys(not_sent, NOT_CONNECTED)
        return replies

    def _report(self, report: Report, seconds: float, seconds_since: float) -> None:
        """Report how many clients are done, and estimate how long the others will take.

        Those that are done were done after some seconds, and some more seconds have passed since.
        """
        num_train = self.federation.num_train
        done = [client for clients in self.asked_clients.values() for client in clients]
        work_done = sum(num_train[client] for client in done)
        work_left = sum(num_train[client] for client in self._task.clients) - work_done
        left = max(0.0, seconds * work_left / work_done - seconds_since) if work_done else None
        report(len(done), len(self._task.clients), left)

    def _send_portions(self) -> bool:
        """Send clients to every node that has nothing to do; returns whether any message is not answered yet."""
        ready = [client for client, until in self._paused.items() if until <= monotonic()]
        self._paused = {client: until for client, until in self._paused.items() if client not in ready}
        self._let_wait(ready)
        busy = {sent.node for sent in self._sent.values()}
        if any(self._waiting.values()):
            for node in sorted(set(self.grid.get_node_ids()) - busy):
                if clients := self._next_clients(node):
                    self._send(node, clients)
        return bool(self._sent)

    def _send(self, node: int, clients: list[int]) -> None:
        """Send a node the task for some of its clients."""
        task = self._task.restricted_to(clients)
        arrays, run_config = self._content.array_records["arrays"], self._content.config_records["run-config"]
        message = Message(task.to_content(arrays, run_config), message_type=self._message_type, dst_node_id=node)
        self.grid.push_messages([message])
        one_after_another = ceil(len(clients) / self.federation.concurrency.get(node, 1))
        work = one_after_another * max(len(task.training_rounds), 1)
        limit = self.client_timeout * work + EXTRA_SECONDS if self.client_timeout else inf
        self._sent[message.metadata.message_id] = _Sent(node, clients, monotonic(), limit)

    def _next_clients(self, node: int) -> list[int]:
        """Take the next portion of the clients that wait for a node, or else half of those that wait for another."""
        waiting, concurrency = self._waiting.get(node, []), self.federation.concurrency.get(node, 1)
        if not waiting and node not in self.silent_nodes | self._failing_nodes:
            longest = max(self._waiting.values(), key=len, default=[])
            able = [client for client in longest if node in self.federation.nodes_of[client]]
            waiting = able[: ceil(len(able) / 2 / concurrency) * concurrency]
        portion = self.pace.portion(node, self._kind, waiting, self.federation.num_train, concurrency)
        for clients in self._waiting.values():
            clients[:] = [client for client in clients if client not in portion]
        return portion

    def _is_success(self, reply: Message) -> bool:
        """Take note of a reply to a message; if it is an error, its clients are sent again after a pause."""
        message_id = reply.metadata.reply_to_message_id
        sent = self._sent.pop(message_id)
        if reply.has_error():
            self._failing_nodes.add(sent.node)
            self._failures.update(sent.clients)
            self.failed |= dict.fromkeys(sent.clients, f"node {sent.node} failed: {reply.error.reason}")
            self._let_wait(self._waiting.pop(sent.node, []))
            for client in sent.clients:
                if (failures := self._failures[client]) <= len(RESEND_PAUSES):
                    self._paused[client] = monotonic() + RESEND_PAUSES[failures - 1]
            return False
        self.silent_nodes.discard(sent.node)
        self.asked_clients[message_id] = sent.clients
        num_examples = sum(self.federation.num_train[client] for client in sent.clients)
        self.pace.note(sent.node, self._kind, num_examples, monotonic() - sent.at, work_seconds(reply.content))
        return True

    def _give_up_silent_nodes(self) -> None:
        """Give up the messages that should have been answered by now; what waits for their nodes goes to others."""
        for message_id, sent in list(self._sent.items()):
            if monotonic() - sent.at > sent.limit:
                del self._sent[message_id]
                self.silent_nodes.add(sent.node)
                reason = f"node {sent.node} did not answer within {sent.limit:.0f} s"
                self.failed |= dict.fromkeys(sent.clients, reason)
                self._let_wait(self._waiting.pop(sent.node, []))

    def _let_wait(self, clients: Sequence[int]) -> None:
        """Let clients wait for nodes, rather for those that have not failed; they fail if no node offers them."""
        if clients:
            unreliable = self.silent_nodes | self._failing_nodes
            assigned = self.federation.assign(clients, set(self.grid.get_node_ids()), unreliable)
            for node, ids in assigned.items():
                self._waiting.setdefault(node, []).extend(ids)
            self.failed |= dict.fromkeys(set(clients).difference(*assigned.values()), NOT_CONNECTED)


def pull_seconds(grid: Grid) -> float:
    """How many seconds to wait before the next look for replies."""
    return getattr(grid, "pull_interval", PULL_SECONDS)
