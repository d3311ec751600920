"""The BibTeX entries of the papers that parts are built on, by key, and the one of this package."""

import re
from functools import cache
from importlib.resources import files

from fullrank.version import __version__

# The two papers that the package grew from, by the names that sources use.
P1, P2 = "jing2022understanding", "xue2024investigating"
_KEY = re.compile(r"@\w+\s*\{\s*([^\s,]+)\s*,")


@cache
def bibliography() -> dict[str, str]:
    """Every entry of `bibliography.bib`, by its key.

    >>> "Roy, Olivier" in bibliography()["roy2007effective"]
    True
    """
    text = files("fullrank").joinpath("bibliography.bib").read_text("utf-8")
    return {key_of(entry): entry for entry in text.strip().split("\n\n")}


def key_of(entry: str) -> str:
    """The key of a BibTeX entry, "" for a text that is none.

    >>> key_of("@misc{knuth1984, title = {Literate Programming}}")
    'knuth1984'
    """
    match = _KEY.match(entry.strip())
    return "" if match is None else match[1]


def own_entry() -> str:
    """The BibTeX entry of this package, with its version."""
    return f"""@misc{{fullrank,
  author = {{{{The fullrank developers}}}},
  title = {{fullrank: Train and Diagnose Joint-Embedding Encoders}},
  year = {{2026}},
  note = {{Python package, version {__version__}}}
}}"""
