"""Signs of life while something takes long."""

from collections.abc import Callable
from functools import partial
from time import monotonic

SILENT_SECONDS = 10.0  # after which a line says how far something is


print_now = partial(print, flush=True)


class Heartbeat:
    """Prints lines, and in between says how far something is whenever nothing was printed for SILENT_SECONDS.

    `write` prints a line; by default at once, whatever the output is.
    """

    def __init__(self, write: Callable[[str], object] = print_now) -> None:
        self._write = write
        self._last = monotonic()

    def print(self, line: str) -> None:
        """Print a line."""
        self._write(line)
        self._last = monotonic()

    def beat(self, line: str) -> None:
        """Print a line that says how far something is, unless another was printed not long ago."""
        if monotonic() - self._last >= SILENT_SECONDS:
            self.print(line)
