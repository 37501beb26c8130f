"""Whole runs in the process of the test: the number of nodes, and data and networks of other shapes."""

import pytest
from support.in_process import essence, run_server
from support.pictures import recognized_with, write_folder, write_known
from support.run_configs import tiny_run_config

SHORT = {"num-server-rounds": 1, "num-local-epochs": 1, "num-finetune-epochs": 1}


@pytest.fixture(scope="module")
def two_nodes(tiny_dataset, tmp_path_factory):
    """What a run on two nodes ends with."""
    config = tiny_run_config(tiny_dataset, tmp_path_factory.mktemp("two-nodes"))
    return essence(run_server(config, num_nodes=2)[0])


@pytest.mark.parametrize("num_nodes", [1, 5, 20])
def test_a_run_does_not_depend_on_the_number_of_nodes(tiny_config, two_nodes, num_nodes):
    """All bits of the model and of the records, after three rounds that are all evaluated."""
    run, _ = run_server(tiny_config, num_nodes=num_nodes)
    assert essence(run) == two_nodes


def test_a_natural_partition_of_small_images_with_figures(run_config, tmp_path, capsys, monkeypatch):
    """MobileNet enlarges images of 28×28 pixels; a client is a writer, with nine tenths of its images for training."""
    recognized_with(monkeypatch, "emnist", num=150)
    dataset = write_known(tmp_path / "letters", "emnist", num=150)
    keys = {"model-name": "MobileNet", "dataset": str(dataset), "partition": "natural", "num-clients": 4}
    run, _ = run_server(run_config | keys | SHORT, figures=True)
    assert run.dataset["name"] == "emnist"
    assert [(record["num-train-examples"], record["num-test-examples"]) for record in run.clients] == [(27, 3)] * 4
    printed = capsys.readouterr().out
    assert "4 clients (natural), 108 training and 12 test images" in printed
    assert "MobileNet: 3,269,950 parameters, images enlarged from 28×28 to 32×32" in printed


def test_owners_with_too_few_images_are_counted_in_the_first_lines(run_config, tmp_path, capsys, monkeypatch):
    """Of five writers, one has 26 training images and the others 27."""
    recognized_with(monkeypatch, "emnist", num=148)
    dataset = write_known(tmp_path / "letters", "emnist", num=148)
    keys = {"dataset": str(dataset), "partition": "natural", "num-clients": 3, "min-examples-per-owner": 27}
    run, _ = run_server(run_config | keys | SHORT)
    assert all(client["num-train-examples"] >= 27 for client in run.clients)
    assert "1 owner with too few images left out (min-examples-per-owner)" in capsys.readouterr().out


def test_mobile_net_on_a_folder_of_colour_images(run_config, tmp_path):
    write_folder(tmp_path / "pets", classes=4, size=(32, 32), num=40)
    keys = {"dataset": str(tmp_path / "pets"), "image-column": "picture", "label-column": "kind", "num-clients": 4}
    run, grid = run_server(run_config | keys | SHORT | {"model-name": "MobileNet", "batch-size": 5})
    assert (run.dataset["name"], run.dataset["image-shape"]) == (keys["dataset"], [3, 32, 32])
    assert [record["num-train-examples"] for record in run.clients] == [10] * 4
    assert all("body" in name for _, reply in grid.of_type("train") for name in reply.content["arrays"])
