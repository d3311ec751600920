"""How this process gets its memory from the system."""

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
# Smaller blocks come from the heap, which keeps what is freed. glibc before 2.35 allowed only the second.
_LARGEST_BLOCKS = (2**30, 2**25)
_MOST_KEPT = 2**31 - 1


def keep_freed_memory() -> None:
    """Keep memory that is freed for what is allocated next; does nothing but under glibc.

    By default glibc returns large blocks to the system when they are freed and gets fresh pages for the next,
    which the kernel fills with zeros: thousands of page faults in each training step on a CPU. This cannot be
    undone, and holds for the whole process.

    Source: mallopt(3).
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    # The second call alone would make things worse: it ends glibc's own adjustment of the first.
    if mallopt is not None and any(mallopt(_MMAP_THRESHOLD, size) for size in _LARGEST_BLOCKS):
        mallopt(_TRIM_THRESHOLD, _MOST_KEPT)
