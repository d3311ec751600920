"""How this process gets its memory from the system."""

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
# Blocks below this many bytes come from the heap, which keeps what is freed. Before 2.35 glibc took no more
# than the second.
_LARGEST_BLOCKS = (2**30, 2**25)
_MOST_KEPT = 2**31 - 1


def keep_freed_memory() -> None:
    """Keep memory that is freed for what is allocated next; does nothing but under glibc.

    By default glibc returns large blocks to the system when they are freed and gets fresh pages for the next,
    each to be zeroed by the kernel: thousands of page faults for each step of training on a CPU. For a
    process that is ours: it cannot be undone, and concerns all of the process.

    >>> keep_freed_memory()

    Source: mallopt(3).
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    # The second call alone would make things worse: it ends glibc's own adjustment of the first.
    if mallopt is not None and any(mallopt(_MMAP_THRESHOLD, size) for size in _LARGEST_BLOCKS):
        mallopt(_TRIM_THRESHOLD, _MOST_KEPT)
