"""The errors whose message is one sentence for the user, shown without a traceback, and words for such sentences."""

from collections.abc import Iterable, Mapping
from textwrap import shorten

MAX_CLIENTS_SHOWN = 5  # for each reason


class ConfigError(ValueError):
    """An input that the user can correct; the message says what was given and what is allowed."""


class RunError(RuntimeError):
    """A run that cannot continue; the message says why, and what to do about it."""


class NotResumableError(RunError):
    """A run that cannot continue, and that would stop in the same way again if it were resumed."""


class DivergedError(NotResumableError):
    """Training diverged."""


def counted(number: int, noun: str) -> str:
    """A number of things: "1 client", "2 clients"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def plus_minus(mean: float, std: float) -> str:
    """A mean and a standard deviation in percent, as tables show them: "88.60 ± 9.13"."""
    return f"{mean:.2f} ± {std:.2f}"


def listed(values: Iterable[object], most: int = 5) -> str:
    """The first few values in one line: "cat, dog and 3 more"."""
    texts = [str(value) for value in values]
    return ", ".join(texts[:most]) + (f" and {len(texts) - most} more" if len(texts) > most else "")


def format_failures(failures: Mapping[int, str], max_shown: int = 120) -> str:
    """List clients that failed, grouped by reason: "client 3 (loss not finite), clients 5, 8 (out of memory)".

    A reason is cut to max_shown characters.
    """
    clients_by_reason: dict[str, list[str]] = {}
    for client, reason in sorted(failures.items()):
        clients_by_reason.setdefault(reason, []).append(str(client))
    return ", ".join(
        f"client{'s' if len(clients) > 1 else ''} {listed(clients, MAX_CLIENTS_SHOWN)} ({shorten(reason, max_shown)})"
        for reason, clients in clients_by_reason.items()
    )
