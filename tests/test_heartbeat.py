"""Signs of life while something takes long."""

import pytest

from fedbabu import heartbeat
from fedbabu.formatting import format_duration
from fedbabu.heartbeat import Heartbeat


@pytest.mark.parametrize(
    ("seconds", "words"), [(80, "80 s"), (90, "2 min"), (2460, "41 min"), (12000, "3:20 h"), (90000, "1 day, 1:00 h")]
)
def test_durations(seconds, words):
    assert format_duration(seconds) == words


def test_a_beat_is_printed_only_after_ten_silent_seconds(monkeypatch):
    now, lines = [0.0], []
    monkeypatch.setattr(heartbeat, "monotonic", lambda: now[0])
    beat = Heartbeat(lines.append)
    for now[0] in (3.0, 9.9, 10.0, 15.0, 20.0):
        beat.beat(f"{now[0]:g} s")
    now[0] = 29.0
    beat.print("a line of its own")
    now[0] = 35.0
    beat.beat("6 s after it")
    assert lines == ["10 s", "20 s", "a line of its own"]
