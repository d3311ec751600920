"""The diagnosis of a large file of embeddings: its time against a bare product, and the memory used.

    uv run python benchmarks/large_file.py
    uv run python benchmarks/large_file.py --quick              (seconds)
    uv run python benchmarks/large_file.py --kinds float32,parquet --rounds 3
    uv run python benchmarks/large_file.py --against             (two files of the same size, row by row)

The bare product is `x.T @ x` in float32 over the chunks of the mapped .npy file, summed. It computes no
mean, checks for no NaN and uses no float64. The diagnosis is `diagnose_file` of a file that is opened anew,
with its checks. It covers zero and equal rows, moments, near duplicates, measures and causes. The kinds of
file hold the same numbers: `float32` and `float16` are .npy, `parquet` is a column of lists of float32.

With `--against` it is the comparison of two files of one kind: both diagnoses, their likeness and the
verdict. The other file holds the same rows after a rotation, with noise. The bare product is that of one.

Product and diagnosis take turns, and the order alternates each round. Their files are in the system's cache.
Memory is the anonymous memory, to which a mapped file does not count, beyond that before the file was opened.
It is sampled every 5 ms during a diagnosis.
"""

import argparse
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fullrank.diagnosis.beside.compare import compare_files
from fullrank.diagnosis.of_file import diagnose_file
from fullrank.embeddings.files import EmbeddingFile, open_embeddings
from fullrank.record import DiagnosisEntry

KINDS = ("float32", "float16", "parquet")
# What a diagnosis may take: times the bare product, and MB above the start.
MOST_TIMES, MOST_MEGABYTES = 5, 700
# The same for two files side by side.
MOST_TIMES_BESIDE = 12


def write_features(folder: Path, rows: int, width: int) -> Path:
    """Write Gaussian features with a mean and variances that fall as 1/k, one piece at a time."""
    rng = np.random.default_rng(0)
    scale = np.arange(1, width + 1, dtype=np.float32) ** -0.5
    path = folder / "float32.npy"
    file = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(rows, width))
    for start in range(0, rows, 8192):
        stop = min(start + 8192, rows)
        file[start:stop] = rng.standard_normal((stop - start, width), np.float32) * scale + 0.1
    file.flush()
    return path


def write_other(path: Path) -> Path:
    """Write the same rows after a rotation, with noise."""
    source, rng = np.load(path, mmap_mode="r"), np.random.default_rng(1)
    turn = np.linalg.qr(rng.standard_normal((source.shape[1],) * 2))[0].astype(np.float32)
    other = path.with_name("other.npy")
    file = np.lib.format.open_memmap(other, mode="w+", dtype=np.float32, shape=source.shape)
    for start in range(0, len(source), 8192):
        piece = source[start : start + 8192]
        file[start : start + 8192] = piece @ turn + 0.1 * rng.standard_normal(piece.shape, np.float32)
    file.flush()
    return other


def write_as(kind: str, path: Path) -> Path:
    """Write the features of a .npy file once more as another kind of file."""
    source = np.load(path, mmap_mode="r")
    pieces = (source[start : start + 8192] for start in range(0, len(source), 8192))
    if kind == "float16":
        other = path.with_name(f"{path.stem}.float16.npy")
        file = np.lib.format.open_memmap(other, mode="w+", dtype=np.float16, shape=source.shape)
        for number, piece in enumerate(pieces):
            file[8192 * number : 8192 * number + len(piece)] = piece
        file.flush()
        return other
    import pyarrow as pa
    import pyarrow.parquet as pq

    other = path.with_suffix(".parquet")
    schema = pa.schema([("embedding", pa.list_(pa.float32(), source.shape[1]))])
    with pq.ParquetWriter(other, schema) as writer:
        for piece in pieces:
            values = pa.FixedSizeListArray.from_arrays(pa.array(piece.ravel()), source.shape[1])
            writer.write_table(pa.table([values], schema=schema))
    return other


def bare_product(file: EmbeddingFile) -> Tensor:
    """The sum of `x.T @ x` over the chunks, in float32."""
    total = torch.zeros(file.width, file.width)
    for chunk in file.chunks():
        total += chunk.T @ chunk
    return total


def seconds(job: Callable[[], object]) -> tuple[float, float]:
    """Wall seconds and processor seconds of one pass."""
    wall, processor = time.perf_counter(), time.process_time()
    job()
    return time.perf_counter() - wall, time.process_time() - processor


def anonymous_megabytes() -> float:
    """Current anonymous memory of this process (Linux)."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) / 1024


def peak_above(job: Callable[[], DiagnosisEntry]) -> tuple[DiagnosisEntry, float]:
    """What `job` returns, and the peak anonymous memory meanwhile, beyond that before it, in MB."""
    before, highest, over = anonymous_megabytes(), 0.0, threading.Event()

    def watch() -> None:
        nonlocal highest
        while not over.wait(0.005):
            highest = max(highest, anonymous_megabytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        result = job()
    finally:
        over.set()
        watcher.join()
    return result, highest - before


def check_beside(entry: DiagnosisEntry, paths: Sequence[Path]) -> None:
    """Check the distance after the best rotation against that of all rows in float32."""
    x, y = (np.load(path, mmap_mode="r") for path in paths)
    means = [side.mean(0, dtype=np.float64).astype(np.float32) for side in (x, y)]
    across, squares = np.zeros((x.shape[1], y.shape[1])), np.zeros(2)
    for start in range(0, len(x), 8192):
        pieces = [side[start : start + 8192] - mean for side, mean in zip((x, y), means, strict=True)]
        across += pieces[0].T @ pieces[1]
        squares += [np.square(piece).sum(dtype=np.float64) for piece in pieces]
    left = 1 - np.linalg.svd(across, compute_uv=False).sum() ** 2 / squares.prod()
    assert entry.beside is not None and entry.beside.rows == len(x)
    assert abs((entry.beside.pairs[0].rotated_distance or 0) - np.sqrt(left)) < 1e-3


def check_equal(entry: DiagnosisEntry, path: Path) -> None:
    """Check the rows, and the spectrum against that of the bare product, so that a wrong answer fails."""
    file = open_embeddings(path)
    mean = torch.stack([chunk.double().sum(0) for chunk in file.chunks()]).sum(0) / file.rows
    covariance = bare_product(file).double() / file.rows - torch.outer(mean, mean)
    values = torch.tensor(entry.spectrum["embedding"].singular_values, dtype=torch.float64)
    assert entry.rows == file.rows
    assert torch.allclose(values, torch.linalg.eigvalsh(covariance).flip(0), rtol=1e-2, atol=1e-4)


def measure(kind: str, path: Path, rounds: int, against: Path | None = None) -> str:
    """The line of one kind of file: the median ratio of the rounds, and the memory of the first."""
    files = [path] if against is None else [path, against]
    others = files if kind == "float32" else [write_as(kind, each) for each in files]

    def diagnosed() -> DiagnosisEntry:
        opened = [open_embeddings(each) for each in others]
        return diagnose_file(opened[0]) if against is None else compare_files(*opened)

    entry, memory = peak_above(diagnosed)
    check_equal(entry, path)
    if against is not None:
        check_beside(entry, files)
    jobs: dict[str, Callable[[], object]] = {
        "product": lambda: bare_product(open_embeddings(path)),
        "diagnosis": diagnosed,
    }
    print(f"{kind}: {memory:.0f} MB above the start", flush=True)
    ratios: list[tuple[float, float]] = []
    for number in range(rounds):
        taken = {name: seconds(jobs[name]) for name in (list(jobs) if number % 2 else reversed(jobs))}
        (wall, processor), (bare, bare_processor) = taken["diagnosis"], taken["product"]
        ratios.append((wall / bare, processor / bare_processor))
        print(
            f"{kind}, round {number}: the diagnosis {wall:.1f} s ({processor:.1f} processor s), bare "
            f"product {bare:.1f} s ({bare_processor:.1f}), ratio {ratios[-1][0]:.2f} ({ratios[-1][1]:.2f})",
            flush=True,
        )
    for other in set(others) - set(files):
        other.unlink()
    walls, processors = zip(*ratios, strict=True)
    most = MOST_TIMES if against is None else MOST_TIMES_BESIDE
    met = "" if statistics.median(walls) <= most and memory <= MOST_MEGABYTES else " **too much**"
    spread = f"{min(walls):.2f} to {max(walls):.2f}"
    return (
        f"| {kind} | {statistics.median(walls):.2f} ({spread}) | {statistics.median(processors):.2f} "
        f"| {memory:.0f}{met} |"
    )


def main() -> None:
    """Print the ratio of each round, and a table with a line for each kind of file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--kinds", default=",".join(KINDS), help="kinds of file, with commas between")
    parser.add_argument("--quick", action="store_true", help="2,000 rows of width 16, one round")
    parser.add_argument("--against", action="store_true", help="two files side by side")
    parser.add_argument("--folder", help="where the files are written for the time of the run")
    arguments = parser.parse_args()
    rows, width, rounds = arguments.rows, arguments.width, arguments.rounds
    if arguments.quick:
        rows, width, rounds = 2000, 16, 1
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        path = write_features(Path(folder), rows, width)
        small = Path(folder) / "small.npy"
        np.save(small, np.random.default_rng(0).standard_normal((500, 16), np.float32))
        compare_files(open_embeddings(small), open_embeddings(small))  # the memory of imports must not count
        other = write_other(path) if arguments.against else None
        lines = [measure(kind, path, rounds, other) for kind in arguments.kinds.split(",")]
    print(
        f"\n{rows:,} x {width}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, torch "
        f"{torch.__version__}, {rounds} rounds\n\n"
        "| file | wall, times the bare product | processor, times it | MB above start |\n|---|---|---|---|"
    )
    print("\n".join(lines))


if __name__ == "__main__":
    main()
