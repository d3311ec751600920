"""The pages on theory: what they name exists, and every equation closes and has its function and its test."""

import ast
import importlib
import re
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs/theory").glob("*.md"))
SOURCES = sorted((ROOT / "src/fullrank/theory").rglob("*.py"))
LINE = re.compile(
    r"^Computed by (?P<functions>`[^`]+`(?:, `[^`]+`)*); checked by (?P<tests>`[^`]+`(?:, `[^`]+`)*)\.$",
    re.MULTILINE,
)
CODE = re.compile(r"(?<![$`])`([^`$\n]+)`(?![$`])")
# Fenced maths, inline maths as GitHub reads it, and what looks like either but is not closed.
BLOCK = re.compile(r"^```math\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"\$`([^`\n]+(?:\n[^`\n]+)*)`\$")


def spans(text):
    """The contents of code spans."""
    return CODE.findall(text)


@cache
def names_in(path):
    tree = ast.parse((ROOT / path).read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def sections(text):
    """What stands between each heading or equation and the next of either, with whether it is an equation."""
    marks = [(found.span(), True) for found in BLOCK.finditer(text)]
    marks += [(found.span(), False) for found in re.finditer(r"^#+ .*$", text, re.MULTILINE)]
    marks = [*sorted(marks), ((len(text), len(text)), False)]
    return [
        (text[start:end], text[end:after], maths)
        for ((start, end), maths), ((after, _), _) in pairwise(marks)
    ]


def untied(text):
    """The equations that are not followed by exactly one line of function and test before the next mark."""
    return [mark for mark, rest, maths in sections(text) if maths and len(LINE.findall(rest)) != 1]


def unbalanced(text):
    """Pieces of maths whose braces, delimiters or environments do not close, and dollars outside maths."""
    pieces = BLOCK.findall(text) + INLINE.findall(text)
    wrong = [piece for piece in pieces if not closes(piece)]
    outside = INLINE.sub("", BLOCK.sub("", text))
    return wrong + re.findall(r".*\$.*|.*```math.*", outside)


def closes(maths):
    """Whether a piece of maths closes what it opens; an escaped brace is a sign, not a bracket."""
    depth = 0
    for brace in re.findall(r"(?<!\\)[{}]", maths):
        depth += 1 if brace == "{" else -1
        if depth < 0:
            return False
    if depth or "$" in maths:
        return False
    left, right = (len(re.findall(rf"\\{side}(?![a-z])", maths)) for side in ("left", "right"))
    ends = [re.findall(rf"\\{mark}\{{(\w+)\}}", maths) for mark in ("begin", "end")]
    return left == right and ends[0] == ends[1]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_function_and_test_that_a_page_names_exists(page):
    for span in spans(BLOCK.sub("", page.read_text())):
        if span.startswith("fullrank.theory."):
            module, _, name = span.rpartition(".")
            assert callable(getattr(importlib.import_module(module), name, None)), span
        if span.startswith("tests/"):
            path, _, name = span.partition("::")
            assert (ROOT / path).is_file() and (not name or name in names_in(path)), span


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_equation_is_tied_to_its_function_and_its_test(page):
    text = page.read_text()
    assert not untied(text)
    lines = list(LINE.finditer(text))
    assert len(lines) == text.count("Computed by") == len(BLOCK.findall(text))
    for line in lines:
        assert all(span.startswith("fullrank.theory.") for span in spans(line["functions"])), line[0]
        assert all("::test_" in span for span in spans(line["tests"])), line[0]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_maths_closes_what_it_opens(page):
    assert not unbalanced(page.read_text())


def test_every_function_with_an_equation_is_named_on_a_page():
    named = {span for page in PAGES for span in spans(BLOCK.sub("", page.read_text()))}
    for source in SOURCES:
        for node in ast.parse(source.read_text()).body:
            if isinstance(node, ast.FunctionDef) and ".. math::" in (ast.get_docstring(node) or ""):
                module = source.relative_to(ROOT / "src").with_suffix("").as_posix().replace("/", ".")
                name = f"{module}.{node.name}"
                assert node.name.startswith("_") or name in named, name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_that_a_page_links_to_exist(page):
    links = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text())
    assert all((page.parent / link).exists() for link in links)


def test_commands_on_the_pages_are_theorems_with_such_settings():
    from fullrank.theory import THEOREMS

    for page in PAGES:
        for command in re.findall(r"fullrank theory ([a-z-]+)(.*)", page.read_text()):
            name, rest = command
            if name == "predict":
                continue
            fields = THEOREMS[name].load().model_fields
            options = re.findall(r"--([a-z-]+)", rest.split("`")[0])
            options += re.findall(r"--set ([a-z_]+)=", rest.split("`")[0])
            assert {option.replace("-", "_") for option in options} <= {*fields, "set", "full", "out", "help"}


def test_python_on_the_index_runs(capsys):
    for block in re.findall(r"```python\n(.*?)```", (ROOT / "docs/theory/README.md").read_text(), re.DOTALL):
        exec(compile(block, "docs/theory/README.md", "exec"), {})
    assert capsys.readouterr().out == "[[1.414 0.949 0.707]\n [1.    0.9   1.   ]]\n"


GOOD = "### A\n```math\na\n```\nWhy.\n\nComputed by `f.g`, `f.h`; checked by `t.py::test_a`.\n\n### B\n"


@pytest.mark.parametrize(
    "broken",
    [
        GOOD.replace("Computed by", "By"),
        GOOD.replace("; checked by `t.py::test_a`", ""),
        GOOD.replace("Why.", "```math\nb\n```"),
        GOOD.replace("Why.", "#### C"),
    ],
)
def test_an_equation_that_is_not_tied_is_found(broken):
    assert not untied(GOOD)
    assert untied(broken) or len(LINE.findall(broken)) != len(BLOCK.findall(broken))


@pytest.mark.parametrize(
    "broken",
    [
        "$`a_{1`$",
        "$`a}{`$",
        "$`a`",
        "costs $5",
        "```math\n\\begin{aligned}a\n```\n",
        "```math\n\\left( a )\n```\n",
        "```math\na",
    ],
)
def test_maths_that_does_not_close_is_found(broken):
    assert not unbalanced("$`\\{a_{1}\\}`$ and\n```math\n\\begin{aligned}a\\end{aligned}\n```\n`code`")
    assert unbalanced(broken)
