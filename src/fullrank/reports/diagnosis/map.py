"""The map of rows on a page: one figure, its colourings, and what is shown of each row. Torch-free."""

import base64
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from markupsafe import Markup
from PIL import Image

from fullrank.record import RowMap
from fullrank.reports import drawing
from fullrank.reports.drawing import Arrays
from fullrank.reports.layout import Panel, panels

# Ten colours for light and dark pages, and for eyes with and without red-green colour blindness. Any two, and
# each beside the grey, differ by 21 or more in CIE 1976 L*a*b* (protan and deutan by Machado 2009). The
# eleventh to the twentieth name has a cross instead of a dot.
COLORS = (
    *("#6644cc", "#ffaa00", "#44ccdd", "#ff5555", "#556611"),
    *("#aa2288", "#55dd99", "#994455", "#8888dd", "#7711ff"),
)
MOST_NAMES = 2 * len(COLORS)
_REST, _FADED = "#9a9a9a", "rgba(150,150,150,0.12)"
_DOT, _CROSS = 0, 4
# By the number of rows: the size of a point and its opacity.
_LOOKS = {500: (7, 0.85), 2000: (6, 0.8), 10_000: (4, 0.7), 50_000: (3, 0.55)}
# Ids of all rows and a sheet of pictures may take so many bytes, so that the page stays below 10 MB.
_ID_BYTES, _SHEET_BYTES = 1_500_000, 2_000_000
# A sheet of fewer numbers is kept exactly.
_EXACT = 300_000
# Axes that differ by more have scales of their own.
_MOST_UNLIKE = 6


@dataclass(frozen=True)
class Colouring:
    """One way to colour the rows.

    Args:
        name: What the colours show.
        names: The names of the groups, the largest first; the first 20 have colours.
        values: The number of each row's group, from 1, and 0 for none.
        none: What the rows without a group are called.
        counts: How many rows each group has.
    """

    name: str
    names: Sequence[str]
    values: np.ndarray
    none: str
    counts: Sequence[int]

    @property
    def codes(self) -> np.ndarray:
        """The number of each row's colour, 0 for grey."""
        return np.where(self.values > MOST_NAMES, 0, self.values).astype(np.uint8)


@dataclass(frozen=True)
class MapSection:
    """A map as a page shows it: the figure, and what the script of the page needs as JSON."""

    panel: Panel
    data: Markup
    colourings: Sequence[Colouring]


def map_section(entry: RowMap, arrays: Arrays) -> MapSection | None:
    """The map of a record from its arrays; None where the arrays do not belong to it."""
    held = {name.removeprefix("map/"): array for name, array in arrays.items() if name.startswith("map/")}
    if not _fits(entry, held):
        return None
    # In random order, because the last points cover the first; those that findings name come last.
    order = np.random.default_rng(0).permutation(entry.rows)
    order = order[np.argsort(held["findings"][order] >= 0, kind="stable")]
    colourings = _colourings(held, order)
    figure = map_figure(entry, held["xy"][order], colourings[0])
    shares = f"{entry.rows:,} of {entry.total:,} rows at {entry.place}, a point for each."
    (panel,) = panels(figure, TITLES[entry.method], shares)
    return MapSection(panel, _json(_page_data(held, order, colourings)), colourings)


def _fits(entry: RowMap, held: Mapping[str, np.ndarray]) -> bool:
    """Whether arrays are those of the map: one number for each row, and a name for each number."""
    shapes = {"xy": (entry.rows, 2)} | dict.fromkeys(("rows", "clusters", "findings"), (entry.rows,))
    shapes |= {name: (entry.rows,) for name in ("labels", "ids") if name in held}
    if any(name not in held or held[name].shape != shape for name, shape in shapes.items()):
        return False
    names = {"findings": "causes", "labels": "classes"}
    for numbers, words in ((held[a], held.get(b, np.empty(0))) for a, b in names.items() if a in held):
        if numbers.min(initial=0) < -1 or numbers.max(initial=-1) >= len(words):
            return False
    shown = held.get("shown", np.empty(0, np.int64))
    content = held.get("images", held.get("texts", shown))
    inside = len(shown) == len(content) and shown.max(initial=0) < entry.rows
    return inside and bool(np.isfinite(held["xy"]).all())


TITLES = {"pca": "Principal components", "tsne": "t-SNE", "umap": "UMAP"}


def map_figure(entry: RowMap, xy: np.ndarray, colouring: Colouring) -> go.Figure:
    """The points of a map, coloured; a second trace marks one row, none at first."""
    is_pca = entry.method == "pca"
    figure = drawing.empty_figure(
        *(
            f"component {number} ({100 * share:.3g} % of the variance)" if is_pca else ""
            for number, share in enumerate(entry.variance, 1)
        )
    )
    size, opacity = next((look for most, look in _LOOKS.items() if len(xy) <= most), _LOOKS[50_000])
    codes = colouring.codes
    figure.add_scattergl(
        x=xy[:, 0],
        y=xy[:, 1],
        mode="markers",
        hoverinfo="none",
        marker={
            "size": size,
            "line": {"width": 0},
            "opacity": opacity,
            "color": codes,
            "colorscale": _scale(),
            "cmin": 0,
            "cmax": MOST_NAMES + 1,
            "symbol": np.where(codes > len(COLORS), _CROSS, _DOT).astype(np.uint8),
        },
    )
    ring = {"size": size + 12, "symbol": "circle-open", "color": drawing.INK, "line": {"width": 3}}
    figure.add_scatter(x=[None], y=[None], mode="markers", hoverinfo="skip", marker=ring)
    ticks = {"showticklabels": is_pca, "ticks": "outside" if is_pca else "", "showline": True}
    figure.update_xaxes(**ticks)
    figure.update_yaxes(**ticks)
    if not _is_flat(xy):
        figure.update_yaxes(scaleanchor="x")
    return figure


def sheet_of(images: np.ndarray) -> dict[str, Any]:
    """Pictures (N, h, w, 1 or 3) uint8 as one image, row by row: its data address, and where each one is.

    Small sheets are PNG. Others are WebP of the best quality that needs at most 2 MB.
    """
    count, height, width, channels = images.shape
    columns = max(1, round((count * height / width) ** 0.5))
    lines = -(-count // columns)
    sheet = np.zeros((lines * columns, height, width, channels), np.uint8)
    sheet[:count] = images
    sheet = sheet.reshape(lines, columns, height, width, channels).swapaxes(1, 2)
    sheet = sheet.reshape(lines * height, columns * width, channels)
    picture = Image.fromarray(sheet[..., 0] if channels == 1 else sheet)
    kind, content = "png", io.BytesIO()
    if sheet.size <= _EXACT:
        picture.save(content, "PNG", optimize=True)
    else:
        kind = "webp"
        for quality in (80, 40, 10, 1):
            content = io.BytesIO()
            picture.save(content, "WEBP", quality=quality, method=0)
            if content.tell() <= _SHEET_BYTES:
                break
    address = f"data:image/{kind};base64,{base64.b64encode(content.getvalue()).decode()}"
    return {"address": address, "columns": columns, "lines": lines, "width": width, "height": height}


def sentences(entry: RowMap) -> list[str]:
    """What the map shows, and what it cannot show."""
    rows = "images" if entry.shown_as == "images" else "rows"
    drawn = f"Each point is one of {entry.rows:,} {rows} at {entry.place}."
    if entry.rows < entry.total:
        before = ", those that findings name before others" if entry.named else ""
        drawn = f"Of {entry.total:,} {rows} at {entry.place}, {entry.rows:,} were drawn at random{before}."
    absent = entry.named - entry.named_drawn
    if absent:
        drawn += f" {absent:,} of {entry.named:,} {rows} that findings name are not drawn."
    both = 100 * sum(entry.variance)
    if not any(entry.variance):
        return [drawn, f"All {rows} that are drawn coincide."]
    if entry.method == "pca":
        first, second = (100 * share for share in entry.variance)
        seen = (
            f"The axes are the first two principal components. They hold {first:.3g} % and {second:.3g} % of "
            f"the variance, so {max(0.0, 100 - both):.3g} % of it cannot be seen here."
        )
    else:
        seen = (
            f"{TITLES[entry.method]} keeps rows near each other that are near in the {_components(entry)}. "
            "Distances between groups, their sizes and their densities mean nothing here. Another seed gives "
            "another map."
        )
    blind = (
        "A map is no evidence for a collapse or against one: groups can look apart in features that "
        "collapsed, and a cloud without groups can hold what a probe needs."
    )
    return [drawn, seen, blind]


def _components(entry: RowMap) -> str:
    held = f"{100 * entry.components_variance:.3g} % of the variance"
    if entry.components == 1:
        return f"only component ({held})"
    return f"{entry.components} leading components ({held})"


def cluster_sentence(entry: RowMap) -> str:
    """How clusters and pictures were made."""
    said = f"Clusters: {entry.clusters} by k-means on the {_components(entry)}."
    if entry.shown and entry.shown < entry.rows:
        images = entry.shown_as == "images"
        what = "images have a picture" if images else "rows have a text"
        said += f" {entry.shown:,} of the {what} here."
    return said


def others(colouring: Colouring) -> str:
    """What the grey points are; "" if there are none."""
    rest = sum(colouring.counts[MOST_NAMES:])
    without = int((colouring.values == 0).sum())
    said = [f"{len(colouring.names) - MOST_NAMES:,} others ({rest:,})"] if rest else []
    return ", ".join(said + ([f"{colouring.none} ({without:,})"] if without else []))


def swatch(number: int) -> Markup:
    """The mark of the group with a number from 1, for the legend."""
    color = COLORS[(number - 1) % len(COLORS)] if 1 <= number <= MOST_NAMES else _REST
    shape = '<circle cx="6" cy="6" r="5" fill="{0}"/>'
    if len(COLORS) < number <= MOST_NAMES:
        shape = '<path d="M2 2L10 10M10 2L2 10" stroke="{0}" stroke-width="3.5"/>'
    return Markup(f'<svg class="swatch" width="12" height="12" aria-hidden="true">{shape}</svg>').format(
        color
    )


def _colourings(held: Mapping[str, np.ndarray], order: np.ndarray) -> list[Colouring]:
    """By label and by finding where there are these, and by cluster."""
    clusters = [f"cluster {number}" for number in range(1, int(held["clusters"].max()) + 2)]
    found = [_colouring("cluster", clusters, held["clusters"][order], "none")]
    if len(held.get("labels", ())) == len(order) and "classes" in held:
        names = held["classes"].tolist()
        found.insert(0, _colouring("label", names, held["labels"][order], "no label"))
    if (held["findings"] >= 0).any():
        found.append(_colouring("finding", held["causes"].tolist(), held["findings"][order], "none"))
    return found


def _colouring(name: str, names: Sequence[str], values: np.ndarray, none: str) -> Colouring:
    """Groups, the largest first; of at most 20 groups in their own order."""
    counts = np.bincount(values[values >= 0], minlength=len(names))[: len(names)]
    ranks = np.arange(len(names))
    if len(names) > MOST_NAMES:
        ranks = np.argsort(-counts, kind="stable")
    place = np.zeros(len(names) + 1, np.uint16)  # the last entry is for -1
    place[ranks] = np.arange(1, len(names) + 1)
    in_order = [names[i] for i in ranks.tolist()]
    return Colouring(name, in_order, place[values], none, counts[ranks].tolist())


def _page_data(
    held: Mapping[str, np.ndarray], order: np.ndarray, colourings: Sequence[Colouring]
) -> dict[str, Any]:
    """What the script of the page needs, points in the order in which they are drawn."""
    data: dict[str, Any] = {
        "rows": _base64(held["rows"][order].astype(np.float64)),
        "colourings": [
            {"name": each.name, "names": list(each.names), "none": each.none, "values": _base64(each.values)}
            for each in colourings
        ],
        "ids": _ids(held["ids"][order]) if len(held.get("ids", ())) == len(order) else [],
        "most": MOST_NAMES,
    }
    if "shown" in held:
        at = np.zeros(len(order), np.uint16)  # 0 for rows that nothing is shown of
        at[held["shown"]] = np.arange(1, len(held["shown"]) + 1)
        data["shown"] = _base64(at[order])
        data["texts"] = held["texts"].tolist() if "texts" in held else []
        data["sheet"] = sheet_of(held["images"]) if "images" in held else None
    return data


def _ids(ids: np.ndarray) -> list[str]:
    """Ids, cut at their beginning if all together are too long for the page."""
    names = list(map(str, ids.tolist()))
    lengths = [len(json.dumps(name)) for name in names]
    if sum(lengths) <= _ID_BYTES:
        return names
    most = max(4, _ID_BYTES // len(names))
    return [
        name if length <= most else "…" + name[-max(1, most * len(name) // length - 8) :]
        for name, length in zip(names, lengths, strict=True)
    ]


def _base64(values: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode()


def _json(data: Mapping[str, Any]) -> Markup:
    """JSON that no text in it can end the script element around it."""
    return Markup(json.dumps(data).replace("<", "\\u003c"))


def _is_flat(xy: np.ndarray) -> bool:
    """Whether one axis spans much more than the other, so that one scale for both would show a line."""
    spans = np.sort(np.ptp(xy.astype(np.float64), axis=0))
    return bool(spans[1] > _MOST_UNLIKE * spans[0])


def _scale() -> list[list[Any]]:
    """The colour of each number: grey, the twenty, and faded."""
    colors = [_REST, *COLORS, *COLORS, _FADED]
    return [[number / (len(colors) - 1), color] for number, color in enumerate(colors)]
