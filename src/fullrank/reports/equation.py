"""Equations written with `a_{i}` and `a^{2}`, as HTML and as plain text. Torch-free."""

import re

from markupsafe import Markup, escape

# An index may hold one more: e^{λ_{k} t}.
_INDEX = re.compile(r"([_^])\{((?:[^{}]|\{[^{}]*\})*)\}")
_TAGS = {"_": "sub", "^": "sup"}
_ALPHABETS = {
    "_": dict(zip("0123456789+−=()ijklnt", "₀₁₂₃₄₅₆₇₈₉₊₋₌₍₎ᵢⱼₖₗₙₜ", strict=True)),
    "^": dict(zip("0123456789+−=()ijklntTL", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ⁱʲᵏˡⁿᵗᵀᴸ", strict=True)),
}


def equation_as_html(text: str) -> Markup:
    """The equation with its subscripts and superscripts as HTML elements; everything else is escaped.

    >>> print(equation_as_html("e^{λ_{k} t} < 1"))
    e<sup>λ<sub>k</sub> t</sup> &lt; 1
    """
    parts, end = [], 0
    for match in _INDEX.finditer(text):
        tag = _TAGS[match[1]]
        parts.append(escape(text[end : match.start()]))
        parts.append(Markup(f"<{tag}>") + equation_as_html(match[2]) + Markup(f"</{tag}>"))
        end = match.end()
    return Markup("").join([*parts, escape(text[end:])])


def equation_as_text(text: str) -> str:
    """The equation in Unicode: small letters where Unicode has all of an index, brackets elsewhere.

    >>> equation_as_text("a_{i}^{2} = e^{λ_{k} t} w_{1,i}")
    'aᵢ² = e^(λₖ t) w_1,i'
    """

    def plain(match: re.Match[str]) -> str:
        mark, index = match[1], match[2]
        alphabet = _ALPHABETS[mark]
        if all(letter in alphabet for letter in index):
            return "".join(alphabet[letter] for letter in index)
        inner = equation_as_text(index)
        return f"{mark}({inner})" if re.search(r"\W", inner.replace(",", "")) else f"{mark}{inner}"

    return _INDEX.sub(plain, text)
