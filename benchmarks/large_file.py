"""A large mapped file of embeddings: the cost of its moments against a bare product, and the memory used.

    uv run python benchmarks/large_file.py
    uv run python benchmarks/large_file.py --rows 20000 --width 64      (seconds)

The bare product is `x.T @ x` in float32 over the same chunks of the same file, summed. It computes no mean,
checks for no NaN and uses no float64. The two passes take turns, and the order alternates each round. The
file is in the system's cache for both. Memory is the anonymous memory, to which a mapped file does not count,
beyond that before the file was opened. It is sampled every 5 ms during the whole diagnosis.
"""

import argparse
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fullrank.diagnosis.of_file import diagnose_file
from fullrank.embeddings.files import EmbeddingFile, open_embeddings
from fullrank.linalg import Moments


def write_features(path: Path, rows: int, width: int) -> None:
    """Write Gaussian features with a mean and variances that fall as 1/k, one piece at a time."""
    rng = np.random.default_rng(0)
    scale = np.arange(1, width + 1, dtype=np.float32) ** -0.5
    file = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(rows, width))
    for start in range(0, rows, 8192):
        stop = min(start + 8192, rows)
        file[start:stop] = rng.standard_normal((stop - start, width), np.float32) * scale + 0.1
    file.flush()


def bare_product(file: EmbeddingFile) -> Tensor:
    """The sum of `x.T @ x` over the chunks, in float32."""
    total = torch.zeros(file.width, file.width)
    for chunk in file.chunks():
        total += chunk.T @ chunk
    return total


def moments(file: EmbeddingFile) -> Moments:
    """Count, mean and scatter of all rows, in float64."""
    total = Moments.empty(file.width)
    for chunk in file.chunks():
        total = total.merge(Moments.of(chunk))
    return total


def seconds(job: Callable[[EmbeddingFile], object], file: EmbeddingFile) -> float:
    """Wall seconds of one pass."""
    start = time.perf_counter()
    job(file)
    return time.perf_counter() - start


def anonymous_megabytes() -> float:
    """Current anonymous memory of this process (Linux)."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) / 1024


def peak_above(job: Callable[[], object]) -> float:
    """Peak anonymous memory while `job` runs, beyond that before it, in MB."""
    before, highest, over = anonymous_megabytes(), 0.0, threading.Event()

    def watch() -> None:
        nonlocal highest
        while not over.wait(0.005):
            highest = max(highest, anonymous_megabytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    job()
    over.set()
    watcher.join()
    return highest - before


def main() -> None:
    """Print the ratio of each round, their median, and the memory of the whole diagnosis."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "features.npy"
        write_features(path, arguments.rows, arguments.width)
        # The memory of imports must not count.
        diagnose_file(open_embeddings(write_small(Path(folder))))
        taken = peak_above(lambda: diagnose_file(open_embeddings(path)))
        file = open_embeddings(path)
        check_equal(file)
        ratios = []
        for number in range(arguments.rounds):
            jobs = (bare_product, moments) if number % 2 else (moments, bare_product)
            taken_by = {job: seconds(job, file) for job in jobs}
            ratios.append(taken_by[moments] / taken_by[bare_product])
            print(
                f"round {number}: moments {taken_by[moments]:.1f} s, bare product "
                f"{taken_by[bare_product]:.1f} s, ratio {ratios[-1]:.2f}",
                flush=True,
            )
    print(
        f"{arguments.rows:,} x {arguments.width} float32, {os.cpu_count()} cores, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}: the moments take "
        f"{statistics.median(ratios):.2f} times the bare product (median of {len(ratios)}), the diagnosis "
        f"{taken:.0f} MB of anonymous memory."
    )


def write_small(folder: Path) -> Path:
    """Write a small file of embeddings."""
    path = folder / "small.npy"
    np.save(path, np.random.default_rng(0).standard_normal((500, 16), np.float32))
    return path


def check_equal(file: EmbeddingFile) -> None:
    """Check that the uncentred moments of both passes agree to float32, so that a wrong answer fails."""
    ours = moments(file)
    gram = ours.scatter + ours.count * torch.outer(ours.mean, ours.mean)
    torch.testing.assert_close(bare_product(file).double(), gram, rtol=1e-3, atol=1e-3 * float(gram.max()))


if __name__ == "__main__":
    main()
