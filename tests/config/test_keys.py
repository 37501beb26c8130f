"""The run-config keys: what each allows, the sentence about a value that it does not allow, and what documents it."""

import pytest
from support.errors import config_error

from fedbabu.algorithms import ALGORITHMS
from fedbabu.config import PAPER_FIXED_VALUES, RUNTIME_KEYS, RunConfig, default_run_config, key_meanings, with_protocol
from fedbabu.config.defaults import ADDED_KEYS, RETIRED_KEYS
from fedbabu.data.known import KNOWN_DATASETS
from fedbabu.data.partitions import PARTITIONS

KEYS = list(RunConfig.model_json_schema()["properties"])


def with_default(**keys):
    """The default run config with other values; `num_clients` is the key num-clients."""
    return default_run_config() | {key.replace("_", "-"): value for key, value in keys.items()}


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("algorithm", "fedbaboon", "'fedavg' or 'fedbabu' or 'fedper' or"),
        ("model-name", "ResNet", "'ThreeConvNet' or 'FourConvNet' or 'MobileNet' or"),
        (
            "head-init",
            "zero",
            "'he' or 'he-uniform' or 'he-normal' or",
        ),
        ("dataset", "", "a name or path"),
        ("test-fraction", 1.0, "a number from 0 to below 1"),
        ("num-clients", 0, "an integer of at least 1"),
        ("num-clients", 2.5, "an integer of at least 1"),
        ("num-clients", True, "an integer of at least 1"),
        ("num-clients", 2**63, "an integer of at least 1"),
        ("partition", "even", "'shards' or 'classes' or 'dirichlet' or 'iid' or 'natural'"),
        ("dirichlet-beta", 0.0, "a number above 0"),
        ("iid-test-set", "yes", "true or false"),
        ("iid-test-set", 1, "true or false"),
        ("num-server-rounds", 0, "an integer from 1 to 1000000"),
        ("num-server-rounds", 10**6 + 1, "an integer from 1 to 1000000"),
        ("fraction-train", -0.1, "a number from 0 to 1"),
        ("fraction-train", 1.5, "a number from 0 to 1"),
        ("fraction-train", "all", "a number from 0 to 1"),
        ("learning-rate", 0.0, "a number above 0"),
        ("learning-rate", float("nan"), "a number above 0"),
        ("learning-rate", float("inf"), "a number above 0"),
        ("momentum", 1.0, "a number from 0 to below 1"),
        ("precision", "float16", "'float32' or 'tf32' or 'bf16'"),
        ("finetune-part", "nothing", "'' or 'body' or 'head' or 'full'"),
        ("evaluate-every", -2, "an integer of at least 0"),
        ("record", "features speed", "words of class-accuracy, similarity, features"),
        ("proximal-mu", -0.01, "a number of at least 0"),
        ("distillation-divergence", "l1", "'kl' or 'mse'"),
        ("seed", -1, "an integer from 0 to 2^63 - 1"),
        ("results-dir", " ", "a name or path"),
        ("results-dir", "a\0b", "a name or path"),
        ("resume", "~nobody-here/run", "a path, or empty"),
        ("resume", 3, "a path, or empty"),
        ("logger", "neptune", "'' or 'tensorboard' or 'wandb' or 'mlflow'"),
    ],
)
def test_a_value_that_is_not_allowed_is_named_with_what_is_allowed(key, value, allowed):
    with config_error(f"{key} = {value!r}", allowed):
        RunConfig.from_flower(default_run_config() | {key: value})


def test_an_integer_is_a_number():
    assert RunConfig.from_flower(with_default(fraction_train=1)).fraction_train == 1.0


def test_an_unknown_key_is_named_with_the_most_similar_key_or_all_keys():
    with config_error("num-client:", "num-clients?"):
        RunConfig.from_flower(with_default(num_client=3))
    with config_error("xyz", *KEYS):
        RunConfig.from_flower(with_default(xyz=3))


def test_an_unknown_key_comes_before_wrong_values():
    with config_error("num-client:"):
        RunConfig.from_flower(with_default(num_client=3, momentum=2.0))


def test_a_missing_key_is_named():
    config = default_run_config()
    del config["momentum"]
    with config_error("key momentum"):
        RunConfig.from_flower(config)


def test_a_recorded_config_may_have_retired_keys():
    recorded = default_run_config() | dict.fromkeys(RETIRED_KEYS, False)
    assert RunConfig.from_recorded(recorded).to_flower() == with_protocol(default_run_config())
    with config_error(RETIRED_KEYS[0]):
        RunConfig.from_flower(recorded)


def test_a_recorded_config_may_lack_keys_that_were_added():
    recorded = {key: value for key, value in default_run_config().items() if key not in ADDED_KEYS}
    assert RunConfig.from_recorded(recorded) == RunConfig.from_flower(default_run_config())


def test_every_key_has_a_default_and_a_meaning():
    assert list(default_run_config()) == KEYS
    assert list(key_meanings()) == KEYS
    assert all(meaning and meaning[-1] != "." for meaning in key_meanings().values())


def test_the_meaning_of_dataset_names_every_known_dataset():
    assert [name for name in KNOWN_DATASETS if f"`{name}`" not in key_meanings()["dataset"]] == []


def test_keys_that_are_named_elsewhere_are_keys():
    coefficients = {key for algorithm in ALGORITHMS.values() for key in algorithm.coefficients}
    options = {option.replace("_", "-") for scheme in PARTITIONS.values() for option in scheme.options}
    assert coefficients | options | PAPER_FIXED_VALUES.keys() | set(RUNTIME_KEYS) <= set(KEYS)


def test_the_protocol_of_the_paper_is_the_default():
    assert {key: default_run_config()[key] for key in PAPER_FIXED_VALUES} == PAPER_FIXED_VALUES
