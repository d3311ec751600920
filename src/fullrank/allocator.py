"""How this process gets its memory from the system."""

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
_LARGE = 2**30


def keep_freed_memory() -> None:
    """Keep memory that is freed, up to 2 GB, for what is allocated next; does nothing but under glibc.

    By default glibc returns large blocks to the system when they are freed and gets fresh pages for the next,
    each to be zeroed by the kernel: thousands of page faults for each step of training on a CPU. For a
    process that is ours: it cannot be undone, and concerns all of the process.

    >>> keep_freed_memory()

    Source: mallopt(3).
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _LARGE)
        mallopt(_TRIM_THRESHOLD, 2 * _LARGE - 1)
