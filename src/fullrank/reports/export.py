"""The figures of a page as files for a paper: SVG, PDF or PNG, by kaleido and a browser. Torch-free."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from fullrank.errors import FullrankError, UsageError, unknown_name
from fullrank.files import write_whole
from fullrank.reports.layout import Panel
from fullrank.reports.numbers import unique_slugs

FIGURES, CAPTIONS, FORMATS = "figures", "captions.txt", ("svg", "pdf", "png")
# In pixels of 1/96 inch: 5.4 by 3.5 inches; letters of 15 are 8 points at 3.7 inches of width.
WIDTH, HEIGHT, LETTERS = 520, 340, 15
# PNG has so many pixels for each of these: 3 are 290 dots an inch.
SCALE = 3
_INK, _GRID, _FONT = "#222222", "#dddddd", "Arial, Helvetica, sans-serif"
# No entries of their own: each seed beside its mean, marks on a line, what is labelled in place.
_UNNAMED = frozenset(("seeds", "lost", "rank", "chance", "alignment"))
_LINE, _LETTER = 24, 0.62


def check_formats(formats: Sequence[str]) -> None:
    """UsageError for a format that is none of svg, pdf, png, or where kaleido is not installed."""
    for each in formats:
        if each not in FORMATS:
            raise unknown_name("format of figures", each, FORMATS, f"take {', '.join(FORMATS)}")
    if formats:
        _kaleido()


def write_figures(panels: Iterable[Panel], folder: Path, formats: Sequence[str]) -> list[Path]:
    """Write each panel in each format into `folder`/figures, named by its heading; the paths written.

    The background is white, the legend is part of the figure, and letters are 15 pixels high on a width of
    520. `captions.txt` beside them says what each figure shows. Raises UsageError for an unknown format and
    where kaleido or a browser is missing.
    """
    check_formats(formats)
    target, jobs, shown = folder / FIGURES, [], named(panels)
    for name, panel in shown.items():
        figure = for_paper(panel)
        size = {"width": figure.layout.width, "height": figure.layout.height}
        for each in formats:
            options = {"format": each, **size, "scale": SCALE if each == "png" else 1}
            jobs.append({"fig": figure.to_dict(), "path": str(target / f"{name}.{each}"), "opts": options})
    if jobs:
        target.mkdir(parents=True, exist_ok=True)
        _draw(jobs)
        lines = [f"{name}: {panel.label} {panel.note}".strip() for name, panel in shown.items()]
        write_whole(target / CAPTIONS, "".join(f"{line}\n" for line in lines).encode())
    return [Path(job["path"]) for job in jobs]


def named(panels: Iterable[Panel]) -> dict[str, Panel]:
    """The panels by the names of their files, made of their headings."""
    shown = list(panels)
    return dict(zip(unique_slugs([panel.heading for panel in shown]), shown, strict=True))


def for_paper(panel: Panel) -> go.Figure:
    """The panel's figure for print: dark ink on white, larger letters, and a legend below the axes."""
    figure = go.Figure(json.loads(panel.figure))
    named_once: set[str] = set()
    for trace in sorted(figure.data, key=_is_prediction):
        role = (trace.meta or {}).get("role")
        shown = bool(trace.name) and role not in _UNNAMED and trace.name not in named_once
        trace.showlegend = shown
        named_once |= {trace.name} if shown else set()
        if trace.type == "scatter" and trace.textfont.size:
            trace.textfont = {"size": LETTERS - 2, "color": _INK}
    for note in figure.layout.annotations:
        note.font.size = LETTERS - 2
    legend = len(named_once) > 1
    rows = _legend_rows(named_once) if legend else 0
    height = max(HEIGHT, panel.height or 0) + _LINE * rows
    axis = {
        "color": _INK,
        "title_font_size": LETTERS,
        "gridcolor": _GRID,
        "linecolor": _INK,
        "tickcolor": _INK,
    }
    figure.update_layout(
        showlegend=legend,
        width=WIDTH,
        height=height,
        paper_bgcolor="white",
        plot_bgcolor="white",
        font={"family": _FONT, "size": LETTERS, "color": _INK},
        legend={"orientation": "h", "x": 0, "y": 0, "yref": "container", "yanchor": "bottom"},
        margin={"l": 60, "r": max(20, figure.layout.margin.r or 0), "t": 16, "b": 64 + _LINE * rows},
    )
    figure.update_xaxes(**axis)
    figure.update_yaxes(**axis)
    return figure


def _is_prediction(trace: Any) -> bool:
    """Whether the line is a theorem's prediction; the solid line of the same name is in the legend."""
    return trace.meta is None and trace.line.dash == "dash"


def _legend_rows(names: Iterable[str]) -> int:
    """How many rows the legend takes: entries are as wide as the widest."""
    names = list(names)
    widest = 50 + _LETTER * LETTERS * max(map(len, names))
    return -(-len(names) // max(1, int(WIDTH // widest)))


def _draw(jobs: list[dict[str, Any]]) -> None:
    """Write figures by one browser, which fetches nothing."""
    kaleido = _kaleido()
    from choreographer.errors import BrowserFailedError, ChromeNotFoundError

    try:
        kaleido.write_fig_from_object_sync(jobs, cancel_on_error=True, kopts={"mathjax": False})
    except ChromeNotFoundError:
        raise UsageError(
            "Figures are drawn by Chrome or Chromium, and none was found; install it (Debian: `apt-get "
            "install chromium`) or put its path into BROWSER_PATH."
        ) from None
    except (BrowserFailedError, RuntimeError, ValueError, TimeoutError) as error:
        raise FullrankError(
            f"The browser could not draw the figures ({error}); check that chromium starts here, or put the "
            "path of another one into BROWSER_PATH."
        ) from None


def _kaleido() -> Any:
    """The library, or UsageError where it is not installed."""
    try:
        import kaleido
    except ModuleNotFoundError:
        raise UsageError("Figures as files need kaleido; run `pip install 'fullrank[figures]'`.") from None
    return kaleido
