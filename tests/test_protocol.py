"""The whole protocol on a small federation, against an independent reference and against itself."""

from pathlib import Path

import numpy as np
import pytest
import reference
import torch
from flwr.app import MessageType
from in_process import InProcessGrid, run_server
from test_data import write_folder

from fedbabu import client_app
from fedbabu.data import open_dataset, open_partition
from fedbabu.errors import ConfigError
from fedbabu.models import build_model
from fedbabu.results import RunFolder


def client_data(run_config):
    """Every client's tensors, uint8 images and labels: {id: ((x, y) to train, (x, y) to test)}; and the transform."""
    dataset = open_dataset(run_config["dataset"], run_config["image-column"], run_config["label-column"])
    partition = open_partition(dataset, run_config["num-clients"], run_config["shards-per-client"], run_config["seed"])

    def tensors(split, client):
        rows = partition.rows[split][client]
        pixels = torch.from_numpy(dataset.images[split][rows]).permute(0, 3, 1, 2)
        return pixels, torch.from_numpy(dataset.labels[split][rows])

    transform = dataset.transform
    pixels = reference.Pixels(transform.mean, transform.std, transform.crop_padding, transform.flip)
    return {client: (tensors("train", client), tensors("test", client)) for client in partition.clients}, pixels


def initial_model(run_config, image_shape=(1, 16, 16), num_classes=10):
    return dict(build_model("FourConvNet", image_shape, num_classes, run_config["seed"]).state_dict())


@pytest.fixture
def float64():
    """The whole run in float64, where ties in ReLU and max-pooling do not blow rounding errors up."""
    torch.set_default_dtype(torch.float64)
    client_app._open_model.cache_clear()
    yield
    torch.set_default_dtype(torch.float32)
    client_app._open_model.cache_clear()


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("data", ["digits", "colour images, cropped and flipped"])
@pytest.mark.parametrize("algorithm", ["fedbabu", "fedavg"])
def test_flower_run_matches_the_plain_pytorch_reference(run_config, tmp_path, algorithm, data):
    config = run_config | {"algorithm": algorithm, "num-clients": 16, "fraction-train": 0.25, "batch-size": 25}
    shape = (1, 16, 16)
    if data != "digits":
        write_folder(tmp_path / "colours", classes=10, size=(16, 16), num=640)
        config |= {"dataset": str(tmp_path / "colours"), "image-column": "picture", "label-column": "kind"}
        shape = (3, 16, 16)
    run, _ = run_server(config, num_nodes=3)

    clients, pixels = client_data(config)
    theta = initial_model(config, shape)
    trained = [name for name in theta if algorithm == "fedavg" or name.startswith("body.")]
    history, last_rate = reference.federated(
        theta, {client: train for client, (train, _) in clients.items()}, pixels, trained,
        rounds=3, fraction=0.25, epochs=2, batch_size=25, rate=0.1, momentum=0.9, seed=7,
    )  # fmt: skip

    for name, value in run.model().items():
        torch.testing.assert_close(value, history[-1][name], rtol=1e-8, atol=1e-10)
    for record, theta in zip(run.rounds, history, strict=True):
        initial = [reference.score(theta, pixels.plain(x), y)[0] for _, (x, y) in clients.values()]
        assert record["initial-accuracy"] == pytest.approx(np.mean(initial))
    theta = history[-1]
    assert last_rate == pytest.approx(0.01)
    for row in run.clients:
        (x, y), (x_test, y_test) = clients[row["client"]]
        test = pixels.plain(x_test), y_test
        scores = [reference.score(theta, *test)]
        for epochs in (1, 2):
            generator = reference.stream(7, reference.FINE_TUNING, 3, row["client"])
            tuned = reference.sgd(theta, x, y, pixels, list(theta), epochs, 25, last_rate, 0.9, generator)
            scores.append(reference.score(tuned, *test))
        accuracy, loss = zip(*scores, strict=True)
        assert row["accuracy"] == pytest.approx(accuracy)
        assert row["loss"] == pytest.approx(loss, rel=1e-7)
        without_head = reference.accuracy_without_head(theta, (pixels.plain(x), y), test)
        assert row["without-head-accuracy"] == pytest.approx(without_head)


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
            assert mine["train-loss"] == pytest.approx(its["train-loss"], abs=1e-12)


def test_another_seed_gives_another_run(run_config):
    one, _ = run_server(run_config)
    other, _ = run_server(run_config | {"seed": 8})
    assert not torch.equal(one.model()["body.0.0.weight"], other.model()["body.0.0.weight"])


def test_each_node_gets_one_message_and_an_even_share(run_config):
    _, grid = run_server(run_config | {"fraction-train": 1.0, "num-server-rounds": 1}, num_nodes=4)
    shares = [request.content["config"]["clients"] for request, _ in grid.of_type(MessageType.TRAIN)]
    assert sorted(client for share in shares for client in share) == list(range(8))
    assert [len(share) for share in shares] == [2, 2, 2, 2]


def test_with_a_node_per_client_each_node_trains_its_own(run_config):
    _, grid = run_server(run_config, num_nodes=8)
    for request, reply in grid.of_type(MessageType.TRAIN):
        assert request.content["config"]["clients"] == [request.metadata.dst_node_id - 100]
        assert {array.dtype for array in reply.content["arrays"].values()} == {"float32"}


def test_learning_rates_reach_the_clients(run_config):
    config = run_config | {"num-server-rounds": 8, "evaluate-every": 0, "num-local-epochs": 1}
    run, grid = run_server(config)
    rates = [record["learning-rate"] for record in run.rounds]
    assert rates == pytest.approx([0.1] * 4 + [0.01] * 2 + [0.001] * 2)
    sent = {r.content["config"]["server_round"]: r.content["config"]["learning_rate"] for r, _ in grid.of_type("train")}
    assert list(sent.values()) == pytest.approx(rates)
    (finetune_rate,) = {r.content["config"]["learning_rate"] for r, _ in grid.of_type("evaluate")}
    assert finetune_rate == pytest.approx(0.001)


@pytest.mark.usefixtures("float64")
def test_momentum_is_not_carried_between_rounds(run_config):
    """A client sampled in two rounds starts both from rest, as it does in the reference."""
    config = run_config | {"num-clients": 1, "fraction-train": 1.0, "num-server-rounds": 2, "num-local-epochs": 1}
    run, _ = run_server(config, num_nodes=1)
    clients, pixels = client_data(config)
    theta = initial_model(config)
    trained = [name for name in theta if name.startswith("body.")]
    history, _ = reference.federated(
        theta, {0: clients[0][0]}, pixels, trained,
        rounds=2, fraction=1.0, epochs=1, batch_size=40, rate=0.1, momentum=0.9, seed=7,
    )  # fmt: skip
    expected = history[-1]["body.3.0.weight"]
    torch.testing.assert_close(run.model()["body.3.0.weight"], expected, rtol=1e-8, atol=1e-10)


def test_a_failing_node_stops_the_run_and_is_named(run_config, monkeypatch):
    def fail(*_):
        raise RuntimeError("out of memory")

    monkeypatch.setattr("fedbabu.client_app._Node.train", fail)
    with pytest.raises(RuntimeError, match=r"Node 10[01] failed.*out of memory"):
        run_server(run_config)


def test_a_node_that_does_not_reply_stops_the_run(run_config, monkeypatch):
    everything = InProcessGrid.send_and_receive

    def lossy(grid, messages, *, timeout=None):
        replies = everything(grid, messages)
        return replies[:1] if replies and replies[0].metadata.message_type == MessageType.TRAIN else replies

    monkeypatch.setattr(InProcessGrid, "send_and_receive", lossy)
    with pytest.raises(RuntimeError, match="Only 1 of 2 nodes replied"):
        run_server(run_config)


def test_the_model_is_kept_when_the_final_evaluation_fails(run_config, monkeypatch):
    def fail(*_):
        raise RuntimeError("out of memory")

    monkeypatch.setattr("fedbabu.client_app.evaluate_personalized", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        run_server(run_config)
    (folder,) = Path(run_config["results-dir"]).iterdir()
    assert set(RunFolder(folder).model()) == set(initial_model(run_config))
    assert len(RunFolder(folder).rounds) == 2


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
        "fedbabu on own-data: 2 clients with data of their own, 80 training and 80 test images"
        in capsys.readouterr().out
    )
    assert (run.dataset["name"], run.dataset["num-classes"]) == ("own-data", 4)
    for request, _ in grid.of_type(MessageType.TRAIN):
        assert request.content["config"]["clients"] == [request.metadata.dst_node_id - 100]


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
