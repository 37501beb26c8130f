"""Have the C library keep the memory that a training step frees, for the next one.

A step allocates and frees tensors of megabytes. glibc would give them back to the system and ask for them again, and
the system would clear every page in between: about a tenth of a step. training imports this module, and importing it is
all there is to it; where the C library is another, nothing happens.
"""

import ctypes
from contextlib import suppress

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of <malloc.h>
KEPT = 1 << 30  # bytes: more than a step has at a time
KEPT_BY_OLD = 32 << 20  # what glibc allows at most before 2.35

with suppress(OSError, AttributeError):
    mallopt = ctypes.CDLL("libc.so.6").mallopt
    # In this order: once one is set, glibc no longer adapts the other by itself.
    if mallopt(M_MMAP_THRESHOLD, KEPT) or mallopt(M_MMAP_THRESHOLD, KEPT_BY_OLD):
        mallopt(M_TRIM_THRESHOLD, KEPT)
