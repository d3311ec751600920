"""Lists of classes by name: shipped, in a file, or written out. Torch-free."""

import re
from collections import Counter
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from fullrank.errors import DataError, UsageError

_FORMS = "write {shipped}, the path of a text file with one name a line, or names joined by '+'"


def class_list(text: str) -> tuple[str, ...]:
    """The class names that `text` means: a shipped list, the path of a file, or names joined by `+`.

    A name is a line of a file, but of one that begins with a WordNet number (n01440764 tench) that alone;
    empty lines and those that start with `#` do not count. Raises
    UsageError for a text that is none of these and for names written twice, DataError for a file that is no
    text, holds no name or the same one twice.

    >>> class_list("cat+dog")
    ('cat', 'dog')
    >>> len(class_list("imagenet-100")), class_list("imagenet-100")[0]
    (100, 'n02869837')

    Source of imagenet-100: Tian, Krishnan, Isola 2019, arXiv:1906.05849, the list released with it.
    """
    shipped = {
        file.name.removesuffix(".txt"): file
        for file in resources.files(__package__).joinpath("class_lists").iterdir()
    }
    if text in shipped:
        return _names(shipped[text].read_text("utf-8"))
    path = Path(text).expanduser()
    if path.is_file():
        return _from_file(path)
    forms = _FORMS.format(shipped=" or ".join(sorted(shipped)))
    if "+" not in text:
        raise UsageError(f"{text!r} is no list of classes and no file; {forms}.")
    names = tuple(name.strip() for name in text.split("+"))
    if not all(names):
        raise UsageError(f"{text!r} holds an empty class name; {forms}.")
    if twice := _first_twice(names):
        raise UsageError(f"{text!r} names the class {twice!r} twice; keep one.")
    return names


def _from_file(path: Path) -> tuple[str, ...]:
    try:
        names = _names(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as text; give a file with one class name a line.") from error
    if not names:
        raise DataError(f"{path} holds no class name; write one a line.")
    if twice := _first_twice(names):
        raise DataError(f"{path} names the class {twice!r} twice; keep one.")
    return names


def _names(text: str) -> tuple[str, ...]:
    lines = [line.strip() for line in text.splitlines()]
    kept = (line for line in lines if line and not line.startswith("#"))
    return tuple(line.split()[0] if re.match(r"n\d{8}\s", line) else line for line in kept)


def _first_twice(names: Sequence[str]) -> str | None:
    return next((name for name, times in Counter(names).items() if times > 1), None)
