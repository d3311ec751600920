"""Emergent segmentation: a table, sentences and overlays, for a page and the terminal. Torch-free."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fullrank.record import Record, Score
from fullrank.record.comparisons import by_row, grouped, mean_of
from fullrank.record.scores import (
    ABOVE,
    ALL_HEADS,
    AREA_SHARE,
    GRADIENT_SHARE,
    GRADIENT_UNTRAINED,
    JACCARD,
    PERMUTED,
    UNTRAINED,
)
from fullrank.reports.drawing import Arrays
from fullrank.reports.numbers import in_points, signed
from fullrank.reports.run.images import png_address
from fullrank.reports.run.rows import row_names
from fullrank.statistics import Estimate

# The columns of the two tables: a statistic and its heading.
OF_ATTENTION = {
    JACCARD: "J",
    PERMUTED: "permuted",
    ABOVE: "above permuted",
    UNTRAINED: "before training",
    ALL_HEADS: "all heads",
}
OF_GRADIENT = {
    GRADIENT_SHARE: "of the gradient",
    GRADIENT_UNTRAINED: "before training",
    AREA_SHARE: "of the area",
}
MEANING = (
    "J is the overlap of the best of 3 attention heads with an object: the pixels that both hold, over the "
    "pixels that either holds, 0 to 100. A head holds the fewest patches that have this share of the CLS "
    "token's attention in the last block. Permuted: the same maps with their patches in random order. "
    "Compare J only at one share, on the same images."
)
GRADIENT_MEANING = (
    "Of the gradient: the share of the gradient of h that lies on the objects, in per cent. Of the area: the "
    "share of the pixels that they cover. Neither is a Jaccard index, and neither tells objects apart."
)
# Colours of the overlay, which any colour vision tells apart.
_COLOURS = {"both": (0, 158, 115), "attention": (230, 159, 0), "object": (86, 180, 233)}
_DIM = 0.25


@dataclass(frozen=True)
class ObjectRow:
    """A row of a study at a share of the attention, "" for gradients: a cell for each column, in points."""

    head: str
    share: str
    cells: tuple[Estimate | None, ...]


@dataclass(frozen=True)
class ObjectTables:
    """The rows of the two tables, which may be empty, and what they say in sentences."""

    attention: tuple[ObjectRow, ...]
    gradient: tuple[ObjectRow, ...]
    sentences: tuple[str, ...]


def object_tables(scores: Iterable[Score]) -> ObjectTables | None:
    """The tables of one model's scores; None without scores of objects. Intervals are over images."""
    return _tables({"": list(scores)}, {"": ""})


def segmentation_section(record: Record, arrays: Mapping[str, Arrays]) -> dict[str, Any] | None:
    """What the page of a run or study shows; None without scores of objects."""
    names = row_names(record.runs)
    by_head = {row: [one for run in runs for one in run.scores] for row, runs in by_row(record.runs).items()}
    several = len(by_head) > 1
    tables = _tables(by_head, {row: f"{names.short(row)}: " if several else "" for row in by_head})
    if tables is None:
        return None
    return {
        "tables": tables,
        "columns": (list(OF_ATTENTION.values()), list(OF_GRADIENT.values())),
        "heads": {row: names.short(row) for row in names.values},
        "text": cell_text,
        "meaning": [MEANING] * bool(tables.attention) + [GRADIENT_MEANING] * bool(tables.gradient),
        "over": "images" if len(record.runs) == 1 else "seeds",
        "overlays": next((found for each in arrays.values() if (found := overlays(each))), []),
    }


def cell_text(estimate: Estimate | None) -> str:
    """A cell with one decimal, and half of its interval where there is one.

    >>> cell_text(Estimate(61.3, 60.0, 62.6)), cell_text(None)
    ('61.3 ± 1.3', '–')
    """
    if estimate is None:
        return "–"
    half = "" if estimate.half is None else f" ± {in_points(estimate.half)}"
    return f"{in_points(estimate.mean)}{half}"


def overlays(arrays: Arrays) -> list[dict[str, Any]]:
    """Pictures of each example as PNG data addresses, and its overlap in points; none without examples."""
    names = [f"segmentation.{part}" for part in ("images", "objects", "attention", "overlaps")]
    if not all(name in arrays for name in names):
        return []
    images, objects, attention, values = (arrays[name] for name in names)
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or objects.shape != images.shape[:3]:
        return []
    shown = []
    for image, truth, chosen, value in zip(images, objects, attention, values, strict=True):
        colours = np.repeat(image, 3, axis=2) if image.shape[-1] == 1 else image
        both = (colours * _DIM).astype(np.uint8)
        for name, pixels in (
            ("both", truth & chosen),
            ("attention", chosen & ~truth),
            ("object", truth & ~chosen),
        ):
            both[pixels] = _COLOURS[name]
        parts = {"image": colours, "object": _lit(colours, truth), "attention": _lit(colours, chosen)}
        addresses = {name: png_address(picture) for name, picture in (parts | {"overlap": both}).items()}
        shown.append({"pictures": addresses, "overlap": in_points(100 * float(value))})
    return shown


def _lit(image: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """The image, dark except at some pixels."""
    return np.where(pixels[..., None], image, image * _DIM).astype(np.uint8)


def _tables(by_head: Mapping[str, Sequence[Score]], names: Mapping[str, str]) -> ObjectTables | None:
    cells = {
        key: _estimate(scores)
        for key, scores in grouped(
            ((head, score.subject, score.statistic), score)
            for head, scores in by_head.items()
            for score in scores
            if score.kind.of_objects
        ).items()
    }
    if not cells:
        return None

    def rows(columns: Iterable[str]) -> tuple[ObjectRow, ...]:
        kinds = dict.fromkeys((head, share) for head, share, name in cells if name in columns)
        return tuple(ObjectRow(*each, tuple(cells.get((*each, name)) for name in columns)) for each in kinds)

    attention, gradient = rows(OF_ATTENTION), rows(OF_GRADIENT)
    said = [f"{names[row.head]}{_of_attention(row)}" for row in attention]
    said += [f"{names[row.head]}{sentence}" for row in gradient if (sentence := _of_gradient(row))]
    return ObjectTables(attention, gradient, tuple(said))


def _estimate(scores: Sequence[Score]) -> Estimate:
    """The mean over seeds, with its interval; of one run, the interval over images."""
    if len(scores) > 1:
        return mean_of([100 * score.value for score in scores]) or Estimate(0.0)
    low, high = (None if end is None else 100 * end for end in (scores[0].low, scores[0].high))
    return Estimate(100 * scores[0].value, low, high)


def _of_attention(row: ObjectRow) -> str:
    """J beside its controls in a sentence or two, which say no more than the numbers do."""
    found, permuted, above, before, _ = row.cells
    if found is None or permuted is None or above is None:
        return ""
    size = in_points(abs(above.mean))
    if not above.separated:
        judged = f"The interval of the difference, {signed(above.mean)}, includes 0"
        judged = judged if above.low is not None else f"The difference is {signed(above.mean)}"
    elif above.mean > 0:
        judged = f"The attention lies on the objects: J is {size} points above the permuted maps"
    else:
        judged = f"The attention avoids the objects: J is {size} points below the permuted maps"
    first = f"With {row.share} of the attention, J is {in_points(found.mean)}; permuted, it is "
    sentence = f"{first}{in_points(permuted.mean)}. {judged}."
    if before is None:
        return sentence
    change = found.mean - before.mean
    verb = "left it unchanged" if in_points(change) == in_points(0.0) else f"changed it by {signed(change)}"
    return f"{sentence} Before training it was {in_points(before.mean)}: training {verb}."


def _of_gradient(row: ObjectRow) -> str:
    share, before, area = row.cells
    if share is None or area is None:
        return ""
    start = "" if before is None else f"; before training it was {in_points(before.mean)} %"
    return (
        f"{in_points(share.mean)} % of the gradient of h lies on the objects, which cover "
        f"{in_points(area.mean)} % of the area{start}."
    )
