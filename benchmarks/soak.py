"""Memory over a long time of training and diagnosing in one process: is it flat?

    uv run python benchmarks/soak.py                # half an hour
    uv run python benchmarks/soak.py --minutes 5

Short runs on real digits, each trained, diagnosed, its page written, and thrown away, until the time is over.
The resident memory is read after each; its slope, by least squares after a fifth of the time as a warm-up,
is to stay below 1 MB a minute, or the status is 1. Beside it stands what glibc's malloc has handed out and
not got back: where that is flat, resident memory grows by gaps in the heap and not by what somebody holds.
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
    """What this process holds in memory now."""
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
    """What malloc has handed out in this process; 0 without glibc."""
    ask = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if ask is None:
        return 0.0
    ask.restype = _MallocInfo
    info = ask()
    return float(info.uordblks + info.hblkhd) / 2**20


def slope_of(minutes: list[float], megabytes: list[float]) -> tuple[float, float]:
    """MB a minute by least squares, and half of its 95 % interval, after a fifth of the time."""
    x, y = np.array(minutes), np.array(megabytes)
    kept = x >= x[0] + 0.2 * (x[-1] - x[0])
    x, y = x[kept], y[kept]
    centred = x - x.mean()
    slope = centred @ y / (centred @ centred)
    rest = y - y.mean() - slope * centred
    error = np.sqrt(rest @ rest / max(1, len(x) - 2) / (centred @ centred))
    return float(slope), float(1.96 * error)


def one_round(number: int, folder: Path, **settings: Any) -> None:
    """A run, trained and diagnosed; `settings` are further keys of its recipe."""
    out = folder / "run"
    train("digits", out=out, epochs=2, seed=number, head=HEADS[number % len(HEADS)], **settings)
    write_page(out)
    rows = {"limit": settings["limit"]} if "limit" in settings else {}
    write_page(diagnose(out, out=folder / "diagnosis", **rows).path)


def main() -> int:
    """Print the memory now and then, and the slope at the end."""
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
