"""The tutorials' code is executed as it stands, and does what they say."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from support.in_process import run_server
from support.local_training import TRANSFORM, random_examples, small_model, train_model
from support.pages import snippets
from support.pictures import KNOWN, write_known

from fedbabu import models
from fedbabu.algorithms import ALGORITHMS
from fedbabu.config import RunConfig, default_run_config
from fedbabu.data import known
from fedbabu.data.dataset import open_dataset
from fedbabu.data.source import DataSpec
from fedbabu.models import build_model, networks


@pytest.fixture
def fedsam(monkeypatch) -> dict:
    """What the file of FedSAM defines, with its algorithms among those of the package."""
    defined: dict = {}
    exec(snippets("tutorials/add_an_algorithm.md"), defined)
    for name in ("FEDSAM", "FEDSAM_BABU"):
        monkeypatch.setitem(ALGORITHMS, defined[name].name, defined[name])
    return defined


def test_a_step_of_fedsam_is_that_of_plain_pytorch(fedsam):
    model, reference, examples = small_model(), small_model(), random_examples(8)
    plain = replace(TRANSFORM, crop_padding=0, flip=False)
    train_model(model, examples=examples, transform=plain, phases=fedsam["FEDSAM"].trains, epochs=1, momentum=0.0)
    images, parameters = plain.normalize(examples.images), list(reference.parameters())
    gradients = torch.autograd.grad(F.cross_entropy(reference(images), examples.labels), parameters)
    norm = torch.cat([gradient.flatten() for gradient in gradients]).norm()
    nearby = small_model()
    for parameter, gradient in zip(nearby.parameters(), gradients, strict=True):
        parameter.data += 0.05 * gradient / norm
    gradients = torch.autograd.grad(F.cross_entropy(nearby(images), examples.labels), list(nearby.parameters()))
    for trained, parameter, gradient in zip(model.parameters(), parameters, gradients, strict=True):
        assert torch.allclose(trained, parameter - 0.1 * gradient, atol=1e-6)
        assert not torch.equal(trained, parameter)


def test_fedsam_babu_runs_like_any_algorithm(fedsam, tiny_config):
    run, grid = run_server(tiny_config | {"algorithm": "fedsam-babu"})
    assert {"initial", "without-head", "personalized"} <= run.accuracies().keys()
    assert all("body" in name for _, reply in grid.of_type("train") for name in reply.content["arrays"])
    config = RunConfig.from_flower(default_run_config() | {"algorithm": "fedsam"})
    assert config.algorithm_spec.trains[0].step is fedsam["sharpness_aware_step"]


def test_svhn_is_a_known_dataset(monkeypatch, tmp_path):
    monkeypatch.setattr(known, "KNOWN_DATASETS", entries := dict(known.KNOWN_DATASETS))
    exec(snippets("tutorials/add_a_dataset.md"), {"KNOWN_DATASETS": entries, "KnownDataset": known.KnownDataset})
    svhn = replace(entries["svhn"], num_examples=(20, 20))
    monkeypatch.setitem(known.KNOWN_DATASETS, "svhn", svhn)
    monkeypatch.setattr("fedbabu.data.source.KNOWN_DATASETS", known.KNOWN_DATASETS)
    monkeypatch.setitem(KNOWN, "svhn", ((32, 32, 3), "image", "label", svhn.class_names, {}))
    write_known(tmp_path, "svhn", num=20)
    dataset = open_dataset(DataSpec(str(tmp_path)))
    assert dataset.name == "svhn"
    assert (tuple(dataset.transform.mean), dataset.transform.crop_padding, dataset.transform.flip) == (
        svhn.mean,
        4,
        False,
    )


def test_lenet_trains_with_every_part(monkeypatch):
    names = vars(networks) | vars(models)
    exec(snippets("tutorials/add_a_network.md"), names)
    monkeypatch.setitem(models.MODELS, "LeNet", names["LeNet"])
    model = build_model("LeNet", (1, 28, 28), 10, seed=0)
    assert model(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
    assert (len(model.blocks), model.linear.in_features) == (4, 84)
    assert len(build_model("LeNet", (3, 8, 8), 10, seed=0, head_blocks=2).blocks) == 2
