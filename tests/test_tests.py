"""What holds of every test: none pins a sentence, so that the English can be mended."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
ROOMS = sorted({path.relative_to(TESTS).parts[0] for path in TESTS.rglob("test_*.py")})
# Three words in a row: a name, a value or an option is never that long.
SENTENCE = re.compile(r"[A-Za-z`']{2,}[,;:]? [a-z`']{2,}[,;:]? [a-z`']{2,}")


def literals(node: ast.expr) -> Iterator[ast.Constant]:
    """The strings written in an expression."""
    for each in ast.walk(node):
        if isinstance(each, ast.Constant) and isinstance(each.value, str):
            yield each


def pinned_sentences(source: str) -> list[tuple[int, str]]:
    """Line and text of each sentence that a test compares with: in `match=`, or on a side of `in` or `==`.

    >>> pinned_sentences('assert "so many words in a row" in text')
    [(1, 'so many words in a row')]
    """
    found = []
    for node in ast.walk(ast.parse(source)):
        sides: list[ast.expr] = []
        if isinstance(node, ast.keyword) and node.arg == "match":
            sides = [node.value]
        elif isinstance(node, ast.Assert):
            for each in ast.walk(node.test):
                if isinstance(each, ast.Compare):
                    sides += [each.left, *each.comparators]
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("refuses", "assert_names"):
            sides = list(node.args)
        found += [
            (each.lineno, each.value)
            for side in sides
            for each in literals(side)
            if SENTENCE.search(each.value)
        ]
    return sorted(set(found))


@pytest.mark.parametrize("room", ROOMS)
def test_no_test_pins_a_sentence(room: str) -> None:
    paths = [TESTS / room] if room.endswith(".py") else sorted((TESTS / room).rglob("*.py"))
    found = [
        f"{path.relative_to(TESTS)}:{line}: {text}"
        for path in paths
        for line, text in pinned_sentences(path.read_text("utf-8"))
    ]
    assert not found, "\n".join(found)
