"""What a test expects of an error: its kind, one line, and the keys and values that it names."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from fedbabu.errors import ConfigError


@contextmanager
def config_error(*named: object) -> Iterator[None]:
    """Expect a ConfigError whose message is one line that contains all the given texts."""
    with pytest.raises(ConfigError) as error:
        yield
    message = str(error.value)
    assert "\n" not in message
    assert [text for text in named if str(text) not in message] == [], message
