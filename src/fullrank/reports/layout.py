"""What every page shares: templates, their filters, and the place of a figure. Torch-free."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import plotly.graph_objects as go
import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from fullrank.reports.drawing import Style
from fullrank.reports.equation import equation_as_html
from fullrank.reports.numbers import decimals, in_points, signed

_yaml = partial(yaml.safe_dump, sort_keys=False, allow_unicode=True)
_DASHES = {"solid": "none", "dash": "7 4", "dot": "2 3"}


@dataclass(frozen=True)
class Panel:
    """One figure as the page shows it; a `height` of None is the page's own height for figures."""

    figure: Markup
    height: int | None
    heading: str
    label: str
    note: str
    key: Mapping[str, Style] | None


@dataclass(frozen=True)
class Page:
    """A page: its template and the values that fill it."""

    template: str
    values: Mapping[str, Any]

    @property
    def text(self) -> str:
        """The page as text; every value is escaped but what is marked as safe."""
        # The library is trusted and holds no closing script tag.
        return _environment().get_template(self.template).render(plotly=Markup(get_plotlyjs()), **self.values)

    @property
    def panels(self) -> Iterator[Panel]:
        """Every figure of the page, also those inside its sections."""
        for value in self.values.values():
            shown = value.get("panels") if isinstance(value, Mapping) else value
            yield from (each for each in shown if isinstance(each, Panel)) if isinstance(shown, list) else ()


def panels(
    figure: go.Figure | None, heading: str, label: str, note: str = "", key: Mapping[str, Style] | None = None
) -> list[Panel]:
    """A list with the figure as its only panel, empty without a figure; `key` is shown above it."""
    if figure is None:
        return []
    figure.update_layout(showlegend=False)
    # plotly writes `<` as \u003c, so no text in a figure can end the script element around it.
    return [Panel(Markup(figure.to_json()), figure.layout.height, heading, label, note, key)]


def fill(template: str, **values: Any) -> Page:
    """The page that a template makes of these values."""
    return Page(template, values)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("fullrank.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"points": in_points, "signed": signed, "short": _short}
    environment.filters |= {"number": partial(decimals, digits=2)}
    environment.filters |= {
        "equation": equation_as_html,
        "swatch": _swatch,
        "breakable": _breakable,
        "yaml": _yaml,
    }
    return environment


def _swatch(style: Style) -> Markup:
    """A short line in the colour and dash of a head or place, for keys and tables."""
    return Markup(
        '<svg class="swatch" width="26" height="10" aria-hidden="true"><line x1="1" y1="5" x2="25" y2="5" '
        'stroke="{}" stroke-width="3" stroke-dasharray="{}"/></svg>'
    ).format(style.color, _DASHES[style.dash])


def _breakable(text: str, after: str = ",") -> Markup:
    """Text that may also break after a comma, or a dot: specs and places have no spaces."""
    return Markup("{}<wbr>").format(after).join(text.split(after))


def _short(value: Any) -> str:
    """A number in four digits, an en dash for None."""
    if isinstance(value, float):
        return f"{value:.4g}".replace("-", "−")
    return "–" if value is None else str(value)
