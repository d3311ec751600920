"""Coordinates of rows on a map, and clusters: the same seed gives the same map."""

import warnings
from dataclasses import dataclass
from typing import get_args

import numpy as np

from fullrank.errors import UsageError, unknown_name
from fullrank.record import MapMethod
from fullrank.targets.embed import check_extra

METHODS: tuple[MapMethod, ...] = get_args(MapMethod)
NO_MAP = "none"
# How many rows each draws. t-SNE and UMAP of so many take about a minute; UMAP spends most of it compiling.
MOST_ROWS: dict[MapMethod, int] = {"pca": 50_000, "tsne": 5_000, "umap": 20_000}
# Features of wider rows are drawn in a smaller number: so many numbers take 256 MiB.
_MOST_NUMBERS = 2**26
# What t-SNE, UMAP and the clusters see of the features.
COMPONENTS = 50
# The number of clusters where labels do not say it, and the largest number that they may say.
_CLUSTERS, _MOST_CLUSTERS = 10, 20
# Neighbourhoods of t-SNE and UMAP need some rows.
_LEAST_ROWS = 10
# Wider features than this have their components by a randomised method, which is quicker and nearly exact.
_EXACT_WIDTH = 1024


@dataclass(frozen=True, eq=False)
class Components:
    """The leading principal components of features (N, D).

    Attributes:
        scores: The components of each row, (N, r), float32, largest variance first.
        shares: The share of the variance that each holds, (r,).
    """

    scores: np.ndarray
    shares: np.ndarray


def check_method(name: str) -> MapMethod | None:
    """The method of a map by its name; None for `none`.

    Raises:
        UsageError: For an unknown name, or if the library of `umap` is missing.
    """
    if name == NO_MAP:
        return None
    if name not in METHODS:
        raise unknown_name("map", name, (*METHODS, NO_MAP), f"take {', '.join(METHODS)} or {NO_MAP}")
    if name == "umap":
        check_extra("map", ("umap",), "A map by UMAP")
    return name


def check_rows(method: MapMethod | None, rows: int) -> None:
    """Raise UsageError if t-SNE or UMAP is to draw fewer than 10 rows."""
    if method in ("tsne", "umap") and rows < _LEAST_ROWS:
        remedy = "give more rows or use the map pca"
        raise UsageError(f"A map by {method} needs {_LEAST_ROWS} rows or more, but got {rows}; {remedy}.")


def drawn_rows(count: int, first: np.ndarray, most: int, seed: int) -> np.ndarray:
    """Which of `count` rows are drawn, ascending: all, or `first` and others by chance, `most` together.

    Args:
        count: The number of rows.
        first: The numbers of rows that are drawn before others.
        most: The largest number of rows.
        seed: The seed.

    >>> drawn_rows(1000, np.array([7]), most=3, seed=0).tolist()
    [7, 206, 459]
    """
    if count <= most:
        return np.arange(count)
    order = np.random.default_rng(np.random.SeedSequence([seed])).permutation(count)
    others = order[~np.isin(order, first[:most])]
    return np.sort(np.concatenate([first[:most], others])[:most])


def most_rows(method: MapMethod, width: int) -> int:
    """How many rows of a width a map draws at most.

    >>> most_rows("pca", 512), most_rows("pca", 4096), most_rows("tsne", 512)
    (50000, 16384, 5000)
    """
    return min(MOST_ROWS[method], max(2, _MOST_NUMBERS // width))


def leading_components(features: np.ndarray, most: int = COMPONENTS, seed: int = 0) -> Components:
    r"""The leading principal components of features (N, D), finite.

    .. math:: t_i = V_r^\top (h_i - \bar h)

    with the r leading eigenvectors of the covariance. A component has the sign that makes its largest entry
    positive, so the order of rows changes nothing. With more than 1,024 channels the eigenvectors come from a
    randomised method.

    Args:
        features: The features.
        most: The largest number of components; it is also at most N and D.
        seed: The seed of the randomised method.

    Returns:
        Their scores, and the share of the variance of each. Both are 0 for features without variance.

    >>> x = np.random.default_rng(0).normal(size=(100, 8)) * np.arange(8, 0, -1)
    >>> found = leading_components(x, most=2)
    >>> found.scores.shape, bool(found.shares[0] > found.shares[1] > 0.1)
    ((100, 2), True)
    """
    from sklearn.decomposition import PCA

    rows, width = features.shape
    count = min(most, rows, width)
    centred, scale = _centred(features)
    if scale == 0 or rows < 2:
        return Components(np.zeros((rows, count), np.float32), np.zeros(count))
    exact = width <= _EXACT_WIDTH
    solver = PCA(count, svd_solver="covariance_eigh" if exact else "randomized", random_state=seed)
    largest = np.finfo(np.float32).max
    scores = np.clip(solver.fit_transform(centred).astype(np.float64) * scale, -largest, largest)
    return Components(scores.astype(np.float32), solver.explained_variance_ratio_)


def _centred(features: np.ndarray) -> tuple[np.ndarray, float]:
    """Features (N, D) without their mean, float32, whose largest number is 1, and the scale of it."""
    scale, centred = 1.0, features.astype(np.float32)
    # Before the mean is taken and after it, so that no square leaves the range of float32.
    for _ in range(2):
        largest = float(np.abs(centred).max())
        if largest == 0:
            return centred, 0.0
        centred /= np.float32(largest)
        centred -= centred.mean(0, dtype=np.float64).astype(np.float32)
        scale *= largest
    return centred, scale


def coordinates(method: MapMethod, scores: np.ndarray, seed: int = 0) -> np.ndarray:
    """Two coordinates for each row, (N, 2) float32, from the leading components of the rows.

    PCA takes the first two. t-SNE and UMAP start from these two and keep neighbours near each other.
    Distances between far points mean little there, and neither do the sizes of clusters.

    Args:
        method: `pca`, `tsne` or `umap`.
        scores: The leading components, (N, r).
        seed: The seed.

    Source: van der Maaten and Hinton 2008 (t-SNE); McInnes, Healy and Melville 2018 (UMAP).
    """
    start = np.zeros((len(scores), 2), np.float32)
    start[:, : scores.shape[1]] = scores[:, :2]
    spread = float(start[:, 0].std())
    if method == "pca" or spread == 0:
        return start
    if method == "tsne":
        from sklearn.manifold import TSNE

        # As scikit-learn scales its own start.
        perplexity = min(30.0, (len(scores) - 1) / 3)
        placed = TSNE(perplexity=perplexity, init=start / spread * 1e-4, random_state=seed).fit_transform(
            scores
        )
    else:
        from umap import UMAP

        # One thread: with several the same seed gives another map.
        neighbours = min(15, len(scores) - 1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            placed = UMAP(n_neighbors=neighbours, init=start, random_state=seed, n_jobs=1).fit_transform(
                scores
            )
    return np.asarray(placed, np.float32)


def clusters_of(scores: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """The cluster of each row by k-means on its leading components, (N,) from 0, the largest cluster first.

    The order of rows changes nothing but rounding, because they are sorted before.

    Args:
        scores: The leading components, (N, r).
        count: The number of clusters; fewer if fewer rows differ.
        seed: The seed.

    >>> clusters_of(np.array([[0.0], [9.0], [0.1], [0.2]]), 2).tolist()
    [0, 1, 0, 0]
    """
    from sklearn.cluster import KMeans

    order = np.lexsort(scores.T[::-1])
    in_order = scores[order] / (np.abs(scores).max() or 1.0)
    steps = (np.diff(in_order, axis=0) != 0).any(1)
    means = KMeans(min(count, 1 + int(steps.sum())), n_init=1, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # rows that differ only by rounding
        found = means.fit_predict(in_order)
    sizes = np.bincount(found)
    ranks = np.argsort(np.argsort(-sizes, kind="stable"), kind="stable")
    clusters = np.empty(len(scores), np.int64)
    clusters[order] = ranks[found]
    return clusters


def cluster_count(labels: np.ndarray | None) -> int:
    """How many clusters are sought: as many as the drawn rows have classes, if these are 2 to 20, else 10."""
    classes = 0 if labels is None else len(np.unique(labels[labels >= 0]))
    return classes if 2 <= classes <= _MOST_CLUSTERS else _CLUSTERS
