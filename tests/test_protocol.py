"""The whole protocol on a small federation, against an independent reference and against itself."""

from pathlib import Path

import pytest
import torch
from flwr.app import MessageType
from in_process import run_server
from pictures import write_known
from safetensors.torch import load_file
from test_data import write_folder

from fedbabu.errors import ConfigError, RunError
from fedbabu.models import build_model
from fedbabu.runs.folder import RunFolder


def initial_model(run_config):
    return dict(build_model("FourConvNet", (1, 16, 16), 10, run_config["seed"]).state_dict())


def test_fedbabus_head_never_moves_and_never_travels_up(run_config):
    run, grid = run_server(run_config)
    initial, final = initial_model(run_config), run.model()
    assert torch.equal(final["head.weight"], initial["head.weight"])
    assert torch.equal(final["head.bias"], initial["head.bias"])
    assert not torch.equal(final["body.0.0.weight"], initial["body.0.0.weight"])
    body = {name for name in initial if name.startswith("body.")}
    for request, reply in grid.of_type(MessageType.TRAIN):
        assert set(request.content["arrays"]) == set(initial)
        assert set(reply.content["arrays"]) == body


def test_fedavg_moves_and_sends_everything(run_config):
    run, grid = run_server(run_config | {"algorithm": "fedavg"})
    initial = initial_model(run_config)
    assert not torch.equal(run.model()["head.weight"], initial["head.weight"])
    for _, reply in grid.of_type(MessageType.TRAIN):
        assert set(reply.content["arrays"]) == set(initial)


def test_results_do_not_depend_on_the_number_of_nodes(run_config):
    runs = [run_server(run_config, num_nodes=nodes)[0] for nodes in (2, 5, 20)]
    for other in runs[1:]:
        for name, value in runs[0].model().items():
            assert torch.equal(value, other.model()[name])
        assert runs[0].clients == other.clients
        for mine, its in zip(runs[0].rounds, other.rounds, strict=True):
            assert mine["clients"] == its["clients"]
            assert mine["train-loss"] == its["train-loss"]


def test_another_seed_gives_another_run(run_config):
    one, _ = run_server(run_config)
    other, _ = run_server(run_config | {"seed": 8})
    assert not torch.equal(one.model()["body.0.0.weight"], other.model()["body.0.0.weight"])


def test_each_node_gets_one_message_and_an_even_share(run_config):
    _, grid = run_server(run_config | {"fraction-train": 1.0, "num-server-rounds": 1}, num_nodes=4)
    shares = [request.content["task"]["clients"] for request, _ in grid.of_type(MessageType.TRAIN)]
    assert sorted(client for share in shares for client in share) == list(range(8))
    assert [len(share) for share in shares] == [2, 2, 2, 2]


def test_with_a_node_per_client_each_node_trains_its_own(run_config):
    _, grid = run_server(run_config, num_nodes=8)
    for request, reply in grid.of_type(MessageType.TRAIN):
        assert request.content["task"]["clients"] == [request.metadata.dst_node_id - 100]
        assert {array.dtype for array in reply.content["arrays"].values()} == {"float32"}


def test_the_model_is_kept_when_the_final_evaluation_fails(run_config, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("out of memory")

    monkeypatch.setattr("fedbabu.client_app.evaluate_personalized", fail)
    with pytest.raises(RunError, match=r"No client could be evaluated after round 3: clients 0, 1, .*out of memory"):
        run_server(run_config)
    (folder,) = Path(run_config["results-dir"]).iterdir()
    assert set(RunFolder(folder).model()) == set(initial_model(run_config))
    assert len(RunFolder(folder).rounds) == 2


def test_a_natural_partition_of_small_images_from_start_to_end(run_config, tmp_path, capsys):
    config = run_config | {
        "model-name": "MobileNet",
        "dataset": str(write_known(tmp_path / "letters", "emnist", num=300)),
        "partition": "natural",
        "num-clients": 4,
        "num-server-rounds": 1,
        "num-local-epochs": 1,
        "num-finetune-epochs": 1,
    }
    run, _ = run_server(config)
    assert run.dataset["name"] == "emnist"
    assert [(row["num-train-examples"], row["num-test-examples"]) for row in run.clients] == [(54, 6)] * 4
    printed = capsys.readouterr().out
    assert "fedbabu on emnist: 4 clients (natural), 216 training and 24 test images" in printed
    assert "MobileNet: 3,269,950 parameters, images enlarged from 28×28 to 32×32;" in printed


def test_mobile_net_on_a_local_folder_of_coloured_images(run_config, tmp_path):
    write_folder(tmp_path / "pets", classes=4, size=(32, 32), num=80)
    config = run_config | {
        "model-name": "MobileNet",
        "dataset": str(tmp_path / "pets"),
        "image-column": "picture",
        "label-column": "kind",
        "num-clients": 4,
        "num-server-rounds": 1,
        "num-local-epochs": 1,
        "num-finetune-epochs": 1,
        "batch-size": 10,
    }
    run, grid = run_server(config)
    assert (run.dataset["name"], run.dataset["image-shape"]) == (config["dataset"], [3, 32, 32])
    assert [row["num-train-examples"] for row in run.clients] == [20] * 4
    assert all("body" in name for _, reply in grid.of_type("train") for name in reply.content["arrays"])


def owners(tmp_path, numbers=(0, 1)):
    """Nodes as in a real federation: each with a folder of its own, sorted by class, and classes of its own."""
    configs = []
    for index, number in enumerate(numbers):
        folder = tmp_path / f"owner{index}"
        write_folder(folder, size=(16, 16), num=40, labels=[2 * index] * 20 + [2 * index + 1] * 20)
        configs.append({"data-path": str(folder), "partition-id": number})
    return configs


OWNERS = {"dataset": "pets", "image-column": "picture", "label-column": "kind", "num-clients": 2, "fraction-train": 1.0}


def test_nodes_with_data_of_their_own_are_a_real_federation(run_config, tmp_path, capsys):
    run, grid = run_server(run_config | OWNERS, node_configs=owners(tmp_path))
    assert [row["classes"] for row in run.clients] == [[0, 1], [2, 3]]
    assert [row["num-train-examples"] for row in run.clients] == [40, 40]
    assert (
        "fedbabu on own-data: 2 clients (data of their own), 80 training and 80 test images" in capsys.readouterr().out
    )
    assert (run.dataset["name"], run.dataset["num-classes"]) == ("own-data", 4)
    for request, _ in grid.of_type(MessageType.TRAIN):
        assert request.content["task"]["clients"] == [request.metadata.dst_node_id - 100]


def test_what_an_owner_keeps_stays_in_its_own_folder(run_config, tmp_path, monkeypatch):
    monkeypatch.setenv("FEDBABU_STATE", str(tmp_path / "state"))
    run, _ = run_server(run_config | OWNERS | {"algorithm": "fedper"}, node_configs=owners(tmp_path))
    assert not (run.path / "clients").exists()
    kept = sorted((tmp_path / "state" / run.run_id / "clients").iterdir())
    assert [path.name for path in kept] == ["0", "1"]
    assert all(load_file(path / "round-3.safetensors").keys() == {"head.weight", "head.bias"} for path in kept)


def test_an_owner_that_cannot_keep_anything_says_so_before_training(run_config, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FEDBABU_STATE", str(tmp_path / "file" / "state"))
    with pytest.raises(
        ConfigError, match=r"keeps \(FEDBABU_STATE\) cannot be written \(.*/file/state: Not a directory\)"
    ):
        run_server(run_config | OWNERS | {"algorithm": "fedper"}, node_configs=owners(tmp_path))


def test_nodes_on_other_machines_cannot_share_what_clients_keep(run_config, monkeypatch):
    """A node that offers several clients and does not see the run folder would train some with a stale part."""
    elsewhere = type("Elsewhere", (type(Path()),), {"is_dir": lambda path: False})
    monkeypatch.setattr("fedbabu.client_app.Path", elsewhere)
    with pytest.raises(RunError, match=r"Nodes that share clients must share the run folder .*'fedper' keeps"):
        run_server(run_config | {"algorithm": "fedper"}, num_nodes=2)


@pytest.mark.parametrize(
    ("numbers", "sentence"),
    [
        ((0, 0), r"Client 0 is on the SuperNodes \[100, 101\], but one's own data have one owner"),
        ((0, 2), r"partition-id = 2: it must be its client's number, from 0 to num-clients - 1 = 1\."),
        ((0, None), "partition-id = None: it must be its client's number"),
    ],
)
def test_owners_must_be_different_clients(run_config, tmp_path, monkeypatch, numbers, sentence):
    monkeypatch.setattr("fedbabu.server_app.NODE_WAIT_SECONDS", 0.2)
    with pytest.raises(ConfigError, match=sentence):
        run_server(run_config | OWNERS, node_configs=owners(tmp_path, numbers))
