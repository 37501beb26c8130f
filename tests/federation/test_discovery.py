"""Discovery: which clients the nodes can serve, and what is wrong with nodes that do not fit together."""

import json

import pytest
from flwr.app import ConfigRecord
from support.errors import config_error
from support.faults import failing_once, forge_replies, node_error
from support.in_process import run_server
from support.local_data import LOCAL_DATA, nodes_with_local_data

# A change of a node's description, and what the error must name. In JSON, the keys of objects are texts.
FORGERIES = [
    ({"clients": {"0": {"num_train": 9, "num_test": 9, "classes": ["a"], "checksum": ""}}}, "clients.0.classes"),
    ({"clients": {"0": {"num_train": -1, "num_test": 9, "classes": [1], "checksum": ""}}}, "clients.0.num_train"),
    ({"clients": {"0": {"num_train": 9, "classes": [1], "checksum": ""}}}, "clients.0.num_test"),
    ({"clients": {"x": {"num_train": 9, "num_test": 9, "classes": [1], "checksum": ""}}}, "clients.x"),
    ({"class_names": []}, "class_names"),
    ({"class_names": ["cat", 1]}, "class_names"),
    ({"image_shape": [1, 16]}, "image_shape"),
    ({"image_shape": [1, 16, 0]}, "image_shape"),
    ({"local_data": "yes"}, "local_data"),
    ({"device": 3}, "device"),
    ({"concurrency": 0}, "concurrency"),
    ({"speed": 3}, "speed"),
]


@pytest.mark.parametrize(("change", "named"), FORGERIES)
def test_a_forged_description_of_a_node_is_refused_by_name(tiny_config, change, named):
    def forgery(content):
        described = json.loads(str(content["content"]["json"])) | change
        content["content"] = ConfigRecord({"json": json.dumps(described)})

    with config_error("node 101", "refused", named):
        run_server(tiny_config, fault=forge_replies(forgery, "query"))


def test_a_class_without_a_name_is_refused(tiny_config):
    def forgery(content):
        described = json.loads(str(content["content"]["json"]))
        described["clients"]["7"]["classes"] = [0, 10]
        content["content"] = ConfigRecord({"json": json.dumps(described)})

    with config_error("Node 101", "class 10", "names 10 classes"):
        run_server(tiny_config, fault=forge_replies(forgery, "query"))


def test_a_client_that_is_not_below_num_clients_is_refused(tiny_config):
    def forgery(content):
        described = json.loads(str(content["content"]["json"]))
        described["clients"]["8"] = described["clients"].pop("7")
        content["content"] = ConfigRecord({"json": json.dumps(described)})

    with config_error("num-clients = 8", "client 8", "101"):
        run_server(tiny_config, fault=forge_replies(forgery, "query"))


def test_a_node_that_fails_is_asked_again(tiny_config, monkeypatch):
    monkeypatch.setattr("fedbabu.federation.discovery.sleep", lambda seconds: None)
    run, _ = run_server(tiny_config | {"num-server-rounds": 1, "num-finetune-epochs": 0}, fault=failing_once(100, 101))
    assert len(run.clients) == 8


def test_clients_on_no_node_are_named_with_the_reason_of_nodes_that_fail(tiny_config, monkeypatch):
    monkeypatch.setattr("fedbabu.federation.discovery.NODE_WAIT_SECONDS", 0.2)

    def fault(message, reply):
        return node_error(message) if message.metadata.dst_node_id == 103 else reply

    with config_error("num-clients = 8", "client 3", "7 connected", "Node 103", "The actor died"):
        run_server(tiny_config, num_nodes=8, fault=fault)


def test_nodes_that_belong_to_a_larger_simulation_are_refused(tiny_config, monkeypatch):
    monkeypatch.setattr("fedbabu.federation.discovery.NODE_WAIT_SECONDS", 0.2)
    nodes = [{"partition-id": 0, "num-partitions": 3}, {"partition-id": 1, "num-partitions": 3}]
    with config_error("2 connected SuperNodes"):
        run_server(tiny_config, node_configs=nodes)


@pytest.mark.parametrize(
    ("client_ids", "named"),
    [
        ((0, 0), ["Client 0", "[100, 101]", "partition-id"]),
        ((0, 2), ["partition-id = 2", "num-clients - 1 = 1"]),
        ((0, None), ["partition-id = None", "num-clients - 1 = 1"]),
        ((0, "1"), ["partition-id = '1'"]),
    ],
)
def test_nodes_with_local_data_must_be_different_clients(tiny_config, tmp_path, client_ids, named):
    with config_error(*named):
        run_server(tiny_config | LOCAL_DATA, node_configs=nodes_with_local_data(tmp_path, client_ids))


def test_images_of_different_shapes_are_refused(tiny_config, tmp_path):
    def forgery(content):
        described = json.loads(str(content["content"]["json"])) | {"image_shape": [3, 20, 16]}
        content["content"] = ConfigRecord({"json": json.dumps(described)})

    with config_error("SuperNode 100 has images of 16×16", "SuperNode 101 has images of 20×16 pixels in colour"):
        run_server(
            tiny_config | LOCAL_DATA,
            node_configs=nodes_with_local_data(tmp_path),
            fault=forge_replies(forgery, "query"),
        )
