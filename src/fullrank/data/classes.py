"""Lists of class names (shipped, in a file, or written out), and shipped groups of classes. Torch-free."""

import re
from collections import Counter
from collections.abc import Sequence
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from fullrank.errors import DataError, UsageError, unknown_name
from fullrank.files import expanded, is_file

_FORMS = "write {shipped}, the path of a text file with one name a line, or names joined by '+'"


def class_list(text: str) -> tuple[str, ...]:
    """The class names that a text stands for.

    Each line of a file is a name. If a line begins with a WordNet number (n01440764 tench), the number alone
    is the name. Empty lines and lines that start with `#` do not count.

    Args:
        text: The name of a shipped list, the path of a file, or names joined by `+`.

    Raises:
        UsageError: If the text is none of these, or repeats a name.
        DataError: If the file is not a text file, has no name, or repeats a name.

    >>> class_list("cat+dog")
    ('cat', 'dog')
    >>> len(class_list("imagenet-100")), class_list("imagenet-100")[0]
    (100, 'n02869837')

    Source of imagenet-100: Tian, Krishnan, Isola 2019, arXiv:1906.05849, the list released with it. The first
    lines of the other files name their sources.
    """
    shipped = _shipped("class_lists")
    if text in shipped:
        return _names(shipped[text].read_text("utf-8"))
    path = expanded(text)
    if is_file(path):
        return _from_file(path)
    forms = _FORMS.format(shipped=" or ".join(sorted(shipped)))
    if "+" not in text:
        raise UsageError(f"{text!r} is neither a list of classes nor a file; {forms}.")
    names = tuple(name.strip() for name in text.split("+"))
    if not all(names):
        raise UsageError(f"{text!r} contains an empty class name; {forms}.")
    if twice := first_twice(names):
        raise UsageError(f"{text!r} names the class {twice!r} twice; keep one.")
    return names


def class_groups(name: str) -> dict[str, str]:
    """A shipped grouping of classes: class -> its group, group by group.

    Args:
        name: The name of the grouping, such as `imagenet-9`.

    Raises:
        UsageError: If no grouping of that name is shipped.

    >>> groups = class_groups("imagenet-9")
    >>> len(groups), groups["n02085620"], list(dict.fromkeys(groups.values()))[:3]
    (370, 'dog', ['dog', 'bird', 'wheeled vehicle'])

    Source of imagenet-9: Xiao, Engstrom, Ilyas, Madry 2021, arXiv:2006.09994, released with it.
    """
    shipped = _shipped("class_groups")
    if name not in shipped:
        raise unknown_name("grouping of classes", name, shipped, f"use {', '.join(sorted(shipped))}")
    lines = shipped[name].read_text("utf-8").splitlines()
    return dict(line.split(maxsplit=1) for line in lines if not line.startswith("#"))


def _shipped(folder: str) -> dict[str, Traversable]:
    files = resources.files(__package__).joinpath(folder).iterdir()
    return {file.name.removesuffix(".txt"): file for file in files}


def _from_file(path: Path) -> tuple[str, ...]:
    try:
        names = _names(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as text; give a file with one class name a line.") from error
    if not names:
        raise DataError(f"{path} has no class name; write one a line.")
    if twice := first_twice(names):
        raise DataError(f"{path} names the class {twice!r} twice; keep one.")
    return names


def _names(text: str) -> tuple[str, ...]:
    lines = [line.strip() for line in text.splitlines()]
    entries = (line for line in lines if line and not line.startswith("#"))
    return tuple(line.split()[0] if re.match(r"n\d{8}\s", line) else line for line in entries)


def first_twice(names: Sequence[str]) -> str | None:
    """The first name that occurs more than once."""
    return next((name for name, times in Counter(names).items() if times > 1), None)
