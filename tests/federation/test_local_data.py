"""Nodes with local data, as in a real federation."""

import json
import re
from pathlib import Path

import pytest
from flwr.app import Context, MessageType, RecordDict
from safetensors.torch import load_file
from support.errors import config_error
from support.faults import fail_clients
from support.in_process import run_server, tasks
from support.local_data import LOCAL_DATA, nodes_with_local_data
from support.pictures import write_folder

from fedbabu.client_work import without_paths
from fedbabu.data.dataset import open_dataset
from fedbabu.errors import ConfigError, RunError
from fedbabu.runs.folder import RunFolder


@pytest.fixture
def config(tiny_config):
    """Two rounds of two clients, each on a node with local data."""
    return tiny_config | LOCAL_DATA | {"num-server-rounds": 2}


def test_each_node_trains_its_own_client(config, tmp_path, capsys):
    run, grid = run_server(config, node_configs=nodes_with_local_data(tmp_path))
    assert [record["classes"] for record in run.clients] == [[0, 1], [2, 3]]
    assert [record["num-train-examples"] for record in run.clients] == [40, 40]
    assert (run.dataset["name"], run.dataset["num-classes"]) == ("own-data", 4)
    assert "2 clients (local data), 80 training and 80 test images" in capsys.readouterr().out
    assert [list(task.clients) for task in tasks(grid, MessageType.TRAIN)] == [[0], [1]] * 2


def test_client_states_stay_in_the_folder_of_the_node(config, tmp_path, monkeypatch):
    monkeypatch.setenv("FEDBABU_STATE", str(tmp_path / "state"))
    run, _ = run_server(config | {"algorithm": "fedper"}, node_configs=nodes_with_local_data(tmp_path))
    assert not (run.path / "clients").exists()
    saved = sorted((tmp_path / "state" / run.recorded["run-id"] / "clients").iterdir())
    assert [path.name for path in saved] == ["0", "1"]
    for path in saved:
        assert load_file(path / "round-2.safetensors").keys() == {"head.weight", "head.bias"}


def test_a_folder_for_client_states_that_cannot_be_written_is_named_before_training(config, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FEDBABU_STATE", str(tmp_path / "file" / "state"))
    with config_error("FEDBABU_STATE", "state: Not a directory"):
        run_server(config | {"algorithm": "fedper"}, node_configs=nodes_with_local_data(tmp_path))


@pytest.fixture
def on_another_machine(monkeypatch):
    """Nodes do not see the folders of the server."""
    unseen = {"is_dir": lambda path: False, "exists": lambda path: False}
    monkeypatch.setattr("fedbabu.client_work.Path", type("PathOnAnotherMachine", (type(Path()),), unseen))


KEEPING = [{"algorithm": "fedper"}, {"algorithm": "fedbabu", "keep-personalized": True}]


@pytest.mark.parametrize("keys", KEEPING)
@pytest.mark.parametrize(("num_nodes", "ray"), [(2, False), (8, True)])
def test_nodes_that_do_not_see_the_results_dir_cannot_keep_anything_there(
    tiny_config, monkeypatch, on_another_machine, keys, num_nodes, ray
):
    """A client would otherwise be trained from the state that another machine saved long ago.

    Ray gives a node's next message to any of its machines.
    """
    monkeypatch.setattr("fedbabu.client_work.is_ray_worker", lambda: ray)
    with config_error("does not see", tiny_config["results-dir"], *list(keys)[-1:]):
        run_server(tiny_config | keys, num_nodes=num_nodes)


@pytest.mark.parametrize(("num_nodes", "ray"), [(2, False), (8, True)])
def test_a_machine_that_no_node_was_asked_on_does_not_lose_states_either(tiny_config, monkeypatch, num_nodes, ray):
    """The nodes answered on the server's machine, and are given their first training on another."""
    monkeypatch.setattr("fedbabu.client_work.is_ray_worker", lambda: ray)
    monkeypatch.setattr("fedbabu.federation.delivery.RESEND_PAUSES", ())
    without_folders = type("PathOnAnotherMachine", (type(Path()),), {"is_dir": lambda path: False})
    monkeypatch.setattr("fedbabu.client_work.Path", without_folders)
    with pytest.raises(RunError, match=r"does not see the run folder .*fedper"):
        run_server(tiny_config | {"algorithm": "fedper", "max-round-retries": 0}, num_nodes=num_nodes)


def test_nothing_needs_to_be_seen_if_nothing_is_kept(tiny_config, monkeypatch, on_another_machine):
    monkeypatch.setattr("fedbabu.client_work.is_ray_worker", lambda: True)
    run, _ = run_server(tiny_config, num_nodes=2)
    assert len(run.clients) == 8


def test_a_client_whose_data_change_during_the_run_is_left_out(config, tmp_path, monkeypatch):
    """Its node keeps its id, and is therefore not asked again."""
    nodes = nodes_with_local_data(tmp_path)
    append = RunFolder.append_round

    def append_and_change(run, record):
        append(run, record)
        if record.round == 1:
            write_folder(Path(nodes[1]["data-path"]), size=(16, 16), num=40, labels=[2] * 20 + [3] * 20)
            open_dataset.cache_clear()

    monkeypatch.setattr(RunFolder, "append_round", append_and_change)
    run, _ = run_server(config, node_configs=nodes)
    assert [list(record.failed) for record in run.rounds] == [[], [1]]
    assert "its data have changed" in run.rounds[1].failed[1]
    assert list(run.summary["missing"]) == ["1"]


@pytest.mark.parametrize("key", ["server-data-fraction", "record"])
def test_what_needs_images_on_the_server_is_refused(config, tmp_path, key):
    value = {"server-data-fraction": 0.5, "record": "features"}[key]
    with config_error(key, "server"):
        run_server(config | {key: value}, node_configs=nodes_with_local_data(tmp_path))


@pytest.mark.parametrize("data_path", ["digits", "gone", 5])
def test_local_data_are_in_a_folder(config, tmp_path, data_path):
    """Without one, a name would be that of a dataset which all nodes can read."""
    nodes = nodes_with_local_data(tmp_path)
    nodes[1]["data-path"] = data_path
    with config_error(f"data-path = '{data_path}'", "is no folder there"):
        run_server(config, node_configs=nodes)


def test_the_path_of_the_data_does_not_leave_the_node(config, tmp_path, monkeypatch):
    fail_clients(monkeypatch, {1}, OSError(f"cannot read {tmp_path}/owner1/cat/1.png"))
    run, grid = run_server(config, node_configs=nodes_with_local_data(tmp_path))
    for message, reply in grid.exchanges:
        if message.metadata.dst_node_id == 101:
            texts = [record["json"] for record in reply.content.config_records.values()]
            assert texts
            assert not [text for text in texts if str(tmp_path / "owner1") in text]
    assert run.rounds[0].failed == {1: "OSError: cannot read owner1/cat/1.png"}


# Every number and text that a node sends, by the name of its record and its place in the JSON; * stands for any number.
SENT = {
    "query": {
        "clients.*.num_train", "clients.*.num_test", "clients.*.classes.*", "clients.*.checksum", "dataset",
        "image_shape.*", "class_names.*", "mean.*", "std.*", "tested_classes.*", "notes.*", "num_nodes", "local_data",
        "device", "concurrency",
    },
    "train": {"results.*.loss", "num_examples", "metrics.num-examples", "metrics.seconds"},
    "evaluate": {
        "results.*.accuracy.*", "results.*.loss.*", "results.*.without_head_accuracy", "metrics.seconds",
    },
}  # fmt: skip


def places(value, place=()):
    """The places of all numbers and texts in JSON data."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {found for key, each in items for found in places(each, (*place, "*" if str(key).isdigit() else key))}
    return {".".join(map(str, place))}


@pytest.mark.parametrize("algorithm", ["fedbabu", "fedper", "fedavg"])
def test_nothing_leaves_a_node_but_what_the_page_says(config, tmp_path, algorithm, monkeypatch):
    """Every message of a whole run, recorded: parameters have the names of the shared part, all else is in SENT."""
    monkeypatch.setenv("FEDBABU_STATE", str(tmp_path / "state"))
    keys = {"algorithm": algorithm, "keep-personalized": True}
    run, grid = run_server(config | keys, node_configs=nodes_with_local_data(tmp_path))
    shared = run.run_config.algorithm_spec.shares.names(run.model())
    for kind, allowed in SENT.items():
        assert len(grid.of_type(kind)) >= 2
        for _, reply in grid.of_type(kind):
            content = reply.content
            sent = places(json.loads(str(content.config_records["content"]["json"])))
            sent |= {f"metrics.{name}" for record in content.metric_records.values() for name in record}
            assert {re.sub(r"(without_head_accuracy)\..*", r"\1", place) for place in sent} <= allowed
            arrays = {name for record in content.array_records.values() for name in record}
            assert arrays == (set(shared) if kind == "train" else set())
            assert content.keys() <= {"content", "metrics", "arrays"}


def test_a_refusal_names_the_data_without_their_path(config, tmp_path):
    nodes = nodes_with_local_data(tmp_path)
    nodes[1]["data-path"] = str(tmp_path / "nothing")
    with pytest.raises(ConfigError, match=r"'nothing'") as refused:
        run_server(config, node_configs=nodes)
    assert str(tmp_path) not in str(refused.value)


@pytest.mark.parametrize(
    ("data_path", "text", "shown"),
    [
        ("/data/mine", "/data/mine/cats/1.png is damaged", "mine/cats/1.png is damaged"),
        ("/data/mine/", "dataset = '/data/mine' is empty: give another", "dataset = 'mine' is empty: give another"),
        ("/data/mine", "/data/mine2/1.png is another's", "/data/mine2/1.png is another's"),
        ("/", "/a/b.png is damaged", "/a/b.png is damaged"),
        (".", "client-timeout = 3600.0 s. See ./x.png", "client-timeout = 3600.0 s. See ./x.png"),
    ],
)
def test_only_whole_paths_are_replaced(data_path, text, shown):
    context = Context(run_id=1, node_id=1, node_config={"data-path": data_path}, state=RecordDict(), run_config={})
    assert without_paths(text, context) == shown


def test_an_error_of_any_kind_has_no_path_of_the_node(config, tmp_path, monkeypatch):
    nodes = nodes_with_local_data(tmp_path)
    states = tmp_path / "states"
    monkeypatch.setenv("FEDBABU_STATE", str(states))

    def fail(*arguments):
        raise PermissionError(13, "Permission denied", str(states / "clients" / "1"))

    monkeypatch.setattr("fedbabu.client_work._folder_for_what_is_kept", fail)
    with pytest.raises(RunError) as stopped:
        run_server(config, node_configs=nodes)
    assert "states/clients/1" in str(stopped.value)
    assert str(tmp_path) not in str(stopped.value).split("node 1")[1]
