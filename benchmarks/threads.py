"""Compare one thread, two threads and our own choice, on cores that other programs leave idle or keep busy.

    uv run python benchmarks/threads.py --loads 0 1 2 4 --rounds 3

Each setting trains the digits for two epochs in its own process, as the demo does, and the settings take
turns. The option --loads gives the number of busy processes that run at the same time. A ratio is the time of
a setting over that of the faster of one and two threads in the same round. The settings:

- `1`, `2`: one or two threads, which sleep while they wait (OMP_WAIT_POLICY=PASSIVE, GOMP_SPINCOUNT=1000);
- `2 passive`: two threads that never spin (OMP_WAIT_POLICY=PASSIVE alone);
- `2 spinning`: two threads that wait as OpenMP does by default;
- `default`: what `fullrank` chooses without --threads; the chosen numbers are in brackets.

Times are those of training, without the import of torch. The first line tells how many cores other programs
keep busy. The load 0 means idle cores only if that number is below 0.2.
"""

import argparse
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

OWN = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "1000"}
WAYS: dict[str, tuple[str, dict[str, str]]] = {
    "1": ("1", OWN),
    "2": ("2", OWN),
    "2 passive": ("2", {"OMP_WAIT_POLICY": "PASSIVE"}),
    "2 spinning": ("2", {}),
    "default": ("0", OWN),
}


def train_once(threads: int, epochs: int) -> None:
    """Train with `threads` threads, for 0 with as many as `fullrank` chooses; print them and the seconds."""
    from fullrank.threads import CoreLoad, choose_threads, limited_threads

    load = CoreLoad()
    from rich.progress import Progress

    from fullrank.allocator import keep_freed_memory
    from fullrank.runs.build import load_data
    from fullrank.runs.recipe import Recipe
    from fullrank.training.session import Session
    from fullrank.training.train import carry_out

    keep_freed_memory()
    recipe = Recipe.resolve("digits", {"epochs": epochs})
    images = load_data(recipe)
    count = threads or choose_threads(None, load).count
    with tempfile.TemporaryDirectory() as folder, limited_threads(count), Progress(disable=True) as silent:
        run = carry_out(recipe, Path(folder) / "run", *images, Session(progress=silent))
    print(count, run.record.runs[0].seconds)


def spin() -> None:
    """Keep one core busy for ever."""
    while True:
        pass


@contextmanager
def busy(count: int) -> Iterator[None]:
    """Run `count` busy processes in the meantime."""
    processes = [multiprocessing.Process(target=spin, daemon=True) for _ in range(count)]
    for process in processes:
        process.start()
    try:
        yield
    finally:
        for process in processes:
            process.terminate()
            process.join()


def measure(way: str, epochs: int) -> tuple[int, float]:
    """The threads and the seconds of one training in its own process."""
    threads, waiting = WAYS[way]
    names = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS"}
    environment = {key: value for key, value in os.environ.items() if key not in names} | waiting
    command = [sys.executable, __file__, "--child", threads, "--epochs", str(epochs)]
    words = subprocess.run(
        command, env=environment, check=True, capture_output=True, text=True
    ).stdout.split()
    return int(words[-2]), float(words[-1])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--loads", type=int, nargs="+", default=[0, 1, 2, 4])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child is not None:
        train_once(arguments.child, arguments.epochs)
        return
    from fullrank.threads import CoreLoad, allowed_cores

    before = CoreLoad()
    time.sleep(2)
    print(
        f"{allowed_cores()} cores, {allowed_cores() - before.free():.1f} busy with other work\n", flush=True
    )
    print("| busy processes | threads | seconds | times the best of 1 and 2, each round |\n|---|---|---|---|")
    for load in arguments.loads:
        seconds: dict[str, list[float]] = defaultdict(list)
        counts: dict[str, list[int]] = defaultdict(list)
        with busy(load):
            for _ in range(arguments.rounds):
                for way in dict.fromkeys(["1", "2", *arguments.ways]):
                    count, taken = measure(way, arguments.epochs)
                    seconds[way].append(taken)
                    counts[way].append(count)
        best = [min(pair) for pair in zip(seconds["1"], seconds["2"], strict=True)]
        for way, times in seconds.items():
            ratios = [mine / ours for mine, ours in zip(times, best, strict=True)]
            each = ", ".join(f"{ratio:.2f}" for ratio in ratios)
            name = f"default ({'/'.join(map(str, counts[way]))})" if way == "default" else way
            middle = statistics.median(ratios)
            print(
                f"| {load} | {name} | {statistics.median(times):.1f} | **{middle:.2f}** ({each}) |",
                flush=True,
            )


if __name__ == "__main__":
    main()
