"""The two protocols, and what a run configuration takes from them."""

import pytest
from support.errors import config_error

from fedbabu.config import PROTOCOLS, RunConfig, default_run_config, under_protocol, with_protocol
from fedbabu.config.protocols import TEMPLATES, Measurement


def test_the_protocols_decide_the_same_keys():
    text, code = PROTOCOLS.values()
    assert list(text) == list(code)
    assert all(text[key] != code[key] for key in text)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_empty_key_has_the_value_of_the_protocol(protocol):
    config = RunConfig.from_flower(default_run_config() | {"protocol": protocol})
    values = config.to_flower()
    assert {key: values[key] for key in PROTOCOLS[protocol]} == PROTOCOLS[protocol]
    assert RunConfig.from_flower(values) == config
    assert Measurement.from_run_config(values).templates in TEMPLATES


def test_a_key_that_is_given_counts():
    config = RunConfig.from_flower(default_run_config() | {"protocol": "code", "template-distance": "cosine"})
    assert (config.template_distance, config.template_images) == ("cosine", "augmented")
    assert Measurement.from_run_config(config.to_flower()) == Measurement(
        "best", "cosine", "augmented", "class-by-class"
    )


def test_the_text_is_the_default():
    assert with_protocol(default_run_config()) == under_protocol(default_run_config(), "text")


def test_other_values_are_refused():
    with config_error("protocol = 'paper'", "'text' or 'code'"):
        RunConfig.from_flower(default_run_config() | {"protocol": "paper"})
    with config_error("evaluated-round = 'first'", "'last' or 'best'"):
        RunConfig.from_flower(default_run_config() | {"evaluated-round": "first"})


def test_the_partition_has_the_seed_of_the_run_or_its_own():
    default = RunConfig.from_flower(default_run_config() | {"seed": 5})
    own = RunConfig.from_flower(default_run_config() | {"seed": 5, "partition-seed": 3})
    assert (default.partition_spec.seed, own.partition_spec.seed) == (5, 3)


def test_clients_weigh_as_much_as_their_examples_or_all_alike():
    text, code = (RunConfig.from_flower(default_run_config() | {"protocol": each}) for each in PROTOCOLS)
    assert [config.aggregation_weight(500) for config in (text, code)] == [500, 1]
