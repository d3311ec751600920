"""What the site adds to Markdown: formulas as MathML, doctests as code, links out of docs/ as plain text."""

import logging
import posixpath
import re
from typing import Any

from latex2mathml.converter import convert
from markdown import Extension, Markdown
from markdown.preprocessors import Preprocessor

_log = logging.getLogger("mkdocs.hooks.formulas")
_SYNONYMS = {"{aligned}": "{split}", r"\arg\m": r"\operatorname{arg}\m"}
_FENCE = re.compile(r"^ *(```+|~~~+)(\w*)")
_INLINE = re.compile(r"\$`([^`]+)`\$|:math:`([^`]+)`")
_DISPLAY = re.compile(r"^\.\. math:: ?(.*)")
_LINK = re.compile(r"\[([^\]]+)\]\(([^)#\s]+)[^)]*\)")


def on_config(config: Any) -> Any:
    """Add the extension below to those of mkdocs.yml."""
    config.markdown_extensions.append(_Docstrings())
    return config


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Links to files outside docs/ hold in the repository only; on the site their text remains."""
    folder = posixpath.dirname(page.file.src_uri)

    def kept(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, match[2]))
        return match[1] if "://" not in match[2] and target.startswith("../") else match[0]

    return _LINK.sub(kept, markdown)


class _Docstrings(Extension):
    def extendMarkdown(self, md: Markdown) -> None:  # noqa: N802
        """Run before fences are read, for fences of formulas are among them."""
        md.preprocessors.register(_Formulas(md), "fullrank-formulas", 28)


class _Formulas(Preprocessor):
    """Formulas in GitHub's notation and in reStructuredText's; doctests become fenced code."""

    def run(self, lines: list[str]) -> list[str]:
        """Return the lines with formulas replaced by MathML."""
        result: list[str] = []
        rest = list(lines)
        while rest:
            line = rest.pop(0)
            if fence := _FENCE.match(line):
                body = _taken(rest, lambda each: not each.strip().startswith(fence[1]))
                closing = [rest.pop(0)] if rest else []
                result += [self._display(body)] if fence[2] == "math" else [line, *body, *closing]
            elif display := _DISPLAY.match(line):
                body = _taken(rest, lambda each: each.startswith(" "))
                result += ["", self._display([display[1], *body]), ""]
            elif line.startswith(">>> "):
                result += ["", "```pycon", line, *_taken(rest, lambda each: bool(each.strip())), "```"]
            else:
                result.append(_INLINE.sub(lambda match: self._mathml(match[1] or match[2]), line))
        return result

    def _display(self, lines: list[str]) -> str:
        return self._mathml(" ".join(lines), display="block")

    def _mathml(self, formula: str, display: str = "inline") -> str:
        for ours, converters in _SYNONYMS.items():
            formula = formula.replace(ours, converters)
        mathml = convert(formula, display=display)
        if re.search(r"<mi>(&<|\\)", mathml):  # an environment or a command that the converter lacks
            _log.warning("This formula is not converted: %s", formula)
        return str(self.md.htmlStash.store(mathml))


def _taken(rest: list[str], while_: Any) -> list[str]:
    """The lines at the front that fit, taken off `rest`."""
    taken = []
    while rest and while_(rest[0]):
        taken.append(rest.pop(0))
    return taken
