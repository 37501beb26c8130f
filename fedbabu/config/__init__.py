"""The run configuration: its keys, their allowed values, defaults and meanings, and what follows from them."""

from fedbabu.config.defaults import (
    PAPER_FIXED_VALUES,
    RUNTIME_KEYS,
    default_run_config,
    key_groups,
    key_meanings,
    parse_overrides,
    toml_value,
)
from fedbabu.config.protocols import PROTOCOLS, TEMPLATES, Measurement, under_protocol, with_protocol
from fedbabu.config.run_config import (
    SPECIAL_KEYS,
    GivenKeys,
    RunConfig,
    check_keys_are_read,
    partition_keys,
    special_keys_read,
    with_added_keys,
)

__all__ = [
    "PAPER_FIXED_VALUES", "PROTOCOLS", "RUNTIME_KEYS", "SPECIAL_KEYS", "TEMPLATES", "GivenKeys", "Measurement",
    "RunConfig", "check_keys_are_read", "default_run_config", "key_groups", "key_meanings", "parse_overrides",
    "partition_keys", "special_keys_read", "toml_value", "under_protocol", "with_added_keys", "with_protocol",
]  # fmt: skip
