"""Tables of images: a CSV or Parquet file of paths, labels, splits and groups."""

import re
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import final, get_args

import numpy as np

from fullrank.data.classes import check_classes, class_name, describe_classes, describe_splits, first_twice
from fullrank.data.depth import window_option
from fullrank.data.image_set import UNLABELLED
from fullrank.data.selection import fixed_split, grouped_split
from fullrank.data.sets.columns import Columns, find_column, read_columns, words
from fullrank.data.sets.folder import Files, ImageFiles
from fullrank.data.sets.layouts import Role, role_of
from fullrank.data.sources import SPLITS, Split, canonical, check_folder
from fullrank.errors import DataError, FullrankWarning, UsageError, count_of, few_of
from fullrank.files import expanded

GROUP = "group"
_USUAL = {
    "path": (
        *("path", "file_path", "filepath", "image_path", "img_path", "image_file", "img_filename"),
        *("file_name", "filename", "image_name", "file", "image", "img"),
    ),
    "label": ("label", "labels", "class", "class_name", "classname", "target", "category", "y"),
    "split": ("split", "subset", "partition", "set", "phase"),
    "group": ("group", "group_id", "patient", "patient_id", "subject", "subject_id", "participant_id"),
}
"""The usual names of each column in small letters, the likeliest first; spaces and `-` stand for `_`."""


@dataclass(frozen=True, eq=False)
class Division:
    """The rows of both splits, whether the table states them, and how many rows are in neither."""

    rows: dict[Split, np.ndarray]
    official: bool
    note: str


@final
class ImageTable(ImageFiles):
    """The image files that a CSV or Parquet file lists, decoded into memory or on demand.

    Columns are found by common names, such as path or filename, label or class, split or subset, and group or
    patient_id. Options name others. Without a column of splits, 20 % of the images are drawn as test images,
    stratified and always the same. If there are groups, none is in both splits, and each image has the label
    "group". Images whose label is empty, NaN or -1 are unlabelled. `understood` says what was found.

    Several columns of labels, `label=A+B`, become several labels: the first is "label", the others keep their
    names. If all cells are 0 or 1, an image may have several labels at once, "label:A" and "label:B".

    Pixels are read as in `ImageFiles`.

    Args:
        file: The table, CSV or Parquet. Parquet needs the extra `parquet`.
        path: The column of paths.
        label: The column of labels, or several joined by `+`.
        split: The column of splits, with words such as train, val and test.
        group: The column of groups, such as patients.
        root: The folder to which paths are relative; the default is the folder of the table.
        canvas: Side of a square in pixels. If given, images are decoded on demand as RGB, may have any size,
            and are resized to this square in training.
        bits: The bits of pixels of more than eight bits. A larger value is an error.
        low: The value that becomes black, as in `ImageFolder`.
        high: The value that becomes white.

    Raises:
        DataError: If the table cannot be read, has no column of paths, lists a file twice or files that do
            not exist, has an unknown word as a split, or its splits have no class in common.
        UsageError: If a column does not exist, or an extra is missing.

    >>> ImageTable("scans.csv", label="finding", group="patient").name
    'table:scans.csv,group=patient,label=finding'
    """

    def __init__(
        self,
        file: str,
        path: str | None = None,
        label: str | None = None,
        split: str | None = None,
        group: str | None = None,
        root: str | None = None,
        canvas: int | None = None,
        bits: int | None = None,
        low: float | None = None,
        high: float | None = None,
    ):
        self.named = {"path": path, "label": label, "split": split, "group": group}
        self.file = expanded(file)
        depth = {"bits": bits, "low": low, "high": high}
        name = canonical("table", file, **self.named, root=root, canvas=canvas, **depth)
        folder = self.file.parent if root is None else expanded(root)
        super().__init__(name, folder, canvas, window_option(bits, low, high))

    def _find(self) -> Files:
        check_folder(self.path, self.name)
        columns = read_columns(self.file, self.name)
        path, split, group = (self._column(role, columns) for role in ("path", "split", "group"))
        if path is None:
            problem = f"{self.name} has no column of paths, but {few_of(list(columns), 8)}"
            raise DataError(f"{problem}; name it with path=COLUMN.")
        names, groups = words(columns[path]), None if group is None else words(columns[group])
        self._check_files(names)
        label = self._label_columns(columns)
        labels, class_names = self._labels({each: words(columns[each]) for each in label}, len(names))
        if split is None:
            division = self._drawn(labels["label"], groups)
        else:
            division = self._stated(split, words(columns[split]), labels)
            self._compare(division, labels, class_names, groups)
        if groups is not None:
            labels[GROUP], class_names[GROUP] = _numbered(groups)
        used = {"paths": [path], "labels": label, "splits": [split or ""], "groups": [group or ""]}
        listed = {
            role: " and ".join(repr(each) for each in columns if each) for role, columns in used.items()
        }
        said = ", ".join(f"{role} in {each}" for role, each in listed.items() if each)
        understood = _sentence(division, labels, class_names["label"], said)
        return Files(names, labels, class_names, division.rows, division.official, understood)

    def _column(self, role: str, columns: Columns) -> str | None:
        return find_column(columns, self.named[role], _USUAL[role], self.name)

    def _label_columns(self, columns: Columns) -> list[str]:
        """The columns of labels, of which the first has the main ones."""
        named = self.named["label"]
        if named is None or named in columns or "+" not in named:
            column = self._column("label", columns)
            return [] if column is None else [column]
        several = named.split("+")
        for each in several:
            find_column(columns, each, (), self.name)
        if reserved := {"label", GROUP} & {*several[1:]}:
            raise UsageError(f"{self.name}: {min(reserved)} names another label; write it first in label=.")
        return several

    def _check_files(self, names: Sequence[str]) -> None:
        """Raise DataError if a path is empty, listed twice or not a file."""
        if empty := sum(not name for name in names):
            raise DataError(f"{self.name}: {empty} of {len(names)} rows have no path; fill or remove them.")
        if twice := first_twice(names):
            more = len(names) - len(set(names))
            problem = f"{more} of {len(names)} rows repeat a path, the first is {twice!r}"
            raise DataError(f"{self.name}: {problem}; keep one row for each image.")
        with ThreadPoolExecutor() as pool:
            exist = list(pool.map(lambda name: (self.path / name).is_file(), names, chunksize=1000))
        if not all(exist):
            first = names[exist.index(False)]
            problem = f"{exist.count(False)} of {count_of(len(names), 'file')} are not below {self.path}"
            raise DataError(f"{self.name}: {problem}, the first is {first!r}; check root=FOLDER.")

    def _labels(
        self, cells_of: Mapping[str, Sequence[str]], count: int
    ) -> tuple[dict[str, np.ndarray], dict[str, tuple[str, ...]]]:
        """The labels in the columns of labels, and the names of their classes."""
        unlabelled = np.full(count, UNLABELLED)
        binary = all(cell in ("0", "1", "", "-1") for cells in cells_of.values() for cell in cells)
        if len(cells_of) > 1 and binary:
            labels = {"label": unlabelled}
            for key, cells in cells_of.items():
                labels[f"label:{key}"] = np.array([int(cell or UNLABELLED) for cell in cells])
            return labels, {**dict.fromkeys(labels, ("0", "1")), "label": ()}
        numbered = [_numbered(cells) for cells in cells_of.values()] or [(unlabelled, ())]
        keys = ["label", *list(cells_of)[1:]]
        numbers, classes = zip(*numbered, strict=True)
        return dict(zip(keys, numbers, strict=True)), dict(zip(keys, classes, strict=True))

    def _drawn(self, labels: np.ndarray, groups: Sequence[str] | None) -> Division:
        if groups is None:
            rows = {split: fixed_split(labels, split, self.name) for split in SPLITS}
        else:
            rows = {split: grouped_split(labels, groups, split, self.name) for split in SPLITS}
        return Division(rows, False, "")

    def _stated(self, column: str, cells: Sequence[str], labels: Mapping[str, np.ndarray]) -> Division:
        """The rows of the splits that the table states; the first test split with labels is tested on."""
        roles = [role_of(cell) for cell in cells]
        if unknown := [cell for cell, role in zip(cells, roles, strict=True) if role is None]:
            listed = few_of([repr(cell) for cell in dict.fromkeys(unknown)])
            problem = f"{len(unknown)} of {len(cells)} rows have unknown words in {column!r}: {listed}"
            raise DataError(f"{self.name}: {problem}; write train, val and test.")
        rows_of = {role: np.flatnonzero([each == role for each in roles]) for role in get_args(Role)}
        tests = [role for role, rows in rows_of.items() if role != "train" and len(rows)]
        if not len(rows_of["train"]) or not tests:
            held = few_of(list(dict.fromkeys(cells)))
            raise DataError(f"{self.name}: {column!r} has only {held}; write train and test.")
        known = np.any([each >= 0 for each in labels.values()], axis=0)
        chosen = ([role for role in tests if known[rows_of[role]].any()] or tests)[0]
        used = np.concatenate([rows_of["train"], rows_of[chosen]])
        others = Counter(cells[row] for row in np.setdiff1d(np.arange(len(cells)), used).tolist())
        note = ", ".join(f"{count_of(count, 'image')} of {cell}" for cell, count in others.items())
        return Division({"train": rows_of["train"], "test": rows_of[chosen]}, True, note)

    def _compare(
        self,
        division: Division,
        labels: Mapping[str, np.ndarray],
        class_names: Mapping[str, tuple[str, ...]],
        groups: Sequence[str] | None,
    ) -> None:
        """Compare the classes of both splits, and warn of groups that are in both."""
        parts = list(division.rows.values())
        for key, classes in class_names.items():
            if not key.startswith("label:"):
                numbers = (np.unique(labels[key][part]).tolist() for part in parts)
                train, test = ({classes[each] for each in part if each >= 0} for part in numbers)
                check_classes(train, test, self.name)
        if groups is not None:
            train, test = ({groups[row] for row in part.tolist()} - {""} for part in parts)
            if both := sorted(train & test):
                problem = f"{count_of(len(both), 'group')} in training and test images, such as {both[0]!r}"
                warning = f"{self.name} has {problem}; scores may be too high."
                warnings.warn(warning, FullrankWarning, stacklevel=2)


def _numbered(cells: Sequence[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels (N,), -1 for "" and "-1", and the classes: whole numbers in their order, else by name."""
    names = ["" if cell == "-1" else class_name(cell) for cell in cells]
    distinct = set(names) - {""}
    whole = all(re.fullmatch(r"-?\d+", each) for each in distinct)
    classes = tuple(sorted(distinct, key=int) if whole else sorted(distinct))
    row_of = {"": UNLABELLED, **{name: row for row, name in enumerate(classes)}}
    return np.array([row_of[name] for name in names], np.int64), classes


def _sentence(
    division: Division, labels: Mapping[str, np.ndarray], classes: Sequence[str], columns: str
) -> str:
    """What was understood: images and classes of each split, their columns, and what was left out."""
    several = [key for key in labels if key.startswith("label:")]
    named = [*classes, ""]  # label -1 is the last
    parts = [[named[label] for label in labels["label"][rows].tolist()] for rows in division.rows.values()]
    if division.official:
        each = f"{len(parts[0])} training and {len(parts[1])} test images with {len(several)} labels each"
        said = f"{each if several else describe_splits(*parts)}; {columns}"
        return f"{said}; left out: {division.note}" if division.note else said
    every = parts[0] + parts[1]
    what = f"with {len(several)} labels each" if several else describe_classes(every)
    drawn = f"{len(parts[1])} are drawn as test images"
    apart = ", with no group in both splits" if GROUP in labels else ""
    return f"{count_of(len(every), 'image')} {what}; {columns}; {drawn}{apart}"
