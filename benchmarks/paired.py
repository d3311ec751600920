"""Paired timing: contenders take turns, the order alternates each round, ratios are taken within a round."""

import multiprocessing
import statistics
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any


def seconds_in_turn(contenders: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each contender in each round, after one warm-up call.

    The machine's speed drifts, so compare only the numbers of one round with each other.
    """
    for run in contenders.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds):
        names = list(contenders)
        for name in names if number % 2 == 0 else reversed(names):
            start = time.perf_counter()
            contenders[name]()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def median_ratio(theirs: list[float], ours: list[float]) -> float:
    """The median over rounds of their seconds over ours: how many times faster ours is."""
    return statistics.median(their / our for their, our in zip(theirs, ours, strict=True))


def alone(run: Callable[..., Any], *arguments: Any) -> tuple[float, float]:
    """Seconds of `run(*arguments)` in a new process, and the peak memory that it adds in MB.

    `run(*arguments, small=True)` is called first, so that libraries are loaded and threads started.
    """
    # A Pool is not used: it waits for ever if its process ends unexpectedly.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as executor:
        return executor.submit(_cost, run, arguments).result()


def _cost(run: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[float, float]:
    run(*arguments, small=True)
    before, start = _high_water(), time.perf_counter()
    run(*arguments, small=False)
    return time.perf_counter() - start, _high_water() - before


def _high_water() -> float:
    # getrusage is not used: its peak includes the parent's memory at the time it started this process.
    (line,) = (
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")
    )
    return int(line.split()[1]) / 1024
