"""When two runs have the same setting, and when a run has the numbers that are wanted."""

import pytest

from fedbabu.config import default_run_config
from fedbabu.runs.settings import (
    comparable,
    different_training_key,
    finetunes_epoch_by_epoch,
    has_results_for,
    keys_read,
    setting_of,
)

DEFAULT = default_run_config()


def run_config(**keys) -> dict:
    return DEFAULT | {key.replace("_", "-"): value for key, value in keys.items()}


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"dataset": "/elsewhere"},
        {"results_dir": "elsewhere"},
        {"evaluate_every": 1},
        {"client_timeout": 1.0},
        {"record": "similarity"},
        {"proximal_mu": 9.0},  # of another algorithm
        {"dirichlet_beta": 9.0},  # of another partition
        {"server_part": "body"},  # without data on the server
        {"finetune_part": "full"},  # what FedBABU fine-tunes anyway
        {"cuda_graph": True},  # a key of version 1.0
    ],
)
def test_the_setting_is_the_same_if_no_number_depends_on_the_difference(change):
    assert setting_of(run_config(**change)) == setting_of(DEFAULT)


@pytest.mark.parametrize(
    "change",
    [
        {"algorithm": "fedprox-babu"},
        {"shards_per_client": 5},
        {"num_local_epochs": 10},
        {"finetune_part": "head"},
        {"num_finetune_epochs": 1},
        {"head_init": "orthogonal"},
        {"precision": "bf16"},
    ],
)
def test_other_settings(change):
    assert setting_of(run_config(**change)) != setting_of(DEFAULT)


def test_a_coefficient_and_an_option_count_where_they_are_read():
    assert keys_read(run_config(algorithm="fedprox"))["proximal-mu"] == DEFAULT["proximal-mu"]
    assert keys_read(run_config(partition="dirichlet"))["dirichlet-beta"] == DEFAULT["dirichlet-beta"]
    assert "shards-per-client" not in keys_read(run_config(partition="dirichlet"))


def test_without_communication_only_the_number_of_all_epochs_counts():
    one = setting_of(run_config(algorithm="local-only", num_server_rounds=80, num_local_epochs=4))
    assert one == setting_of(run_config(algorithm="local-only", num_server_rounds=320, num_local_epochs=1))
    assert one == setting_of(run_config(algorithm="local-only", fraction_train=0.5))
    # The learning rate falls after other epochs if the rounds cannot be divided by four.
    odd = setting_of(run_config(algorithm="local-only", num_server_rounds=10, num_local_epochs=32))
    assert one != odd


def test_of_the_server_alone_local_epochs_do_not_count():
    centralized = {"algorithm": "fedavg", "fraction_train": 0.0, "server_data_fraction": 1.0}
    assert setting_of(run_config(**centralized)) == setting_of(run_config(**centralized, num_local_epochs=9))
    assert setting_of(run_config(**centralized)) == setting_of(run_config(**centralized, server_part="full"))
    assert setting_of(run_config(**centralized)) != setting_of(run_config(**centralized, server_part="body"))


def test_runs_of_different_algorithms_are_compared_in_what_both_read():
    assert comparable(run_config(algorithm="fedprox", proximal_mu=9.0), run_config(algorithm="local-only"))
    assert not comparable(run_config(algorithm="fedprox", batch_size=9), run_config(algorithm="local-only"))


def test_more_epochs_of_fine_tuning_include_fewer_where_they_are_one_phase():
    longer, shorter = run_config(num_finetune_epochs=9), run_config(num_finetune_epochs=5)
    assert finetunes_epoch_by_epoch(longer)
    assert has_results_for(longer, shorter)
    assert not has_results_for(shorter, longer)
    # FedRep fine-tunes the head and then the body, so the epochs of a longer run come in another order.
    assert not finetunes_epoch_by_epoch(longer | {"algorithm": "fedrep"})
    assert not has_results_for(longer | {"algorithm": "fedrep"}, shorter | {"algorithm": "fedrep"})


def test_a_run_needs_all_wanted_diagnostics():
    recorded = run_config(record="similarity features")
    assert has_results_for(recorded, DEFAULT)
    assert has_results_for(recorded, run_config(record="features"))
    assert not has_results_for(DEFAULT, run_config(record="features"))


def test_only_the_folder_of_a_run_shows_the_setting_in_which_lg_fedavg_started():
    wanted = run_config(algorithm="lg-fedavg", initial_model="")
    assert has_results_for(wanted | {"initial-model": "/results/fedavg"}, wanted)
    assert not has_results_for(wanted | {"initial-model": "/results/fedavg/model.safetensors"}, wanted)


def test_a_run_that_starts_from_another_must_have_its_training_in_common():
    wanted = run_config(algorithm="fedavg", initial_model="/results/fedavg")
    start_run = run_config(algorithm="fedavg", num_finetune_epochs=1, head_init="similar", evaluate_every=1)
    assert different_training_key(start_run, wanted) is None
    for key, value in {"algorithm": "fedbabu", "seed": 1, "shards-per-client": 5, "momentum": 0.5}.items():
        assert different_training_key(start_run | {key: value}, wanted) == key
    assert different_training_key(start_run | {"dirichlet-beta": 9.0}, wanted) is None
