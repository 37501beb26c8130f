"""Clients are assigned to the nodes that can serve them, with even numbers of examples."""

import pytest
from flwr.app import MessageType
from hypothesis import given
from hypothesis import strategies as st
from support.in_process import run_server, tasks

from fedbabu.federation.clients import ClientInfo, Federation


def federation(num_train, nodes_of):
    """A federation of clients with these numbers of training examples, on these nodes."""
    clients = {client: ClientInfo(num, 1, (0,)) for client, num in enumerate(num_train)}
    return Federation(clients, dict(enumerate(nodes_of)), False, "made", (1, 8, 8), tuple(range(10)), ("cpu",))


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=30), st.integers(1, 6))
def test_every_client_is_assigned_once_and_nodes_differ_by_at_most_the_largest_client(num_train, num_nodes):
    nodes = list(range(num_nodes))
    assigned = federation(num_train, [nodes] * len(num_train)).assign(range(len(num_train)), nodes)
    assert sorted(client for clients in assigned.values() for client in clients) == list(range(len(num_train)))
    loads = [sum(num_train[client] for client in assigned.get(node, [])) for node in nodes]
    assert max(loads) - min(loads) <= max(num_train)


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=30), st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_nodes_are_busy_for_about_equally_long_if_they_work_for_several_clients_at_a_time(num_train, concurrency):
    nodes = list(range(len(concurrency)))
    clients = federation(num_train, [nodes] * len(num_train))
    clients.concurrency.update(enumerate(concurrency))
    assigned = clients.assign(range(len(num_train)), nodes)
    assert sorted(client for clients in assigned.values() for client in clients) == list(range(len(num_train)))
    per_place = [sum(num_train[client] for client in assigned.get(node, [])) / concurrency[node] for node in nodes]
    assert max(per_place) - min(per_place) <= max(num_train)


def test_a_node_gets_so_many_equal_clients_that_it_works_for_as_many_as_it_can_at_a_time():
    clients = federation([500] * 10, [[1, 2]] * 10)
    clients.concurrency.update({1: 2, 2: 2})
    assert {node: len(assigned) for node, assigned in clients.assign(range(10), {1, 2}).items()} == {1: 6, 2: 4}


def test_a_client_is_assigned_only_to_connected_nodes_that_can_serve_it():
    clients = federation([5, 5, 5], [[1], [1, 2], [3]])
    assert clients.assign([0, 1, 2], {1, 2}) == {1: [0], 2: [1]}


def test_unreliable_nodes_get_a_client_only_if_no_other_node_can_serve_it():
    clients = federation([5, 5, 5], [[1], [1, 2], [1, 2]])
    assert clients.assign([0, 1, 2], {1, 2}, unreliable_nodes={1}) == {1: [0], 2: [1, 2]}


@pytest.mark.parametrize(("num_nodes", "shares"), [(4, [2, 2, 2, 2]), (8, [1] * 8), (20, [1] * 8)])
def test_each_node_gets_one_message_with_an_even_share_of_the_clients(tiny_config, num_nodes, shares):
    config = tiny_config | {"fraction-train": 1.0, "num-server-rounds": 1, "num-finetune-epochs": 0}
    run, grid = run_server(config, num_nodes=num_nodes)
    sent = tasks(grid, MessageType.TRAIN)
    assert [len(task.clients) for task in sent] == shares
    assert sorted(client for task in sent for client in task.clients) == list(range(8))
    assert run.recorded["federation"]["num-supernodes"] == len(shares)


def test_with_a_node_per_client_each_node_serves_its_own(tiny_config):
    _, grid = run_server(tiny_config | {"num-server-rounds": 1, "num-finetune-epochs": 0}, num_nodes=8)
    for message, _ in grid.of_type(MessageType.TRAIN):
        (task,) = [
            task for task in tasks(grid, MessageType.TRAIN) if message.metadata.dst_node_id - 100 in task.clients
        ]
        assert list(task.clients) == [message.metadata.dst_node_id - 100]
