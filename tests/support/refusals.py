"""Errors are checked by what they hold: their class, the names and the values in them, not their sentence."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def refuses(error: type[Exception], *parts: object) -> Iterator[pytest.ExceptionInfo[Exception]]:
    """The block raises `error`, and its message holds each of `parts`: names, values, limits, options.

    >>> with refuses(ValueError, "width", 0, 1):
    ...     raise ValueError("width must be 1 or more, but got 0.")
    """
    with pytest.raises(error) as raised:
        yield raised
    assert_names(str(raised.value), *parts)


def assert_names(text: str, *parts: object) -> None:
    """`text` holds each of `parts` as a whole word or number, so that 1 is not found in 0.1 or in `10`.

    >>> assert_names("gap must be 1 or more, but got 0.5.", "gap", 1, 0.5)
    >>> assert_names("gap must be 10 or more.", 1)
    Traceback (most recent call last):
    ...
    AssertionError: the text does not name 1: gap must be 10 or more.
    """
    folded = " ".join(text.split())
    for part in parts:
        word = re.escape(" ".join(str(part).split()))
        if not re.search(rf"(?<![\w])(?<!\d\.){word}(?!\w|\.\d)", folded):
            raise AssertionError(f"the text does not name {part}: {folded}")


def error_line(printed: str) -> str:
    """The error, which is the last line of standard error; before it a command may say what it begins."""
    *announced, error = printed.splitlines()
    beginnings = ("Training ", "Diagnosing ", "Choosing ", "Computing ", "Reading ")
    others = [line for line in announced if not line.startswith(beginnings)]
    assert not others and error.startswith("fullrank: "), printed
    return error
