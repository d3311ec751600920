"""Columns of the `datasets` library as labels: classes, numbers, words, lists, mappings, several columns."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fullrank.data.labelling import Labels, of_columns, of_lists, one_class
from fullrank.errors import DataError, unknown_name

if TYPE_CHECKING:
    from datasets import Dataset

# Names of columns that are labels without being asked for, in this order.
_NAMES = ("label", "labels", "cls", "class", "category", "target", "species", "breed")
_KINDS = ("bool", "int", "uint", "string", "large_string")


@dataclass(frozen=True)
class Column:
    """A column, or an entry of a column of mappings: the keys that lead to it, and what it holds."""

    path: tuple[str, ...]
    feature: Any

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes of a column of classes or of lists of classes; else none."""
        feature = getattr(self.feature, "feature", self.feature)
        return tuple(getattr(feature, "names", None) or ())

    @property
    def may_be_labels(self) -> bool:
        """Whether it holds classes, whole numbers or words, or lists of them."""
        feature = getattr(self.feature, "feature", self.feature)
        return bool(self.class_names) or str(getattr(feature, "dtype", "")).startswith(_KINDS)

    def cells(self, table: "Dataset") -> list[Any]:
        """The values of all rows; those of classes by name, None where there is none."""
        top, *rest = self.path
        cells = list(table.select_columns([top])[:][top])
        for key in rest:
            cells = [None if cell is None else cell.get(key) for cell in cells]
        names = self.class_names
        return [_named(cell, names) for cell in cells] if names else cells


def labels_of(tables: "Mapping[str, Dataset]", column: str | None, name: str) -> Labels:
    """The labels of every split; classes are matched by name.

    Args:
        tables: Split -> its table; the training split is the first.
        column: A column, an entry of one (`json.label`), or several joined by "+". None chooses one.
        name: The spec of the data, for messages.

    Raises:
        UsageError: If no split has the column.
        DataError: If the column holds no labels.
    """
    there = {split: dict(_columns(table.features)) for split, table in tables.items()}
    train = there[next(iter(there))]
    if (column := column or _default(train)) is None:
        return one_class({split: [None] * len(table) for split, table in tables.items()}, name)
    wanted = [column] if any(column in own for own in there.values()) else column.split("+")
    for each in wanted:
        if not any(each in own for own in there.values()):
            raise unknown_name("column", each, train, f"{name} has {', '.join(train)}")
    cells = {
        split: [there[split][c].cells(table) if c in there[split] else [None] * len(table) for c in wanted]
        for split, table in tables.items()
    }
    what = f"{name}: the column {column!r}"
    if len(wanted) > 1:
        rows = {split: list(zip(*columns, strict=True)) for split, columns in cells.items()}
        return of_columns(rows, wanted, what)
    own = {split: columns[0] for split, columns in cells.items()}
    return _of_one(own, column, train[column].class_names if column in train else (), what)


def _of_one(cells: Mapping[str, list[Any]], column: str, classes: tuple[str, ...], what: str) -> Labels:
    some = next((cell for own in cells.values() for cell in own if cell is not None), None)
    if isinstance(some, Mapping):
        entries = " or ".join(f"label={column}.{key}" for key in list(some)[:4])
        raise DataError(f"{what} holds mappings; name an entry of them, {entries}.")
    if isinstance(some, list):
        return of_lists(cells, what, classes)
    try:
        return one_class(cells, what, classes)
    except DataError as error:
        raise DataError(
            f"{str(error).removesuffix('.')}, or name another column with label=COLUMN."
        ) from None


def _columns(features: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, Column]]:
    """Name -> column, also for the entries of columns of mappings, whose names are joined by dots."""
    for key, feature in features.items():
        here = (*path, key)
        yield ".".join(here), Column(here, feature)
        if isinstance(feature, Mapping):
            yield from _columns(feature, here)


def _default(columns: Mapping[str, Column]) -> str | None:
    """The first column of classes, or else the one whose name comes first among the usual ones."""
    classes = [name for name, column in columns.items() if column.class_names]
    usual = [
        name
        for known in _NAMES
        for name, column in columns.items()
        if column.path[-1].lower() == known and column.may_be_labels
    ]
    return next(iter([*classes, *usual]), None)


def _named(cell: Any, names: tuple[str, ...]) -> Any:
    if isinstance(cell, list):
        return [_named(each, names) for each in cell]
    return names[cell] if cell is not None and cell >= 0 else None
