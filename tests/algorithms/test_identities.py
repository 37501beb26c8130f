"""Algorithms that are equal, bit for bit, when what distinguishes them is switched off."""

from dataclasses import replace

import pytest
import torch
from support.in_process import client_states, run_server

from fedbabu.algorithms import ALGORITHMS, Part, Phase


@pytest.fixture
def tiny_config(tiny_config):
    """Two rounds and one epoch are enough to differ."""
    return tiny_config | {"num-server-rounds": 2, "num-local-epochs": 1, "num-finetune-epochs": 1}


def assert_identical(one, other):
    """Check that two state dicts are equal bit for bit."""
    assert one.keys() == other.keys()
    assert all(torch.equal(value, other[name]) for name, value in one.items())


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
def test_an_algorithm_without_its_own_term_is_another_one(tiny_config, algorithm, keys, other):
    one, _ = run_server(tiny_config | {"algorithm": algorithm} | keys)
    two, _ = run_server(tiny_config | {"algorithm": other})
    assert_identical(one.model(), two.model())
    assert one.clients == two.clients


def test_fedrep_without_training_of_the_head_is_fedbabu_with_one_epoch(tiny_config, monkeypatch):
    without_head = replace(ALGORITHMS["fedrep"], trains=(Phase(Part.BODY, epochs=1),))
    monkeypatch.setitem(ALGORITHMS, "fedrep", without_head)
    fedrep, _ = run_server(tiny_config | {"algorithm": "fedrep"})
    fedbabu, _ = run_server(tiny_config | {"algorithm": "fedbabu"})
    assert_identical(fedrep.model(), fedbabu.model())


def test_ditto_without_its_pull_is_local_training_beside_fedavg(tiny_config):
    config = tiny_config | {"fraction-train": 1.0}
    ditto, _ = run_server(config | {"algorithm": "ditto", "ditto-lambda": 0.0})
    local, _ = run_server(config | {"algorithm": "local-only"})
    fedavg, _ = run_server(config | {"algorithm": "fedavg"})
    assert_identical(ditto.model(), fedavg.model())
    personal, alone = client_states(ditto), client_states(local)
    assert list(personal) == list(alone) == list(range(8))
    for client in personal:
        assert_identical(personal[client], alone[client])
    assert [record["accuracy"] for record in ditto.clients] == [record["accuracy"] for record in local.clients]
