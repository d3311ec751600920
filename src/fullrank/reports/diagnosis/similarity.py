"""The places of one net beside those of another: a heat map, and its sentence. Torch-free."""

from collections.abc import Sequence

import plotly.graph_objects as go

from fullrank.record import SimilarityMap
from fullrank.reports import drawing
from fullrank.reports.diagnosis.figures import SEQUENTIAL, short_place
from fullrank.reports.layout import Panel, panels
from fullrank.reports.numbers import without_path

_ROW = 25
# Values that differ by less are shown as equal.
_EQUAL = 0.005


def similarity_panels(similarity: SimilarityMap) -> list[Panel]:
    """The panel of a map; none if it is empty."""
    similarity = similarity.model_copy(update={"target": without_path(similarity.target)})
    other = similarity.target
    label = (
        f"Linear CKA of each place, a row from the image at the top, with each place of {other}, a column; "
        "from 0, white, to 1, dark."
    )
    scale = "CKA is 1 for features that are equal up to a rotation and a scale, and 0 for unrelated ones."
    how = f"Measured on {similarity.rows:,} images. A ring marks the best match of a row."
    note = f"{similarity_sentence(similarity)} {scale} {how}"
    return panels(similarity_figure(similarity), f"Layers beside {other}", label, note)


def similarity_figure(similarity: SimilarityMap) -> go.Figure | None:
    """CKA of every pair of places as a heat map, white 0 and dark 1, the best match of each row ringed."""
    if not similarity.places or not similarity.against:
        return None
    figure = drawing.empty_figure(f"places of {drawing.plain_text(similarity.target)}", "")
    names = [drawing.plain_text(place) for place in similarity.places]
    others = [drawing.plain_text(place) for place in similarity.against]
    figure.add_heatmap(
        z=similarity.values,
        customdata=[[[row, column] for column in others] for row in names],
        zmin=0,
        zmax=1,
        colorscale=SEQUENTIAL,
        colorbar={"thickness": 10, "outlinewidth": 0, "tickvals": [0, 0.5, 1], "len": 0.9},
        hovertemplate="%{customdata[0]} with %{customdata[1]}: %{z:.2f}<extra></extra>",
        hoverongaps=False,
        xgap=1,
        ygap=1,
        meta={"role": "similarity"},
    )
    matches = [_best(similarity, row) for row in range(len(names))]
    best = {row: column for row, column in enumerate(matches) if column is not None}
    figure.add_scatter(
        x=list(best.values()),
        y=list(best),
        mode="markers",
        marker={"symbol": "circle", "size": 9, "color": "#ffffff", "line": {"color": "#d55e00", "width": 2}},
        hoverinfo="skip",
        meta={"role": "best match"},
    )
    axis = {"showgrid": False, "ticks": ""}
    figure.update_xaxes(**axis, **_ticks(similarity.against), range=[-0.5, len(others) - 0.5], tickangle=-45)
    figure.update_yaxes(**axis, **_ticks(similarity.places), range=[len(names) - 0.5, -0.5])
    return figure.update_layout(height=140 + _ROW * max(len(names), 4), margin={"l": 10, "t": 10})


def similarity_sentence(similarity: SimilarityMap) -> str:
    """Which places are most and least alike; of nets without common places, what matches the last one."""
    alike = {
        place: value
        for place, values in zip(similarity.places, similarity.values, strict=True)
        if place in similarity.against and (value := values[similarity.against.index(place)]) is not None
    }
    other = similarity.target
    if len(alike) > 1:
        least, most = min(alike, key=alike.__getitem__), max(alike, key=alike.__getitem__)
        if alike[most] - alike[least] < _EQUAL:
            return f"All {len(alike)} places are equally like those of {other} ({_cka(alike[least])})."
        below = f"{least} is least like the same place of {other} ({_cka(alike[least])})"
        return f"{below}, and {most} is most like it ({_cka(alike[most])})."
    for row in reversed(range(len(similarity.places))):
        if (column := _best(similarity, row)) is not None:
            place, match = similarity.places[row], similarity.against[column]
            return f"{place} is most like {match} of {other} ({_cka(similarity.values[row][column] or 0.0)})."
    return f"No place varies both here and in {other}."


def _cka(value: float) -> str:
    return f"CKA {value:.2f}".replace("-", "−")


def _best(similarity: SimilarityMap, row: int) -> int | None:
    """The column of the largest value of a row, or of its own place if that is as large; None without any."""
    known = {column: value for column, value in enumerate(similarity.values[row]) if value is not None}
    if not known:
        return None
    best, place = max(known, key=known.__getitem__), similarity.places[row]
    own = similarity.against.index(place) if place in similarity.against else best
    return own if known.get(own, -1.0) > known[best] - _EQUAL else best


def _ticks(places: Sequence[str]) -> dict[str, list[int] | list[str]]:
    return {"tickvals": list(range(len(places))), "ticktext": [short_place(place) for place in places]}
