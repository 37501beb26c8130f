"""What follows from a run config: the paper's quantities, phases, coefficients and specifications."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedbabu.algorithms import ALGORITHMS, Part, Phase
from fedbabu.config import RunConfig, default_run_config
from fedbabu.data.source import DataSpec
from fedbabu.errors import ConfigError

DEFAULTS = default_run_config()


def run_config(**keys):
    """The default run config with other values; `num_clients` is the key num-clients."""
    return RunConfig.from_flower(DEFAULTS | {key.replace("_", "-"): value for key, value in keys.items()})


def test_the_default_is_the_setting_of_the_paper():
    config = run_config()
    assert (config.num_clients, config.shards_per_client, config.clients_per_round) == (100, 2, 10)
    assert config.num_rounds * config.num_local_epochs == 320
    assert (config.num_finetune_epochs, config.seed) == (5, 42)


def test_the_learning_rate_falls_in_rounds_41_and_61_of_80():
    config = run_config()
    rates = {number: config.learning_rate_in(number) for number in (1, 40, 41, 60, 61, 80)}
    assert rates == pytest.approx({1: 0.1, 40: 0.1, 41: 0.01, 60: 0.01, 61: 0.001, 80: 0.001})


@pytest.mark.parametrize(("algorithm", "rate"), [("fedbabu", 1e-3), ("local-only", 1e-3), ("lg-fedavg", 1e-5)])
def test_fine_tuning_has_the_last_learning_rate_of_training(algorithm, rate):
    config = run_config(algorithm=algorithm, initial_model="fedavg.safetensors" if algorithm == "lg-fedavg" else "")
    assert config.finetune_learning_rate_after(config.num_rounds) == pytest.approx(rate)
    assert config.finetune_learning_rate_after(1) == pytest.approx(rate)  # for the model of the best round too


def test_clients_that_are_fine_tuned_in_every_round_have_the_rate_of_the_next():
    config = run_config(algorithm="fedrep", protocol="code")
    assert [config.finetune_learning_rate_after(k) for k in (39, 40, 60, 80)] == pytest.approx([0.1, 0.01, 1e-3, 1e-3])


@pytest.mark.parametrize(
    ("fraction", "num_clients", "sampled"),
    [(0.1, 100, 10), (0.29, 100, 29), (0.01, 20, 1), (1.0, 7, 7), (0.15, 10, 1)],
)
def test_the_number_of_clients_in_a_round(fraction, num_clients, sampled):
    assert run_config(fraction_train=fraction, num_clients=num_clients).clients_per_round == sampled


def test_centralized_training_samples_no_clients():
    config = run_config(fraction_train=0.0, server_data_fraction=1.0)
    assert (config.clients_per_round, config.part_trained_on_server) == (0, Part.BODY)
    config = run_config(fraction_train=0.0, server_data_fraction=1.0, server_part="full")
    assert config.part_trained_on_server == Part.FULL


@pytest.mark.parametrize(
    ("algorithm", "local", "finetune"), [("fedbabu", 4, 5), ("fedrep", 5, 6), ("ditto", 4, 0), ("local-only", 4, 0)]
)
def test_the_epochs_of_all_phases_together(algorithm, local, finetune):
    config = run_config(algorithm=algorithm)
    assert (config.total_local_epochs, config.total_finetune_epochs) == (local, finetune)


def test_variants_of_local_training_are_those_of_all_its_phases():
    algorithm = run_config(algorithm="ditto", trained_blocks=2, head_learning_rate_factor=0.5).algorithm_spec
    phases = [*algorithm.trains, *algorithm.trains_personal]
    assert [(phase.trained_blocks, phase.head_learning_rate_factor) for phase in phases] == [(2, 0.5)] * 2
    assert phases[1].loss == ALGORITHMS["ditto"].trains_personal[0].loss


def test_the_part_that_is_fine_tuned():
    assert run_config(finetune_part="head").algorithm_spec.personalizes == (Phase(Part.HEAD),)
    assert run_config(algorithm="ditto", finetune_part="full").algorithm_spec.personalizes == (Phase(Part.FULL),)
    assert run_config(finetune_part="head", num_finetune_epochs=0).algorithm_spec.personalizes == ()


def test_an_algorithm_gets_its_own_coefficients_alone():
    assert run_config().coefficients == {}
    assert run_config(algorithm="ditto", ditto_lambda=2).coefficients == {"ditto-lambda": 2.0}


def test_the_specifications_of_the_data_and_of_the_partition():
    config = run_config(
        dataset="pets", label_column="kind", test_fraction=0.2, partition="dirichlet", iid_test_set=True
    )
    assert config.data_spec == DataSpec("pets", "", "kind", "", 0.2)
    spec = config.partition_spec
    assert (spec.scheme, spec.num_clients, spec.seed, spec.dirichlet_beta) == ("dirichlet", 100, 42, 0.5)
    assert spec.iid_test_set


def test_diagnostics_are_words():
    assert run_config(record="features  similarity").diagnostics == {"features", "similarity"}


# What a user may give, from nearly right to nonsense: TOML has texts, integers, numbers and booleans.
ANYTHING = st.one_of(
    st.text(max_size=20), st.integers(), st.integers(-3, 12), st.floats(), st.floats(0, 2), st.booleans(),
    st.sampled_from([10**400, -(2**63), 2**64, 5e-324, 1.7e308]), st.none(), st.lists(st.integers(), max_size=2),
    st.sampled_from(list(ALGORITHMS)), st.sampled_from(["body", "head", "MobileNet", "dirichlet", "natural", "/", "~"]),
)  # fmt: skip
NEARLY_RIGHT = {
    key: st.sampled_from(
        [value, *{bool: [True], int: [1, 2, 3], float: [0.0, 0.5, 1.0], str: ["", "body"]}[type(value)]]
    )
    for key, value in DEFAULTS.items()
}
RUN_CONFIGS = st.one_of(
    st.dictionaries(st.sampled_from(list(DEFAULTS)), ANYTHING, min_size=1, max_size=4).map(
        lambda changed: DEFAULTS | changed
    ),
    st.fixed_dictionaries(NEARLY_RIGHT),
    st.dictionaries(st.one_of(st.sampled_from(list(DEFAULTS)), st.text(max_size=12)), ANYTHING, max_size=60),
)


@settings(max_examples=300, deadline=None)
@given(RUN_CONFIGS)
def test_any_run_config_is_valid_or_a_config_error(run_config):
    try:
        config = RunConfig.from_flower(run_config)
    except ConfigError:
        return
    assert RunConfig.from_flower(config.to_flower()) == config
    assert hash(config) == hash(RunConfig.from_flower(config.to_flower()))
    for key, value in config.to_flower().items():
        assert type(value) is type(DEFAULTS[key])
    for server_round in {1, config.num_rounds}:
        rounds = config.training_rounds(server_round) if config.num_server_rounds < 10**6 else [server_round]
        assert all(config.learning_rate_in(number) >= 0 for number in rounds)
    assert 0 <= config.clients_per_round <= config.num_clients
    assert config.algorithm_spec.name == config.algorithm
    assert config.part_trained_on_server in config.algorithm_spec.shares or not config.clients_per_round
