"""Have the C library keep the memory that a training step frees, for the next one.

A step allocates and frees tensors of megabytes. glibc would give them back to the system and ask for them again, and
the system would clear every page in between: about a tenth of a step. training imports this module, and importing it is
all there is to it; where the C library is another, nothing happens.
"""

import ctypes
from contextlib import suppress

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of <malloc.h>
KEPT = 1 << 30  # bytes: more than a step has at a time

with suppress(OSError, AttributeError):
    libc = ctypes.CDLL("libc.so.6")
    libc.mallopt(M_TRIM_THRESHOLD, KEPT)
    libc.mallopt(M_MMAP_THRESHOLD, KEPT)
