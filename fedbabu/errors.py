"""The errors whose message is a sentence for the user; they are shown without a traceback."""

from collections.abc import Mapping
from textwrap import shorten

MAX_NAMED = 5  # clients of one reason


class ConfigError(ValueError):
    """Input that a user can mend: the sentence says what was given and what is allowed."""


class RunError(RuntimeError):
    """A run that cannot go on: the sentence says why, and what to do about it."""


class DivergedError(RunError):
    """Training diverged: going on would not help."""


def why(failed: Mapping[int, str], max_shown: int = 120) -> str:
    """Which clients failed, and why, in max_shown characters each: "client 3 (loss not finite), clients 5, 8 (…)"."""
    clients_of: dict[str, list[str]] = {}
    for client, reason in sorted(failed.items()):
        clients_of.setdefault(reason, []).append(str(client))
    return ", ".join(
        f"client{'s' * (len(clients) > 1)} {', '.join(clients[:MAX_NAMED])}"
        f"{f' and {len(clients) - MAX_NAMED} more' if len(clients) > MAX_NAMED else ''} ({shorten(reason, max_shown)})"
        for reason, clients in clients_of.items()
    )
