"""Nodes that die, do not answer or leave: their clients go to other nodes, or are left out and named."""

import pytest
from support.faults import node_error
from support.in_process import InProcessGrid, essence, run_server, tasks

from fedbabu.federation.messages import Task


def test_the_clients_of_a_node_that_dies_are_sent_to_another(tiny_config):
    """Node 101 fails whenever it is asked to train, and the run ends as a run without faults."""

    def fault(message, reply):
        dies = message.metadata.dst_node_id == 101 and message.metadata.message_type == "train"
        return node_error(message) if dies else reply

    run, _ = run_server(tiny_config, fault=fault)
    undisturbed, _ = run_server(tiny_config | {"results-dir": tiny_config["results-dir"] + "-without-faults"})
    assert essence(run) == essence(undisturbed)


@pytest.mark.parametrize(("num_failures", "attempts"), [(2, 1), (3, 2)])
def test_an_only_node_is_sent_its_clients_three_times_in_all(tiny_config, num_failures, attempts):
    """It fails in the first round; if it fails three times, the round is repeated with other clients."""
    failures_left = {1: num_failures, 2: 0}

    def fault(message, reply):
        if message.metadata.message_type == "train":
            server_round = Task.from_content(message.content).server_round
            failures_left[server_round] -= 1
            if failures_left[server_round] >= 0:
                return node_error(message)
        return reply

    run, _ = run_server(tiny_config | {"num-server-rounds": 2}, num_nodes=1, fault=fault)
    assert [record.attempts for record in run.rounds] == [attempts, 1]
    failed = run.rounds[0].failed
    assert len(failed) == (0 if attempts == 1 else 4)
    assert all("node 100 failed" in reason for reason in failed.values())
    assert not failed.keys() & run.rounds[0].clients


def test_the_clients_of_a_silent_node_are_left_out_once(tiny_config):
    """From then on, the other node gets all clients."""

    def fault(message, reply):
        silent = message.metadata.dst_node_id == 101 and message.metadata.message_type == "train"
        return None if silent else reply

    run, _ = run_server(tiny_config | {"client-timeout": 30.0}, fault=fault)
    reasons = set(run.rounds[0].failed.values())
    assert len(run.rounds[0].failed) == 2
    assert reasons == {"node 101 did not answer within 180 s"}
    assert [record.failed for record in run.rounds[1:]] == [{}, {}]


def test_a_client_whose_node_left_is_left_out_and_named(tiny_config, monkeypatch):
    """Of eight nodes with one client each, one leaves after the first round."""
    monkeypatch.setattr("fedbabu.strategy.RECONNECT_SECONDS", 0.0)
    left, node_ids = set(), InProcessGrid.get_node_ids
    monkeypatch.setattr(InProcessGrid, "get_node_ids", lambda grid: [n for n in node_ids(grid) if n not in left])

    def fault(message, reply):
        if message.metadata.message_type == "evaluate" and message.metadata.dst_node_id == 105:
            left.add(105)
        return reply

    config = tiny_config | {"fraction-train": 1.0, "num-server-rounds": 2}
    run, grid = run_server(config, num_nodes=8, fault=fault)
    assert run.rounds[0].failed == {}
    assert run.rounds[1].failed.keys() == {5}
    assert "no connected SuperNode" in run.rounds[1].failed[5]
    assert run.summary["missing"].keys() == {"5"}
    assert [list(task.clients) for task in tasks(grid, "train")].count([5]) == 1
