"""The run configuration: one sentence for each mistake, the schedule, and its documentation."""

from dataclasses import fields

import pytest
from conftest import PROJECT
from hypothesis import given, settings
from hypothesis import strategies as st

from fedbabu.algorithms import ALGORITHMS
from fedbabu.config import RunConfig, default_run_config, markdown_table
from fedbabu.data.partitions import PARTITIONS
from fedbabu.errors import ConfigError


def test_the_default_is_the_papers_setting():
    config = RunConfig.from_flower(default_run_config())
    assert (config.num_clients, config.shards_per_client, config.fraction_train) == (100, 2, 0.1)
    assert config.num_server_rounds * config.num_local_epochs == 320
    assert (config.num_finetune_epochs, config.seed) == (5, 42)
    assert config.finetune_learning_rate == pytest.approx(0.001)


def test_learning_rate_falls_in_rounds_41_and_61_of_80_and_stays():
    config = RunConfig.from_flower(default_run_config())
    rates = [config.learning_rate_of(server_round) for server_round in range(1, 81)]
    assert rates == pytest.approx([0.1] * 40 + [0.01] * 20 + [0.001] * 20)


@pytest.mark.parametrize(("rounds", "expected"), [(1, [0.1]), (2, [0.1, 0.01]), (3, [0.1, 0.1, 0.01])])
def test_learning_rate_of_few_rounds(rounds, expected):
    config = RunConfig.from_flower(default_run_config() | {"num-server-rounds": rounds})
    assert [config.learning_rate_of(r + 1) for r in range(rounds)] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("algorithm", "fedbaboon", "'fedavg' or 'fedbabu' or 'fedper' or"),
        ("model-name", "ResNet", "'ThreeConvNet' or 'FourConvNet' or 'MobileNet' or 'ResNet10' or"),
        ("dataset", "", "a name or path"),
        ("num-clients", 0, "an integer of at least 1"),
        ("num-clients", 2.5, "an integer of at least 1"),
        ("num-clients", True, "an integer of at least 1"),
        ("shards-per-client", -1, "an integer of at least 1"),
        ("partition", "even", "'shards' or 'classes' or 'dirichlet' or 'iid' or 'natural'"),
        ("num-classes-per-client", 0, "an integer of at least 1"),
        ("dirichlet-beta", 0.0, "a number above 0"),
        ("test-fraction", 1.0, "a number in [0, 1)"),
        ("fraction-train", -0.1, "a number in [0, 1]"),
        ("fraction-train", 1.5, "a number in [0, 1]"),
        ("fraction-train", "all", "a number in [0, 1]"),
        ("num-server-rounds", 0, "an integer from 1 to a million"),
        ("num-finetune-epochs", -1, "an integer of at least 0"),
        ("learning-rate", 0.0, "a number above 0"),
        ("learning-rate", float("nan"), "a number above 0"),
        ("learning-rate", float("inf"), "a number above 0"),
        ("momentum", 1.0, "a number in [0, 1)"),
        ("batch-size", 0, "an integer of at least 1"),
        ("head-init", "zero", "'he' or 'xavier-uniform' or 'xavier-normal' or 'orthogonal' or 'similar'"),
        ("head-learning-rate-factor", -1.0, "a number of at least 0"),
        ("trained-blocks", -1, "an integer of at least 0"),
        ("finetune-part", "nothing", "'' or 'body' or 'head' or 'full'"),
        ("proximal-mu", -0.01, "a number of at least 0"),
        ("distillation-temperature", 0.0, "a number above 0"),
        ("distillation-divergence", "l1", "'kl' or 'mse'"),
        ("server-data-fraction", 1.1, "a number in [0, 1]"),
        ("iid-test-set", "yes", "true or false"),
        ("iid-test-set", 1, "true or false"),
        ("evaluate-every", -2, "an integer of at least 0"),
        ("seed", -1, "an integer from 0 to 2^63 - 1"),
        ("results-dir", " ", "a name or path"),
        ("checkpoint-every", 0, "an integer of at least 1"),
        ("client-timeout", -1.0, "a number of at least 0"),
        ("min-fit-clients", 0, "an integer of at least 1"),
        ("max-round-retries", -1, "an integer of at least 0"),
        ("resume", "~nobody-here/run", "a path, or empty"),
    ],
)
def test_a_bad_value_is_named_with_what_is_allowed(key, value, allowed):
    with pytest.raises(ConfigError) as error:
        RunConfig.from_flower(default_run_config() | {key: value})
    sentence = str(error.value)
    assert key in sentence
    assert repr(value) in sentence
    assert allowed in sentence
    assert "\n" not in sentence


def test_an_integer_is_a_number():
    assert RunConfig.from_flower(default_run_config() | {"fraction-train": 1}).fraction_train == 1.0


def test_an_unknown_key_is_named_with_the_nearest_known_one():
    with pytest.raises(ConfigError, match=r"no run-config key num-client: did you mean num-clients\?"):
        RunConfig.from_flower(default_run_config() | {"num-client": 3})
    with pytest.raises(ConfigError, match="no run-config key xyz: known keys are algorithm, model-name"):
        RunConfig.from_flower(default_run_config() | {"xyz": 3})


def test_a_missing_key_is_named():
    config = default_run_config()
    del config["momentum"]
    with pytest.raises(ConfigError, match="lacks the key momentum: SGD's momentum"):
        RunConfig.from_flower(config)


def test_to_flower_is_the_inverse_of_from_flower():
    assert RunConfig.from_flower(default_run_config()).to_flower() == default_run_config()


def test_what_an_algorithm_or_partition_reads_are_keys():
    rows = (*ALGORITHMS.values(), *PARTITIONS.values())
    assert {key for row in rows for key in row.keys} < default_run_config().keys()


def test_every_key_is_documented_in_the_readme():
    assert markdown_table(default_run_config()) in (PROJECT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("fraction", "clients", "sampled"), [(0.1, 100, 10), (0.29, 100, 29), (0.01, 20, 1), (1.0, 7, 7)]
)
def test_clients_per_round(fraction, clients, sampled):
    config = default_run_config() | {"fraction-train": fraction, "num-clients": clients}
    assert RunConfig.from_flower(config).clients_per_round == sampled


# What a user may give, from nearly right to nonsense: TOML has texts, integers, numbers and booleans.
ANYTHING = st.one_of(
    st.text(max_size=20), st.integers(), st.integers(-3, 12), st.floats(), st.floats(0, 2), st.booleans(),
    st.sampled_from([10**400, -(2**63), 2**64, 5e-324, 1.7e308]), st.none(), st.lists(st.integers(), max_size=2),
    st.sampled_from(list(ALGORITHMS)), st.sampled_from(["body", "head", "MobileNet", "dirichlet", "natural", "/", "~"]),
)  # fmt: skip
DEFAULTS = default_run_config()
FITTING = {
    key: st.sampled_from(
        [value, *{bool: [True], int: [1, 2, 3], float: [0.0, 0.5, 1.0], str: ["", "body"]}[type(value)]]
    )
    for key, value in DEFAULTS.items()
}
RUN_CONFIGS = st.one_of(
    st.dictionaries(st.sampled_from(list(DEFAULTS)), ANYTHING, min_size=1, max_size=4).map(
        lambda some: DEFAULTS | some
    ),
    st.fixed_dictionaries(FITTING),
    st.dictionaries(st.one_of(st.sampled_from(list(DEFAULTS)), st.text(max_size=12)), ANYTHING, max_size=60),
)


@settings(max_examples=4000, deadline=None)
@given(RUN_CONFIGS)
def test_any_run_config_is_valid_or_a_sentence(run_config):
    try:
        config = RunConfig.from_flower(run_config)
    except ConfigError:
        return
    assert RunConfig.from_flower(config.to_flower()) == config
    for spec in fields(config):
        assert type(getattr(config, spec.name)) is spec.type
    for server_round in {1, config.num_rounds}:
        rounds = config.local_rounds(server_round) if config.num_server_rounds < 10**6 else [server_round]
        assert all(config.learning_rate_of(r) >= 0 for r in rounds)
    assert 0 <= config.clients_per_round <= config.num_clients
    assert config.row.name == config.algorithm
    assert config.server_trains is not None
