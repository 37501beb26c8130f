"""A SuperNode that is restarted without authentication has another id: it is asked again when its client is missing."""

import pytest
from support.in_process import InProcessGrid, essence, run_server, tasks
from support.local_data import LOCAL_DATA, nodes_with_local_data


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
