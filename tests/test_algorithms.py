"""Every row of the table: against an independent reference, against each other, and against what it says it sends."""

from dataclasses import replace

import numpy as np
import pytest
import reference
import torch
from conftest import PROJECT
from flwr.app import MessageType
from in_process import kept_states, run_server
from safetensors.torch import save_file
from test_data import write_folder

from fedbabu import client_app
from fedbabu.algorithms import ALGORITHMS, Algorithm, Part, Phase
from fedbabu.config import RunConfig
from fedbabu.data import data_spec, open_dataset, open_partition
from fedbabu.errors import ConfigError
from fedbabu.models import build_model
from fedbabu.training.server_training import ServerData

EXACT = {"rtol": 1e-8, "atol": 1e-10}
NAMES = list(ALGORITHMS)


def client_data(run_config):
    """Every client's tensors, uint8 images and labels: {id: ((x, y) to train, (x, y) to test)}; and the transform."""
    config = RunConfig.from_flower(run_config)
    dataset = open_dataset(data_spec(config))
    partition = open_partition(dataset, config)

    def tensors(split, client):
        rows = partition.rows[split][client]
        pixels = torch.from_numpy(dataset.images[split][rows]).permute(0, 3, 1, 2)
        return pixels, torch.from_numpy(dataset.labels[split][rows])

    transform = dataset.transform
    pixels = reference.Pixels(transform.mean, transform.std, transform.crop_padding, transform.flip)
    return {client: (tensors("train", client), tensors("test", client)) for client in partition.clients}, pixels


@pytest.fixture(scope="module")
def colours(tmp_path_factory):
    """320 small colour images of ten classes to train on, cropped and mirrored in training."""
    folder = tmp_path_factory.mktemp("colours")
    write_folder(folder, classes=10, size=(16, 16), num=320)
    return {"dataset": str(folder), "image-column": "picture", "label-column": "kind"}


@pytest.fixture
def run_config(run_config, colours):
    """Eight clients with forty images each, three rounds of four."""
    return run_config | colours | {"batch-size": 15}


def initial_model(run_config, image_shape=(3, 16, 16), num_classes=10, seed=None):
    seed = run_config["seed"] if seed is None else seed
    return dict(build_model("FourConvNet", image_shape, num_classes, seed).state_dict())


@pytest.fixture
def float64():
    """The whole run in float64, where ties in ReLU and max-pooling do not blow rounding errors up."""
    torch.set_default_dtype(torch.float64)
    client_app._open_models.cache_clear()
    yield
    torch.set_default_dtype(torch.float32)
    client_app._open_models.cache_clear()


def started(run_config, algorithm, tmp_path):
    """A configuration of an algorithm, and the parameters that it starts from."""
    config = run_config | {"algorithm": algorithm}
    if not ALGORITHMS[algorithm].continues:
        return config, initial_model(config)
    theta = initial_model(config, seed=99)
    save_file({name: value.contiguous() for name, value in theta.items()}, tmp_path / "fedavg.safetensors")
    rounds = 4 * config["num-server-rounds"]
    return config | {"initial-model": str(tmp_path / "fedavg.safetensors"), "num-server-rounds": rounds}, theta


def settings_of(config, pixels, **variants):
    return reference.Settings(
        pixels,
        config["num-local-epochs"],
        config["batch-size"],
        config["learning-rate"],
        config["momentum"],
        **variants,
    )


def stored(run):
    """What each client keeps, by its id."""
    return kept_states(run.path)


def assert_same(state, expected):
    assert state.keys() == expected.keys()
    for name, value in state.items():
        torch.testing.assert_close(value, expected[name], **EXACT)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("algorithm", NAMES)
def test_a_flower_run_matches_the_plain_pytorch_reference(run_config, tmp_path, algorithm):
    config = run_config | {"num-server-rounds": 4, "fraction-train": 0.25}
    config, theta = started(config, algorithm, tmp_path)
    run, _ = run_server(config, num_nodes=3)

    clients, pixels = client_data(config)
    settings = settings_of(config, pixels)
    if algorithm == "lg-fedavg":
        settings = replace(settings, rate=0.001)
    training = {client: train for client, (train, _) in clients.items()}
    if algorithm == "local-only":
        history, kept = [theta] * 4, reference.local_only(theta, training, settings, rounds=4, seed=7)
    else:
        history, kept = reference.federated(algorithm, theta, training, settings, rounds=4, fraction=0.25, seed=7)
        assert 0 < len(kept) < 8 or not ALGORITHMS[algorithm].keeps

    assert_same(run.model(), history[-1])
    assert stored(run).keys() == kept.keys()
    for client, own in kept.items():
        assert_same(stored(run)[client], own)

    final = {client: history[-1] | kept.get(client, {}) for client in clients}
    initial = [reference.score(final[i], pixels.plain(x), y)[0] for i, (_, (x, y)) in clients.items()]
    assert run.rounds[-1]["initial-accuracy"] == pytest.approx(np.mean(initial))
    if not kept:
        for record, theta in zip(run.rounds, history, strict=True):
            accuracy = [reference.score(theta, pixels.plain(x), y)[0] for _, (x, y) in clients.values()]
            assert record["initial-accuracy"] == pytest.approx(np.mean(accuracy))
    for row in run.clients:
        (x, y), (x_test, y_test) = clients[row["client"]]
        test, theta = (pixels.plain(x_test), y_test), final[row["client"]]
        tuning = replace(settings, rate=settings.rate / 100)
        client = reference.Client(x, y, tuning, 7, reference.FINE_TUNING, 4, row["client"])
        tuned = reference.fine_tuned(algorithm, theta, client, 2)
        accuracy, loss = zip(*(reference.score(theta, *test) for theta in tuned), strict=True)
        assert row["accuracy"] == pytest.approx(accuracy)
        assert row["loss"] == pytest.approx(loss, rel=1e-7)
        without_head = reference.accuracy_without_head(theta, (pixels.plain(x), y), test)
        assert row["without-head-accuracy"] == pytest.approx(without_head)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("algorithm", "keys", "variant"),
    [
        ("fedavg", {"head-learning-rate-factor": 0.1}, {"head_factor": 0.1}),
        ("fedper", {"head-learning-rate-factor": 0.1}, {"head_factor": 0.1}),
        ("fedbabu", {"trained-blocks": 2}, {"blocks": 2}),
        ("fedavg", {"trained-blocks": 1}, {"blocks": 1}),
        ("fedbabu", {"momentum": 0.0}, {}),
        ("fedbabu", {"head-init": "similar"}, {}),
        ("per-fedavg", {"head-learning-rate-factor": 0.5}, {"head_factor": 0.5}),
        ("per-fedavg", {"per-fedavg-beta": 0.3}, {"beta": 0.3}),
        ("fedprox", {"proximal-mu": 1.0}, {"mu": 1.0}),
        ("ditto", {"ditto-lambda": 2.0}, {"lam": 2.0}),
        ("fedbsd", {"distillation-weight": 3.0, "distillation-temperature": 5.0}, {"weight": 3.0, "temperature": 5.0}),
        ("fedbsd", {"distillation-divergence": "mse"}, {"squared": True}),
    ],
)
def test_variants_of_local_training_match_the_reference(run_config, algorithm, keys, variant):
    config = run_config | {"algorithm": algorithm} | keys
    run, _ = run_server(config)
    clients, pixels = client_data(config)
    training = {client: train for client, (train, _) in clients.items()}
    theta = dict(build_model("FourConvNet", (3, 16, 16), 10, 7, config["head-init"]).state_dict())
    history, kept = reference.federated(
        algorithm, theta, training, settings_of(config, pixels, **variant), rounds=3, fraction=0.5, seed=7
    )
    assert_same(run.model(), history[-1])
    for client, own in kept.items():
        assert_same(stored(run)[client], own)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("part", ["body", "head", "full"])
def test_the_part_that_is_fine_tuned(run_config, part):
    config = run_config | {"algorithm": "fedavg", "finetune-part": part}
    run, _ = run_server(config)
    clients, pixels = client_data(config)
    moves = {"body": reference.body, "head": reference.head, "full": reference.everything}[part]
    for row in run.clients:
        (x, y), (x_test, y_test) = clients[row["client"]]
        tuning = replace(settings_of(config, pixels), rate=0.01)
        client = reference.Client(x, y, tuning, 7, reference.FINE_TUNING, 3, row["client"])
        tuned = client.sgd(run.model(), moves, epochs=2)
        assert row["loss"][-1] == pytest.approx(reference.score(tuned, pixels.plain(x_test), y_test)[1], rel=1e-7)


def server_examples(config):
    """What the server draws, from the package: the choice of images is not the reference's."""
    from fedbabu.federation.clients import Federation

    checked = RunConfig.from_flower(config)
    federation = Federation({}, {}, False, "colours", (3, 16, 16), 10, ("cpu",))
    data = ServerData.open(checked, federation, build_model("FourConvNet", (3, 16, 16), 10, 7))
    return data.examples.images, data.examples.labels


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("algorithm", "keys", "moves"),
    [
        ("fedavg", {"server-data-fraction": 0.1}, reference.everything),
        ("fedavg", {"server-data-fraction": 0.1, "server-part": "body"}, reference.body),
        ("fedbabu", {"server-data-fraction": 0.05}, reference.body),
        ("fedavg", {"server-data-fraction": 1.0, "fraction-train": 0}, reference.everything),
        ("fedbabu", {"server-data-fraction": 1.0, "fraction-train": 0}, reference.body),
        ("fedbabu", {"server-data-fraction": 1.0, "fraction-train": 0, "server-part": "head"}, reference.head),
    ],
)
def test_training_on_the_server_matches_the_reference(run_config, algorithm, keys, moves):
    config = run_config | {"algorithm": algorithm} | keys
    run, _ = run_server(config)
    clients, pixels = client_data(config)
    training = {client: train for client, (train, _) in clients.items()}
    images, labels = server_examples(config)
    assert len(labels) == round(config["server-data-fraction"] * sum(len(y) for _, y in training.values()))
    history, _ = reference.federated(
        algorithm, initial_model(config), training, settings_of(config, pixels),
        rounds=3, fraction=config["fraction-train"], seed=7, server=(images, labels, moves),
    )  # fmt: skip
    assert_same(run.model(), history[-1])
    assert all("server-loss" in record and "test-accuracy" in record for record in run.rounds)


def test_the_servers_images_are_distinct_and_of_all_classes(run_config):
    images, labels = server_examples(run_config | {"server-data-fraction": 0.1})
    assert len(images.flatten(1).unique(dim=0)) == len(labels) == 32
    assert len(labels.unique()) > 5


def models_of(run):
    return {"global": run.model()} | stored(run)


def assert_identical(one, other):
    """Bit for bit: the global model and what the clients keep."""
    assert models_of(one).keys() == models_of(other).keys()
    for name, state in models_of(other).items():
        assert all(torch.equal(value, state[key]) for key, value in models_of(one)[name].items())


@pytest.mark.parametrize(
    ("algorithm", "keys", "other"),
    [
        ("fedprox", {"proximal-mu": 0.0}, "fedavg"),
        ("fedprox-babu", {"proximal-mu": 0.0}, "fedbabu"),
        ("fedavg", {"head-learning-rate-factor": 0.0}, "fedbabu"),
        ("fedavg", {"server-data-fraction": 0.0, "server-part": "body"}, "fedavg"),
        ("fedbabu", {"trained-blocks": 4}, "fedbabu"),
    ],
)
def test_identities(run_config, algorithm, keys, other):
    one, _ = run_server(run_config | {"algorithm": algorithm} | keys)
    two, _ = run_server(run_config | {"algorithm": other})
    assert_identical(one, two)
    assert one.clients == two.clients


def test_fedrep_without_training_the_head_and_with_one_epoch_is_fedbabu(run_config, monkeypatch):
    config = run_config | {"num-local-epochs": 1}
    headless = replace(ALGORITHMS["fedrep"], trains=(Phase(Part.BODY, epochs=1),))
    monkeypatch.setitem(ALGORITHMS, "fedrep", headless)
    fedrep, _ = run_server(config | {"algorithm": "fedrep"})
    fedbabu, _ = run_server(config | {"algorithm": "fedbabu"})
    assert all(torch.equal(value, fedbabu.model()[name]) for name, value in fedrep.model().items())


def test_ditto_without_its_pull_is_local_training_beside_fedavg(run_config):
    config = run_config | {"fraction-train": 1.0}
    ditto, _ = run_server(config | {"algorithm": "ditto", "ditto-lambda": 0.0})
    local, _ = run_server(config | {"algorithm": "local-only"})
    fedavg, _ = run_server(config | {"algorithm": "fedavg"})
    personal, alone = models_of(ditto), models_of(local)
    assert len(personal) == len(alone) == 9
    for name in personal.keys() - {"global"}:
        assert all(torch.equal(value, alone[name][key]) for key, value in personal[name].items())
    assert all(torch.equal(value, fedavg.model()[name]) for name, value in ditto.model().items())
    assert [row["accuracy"] for row in ditto.clients] == [row["accuracy"] for row in local.clients]


# What DESIGN's table says each row sends; written out here, so that a row cannot agree with itself alone.
SHARES = {
    "fedavg": "full",
    "fedbabu": "body",
    "fedper": "body",
    "lg-fedavg": "head",
    "fedrep": "body",
    "per-fedavg": "full",
    "ditto": "full",
    "local-only": "nothing",
    "fedprox": "full",
    "fedprox-babu": "body",
    "fedbsd": "body",
}


def test_server_data_changes_the_run(run_config):
    one, _ = run_server(run_config)
    two, _ = run_server(run_config | {"server-data-fraction": 0.1})
    assert not torch.equal(one.model()["body.0.0.weight"], two.model()["body.0.0.weight"])


@pytest.mark.parametrize("algorithm", NAMES)
def test_what_is_uploaded_is_what_is_shared(run_config, tmp_path, algorithm):
    config, theta = started(run_config, algorithm, tmp_path)
    run, grid = run_server(config | {"evaluate-every": 0}, num_nodes=8)
    sizes = {name: value.numel() * 4 for name, value in theta.items()}
    expected = {
        "full": sizes,
        "body": {name: size for name, size in sizes.items() if name.startswith("body.")},
        "head": {name: size for name, size in sizes.items() if name.startswith("head.")},
        "nothing": {},
    }[SHARES[algorithm]]
    for _, reply in grid.of_type(MessageType.TRAIN):
        arrays = reply.content["arrays"]
        assert {name: array.numpy().nbytes for name, array in arrays.items()} == expected
    for record in run.rounds:
        # Over the parameters' own bytes there is only the header of each of Flower's arrays.
        headers = record["bytes-received"] - 4 * sum(expected.values())
        assert headers == 4 * 128 * len(expected)


def test_what_the_rows_keep_stays_out_of_every_message(run_config):
    run, grid = run_server(run_config | {"algorithm": "fedper"})
    heads = [state["head.weight"].numpy().tobytes() for state in kept_states(run.path).values()]
    assert len(heads) == len(set(heads)) > 0
    for pair in grid.exchanges:
        for message in pair:
            for record in message.content.array_records.values():
                assert not any(array.numpy().tobytes() in heads for array in record.values())


def test_kept_parts_do_not_depend_on_the_number_of_nodes(run_config):
    runs = [run_server(run_config | {"algorithm": "ditto"}, num_nodes=nodes)[0] for nodes in (2, 8)]
    assert_identical(*runs)
    assert runs[0].clients == runs[1].clients


def test_a_toy_twelfth_algorithm_is_one_declaration(run_config, monkeypatch):
    """It trains the head, then everything toward zero features; it shares the head and keeps the body."""

    def small_features(model, received, batch, config):
        images, labels = batch
        features = model.features(images)
        return torch.nn.functional.cross_entropy(model.head(features), labels) + features.square().mean()

    toy = Algorithm(
        "toy",
        trains=(Phase(Part.HEAD, epochs=1), Phase(Part.FULL, loss=small_features)),
        shares=Part.HEAD,
        keeps=Part.BODY,
        personalizes=(Phase(Part.BODY),),
    )
    monkeypatch.setitem(ALGORITHMS, "toy", toy)
    run, grid = run_server(run_config | {"algorithm": "toy"})
    assert all(set(reply.content["arrays"]) == {"head.weight", "head.bias"} for _, reply in grid.of_type("train"))
    assert all("body.0.0.weight" in state for state in kept_states(run.path).values())
    assert set(run.summary["accuracy"]) == {"without-head", "personalized"}
    assert all(len(row["accuracy"]) == 3 for row in run.clients)


def test_lg_fedavg_continues_a_finished_run_for_a_quarter_of_its_rounds_from_a_hundredth_of_its_rate(run_config):
    config = run_config | {"num-server-rounds": 16, "num-local-epochs": 1, "evaluate-every": 0}
    fedavg, _ = run_server(config | {"algorithm": "fedavg"})
    run, _ = run_server(config | {"algorithm": "lg-fedavg", "initial-model": str(fedavg.path)})
    assert [record["learning-rate"] for record in run.rounds] == pytest.approx([1e-3, 1e-3, 1e-4, 1e-5])
    body = {name: value for name, value in fedavg.model().items() if name.startswith("body.")}
    assert all(torch.equal(value, run.model()[name]) for name, value in body.items())
    assert not torch.equal(run.model()["head.weight"], fedavg.model()["head.weight"])


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"algorithm": "fedbabu"}, "is a run with algorithm = 'fedbabu', but 'lg-fedavg' continues one with 'fedavg'"),
        ({"algorithm": "fedavg", "seed": 1}, "is a run with seed = 1, but 'lg-fedavg' continues one with 7"),
    ],
)
def test_lg_fedavg_continues_no_run_of_another_setting(run_config, keys, sentence):
    config = run_config | {"num-server-rounds": 1, "num-local-epochs": 1, "evaluate-every": 0}
    run, _ = run_server(config | keys)
    with pytest.raises(ConfigError) as error:
        run_server(config | {"algorithm": "lg-fedavg", "initial-model": str(run.path)})
    assert str(error.value).startswith(f"initial-model = '{run.path}' {sentence}")
    run_server(config | {"algorithm": "lg-fedavg", "initial-model": str(run.path / "model.safetensors")})


def test_any_algorithm_can_start_from_a_model(run_config):
    config = run_config | {"num-server-rounds": 1, "num-local-epochs": 1}
    first, _ = run_server(config)
    second, _ = run_server(config | {"initial-model": str(first.path / "model.safetensors")})
    assert torch.equal(second.model()["head.weight"], first.model()["head.weight"])
    assert second.rounds[0]["train-loss"] < first.rounds[0]["train-loss"]


def test_local_only_visits_every_client_once(run_config):
    run, grid = run_server(run_config | {"algorithm": "local-only", "num-clients": 12, "num-local-epochs": 1})
    assert [record["clients"] for record in run.rounds] == [[0, 10], [1, 11], *([client] for client in range(2, 10))]
    assert ["initial-accuracy" in record for record in run.rounds] == [False] * 9 + [True]
    assert set(run.summary["accuracy"]) == {"without-head", "personalized"}
    assert all(len(row["accuracy"]) == 1 for row in run.clients)
    for request, _ in grid.of_type(MessageType.TRAIN):
        assert request.content["task"]["rounds"] == [1, 2, 3]


@pytest.mark.usefixtures("float64")
def test_in_and_out_of_distribution_accuracy(run_config):
    """Table 20: every client is tested on all classes, and its accuracy split by the classes it trains on."""
    config = run_config | {"iid-test-set": True}
    run, _ = run_server(config)
    clients, pixels = client_data(config)
    counts = [np.bincount(y, minlength=10) for _, (_, y) in clients.values()]
    assert np.ptp(counts, axis=0).max() <= 1
    assert np.ptp(np.sum(counts, axis=1)) <= 1
    settings = replace(settings_of(config, pixels), rate=0.01)
    columns = {"id": [], "ood": []}
    for row in run.clients:
        (x, y), (x_test, y_test) = clients[row["client"]]
        client = reference.Client(x, y, settings, 7, reference.FINE_TUNING, 3, row["client"])
        tuned = client.sgd(run.model(), reference.everything, epochs=2)
        for kind in columns:
            chosen = torch.tensor([(label in y) == (kind == "id") for label in y_test])
            # The batch stays whole, since BatchNorm ties it together.
            right = reference.network(tuned, pixels.plain(x_test)).argmax(1) == y_test
            columns[kind].append(100 * right[chosen].double().mean().item())
            assert row[f"{kind}-accuracy"][-1] == pytest.approx(columns[kind][-1])
            assert len(row[f"{kind}-accuracy"]) == 3
    for kind, values in columns.items():
        assert run.summary["accuracy"][f"{kind}-personalized"]["mean"] == pytest.approx(np.mean(values))
        assert f"{kind}-initial" in run.summary["accuracy"]


def test_without_classes_out_of_distribution_there_is_no_such_accuracy(run_config):
    run, _ = run_server(run_config | {"iid-test-set": True, "shards-per-client": 10, "num-clients": 1})
    assert run.clients[0]["ood-accuracy"] == [None, None, None]
    assert "ood-personalized" not in run.summary["accuracy"]
    assert run.summary["accuracy"]["id-personalized"] == run.summary["accuracy"]["personalized"]


CENTRAL = {"fraction-train": 0.0, "server-data-fraction": 1.0}


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"algorithm": "lg-fedavg"}, "continues a finished 'fedavg' run, but initial-model is empty"),
        ({"initial-model": "/nowhere"}, "initial-model = '/nowhere' cannot be read"),
        ({"initial-model": str(PROJECT / "README.md")}, "cannot be read"),
        ({"initial-model": str(PROJECT / "tests")}, "cannot be read"),
        ({"trained-blocks": 5}, "trained-blocks = 5 is more than the body of FourConvNet has: it must be from 1 to 4"),
        ({"fraction-train": 0.0}, "server-data-fraction = 0.0 gives it nothing to train on"),
        ({"server-data-fraction": 0.1, "server-part": "full"}, "'full' trains a part that 'fedbabu' does not share"),
        ({"server-data-fraction": 1e-3}, "server-data-fraction = 0.001 of 320 images is less than one"),
        (CENTRAL | {"algorithm": "ditto"}, "nothing of 'ditto' is left: algorithm must be 'fedavg' or 'fedbabu'"),
        (CENTRAL | {"algorithm": "fedprox"}, "nothing of 'fedprox' is left"),
        (CENTRAL | {"trained-blocks": 1}, "trained-blocks and head-learning-rate-factor are of local training"),
        ({"head-init": "similar", "initial-model": "/a"}, "both say where the head starts"),
        ({"algorithm": "local-only", "server-data-fraction": 0.1}, "'local-only' shares nothing"),
    ],
)
def test_what_does_not_fit_together_is_said_before_anything_runs(run_config, tmp_path, keys, sentence):
    with pytest.raises(ConfigError) as error:
        run_server(run_config | keys)
    assert sentence in str(error.value)
    assert not list((tmp_path / "results").glob("*"))


def test_an_initial_model_of_another_network(run_config, tmp_path):
    state = initial_model(run_config, num_classes=7)
    save_file({name: value.contiguous() for name, value in state.items()}, tmp_path / "other.safetensors")
    with pytest.raises(ConfigError, match=r"its head.bias is \(7,\), this run's is \(10,\)"):
        run_server(run_config | {"initial-model": str(tmp_path / "other.safetensors")})
