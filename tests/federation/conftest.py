"""The run config of the tests of faults: little training, because they look at what a run does about a fault."""

import pytest


@pytest.fixture
def tiny_config(tiny_config) -> dict:
    """One epoch of training and of fine-tuning."""
    return tiny_config | {"num-local-epochs": 1, "num-finetune-epochs": 1}
