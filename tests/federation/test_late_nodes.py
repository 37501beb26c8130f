"""Nodes that connect during a run: restarted ones, which have another id without authentication, and late ones."""

from pathlib import Path

import pytest
from support.errors import config_error
from support.faults import stopped_after_round
from support.in_process import InProcessGrid, essence, run_server, tasks
from support.local_data import LOCAL_DATA, nodes_with_local_data
from support.pictures import write_folder


@pytest.fixture
def config(tiny_config) -> dict:
    """Three rounds of two clients, each on a node with local data and with a head that it keeps."""
    return tiny_config | LOCAL_DATA | {"algorithm": "fedper"}


@pytest.fixture
def restarted(monkeypatch, tmp_path):
    """Node configurations: 100 and 101 are there at first; once 101 has trained in the first round, 102 replaces it."""
    monkeypatch.setenv("FEDBABU_STATE", str(tmp_path / "state"))
    monkeypatch.setattr("fedbabu.strategy.RECONNECT_SECONDS", 0.0)
    first, second = nodes_with_local_data(tmp_path)

    def node_ids(grid):
        return [100, 102] if any(m.metadata.dst_node_id == 101 for m, _ in grid.of_type("train")) else [100, 101]

    monkeypatch.setattr(InProcessGrid, "get_node_ids", node_ids)
    return [first, second, dict(second)]


def test_it_serves_its_client_with_the_state_that_it_kept(config, restarted, monkeypatch, capsys):
    run, grid = run_server(config, node_configs=restarted)
    nodes = [message.metadata.dst_node_id for message, _ in grid.of_type("train")]
    trained = [(node, *task.clients) for node, task in zip(nodes, tasks(grid, "train"), strict=True)]
    assert trained == [(100, 0), (101, 1), (100, 0), (102, 1), (100, 0), (102, 1)]
    assert capsys.readouterr().out.count("SuperNode 102 serves client 1 now\n") == 1
    assert [record.failed for record in run.rounds] == [{}, {}, {}]
    monkeypatch.undo()
    monkeypatch.setenv("FEDBABU_STATE", restarted[0]["data-path"] + "-state")
    undisturbed, _ = run_server(
        config | {"results-dir": config["results-dir"] + "-undisturbed"}, node_configs=restarted[:2]
    )
    assert essence(run) == essence(undisturbed)


def test_a_node_with_other_data_is_not_used(config, restarted, tmp_path, capsys):
    restarted[2]["data-path"] = restarted[0]["data-path"]
    run, _ = run_server(config | {"max-round-retries": 0}, node_configs=restarted)
    assert capsys.readouterr().out.count("SuperNode 102 is not used for client 1, whose data were others before\n") == 1
    assert [list(record.failed) for record in run.rounds] == [[], [1], [1]]
    assert run.summary["missing"] == {"1": "no connected SuperNode offers it"}


def test_a_node_that_cannot_take_part_is_named_once(config, restarted, capsys):
    restarted[2]["data-path"] += "-gone"
    run_server(config | {"max-round-retries": 0}, node_configs=restarted)
    assert capsys.readouterr().out.count("SuperNode 102 is not used: ") == 1


@pytest.fixture
def three_owners(monkeypatch, tmp_path):
    """Node configurations of three owners, of whom the third has the classes of the first, and connects in round 2."""
    monkeypatch.setenv("FEDBABU_STATE", str(tmp_path / "state"))
    monkeypatch.setattr("fedbabu.federation.discovery.NODE_WAIT_SECONDS", 0.2)
    nodes = nodes_with_local_data(tmp_path)
    third = tmp_path / "third"
    write_folder(third, size=(16, 16), num=40, labels=[0] * 20 + [1] * 20)
    rounds_before = {"number": 1}

    def node_ids(grid):
        trained = len({task.server_round for task in tasks(grid, "train")})
        return [100, 101, 102] if trained >= rounds_before["number"] else [100, 101]

    monkeypatch.setattr(InProcessGrid, "get_node_ids", node_ids)
    return [*nodes, {"data-path": str(third), "partition-id": 2}], rounds_before


SOME_CLIENTS = {"num-clients": 3, "min-available-clients": 2}


def test_a_run_starts_without_a_client_that_joins_later(config, three_owners, capsys):
    nodes, _ = three_owners
    run, _ = run_server(config | SOME_CLIENTS, node_configs=nodes)
    output = capsys.readouterr().out
    assert "2 of 3 clients (local data)" in output
    assert output.count("SuperNode 102 serves client 2 now, which joins the run\n") == 1
    assert [record.clients for record in run.rounds] == [[0, 1], [0, 1, 2], [0, 1, 2]]
    assert [record["client"] for record in run.clients] == [0, 1, 2]
    assert run.rounds[-1].missing == run.summary["missing"] == {}
    assert sorted(run.client_checksums) == [0, 1, 2]


def test_a_client_that_never_comes_is_missing_at_the_end(config, three_owners, capsys):
    nodes, rounds_before = three_owners
    rounds_before["number"] = 100
    run, _ = run_server(config | SOME_CLIENTS, node_configs=nodes)
    assert "without client 2 (no connected SuperNode offers it)" in capsys.readouterr().out
    assert [record["client"] for record in run.clients] == [0, 1]
    assert run.summary["missing"] == {"2": "no connected SuperNode offers it"}


def test_without_communication_too_a_client_may_be_missing(config, three_owners):
    nodes, rounds_before = three_owners
    rounds_before["number"] = 100
    run, _ = run_server(config | SOME_CLIENTS | {"algorithm": "local-only"}, node_configs=nodes)
    assert [record["client"] for record in run.clients] == [0, 1]
    assert list(run.summary["missing"]) == ["2"]


def test_fewer_than_min_available_clients_are_too_few(config, three_owners):
    nodes, rounds_before = three_owners
    rounds_before["number"] = 100
    with config_error("num-clients = 4", "2 of them (client 2 for one)"):
        run_server(config | {"num-clients": 4, "min-available-clients": 3}, node_configs=nodes)


def test_a_node_that_cannot_be_used_is_left_out_and_named(config, three_owners, capsys):
    nodes, rounds_before = three_owners
    rounds_before["number"] = 0
    nodes[2]["data-path"] += "-gone"
    run, _ = run_server(config | SOME_CLIENTS, node_configs=nodes)
    assert "SuperNode 102 is not used: " in capsys.readouterr().out
    assert [record["client"] for record in run.clients] == [0, 1]


@pytest.mark.parametrize(
    ("size", "labels", "named"),
    [((16, 16), [0] * 20 + [7] * 20, "does not know its classes 7"), ((20, 16), [0] * 40, "images have 20×16 pixels")],
)
def test_a_late_client_that_does_not_fit_is_named_once(config, three_owners, capsys, size, labels, named):
    nodes, _ = three_owners
    write_folder(Path(nodes[2]["data-path"]), size=size, num=40, labels=labels)
    run, _ = run_server(config | SOME_CLIENTS, node_configs=nodes)
    output = capsys.readouterr().out
    assert output.count("SuperNode 102 is not used: ") == 1
    assert named in output
    assert [record["client"] for record in run.clients] == [0, 1]


def test_a_resumed_run_goes_on_without_a_client_and_takes_it_back_with_the_same_data(config, three_owners, capsys):
    nodes, rounds_before = three_owners
    rounds_before["number"] = 0
    config |= {"checkpoint-every": 1}
    with stopped_after_round(1):
        run_server(config | {"num-clients": 3}, node_configs=nodes)
    (folder,) = Path(config["results-dir"]).iterdir()
    rounds_before["number"] = 2  # rounds 2 and 3
    run, _ = run_server(config | SOME_CLIENTS | {"resume": str(folder)}, node_configs=nodes)
    assert "SuperNode 102 serves client 2 now, which joins the run\n" in capsys.readouterr().out
    assert [record.clients for record in run.rounds] == [[0, 1, 2], [0, 1], [0, 1]]
    assert [record["client"] for record in run.clients] == [0, 1, 2]


def test_a_client_with_other_data_than_before_the_run_was_resumed_does_not_join(config, three_owners, capsys):
    nodes, rounds_before = three_owners
    rounds_before["number"] = 0
    with stopped_after_round(1):
        run_server(config | {"num-clients": 3}, node_configs=nodes)
    (folder,) = Path(config["results-dir"]).iterdir()
    nodes[2]["data-path"] = nodes[0]["data-path"]
    with config_error("Clients", "had other data before: 2"):
        run_server(config | {"num-clients": 3, "resume": str(folder)}, node_configs=nodes)
    rounds_before["number"] = 1
    run, _ = run_server(config | SOME_CLIENTS | {"resume": str(folder)}, node_configs=nodes)
    assert capsys.readouterr().out.count("SuperNode 102 is not used for client 2, whose data were others before\n") == 1
    assert list(run.summary["missing"]) == ["2"]
