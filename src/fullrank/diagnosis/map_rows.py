"""The rows of a map: which are drawn, what is known of each, and the arrays that a page is drawn from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from rich.progress import Progress

from fullrank.diagnosis.map import (
    cluster_count,
    clusters_of,
    coordinates,
    drawn_rows,
    leading_components,
    most_rows,
)
from fullrank.embeddings.files import EmbeddingFile
from fullrank.embeddings.texts import texts_at
from fullrank.record import Finding, MapMethod, RowMap
from fullrank.record.offending import MOST_ROWS

if TYPE_CHECKING:
    from fullrank.data import ImageSet

# How many rows have a picture or a text, and the largest side of a picture.
MOST_SHOWN, SIDE = 2000, 48
_LONGEST_ID, _LONGEST_TEXT = 80, 300
Shown = Callable[[np.ndarray], np.ndarray | None]


@dataclass(frozen=True, eq=False)
class MapRows:
    """The rows that a map may draw.

    Attributes:
        place: Where the features are read.
        features: The features, (N, D) float32.
        numbers: The number of each row in its source, (N,), ascending.
        total: How many rows there are, drawn or not.
        labels: The label of each row, (N,), -1 for none. None if there are none.
        classes: The names of the labels, if they have names.
        ids: The id of each row, (N,) words. None if there are none.
        show: What is shown of some rows, by their numbers 0 to N - 1: pictures (n, H, W, C) uint8 or texts
            (n,). None shows nothing.
    """

    place: str
    features: np.ndarray
    numbers: np.ndarray
    total: int
    labels: np.ndarray | None = None
    classes: Sequence[str] = ()
    ids: np.ndarray | None = None
    show: Shown | None = None

    def subset(self, rows: np.ndarray) -> "MapRows":
        """Some of the rows, by their numbers 0 to N - 1, ascending."""
        return replace(
            self,
            features=self.features[rows],
            numbers=self.numbers[rows],
            labels=None if self.labels is None else self.labels[rows],
            ids=None if self.ids is None else self.ids[rows],
            show=None if self.show is None else partial(_shown_of, self.show, rows),
        )


@dataclass(frozen=True, eq=False)
class DrawnMap:
    """A map: what a record says of it, and its arrays, whose names begin with `map/`."""

    entry: RowMap
    arrays: dict[str, np.ndarray]


def draw_map(
    rows: MapRows,
    findings: Sequence[Finding] = (),
    method: MapMethod = "pca",
    seed: int = 0,
    progress: Progress | None = None,
) -> DrawnMap:
    """A map of rows. Of more rows than the method can draw, some are drawn by chance.

    Args:
        rows: The rows.
        findings: The findings, whose first 1,000 rows each are drawn before others.
        method: `pca`, `tsne` or `umap`.
        seed: The seed.
        progress: Shows that the map is being drawn; None shows nothing.

    >>> x = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    >>> drawn = draw_map(MapRows("h", x, np.arange(40), total=40))
    >>> drawn.entry.rows, drawn.arrays["map/xy"].shape
    (40, (40, 2))
    """
    task = None if progress is None else progress.add_task(f"map by {method}", total=None, status="")
    most = most_rows(method, rows.features.shape[1])
    first = np.flatnonzero(np.isin(rows.numbers, named_rows(findings)))
    rows = rows.subset(drawn_rows(len(rows.numbers), first, most, seed))
    components = leading_components(rows.features, seed=seed)
    clusters = clusters_of(components.scores, cluster_count(rows.labels), seed)
    found, causes = causes_of(findings, rows.numbers)
    arrays = {
        "xy": coordinates(method, components.scores, seed),
        "rows": rows.numbers,
        "clusters": clusters.astype(np.uint8),
        "findings": found,
        "causes": np.array(causes, np.str_),
    }
    if rows.labels is not None:
        arrays["labels"], arrays["classes"] = _named_labels(rows.labels, rows.classes)
    if rows.ids is not None:
        arrays["ids"] = _clipped(rows.ids, _LONGEST_ID)
    shown = _shown(rows, np.flatnonzero(found >= 0), seed)
    every = {row for finding in findings for row in finding.rows}
    shares = [*components.shares.tolist(), 0.0]
    entry = RowMap(
        method=method,
        place=rows.place,
        rows=len(rows.numbers),
        total=rows.total,
        seed=seed,
        variance=(shares[0], shares[1]),
        components=len(components.shares),
        components_variance=min(1.0, float(components.shares.sum())),
        clusters=int(clusters.max()) + 1,
        named=len(every),
        named_drawn=int((found >= 0).sum()),
        shown=len(shown.get("shown", ())),
        shown_as=_kind(shown),
    )
    if progress is not None and task is not None:
        progress.remove_task(task)
    return DrawnMap(entry, {f"map/{name}": array for name, array in (arrays | shown).items()})


def named_rows(findings: Sequence[Finding]) -> np.ndarray:
    """The first 1,000 rows of each finding, by their numbers in the source, ascending."""
    some = [row for finding in findings for row in finding.rows[:MOST_ROWS]]
    return np.unique(np.array(some, np.int64))


def causes_of(findings: Sequence[Finding], numbers: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """For each row the findings that name it, as a number of the list, (N,) int16; -1 for none.

    Args:
        findings: The findings.
        numbers: The number of each row in its source.

    Returns:
        The numbers and the list: a cause, or several with commas.

    >>> make = lambda cause, rows: Finding(cause=cause, place="h", level="note", measure="share", value=0.5,
    ...                                    threshold=0, evidence="", remedy="", rows=rows)
    >>> found, names = causes_of([make("zero-rows", [7]), make("leakage", [7, 9])], np.array([5, 7, 9]))
    >>> [names[i] if i >= 0 else "" for i in found.tolist()]
    ['', 'zero-rows, leakage', 'leakage']
    """
    causes = list(dict.fromkeys(finding.cause for finding in findings if finding.rows))
    masks = np.zeros((len(numbers), len(causes)), bool)
    for finding in findings:
        if finding.rows:
            masks[:, causes.index(finding.cause)] |= np.isin(numbers, finding.rows)
    kinds, of_row = np.unique(masks, axis=0, return_inverse=True)
    names = [", ".join(cause for cause, on in zip(causes, kind, strict=True) if on) for kind in kinds]
    kept = [name for name in names if name]
    index = np.array([kept.index(name) if name else -1 for name in names], np.int16)
    return index[of_row.ravel()], kept


def rows_of_file(
    file: EmbeddingFile, path: Path, findings: Sequence[Finding], method: MapMethod, seed: int
) -> MapRows:
    """The rows of a file that a map draws, read from it."""
    first = np.searchsorted(file.kept, named_rows(findings))
    drawn = drawn_rows(file.rows, first, most_rows(method, file.width), seed)
    numbers = file.kept[drawn]
    return MapRows(
        place="embedding",
        features=file.take(drawn).numpy(),
        numbers=numbers,
        total=file.rows,
        labels=None if file.all_labels is None else file.all_labels[numbers],
        classes=file.classes,
        ids=None if file.all_ids is None else file.all_ids[numbers],
        show=lambda some: _texts(path, numbers[some], file.matrix.shape[0]),
    )


def thumbnails(images: "ImageSet") -> np.ndarray:
    """The images as small pictures (N, h, w, 1 or 3) uint8, at most 48 pixels high and wide.

    Of images with another number of channels, the first channel is shown.
    """
    from torch.nn.functional import interpolate

    height, width, channels = images.image_shape
    channels = channels if channels == 3 else 1
    factor = min(1.0, SIDE / max(height, width))
    size = max(1, round(height * factor)), max(1, round(width * factor))
    parts = []
    for batch in images.batches(256):
        part = batch[:, :channels]
        if factor < 1:
            part = interpolate(part.float(), size, mode="bilinear", antialias=True).round().byte()
        parts.append(part.permute(0, 2, 3, 1).numpy())
    return np.concatenate(parts)


def _shown(rows: MapRows, first: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Pictures or texts of at most 2,000 rows and which rows these are; empty if there are none."""
    chosen = drawn_rows(len(rows.numbers), first, MOST_SHOWN, seed)
    content = None if rows.show is None else rows.show(chosen)
    if content is None:
        return {}
    return {"shown": chosen, "texts" if content.ndim == 1 else "images": content}


def _shown_of(show: Shown, rows: np.ndarray, some: np.ndarray) -> np.ndarray | None:
    return show(rows[some])


def _kind(shown: dict[str, np.ndarray]) -> Literal["", "images", "texts"]:
    return "images" if "images" in shown else "texts" if "texts" in shown else ""


def _texts(path: Path, rows: np.ndarray, count: int) -> np.ndarray | None:
    texts = texts_at(path, rows, count)
    return None if texts is None else _clipped(texts, _LONGEST_TEXT)


def _clipped(words: Sequence[str] | np.ndarray, longest: int) -> np.ndarray:
    """Words (N,) of at most so many letters; what is cut off ends in three dots."""
    clipped = (word if len(word) <= longest else word[: longest - 1] + "…" for word in map(str, words))
    return np.array(list(clipped), np.str_)


def _named_labels(labels: np.ndarray, classes: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Labels (N,) numbered anew among those that occur, -1 for none, and the name of each."""
    values, numbers = np.unique(labels, return_inverse=True)
    unlabelled = int((values < 0).sum())
    present = values[unlabelled:].tolist()
    names = [str(classes[value]) if value < len(classes) else str(value) for value in present]
    return (numbers.ravel() - unlabelled).astype(np.int32), _clipped(names, _LONGEST_ID)
