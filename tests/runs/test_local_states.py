"""`fedbabu state`: the client states that real federations keep on a machine."""

import pytest
from support.errors import config_error
from support.in_process import run_server
from support.local_data import LOCAL_DATA, nodes_with_local_data

from fedbabu.cli import main
from fedbabu.runs.local_states import find_states, local_states


@pytest.fixture
def two_runs(tiny_config, tmp_path, monkeypatch):
    """Two finished runs of FedPer with two clients on nodes with local data, in a state folder of their own."""
    monkeypatch.setenv("FEDBABU_STATE", str(tmp_path / "state"))
    config = tiny_config | LOCAL_DATA | {"algorithm": "fedper", "num-server-rounds": 1, "num-finetune-epochs": 0}
    nodes = nodes_with_local_data(tmp_path)
    return [run_server(config | {"seed": seed}, node_configs=nodes)[0] for seed in (1, 2)]


def printed(capsys, *arguments: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(["state", *arguments])
    assert stopped.value.code == 0
    return capsys.readouterr().out


def test_states_are_listed_by_run(two_runs, capsys):
    assert [states.run_name for states in local_states()] == [run.path.name for run in two_runs]
    lines = printed(capsys).splitlines()
    for run, line in zip(two_runs, lines[2:], strict=True):
        run_id, name, *clients, megabytes, _, _ = line.split()
        assert (run_id, name, clients) == (run.recorded["run-id"], run.path.name, ["0,", "1"])
        assert megabytes == "0.0"


def test_those_of_a_run_are_removed(two_runs, capsys):
    first, second = (run.recorded["run-id"] for run in two_runs)
    text = printed(capsys, "--remove", first)
    assert f"Removed the client states of {first}" in text
    assert [states.run_id for states in local_states()] == [second]
    assert printed(capsys, "--remove", second).endswith("None.\n")


def test_other_folders_are_neither_listed_nor_removed(two_runs, tmp_path, capsys):
    """FEDBABU_STATE may be a folder that has other things in it."""
    (tmp_path / "state" / "photos").mkdir()
    (tmp_path / "state" / "photos" / "1.png").write_bytes(b"1")
    assert "photos" not in printed(capsys)
    with config_error("no client states of photos"):
        find_states(["photos"])


def test_a_run_without_states_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDBABU_STATE", str(tmp_path))
    with config_error("no client states of nothing", tmp_path):
        find_states(["nothing"])


def test_a_run_that_keeps_nothing_leaves_nothing(tiny_config, tmp_path, monkeypatch):
    monkeypatch.setenv("FEDBABU_STATE", str(tmp_path / "state"))
    run_server(tiny_config | LOCAL_DATA | {"num-server-rounds": 1}, node_configs=nodes_with_local_data(tmp_path))
    assert not (tmp_path / "state").exists()
