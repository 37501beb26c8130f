"""Every network trains on every known dataset."""

import copy

import numpy as np
import pytest
import torch
from support.local_training import train_model
from support.pictures import KNOWN, write_known

from fedbabu.algorithms import Part
from fedbabu.data.dataset import open_dataset
from fedbabu.data.source import DataSpec
from fedbabu.data.transforms import client_examples
from fedbabu.models import MODELS, build_model
from fedbabu.training.evaluation import ClientEvaluation

DATASETS = ["digits", *KNOWN]
PAIRS = [(network, DATASETS[index % len(DATASETS)]) for index, network in enumerate(MODELS)]
OTHER_PAIRS = [(network, name) for network in MODELS for name in DATASETS if (network, name) not in PAIRS]


@pytest.mark.parametrize(
    ("network", "name"), [*PAIRS, *(pytest.param(*pair, marks=pytest.mark.slow) for pair in OTHER_PAIRS)]
)
def test_a_network_trains_a_step_on_a_dataset(tmp_path_factory, network, name):
    folder = tmp_path_factory.getbasetemp() / f"copy-of-{name}"
    if name == "digits":
        dataset = open_dataset(DataSpec(name))
    else:
        _, image, label, *_ = KNOWN[name]
        place = folder if folder.exists() else write_known(folder, name)
        dataset = open_dataset(DataSpec(str(place), image, label, test_fraction=0.5))
    examples = client_examples(dataset.images["train"], dataset.labels["train"], np.arange(8), torch.device("cpu"))
    model = build_model(network, dataset.image_shape, dataset.num_classes, seed=0)
    before = copy.deepcopy(model.state_dict())
    (loss,) = train_model(model, Part.BODY, examples, dataset.transform, epochs=1)
    assert np.isfinite(loss)
    for key, value in model.state_dict().items():
        if not key.endswith("0.bias"):  # the gradient of a bias before BatchNorm is zero but for rounding errors
            assert torch.equal(value, before[key]) == key.startswith("head.")
    evaluation = ClientEvaluation(model, examples, dataset.transform)
    evaluation.measure()
    assert 0 <= evaluation.result.accuracy[0] <= 100
