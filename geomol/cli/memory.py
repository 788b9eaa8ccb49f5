"""Memory of the process: kept once taken, and large tensors on large pages."""

from __future__ import annotations

import ctypes
import os

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
LARGEST = (1 << 31) - 1  # bytes; larger blocks come and go
NEVER = -1


def keep_freed_memory() -> bool:
    """Tells glibc to keep freed blocks for the next tensor instead of giving them back to the system.

    Fresh pages cost a fault each; without this, 3 500 faults per training step of a small model were about 15 % of its
    time, and energy and forces of 40 000 atoms took twice as long. The process keeps the most that it ever had. It
    holds for the whole process, hence only the command line does it. False where the C library is another one.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, LARGEST)) and bool(mallopt(M_TRIM_THRESHOLD, NEVER))


def use_large_pages() -> None:
    """Lets torch ask for pages of 2 MiB for tensors of that size, where the system gives them to those that ask.

    It reads this variable at its first tensor, hence no module makes one on import. Steps of Rapidash with tensors of
    tens of MiB took 4 to 14 % less time; where the user has set the variable, that holds.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
