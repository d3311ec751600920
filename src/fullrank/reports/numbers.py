"""How numbers and names are written."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from fullrank.statistics import live_dimensions


def without_path(spec: str) -> str:
    """The spec of data for a sentence: the last part of its path where it has one, else all of it.

    >>> without_path("folder:/long/path/photos,canvas=96"), without_path("digits")
    ('photos', 'digits')
    """
    paths = [part for part in re.split(r'[:,="]', spec) if re.search(r"[/\\\\]", part)]
    return re.split(r"[/\\\\]", paths[0].rstrip("/\\"))[-1] if paths else spec


def in_points(value: float | None) -> str:
    """A number with one decimal and a real minus sign; an en dash where there is none."""
    return decimals(value, 1)


def decimals(value: float | None, digits: int) -> str:
    """A number with so many decimals and a real minus sign; an en dash where there is none."""
    if value is None or not np.isfinite(value):
        return "–"
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")


def signed(value: float | None, digits: int = 1) -> str:
    """As `decimals`, with a plus sign before what is above zero."""
    text = decimals(value, digits)
    return text if text in ("–", decimals(0.0, digits)) or text[0] == "−" else f"+{text}"


def distance(points: float, unit: str = "") -> str:
    """How far a number is above or below another one: "2.9 points below", "level with"."""
    size = in_points(abs(points))
    return "level with" if size == "0.0" else f"{size}{unit} {'above' if points > 0 else 'below'}"


def live_note(spectra: Mapping[str, Sequence[Sequence[float]]]) -> str:
    """How many dimensions are live, by name and over the spectra of each; "" where all are."""
    parts = []
    for name, each in spectra.items():
        counts = [live_dimensions(values) for values in each]
        if any(count < len(values) for count, values in zip(counts, each, strict=True)):
            span = " to ".join(map(str, dict.fromkeys((min(counts), max(counts)))))
            parts.append(f"{name}: {span} of {max(map(len, each))} dimensions are live")
    return f"{'; '.join(parts)}." if parts else ""


def unique_slugs(titles: Sequence[str]) -> list[str]:
    """Titles as names of files and labels, all different: small letters, digits and dashes.

    >>> unique_slugs(["Spectrum at h", "Loss", "loss"])
    ['spectrum-at-h', 'loss', 'loss-2']
    """
    names, counts = [], Counter[str]()
    for title in titles:
        slug = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:80] or "untitled"
        counts[slug] += 1
        names.append(slug if counts[slug] == 1 else f"{slug}-{counts[slug]}")
    return names
