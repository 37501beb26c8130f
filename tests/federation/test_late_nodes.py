"""Nodes that connect during a run: restarted ones, which have another id without authentication, and late ones."""

from pathlib import Path

import pytest
from support.errors import config_error
from support.faults import failing_once, node_error, stopped_after_round
from support.in_process import InProcessGrid, essence, run_server, skipped_seconds, tasks
from support.local_data import LOCAL_DATA, nodes_with_local_data
from support.pictures import write_folder

from fedbabu.data.dataset import open_dataset


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
    with config_error("num-clients = 4", "min-available-clients = 3", "2 of them (client 2 for one)"):
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
    [((16, 16), [0] * 20 + [7] * 20, "does not know (7)"), ((20, 16), [0] * 40, "has images of 20×16 pixels")],
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
    with config_error("Clients", "had other data", ": 2."):
        run_server(config | {"num-clients": 3, "resume": str(folder)}, node_configs=nodes)
    rounds_before["number"] = 1
    run, _ = run_server(config | SOME_CLIENTS | {"resume": str(folder)}, node_configs=nodes)
    assert capsys.readouterr().out.count("SuperNode 102 is not used for client 2, whose data were others before\n") == 1
    assert list(run.summary["missing"]) == ["2"]


@pytest.mark.parametrize(
    ("size", "labels", "named"),
    [((20, 16), [0] * 40, "images of 20×16 pixels"), ((16, 16), None, "only the numbers")],
    ids=["another size", "names where others have numbers"],
)
def test_a_node_that_does_not_fit_to_the_others_is_left_out_too(config, three_owners, capsys, size, labels, named):
    nodes, rounds_before = three_owners
    rounds_before["number"] = 0
    write_folder(Path(nodes[2]["data-path"]), size=size, num=40, classes=2, labels=labels)
    run, _ = run_server(config | SOME_CLIENTS, node_configs=nodes)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("SuperNode 102 is not used")]
    assert named in line
    assert [record["client"] for record in run.clients] == [0, 1]


def test_of_two_owners_who_say_to_be_the_same_client_the_later_is_left_out(config, three_owners, capsys):
    nodes, rounds_before = three_owners
    rounds_before["number"] = 0
    nodes[2]["partition-id"] = 1
    run, _ = run_server(config | SOME_CLIENTS, node_configs=nodes)
    assert "SuperNode 102 is not used: Client 1 is on the SuperNodes [101, 102]" in capsys.readouterr().out
    assert [record["num-train-examples"] for record in run.clients] == [40, 40]


def test_a_node_that_was_restarted_while_the_server_waited_is_the_same_client(config, three_owners):
    """Without authentication, it has another id, and Flower does not know yet that the first has gone."""
    nodes, rounds_before = three_owners
    rounds_before["number"] = 0
    run, _ = run_server(config, node_configs=[*nodes[:2], dict(nodes[1])])
    assert [record["client"] for record in run.clients] == [0, 1]


def test_a_node_that_dies_while_it_is_asked_is_asked_again(config, three_owners, capsys):
    nodes, _ = three_owners
    run, _ = run_server(config | SOME_CLIENTS, node_configs=nodes, fault=failing_once(102))
    assert "serves client 2 now" in capsys.readouterr().out
    assert [record["client"] for record in run.clients] == [0, 1, 2]


def test_a_silent_node_does_not_hold_up_a_run_that_may_start_without_it(config, three_owners):
    nodes, rounds_before = three_owners
    rounds_before["number"] = 0
    silent = lambda message, reply: None if message.metadata.dst_node_id == 102 else reply  # noqa: E731
    before = skipped_seconds[0]
    run, _ = run_server(config | SOME_CLIENTS, node_configs=nodes, fault=silent)
    assert skipped_seconds[0] - before < 200  # of the 3600 that it may take
    assert list(run.summary["missing"]) == ["2"]


def test_without_communication_a_late_client_trains_when_it_joins(config, three_owners):
    nodes, rounds_before = three_owners
    rounds_before["number"] = 2  # its own round would be the first of two
    keys = {"algorithm": "local-only", "num-clients": 3, "min-available-clients": 2}
    run, _ = run_server(config | keys, node_configs=nodes)
    assert [record.clients for record in run.rounds] == [[0], [1], [2]]
    assert [record["client"] for record in run.clients] == [0, 1, 2]


def test_a_node_that_comes_back_with_other_data_under_its_id_is_asked_again(config, three_owners, monkeypatch, capsys):
    nodes, _ = three_owners
    good, nodes[2]["data-path"] = nodes[2]["data-path"], nodes[2]["data-path"] + "-gone"

    def node_ids(grid):
        trained = len({task.server_round for task in tasks(grid, "train")})
        nodes[2]["data-path"] = good if trained > 1 else nodes[2]["data-path"]  # its owner has corrected it
        return [100, 101] if trained == 1 else [100, 101, 102]

    monkeypatch.setattr(InProcessGrid, "get_node_ids", node_ids)
    run, _ = run_server(config | SOME_CLIENTS, node_configs=nodes)
    assert capsys.readouterr().out.count("SuperNode 102 is not used") == 1
    assert [record["client"] for record in run.clients] == [0, 1, 2]


def test_what_the_run_folder_says_of_all_clients_counts_those_who_joined(config, three_owners):
    nodes, _ = three_owners
    write_folder(Path(nodes[2]["data-path"]), size=(16, 16), num=80, labels=[0] * 40 + [1] * 40)
    run, _ = run_server(config | SOME_CLIENTS, node_configs=nodes)
    assert run.dataset["num-train-examples"] == 160
    assert not run.recorded["clients-hold-equally-many"]


def test_a_resume_with_images_of_another_size_is_refused(config, three_owners):
    nodes, rounds_before = three_owners
    rounds_before["number"] = 100
    config |= SOME_CLIENTS | {"num-clients": 4, "checkpoint-every": 1}
    with stopped_after_round(1):
        run_server(config, node_configs=nodes)
    (folder,) = Path(config["results-dir"]).iterdir()
    for node, number in zip(nodes, (2, 3), strict=False):
        node["partition-id"] = number
        write_folder(Path(node["data-path"]), size=(20, 20), num=40, labels=[0] * 20 + [2] * 20)
    open_dataset.cache_clear()  # as in the new processes of a real resume
    with config_error("images of another size"):
        run_server(config | {"resume": str(folder)}, node_configs=nodes)


def test_a_simulation_too_may_be_resumed_with_a_client_that_was_missing(tiny_config, monkeypatch):
    monkeypatch.setattr("fedbabu.federation.discovery.NODE_WAIT_SECONDS", 0.2)
    config = tiny_config | {"min-available-clients": 7, "checkpoint-every": 1}
    without_103 = lambda message, reply: node_error(message) if message.metadata.dst_node_id == 103 else reply  # noqa: E731
    with stopped_after_round(1):
        run_server(config, num_nodes=8, fault=without_103)
    (folder,) = Path(config["results-dir"]).iterdir()
    run, _ = run_server(config | {"resume": str(folder)}, num_nodes=8)
    assert len(run.clients) == 8
