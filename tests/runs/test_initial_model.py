"""The model that training starts from."""

import json

import pytest
import torch
from safetensors.torch import save_file
from support.errors import config_error

from fedbabu.config import RunConfig
from fedbabu.federation.clients import Federation
from fedbabu.runs.initial_model import open_initial_model

DIGITS = Federation({}, {}, False, "digits", (1, 16, 16), tuple(range(10)), ("cpu",))


def initial_state(config: dict, checkpoint=None) -> dict:
    return open_initial_model(RunConfig.from_flower(config), DIGITS, checkpoint).state_dict()


def same(one, other) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture
def fedavg(copied_run):
    """The folder of a finished FedAvg run: that of FedBABU under another name."""
    content = json.loads((copied_run.path / "config.json").read_text())
    content["run-config"] |= {"algorithm": "fedavg", "num-finetune-epochs": 1}
    (copied_run.path / "config.json").write_text(json.dumps(content))
    return copied_run


def test_without_an_initial_model_the_seed_decides(run_config):
    assert same(initial_state(run_config), initial_state(run_config))
    assert not same(initial_state(run_config), initial_state(run_config | {"seed": 8}))


def test_the_initial_model_is_that_of_a_run_or_of_a_file_of_any_program(run_config, copied_run, tmp_path):
    save_file(copied_run.model(), tmp_path / "file.safetensors")
    for path in (copied_run.path, copied_run.path / "model.safetensors", tmp_path / "file.safetensors"):
        assert same(initial_state(run_config | {"initial-model": str(path)}), copied_run.model())


def test_a_checkpoint_comes_before_the_initial_model(run_config, copied_run):
    assert same(initial_state(run_config | {"initial-model": "/gone"}, copied_run.model()), copied_run.model())


def test_lg_fedavg_starts_from_a_run_that_was_trained_like_it(run_config, fedavg):
    config = fedavg.config | {"algorithm": "lg-fedavg", "initial-model": str(fedavg.path), "num-finetune-epochs": 2}
    assert same(initial_state(config), fedavg.model())
    other = config | {"shards-per-client": 2}
    with config_error(fedavg.path, "shards-per-client = 5"):
        initial_state(other)
    assert same(initial_state(other | {"initial-model": str(fedavg.path / "model.safetensors")}), fedavg.model())


@pytest.mark.parametrize(
    ("key", "value"), [("trained-blocks", 2), ("server-data-fraction", 0.1), ("weight-decay", 0.1)]
)
def test_lg_fedavg_does_not_start_from_a_run_that_was_trained_in_another_way(fedavg, key, value):
    config = fedavg.config | {"algorithm": "lg-fedavg", "initial-model": str(fedavg.path)}
    content = json.loads((fedavg.path / "config.json").read_text())
    content["run-config"][key] = value
    (fedavg.path / "config.json").write_text(json.dumps(content))
    with config_error(fedavg.path, f"{key} = {value!r}"):
        initial_state(config)


def test_the_folder_of_a_model_of_another_program_is_refused(run_config, fedavg, tmp_path):
    """Models of Hugging Face have a config.json and a model.safetensors too."""
    (tmp_path / "config.json").write_text('{"model_type": "resnet"}')
    save_file(fedavg.model(), tmp_path / "model.safetensors")
    with config_error(f"initial-model = '{tmp_path}'", "run-config"):
        initial_state(fedavg.config | {"algorithm": "lg-fedavg", "initial-model": str(tmp_path)})


def test_noise_is_not_added_to_running_variances(run_config):
    private = {"dp-clipping-norm": 1.0, "dp-noise-multiplier": 1.0, "aggregation-weights": "clients"}
    initial_state(run_config | private)
    with config_error("dp-noise-multiplier = 1.0", "ResNet10", "running variances"):
        initial_state(run_config | private | {"model-name": "ResNet10"})


def test_lg_fedavg_does_not_start_from_another_algorithm(copied_run):
    with config_error(copied_run.path, "algorithm = 'fedbabu'", "'fedavg'"):
        initial_state(copied_run.config | {"algorithm": "lg-fedavg", "initial-model": str(copied_run.path)})


def test_a_model_of_another_network_is_refused(run_config, copied_run):
    state = copied_run.model()
    state["head.weight"] = state["head.weight"][:5]
    copied_run.write_model(state)
    with config_error(copied_run.path, "head.weight", "(5, 16)", "(10, 16)"):
        initial_state(run_config | {"initial-model": str(copied_run.path)})


@pytest.mark.parametrize("content", [None, b"no safetensors"])
def test_a_file_that_cannot_be_read_is_refused(run_config, tmp_path, content):
    path = tmp_path / "model.safetensors"
    if content is not None:
        path.write_bytes(content)
    with config_error(f"initial-model = '{path}'"):
        initial_state(run_config | {"initial-model": str(path)})


def test_more_trained_blocks_than_the_body_has(run_config):
    with config_error("trained-blocks = 5", "4"):
        initial_state(run_config | {"trained-blocks": 5})
