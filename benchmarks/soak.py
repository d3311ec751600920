"""Check that memory stays flat over a long time of training and diagnosing in one process.

    uv run python benchmarks/soak.py                # half an hour
    uv run python benchmarks/soak.py --minutes 5

Short runs on real digits follow each other until the time is over. Each is trained and diagnosed, its page is
written, and it is deleted. The resident memory is read after each run. Its slope is fitted by least squares,
without the first fifth of the time. If the slope is not below 1 MB a minute, the exit status is 1. The memory
that glibc's malloc has handed out is printed beside it. If that is flat, the resident memory grows because of
gaps in the heap, not because objects are kept.
"""

import argparse
import ctypes
import gc
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from fullrank import train
from fullrank.allocator import keep_freed_memory
from fullrank.diagnosis.diagnose import diagnose
from fullrank.reports.page import write_page

STEEPEST = 1.0  # MB a minute
HEADS = ("none", "subvector:24", "mlp:48", "reweight:1.05,norm=batch")


def resident_megabytes() -> float:
    """Current resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


class _MallocInfo(ctypes.Structure):
    """glibc's struct mallinfo2 (malloc.h)."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    )


def allocated_megabytes() -> float:
    """Memory that malloc has handed out and not got back in this process; 0 without glibc."""
    ask = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if ask is None:
        return 0.0
    ask.restype = _MallocInfo
    info = ask()
    return float(info.uordblks + info.hblkhd) / 2**20


def slope_of(minutes: list[float], megabytes: list[float]) -> tuple[float, float]:
    """MB a minute by least squares without the first fifth of the time, and half its 95 % interval."""
    x, y = np.array(minutes), np.array(megabytes)
    after_warmup = x >= x[0] + 0.2 * (x[-1] - x[0])
    x, y = x[after_warmup], y[after_warmup]
    centred = x - x.mean()
    slope = centred @ y / (centred @ centred)
    rest = y - y.mean() - slope * centred
    error = np.sqrt(rest @ rest / max(1, len(x) - 2) / (centred @ centred))
    return float(slope), float(1.96 * error)


def one_round(number: int, folder: Path, **settings: Any) -> None:
    """Train and diagnose one run; `settings` are further keys of its recipe."""
    out = folder / "run"
    train("digits", out=out, epochs=2, seed=number, head=HEADS[number % len(HEADS)], **settings)
    write_page(out)
    rows = {"limit": settings["limit"]} if "limit" in settings else {}
    write_page(diagnose(out, out=folder / "diagnosis", **rows).path)


def main() -> int:
    """Print the memory after each round, and the slope at the end."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    arguments = parser.parse_args()
    keep_freed_memory()  # as the command does
    started, minutes, resident, allocated = time.monotonic(), [], [], []
    while not minutes or minutes[-1] < arguments.minutes:
        with tempfile.TemporaryDirectory() as folder:
            one_round(len(minutes), Path(folder))
        gc.collect()
        minutes.append((time.monotonic() - started) / 60)
        resident.append(resident_megabytes())
        allocated.append(allocated_megabytes())
        print(
            f"{minutes[-1]:5.1f} min  {len(minutes):4d} rounds  {resident[-1]:6.0f} MB resident  "
            f"{allocated[-1]:6.0f} MB allocated",
            flush=True,
        )
    print(f"{len(minutes)} rounds in {minutes[-1]:.0f} min")
    for name, megabytes in (("allocated", allocated), ("resident", resident)):
        slope, half = slope_of(minutes, megabytes)
        print(f"{name}: {slope:+.2f} MB a minute (± {half:.2f})")
    return 0 if slope < STEEPEST else 1


if __name__ == "__main__":
    sys.exit(main())
