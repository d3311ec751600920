"""Columns of the `datasets` library as labels; tables in memory, so that nothing is read from a disk."""

import datasets
import pytest
from refusals import refuses

from fullrank.data.sets.label_columns import labels_of
from fullrank.errors import DataError, UsageError

Features, Names, Value = datasets.Features, datasets.ClassLabel, datasets.Value


def table(features=None, **columns):
    return datasets.Dataset.from_dict(columns, features=features and Features(features))


def read(column=None, features=None, **columns):
    return labels_of({"train": table(features, **columns)}, column, "x")


def classes(labels, split="train"):
    """The names of the classes of all rows; None for no label."""
    names = labels.class_names["label"]
    return [names[number] if number >= 0 else None for number in labels.of[split]["label"]]


def held(labels, split="train"):
    """The set of labels of each row; None for a row without labels."""
    columns = {name.removeprefix("label:"): own for name, own in labels.of[split].items() if name != "label"}
    rows = zip(*([(name, value) for value in own.tolist()] for name, own in columns.items()), strict=True)
    return [None if {v for _, v in row} == {-1} else {name for name, v in row if v == 1} for row in rows]


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        ([3, None, 10, 3], ["3", None, "10", "3"]),
        ([True, False, None, True], ["1", "0", None, "1"]),
        ([2.0, float("nan"), 1.0, 2.0], ["2", None, "1", "2"]),
        (["owl", None, "", "ant"], ["owl", None, None, "ant"]),
        ([10**12, 3, -1, 3], ["1000000000000", "3", None, "3"]),
    ],
)
def test_whole_numbers_and_words_are_classes(cells, expected):
    assert classes(read("value", value=cells)) == expected


def test_classes_of_two_splits_are_matched_by_name_and_never_by_number():
    tables = {
        "train": table({"kind": Names(names=["cat", "dog"])}, kind=[0, 1, -1]),
        "test": table({"kind": Names(names=["emu", "dog", "cat"])}, kind=[2, 0, 1]),
        "dev": table({"kind": Value("string")}, kind=["dog", "cat", None]),
        "plain": table(other=[1]),
    }
    labels = labels_of(tables, "kind", "x")
    assert labels.class_names["label"] == ("cat", "dog", "emu")
    found = [classes(labels, split) for split in tables]
    assert found == [["cat", "dog", None], ["cat", "emu", "dog"], ["dog", "cat", None], [None]]
    tables["dev"] = table(kind=[0, 1])
    with refuses(DataError, "train", "'cat'", "dev", 0):
        labels_of(tables, "kind", "x")


@pytest.mark.parametrize(
    ("features", "cells", "expected"),
    [
        (None, [["a", "c"], [], ["c"], None], [{"a", "c"}, set(), {"c"}, None]),
        (None, [[7, 5], [], [5], None], [{"5", "7"}, set(), {"5"}, None]),
        (None, [[0, 1, 1], [0, 0, 0], None, [1, 0, 1]], [{"1", "2"}, set(), None, {"0", "2"}]),
        (
            {"labels": datasets.Sequence(Names(names=["cat", "ant", "owl"]))},
            [[0, 1], [2], [], None],
            [{"cat", "ant"}, {"owl"}, set(), None],
        ),
    ],
)
def test_lists_are_several_labels(features, cells, expected):
    labels = read("labels", features, labels=cells)
    assert held(labels) == expected
    assert set(labels.of["train"]["label"]) == {-1} and labels.class_names["label"] == ()


def test_lists_of_one_label_are_classes():
    assert classes(read("labels", labels=[["b"], ["a"], None])) == ["b", "a", None]


def test_columns_of_zero_and_one_are_several_labels():
    columns = {"smile": [True, False, True], "beard": [1, 0, 0], "age": [0.5, 2.0, 3.0]}
    assert held(read("smile+beard", **columns)) == [{"smile", "beard"}, set(), {"smile"}]
    with refuses(DataError, "smile+age", 0.5):
        read("smile+age", **columns)
    with refuses(UsageError, "'berd'", "'beard'"):
        read("smile+berd", **columns)


def test_an_entry_of_a_mapping_is_named_with_a_dot():
    cells = [{"label": 2, "size": 7}, None, {"label": 0, "size": 9}]
    assert classes(read("json.label", json=cells)) == ["2", None, "0"]
    with refuses(DataError, "'json'", "label=json.label"):
        read("json", json=cells)


@pytest.mark.parametrize(
    ("features", "columns", "expected"),
    [
        (None, {"size": [4, 5], "label": [0, 1]}, ["0", "1"]),
        (None, {"id": ["p", "q"], "Category": ["b", "a"], "y": [0, 1]}, ["b", "a"]),
        (
            {"label": Value("int64"), "kind": Names(names=["cat", "dog"])},
            {"label": [7, 8], "kind": [1, 0]},
            ["dog", "cat"],
        ),
        (None, {"meta": [{"label": 3}, {"label": 4}]}, ["3", "4"]),
        (None, {"label": [0.5, 0.7], "size": [4, 5]}, [None, None]),  # no classes, and nobody asked for them
    ],
)
def test_the_column_that_is_labels_without_being_named(features, columns, expected):
    assert classes(read(None, features, **columns)) == expected


def test_a_named_column_that_holds_no_classes_is_refused():
    with refuses(DataError, "'label'", 0.5, "label=COLUMN"):
        read("label", label=[0.5, 0.7])
