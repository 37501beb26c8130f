"""Training on the server: on a part of the data after each aggregation, and centralized."""

import pytest
from support import reference
from support.errors import config_error
from support.in_process import run_server
from support.reference_runs import assert_same_state, initial_state, reference_settings, training_data

from fedbabu.config import RunConfig
from fedbabu.models import build_model
from fedbabu.training.server_training import ServerTrainer

CENTRALIZED = {"server-data-fraction": 1.0, "fraction-train": 0.0}


@pytest.fixture
def config(tiny_config):
    """Two rounds of one epoch, so that the learning rate falls once; little evaluation."""
    return tiny_config | {"num-server-rounds": 2, "num-local-epochs": 1, "num-finetune-epochs": 0}


def server_examples(config):
    """The server's images and labels, as the package draws them; which ones it draws is not the reference's."""
    trainer = ServerTrainer.open(RunConfig.from_flower(config), build_model("FourConvNet", (3, 16, 16), 10, 7))
    return trainer.train_examples.images, trainer.train_examples.labels


@pytest.mark.parametrize(
    ("algorithm", "keys", "moves"),
    [
        ("fedavg", {"server-data-fraction": 0.25}, reference.everything),
        ("fedavg", {"server-data-fraction": 0.25, "server-part": "body"}, reference.body),
        ("fedbabu", {"server-data-fraction": 0.1}, reference.body),
        ("fedavg", CENTRALIZED, reference.everything),
        ("fedbabu", CENTRALIZED, reference.body),
        ("fedbabu", CENTRALIZED | {"server-part": "head"}, reference.head),
    ],
)
def test_training_on_the_server_is_that_of_the_reference(config, float64, algorithm, keys, moves):
    config |= {"algorithm": algorithm} | keys
    run, _ = run_server(config)
    training, (images, labels) = training_data(config), server_examples(config)
    assert len(labels) == round(config["server-data-fraction"] * sum(len(y) for _, y in training.values()))
    history, _ = reference.federated(
        algorithm, initial_state(config), training, reference_settings(config),
        rounds=2, fraction=config["fraction-train"], seed=7, server=(images, labels, moves),
    )  # fmt: skip
    assert_same_state(run.model(), history[-1])
    assert all(record.server_loss and record.test_accuracy is not None for record in run.rounds)


def test_the_images_of_the_server_are_distinct_and_of_all_classes(config):
    images, labels = server_examples(config | {"server-data-fraction": 0.5})
    assert len(images.flatten(1).unique(dim=0)) == len(labels) == 48
    assert len(labels.unique()) == 10


def test_a_fraction_of_less_than_one_image_is_refused(config, tmp_path):
    with config_error("server-data-fraction = 0.001", 96):
        run_server(config | {"server-data-fraction": 1e-3})
    assert not list((tmp_path / "results").glob("*"))
