"""Memory of the process: kept once taken."""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
KEEP = 1 << 30  # bytes


def keep_freed_memory() -> bool:
    """Tells glibc to keep freed blocks for the next tensor instead of giving them back to the system.

    Fresh pages cost a fault each; without this, 3 500 faults per training step of a small model were about 15 % of its
    time. It holds for the whole process, hence only the command line does it. False where the C library is another one.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, KEEP)) and bool(mallopt(M_TRIM_THRESHOLD, KEEP))
