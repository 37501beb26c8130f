"""Overrides of the run config, as `flwr run --run-config` accepts them."""

import tomllib

import pytest
from support.errors import config_error

from fedbabu.config import parse_overrides, toml_value


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ([], {}),
        (["num-clients=20 algorithm='fedavg'"], {"num-clients": 20, "algorithm": "fedavg"}),
        (["num-clients=20", 'dataset="/a b/c"'], {"num-clients": 20, "dataset": "/a b/c"}),
        (["learning-rate=1e-2 iid-test-set=true"], {"learning-rate": 0.01, "iid-test-set": True}),
        (["resume='/runs/a=b'"], {"resume": "/runs/a=b"}),
    ],
)
def test_keys_and_values_in_texts(texts, expected):
    assert parse_overrides(texts) == expected


def test_a_toml_file(tmp_path):
    (tmp_path / "keys.toml").write_text("num-clients = 20\nalgorithm = 'fedavg'\n")
    assert parse_overrides([str(tmp_path / "keys.toml")]) == {"num-clients": 20, "algorithm": "fedavg"}


@pytest.mark.parametrize("texts", [["fedavg"], ["algorithm=fedavg"], ["/nowhere/keys.toml"]])
def test_what_cannot_be_read_is_shown(texts):
    with config_error(f"--run-config {' '.join(texts)}"):
        parse_overrides(texts)


@pytest.mark.parametrize("value", [True, False, 3, 1e-05, 0.1, "", "a b", "/runs/a"])
def test_a_value_is_written_as_toml_reads_it(value):
    assert tomllib.loads(f"key = {toml_value(value)}") == {"key": value}
