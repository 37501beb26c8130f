"""Numbers, lists, failures and durations as printed lines and messages show them."""

from collections.abc import Iterable, Mapping
from datetime import timedelta
from textwrap import shorten

MAX_CLIENTS_SHOWN = 5  # for each reason


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


def clients_in_words(number: int, total: int) -> str:
    """A number of clients, and the total if these are not all: "97 of 100 clients"."""
    return counted(number, "client") if number == total else f"{number} of {counted(total, 'client')}"


def image_in_words(image_shape: tuple[int, int, int]) -> str:
    """The size of images of a shape (channels, height, width), and their kind: "28×28 pixels in grayscale"."""
    channels, height, width = image_shape
    return f"{height}×{width} pixels {'in grayscale' if channels == 1 else 'in colour'}"


def format_duration(seconds: float) -> str:
    """A duration in words: "80 s", "41 min", "3:20 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{timedelta(seconds=round(seconds))}"[:-3] + " h"
