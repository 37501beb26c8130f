"""Flower, as a user runs it."""

import pytest

from fedbabu.reproduction.local_superlink import local_superlink


@pytest.fixture(scope="module")
def flower(tmp_path_factory):
    """The environment of a Flower installation with a running SuperLink, which is stopped at the end."""
    with local_superlink(tmp_path_factory.mktemp("flwr")) as (environment, _):
        yield environment
