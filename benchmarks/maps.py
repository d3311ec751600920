"""How long each map takes at its largest number of rows, and that one seed gives one map.

    uv run --extra map python benchmarks/maps.py
    uv run python benchmarks/maps.py --quick    # PCA and t-SNE of few rows, to try the script

Ten Gaussian groups in 50 components. Each method is run twice on 500 rows with one seed, which must give the
same coordinates. The nearest row on a map by t-SNE or UMAP must be of the same group for most rows. Then each
method is run once at the largest number of rows that `diagnose --map` draws. The first line of UMAP holds its
compilation too. Processor seconds are those of all threads.
"""

import argparse
import time

import numpy as np

from fullrank.diagnosis.map import METHODS, MOST_ROWS, clusters_of, coordinates

COMPONENTS, GROUPS = 50, 10


def groups_of(rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows (N, 50) of ten groups, and the group of each."""
    generator = np.random.default_rng(0)
    centres = 2 * generator.normal(size=(GROUPS, COMPONENTS))
    group = generator.integers(0, GROUPS, rows)
    return (centres[group] + generator.normal(size=(rows, COMPONENTS))).astype(np.float32), group


def kept(xy: np.ndarray, group: np.ndarray) -> float:
    """The share of rows whose nearest row on a map is of their group."""
    apart = np.linalg.norm(xy[:, None] - xy[None], axis=-1)
    np.fill_diagonal(apart, np.inf)
    return float((group[apart.argmin(1)] == group).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="PCA and t-SNE of 100 rows alone")
    quick = parser.parse_args().quick
    few, group = groups_of(100 if quick else 500)
    for method in ("pca", "tsne") if quick else METHODS:
        start = time.process_time()
        first = coordinates(method, few, seed=1)
        seconds = time.process_time() - start
        same = np.array_equal(first, coordinates(method, few, seed=1))
        print(
            f"{method}: {len(few)} rows, {seconds:.1f} processor s; same for one seed: {same}; "
            f"nearest of the same group: {kept(first, group):.1%}"
        )
        assert same
        assert method == "pca" or kept(first, group) > 0.9
        if quick:
            continue
        rows, _ = groups_of(MOST_ROWS[method])
        start, wall = time.process_time(), time.perf_counter()
        coordinates(method, rows)
        print(
            f"{method}: {len(rows):,} rows, {time.process_time() - start:.1f} processor s, "
            f"{time.perf_counter() - wall:.1f} s"
        )
    rows = few if quick else groups_of(MOST_ROWS["pca"])[0]
    start = time.process_time()
    clusters_of(rows, GROUPS)
    print(f"clusters: {len(rows):,} rows, {time.process_time() - start:.1f} processor s")


if __name__ == "__main__":
    main()
