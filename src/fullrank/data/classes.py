"""Lists of class names (shipped, in a file, or written out), and shipped groups of classes. Torch-free."""

import re
import unicodedata
import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from fullrank.errors import DataError, FullrankWarning, UsageError, count_of, unknown_name
from fullrank.files import expanded, is_file, printable

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


@lru_cache(maxsize=2**16)  # of many files
def class_name(text: str) -> str:
    r"""The name of a class as a folder or a file states it, in one form of Unicode and printable.

    macOS and archives write one name in several forms. Bytes that are not UTF-8 are written as escapes.

    >>> class_name("cafe\u0301") == class_name("caf\u00e9"), class_name("caf\udce9")
    (True, 'caf\\xe9')
    """
    return unicodedata.normalize("NFC", printable(text))


def check_classes(train: Collection[str], test: Collection[str], name: str) -> None:
    """Compare the classes of two splits by name; warn of test classes that training lacks.

    Args:
        train: The classes of the training images.
        test: The classes of the test images.
        name: The name of the source.

    Raises:
        DataError: If the splits have no class in common, or names differ only in case.
    """
    missing = sorted(set(test) - set(train))
    if not missing or not train:
        return
    folded = {each.casefold(): each for each in train}
    if alike := next((each for each in missing if each.casefold() in folded), None):
        problem = f"the test class {alike!r} and the training class {folded[alike.casefold()]!r}"
        raise DataError(f"{name}: {problem} differ only in case; give both one name.")
    if len(missing) == len(set(test)):
        problem = f"none of its {len(missing)} test classes, such as {missing[0]!r}, is a training class"
        raise DataError(f"{name}: {problem}, such as {min(train)!r}; give the classes the same names.")
    problem = f"training has no image of {len(missing)} of {len(set(test))} test classes"
    warnings.warn(f"{name}: {problem}; the first is {missing[0]!r}.", FullrankWarning, stacklevel=2)


def describe_classes(labels: Iterable[str]) -> str:
    """The classes among labels in a few words; "" is no label.

    >>> describe_classes(["dog", "cat", "cat", ""]), describe_classes([""])
    ('of 2 classes (cat, dog), 1 of them without a label', 'without labels')
    """
    counts = Counter(labels)
    classes = sorted(counts.keys() - {""})
    if not classes:
        return "without labels"
    named = f" ({', '.join(classes)})" if len(classes) <= 4 and sum(map(len, classes)) < 60 else ""
    unlabelled = f", {counts['']} of them without a label" if counts[""] else ""
    return f"of {len(classes)} class{'es' * (len(classes) > 1)}{named}{unlabelled}"


def describe_splits(train: Sequence[str], test: Sequence[str], folders: Sequence[str] = ()) -> str:
    """The images and classes of two splits in a few words.

    Args:
        train: The label of each training image, "" for none.
        test: The label of each test image.
        folders: Where the two splits are.

    >>> describe_splits(["cat", "dog"], ["dog", "cat", "cat"], ["train", "val"])
    '2 training images of 2 classes (cat, dog) in train, 3 test images of the same classes in val'
    """
    same = set(train) == set(test) != {""}
    parts = [
        f"{count_of(len(train), 'training image')} {describe_classes(train)}",
        f"{count_of(len(test), 'test image')} {'of the same classes' if same else describe_classes(test)}",
    ]
    if folders:
        parts = [f"{part} in {folder}" for part, folder in zip(parts, folders, strict=True)]
    return ", ".join(parts)


def first_twice(names: Sequence[str]) -> str | None:
    """The first name that occurs more than once."""
    return next((name for name, times in Counter(names).items() if times > 1), None)
