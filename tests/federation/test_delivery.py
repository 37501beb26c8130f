"""A task is delivered in portions, by the pace of each node; what waits for a node that fails goes to others."""

from collections.abc import Iterable
from math import ceil

import pytest
from flwr.app import ArrayRecord, ConfigRecord, Error, Message, MessageType, MetricRecord, RecordDict
from support.in_process import essence, run_server, tasks

from fedbabu.federation import delivery, pace
from fedbabu.federation.clients import ClientInfo, Federation
from fedbabu.federation.messages import Task
from fedbabu.federation.messenger import NodeMessenger

EXAMPLES = 100  # of each client


class TimedGrid:
    """Nodes that work for a number of seconds on each client, on a clock that only `sleep` moves.

    Args:
        seconds: By node, how long it works on a client; None for a node that never answers.
        overhead: How many seconds a message takes besides.
        failing: The nodes that answer every message with an error, after the overhead.
        concurrency: For how many clients a node works at a time.
    """

    pull_interval = 0.5

    def __init__(
        self,
        seconds: dict[int, float | None],
        overhead: float = 0.0,
        failing: Iterable[int] = (),
        concurrency: int = 1,
    ) -> None:
        self.seconds, self.overhead, self.failing = seconds, overhead, set(failing)
        self.concurrency = concurrency
        self.now = 0.0
        self.sent: list[tuple[int, list[int], float]] = []  # node, clients and time of every message
        self._ready: dict[str, tuple[float, Message]] = {}

    def get_node_ids(self) -> list[int]:
        return list(self.seconds)

    def push_messages(self, messages: Iterable[Message]) -> None:
        for message in messages:
            node, clients = message.metadata.dst_node_id, list(Task.from_content(message.content).clients)
            message.metadata.__dict__["_message_id"] = str(len(self.sent))
            self.sent.append((node, clients, self.now))
            if (seconds := self.seconds[node]) is not None:
                work = 0.0 if node in self.failing else ceil(len(clients) / self.concurrency) * seconds
                content = RecordDict({"metrics": MetricRecord({"seconds": work})})
                reply = Message(content, reply_to=message)
                if node in self.failing:
                    reply = Message(Error(0, "out of memory"), reply_to=message)
                self._ready[message.metadata.message_id] = (self.now + self.overhead + work, reply)

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        ready = [each for each in message_ids if each in self._ready and self._ready[each][0] <= self.now]
        return [self._ready.pop(each)[1] for each in ready]

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def deliver(monkeypatch):
    """A function that delivers a task for clients to the nodes of a TimedGrid, one node for each if `own`."""
    monkeypatch.setattr(pace, "FIRST_PORTION", 1)

    def deliver(grid: TimedGrid, num_clients: int, timeout=0.0, report=lambda *_: None, own=False) -> NodeMessenger:
        monkeypatch.setattr(delivery, "monotonic", lambda: grid.now)
        monkeypatch.setattr(delivery, "sleep", grid.sleep)
        infos = {client: ClientInfo(EXAMPLES, 10, (0,)) for client in range(num_clients)}
        nodes = list(grid.seconds)
        nodes_of = {client: [nodes[client % len(nodes)]] if own else nodes for client in infos}
        federation = Federation(infos, nodes_of, False, "made", (1, 8, 8), ("0",), ("cpu",))
        federation.concurrency.update(dict.fromkeys(nodes, grid.concurrency))
        messenger = NodeMessenger(federation, grid, None, report)
        task = Task(run="", run_id="", server_round=1, clients={client: [0] for client in infos}, training_rounds=[1])
        messages = messenger.messages(MessageType.TRAIN, task, ArrayRecord(), ConfigRecord())
        messenger.send(messages, timeout)
        return messenger

    return deliver


def served(grid: TimedGrid) -> dict[int, int]:
    """How many clients each node was sent."""
    return {node: sum(len(clients) for to, clients, _ in grid.sent if to == node) for node in grid.seconds}


def test_a_node_is_sent_one_client_and_then_as_many_as_take_eight_seconds(deliver):
    grid = TimedGrid({100: 1.0, 101: 1.0})
    messenger = deliver(grid, 40)
    assert [len(clients) for node, clients, _ in grid.sent if node == 100] == [1, 8, 8, 3]
    assert sorted(client for _, clients, _ in grid.sent for client in clients) == list(range(40))
    assert messenger.failed == {}


def test_a_node_that_works_for_several_clients_at_a_time_is_sent_multiples_of_that_number(deliver):
    grid = TimedGrid({100: 3.0, 101: 3.0}, concurrency=3)
    deliver(grid, 30)
    assert [len(clients) for node, clients, _ in grid.sent if node == 100] == [3, 6, 6]
    assert [len(clients) for node, clients, _ in grid.sent if node == 101] == [3, 6, 6]
    assert grid.now == 15


def test_what_fits_into_one_message_is_sent_in_one(deliver):
    grid = TimedGrid({100: 1.0}, concurrency=2)
    deliver(grid, 7)
    assert [len(clients) for _, clients, _ in grid.sent] == [2, 5]


def test_a_node_takes_as_many_clients_from_another_as_it_works_for_at_a_time(deliver):
    """When node 100 has done its 6, the other works for two, and four wait: it takes two, and then two."""
    grid = TimedGrid({100: 0.5, 101: 60.0}, concurrency=2)
    deliver(grid, 12)
    taken = [clients for node, clients, time in grid.sent if node == 100 and time > 0]
    assert all(len(clients) % 2 == 0 for clients in taken)
    assert served(grid) == {100: 10, 101: 2}


def test_clients_at_a_time_need_the_time_of_one(deliver):
    grid = TimedGrid({100: None}, concurrency=3)
    messenger = deliver(grid, 3, timeout=10.0)
    assert messenger.failed == dict.fromkeys(range(3), "node 100 did not answer within 130 s")


def test_a_slow_node_hands_clients_to_a_fast_one(deliver):
    grid = TimedGrid({100: 1.0, 101: 10.0})
    deliver(grid, 44)
    assert served(grid) == {100: 40, 101: 4}
    assert grid.now <= 44  # where halves would have taken 220 s


def test_where_messages_take_long_portions_are_larger(deliver):
    grid = TimedGrid({100: 1.0}, overhead=5.0)
    deliver(grid, 120)
    assert [len(clients) for _, clients, _ in grid.sent] == [1, 50, 50, 19]


def test_a_client_that_takes_longer_than_a_portion_is_sent_alone(deliver):
    grid = TimedGrid({100: 60.0})
    deliver(grid, 3)
    assert [clients for _, clients, _ in grid.sent] == [[0], [1], [2]]


def test_what_waits_for_a_silent_node_goes_to_another(deliver):
    """Only the clients that it was sent are given up, when 1 s for one client and 120 s are over."""
    grid = TimedGrid({100: 1.0, 101: None})
    messenger = deliver(grid, 20, timeout=1.0)
    assert messenger.failed == {1: "node 101 did not answer within 121 s"}
    assert served(grid) == {100: 19, 101: 1}


def test_what_waits_for_a_failing_node_goes_to_another(deliver):
    grid = TimedGrid({100: 1.0, 101: 1.0}, overhead=0.5, failing=[101])
    deliver(grid, 20)
    assert served(grid) == {100: 20, 101: 1}


def test_a_failing_node_is_sent_a_client_three_times_if_there_is_no_other(deliver):
    grid = TimedGrid({100: 1.0}, overhead=0.5, failing=[100])
    messenger = deliver(grid, 2)
    assert served(grid) == {100: 6}
    assert messenger.failed == dict.fromkeys([0, 1], "node 100 failed: out of memory")


def test_clients_that_wait_for_a_node_that_leaves_are_named(deliver):
    grid = TimedGrid({100: 1.0, 101: 1.0})
    grid.get_node_ids = lambda: [100, 101] if grid.now < 1.0 else [100]
    messenger = deliver(grid, 6, own=True)
    assert messenger.failed == dict.fromkeys([3, 5], "no connected SuperNode offers it")


def test_a_node_may_say_anything_about_its_seconds():
    learned = pace.Pace()
    for work_seconds in (float("nan"), -1.0, 0.0, 1e9):
        learned.note(100, "train", 100, 2.0, work_seconds)
        assert len(learned.portion(100, "train", list(range(9)), dict.fromkeys(range(9), 100), 1)) == 4


def test_portions_change_nothing_about_the_results(tiny_config, monkeypatch):
    config = tiny_config | {"fraction-train": 1.0, "algorithm": "fedper"}
    whole, _ = run_server(config)
    monkeypatch.setattr(pace, "FIRST_PORTION", 1)
    monkeypatch.setattr(pace, "PORTION_SECONDS", 0.0)
    monkeypatch.setattr(pace, "PORTION_OVERHEADS", 0)
    one_by_one, grid = run_server(config | {"results-dir": config["results-dir"] + "-one-by-one"})
    assert {len(task.clients) for task in tasks(grid, "train")} == {1}
    assert essence(one_by_one) == essence(whole)


def test_while_nodes_work_the_time_left_is_reported(deliver):
    """The first client is done after 4 s; then the node works on two at a time."""
    reports = {}
    grid = TimedGrid({100: 4.0})
    deliver(grid, 10, report=lambda *report: reports.update({grid.now: report}))
    assert reports[3.0] == (0, 10, None)
    assert reports[10.0] == (1, 10, 30.0)
    assert reports[30.0] == (7, 10, 10.0)
    assert reports[39.5][2] == 0.5
