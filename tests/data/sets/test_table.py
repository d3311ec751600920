from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from refusals import assert_names

from fullrank.data import Source, source
from fullrank.data.sets.columns import words
from fullrank.errors import DataError, FullrankWarning, UsageError

COUNT = 20
PATHS = [f"img/{row}.png" for row in range(COUNT)]


@pytest.fixture
def listed(tmp_path: Path) -> Callable[..., Source]:
    """The source of a table with these columns, beside 20 images of which number n has the grey value n."""
    (tmp_path / "img").mkdir()
    for row, path in enumerate(PATHS):
        Image.new("L", (4, 4), row).save(tmp_path / path)

    def build(columns: dict[str, Sequence[object]], options: str = "", name: str = "list.csv") -> Source:
        lines = [columns.keys(), *zip(*columns.values(), strict=True)]
        text = "\n".join(",".join(map(str, line)) for line in lines)
        (tmp_path / name).write_text(text, "utf-8-sig")
        return source(f"table:{tmp_path / name}{options}")

    return build


def test_rows_keep_their_image_label_and_path(listed):
    built = listed({"File Name": PATHS, "Class": ["dog" if row % 2 else "cat" for row in range(COUNT)]})
    assert not built.official
    test, whole = built.load("test"), built.load("all")
    assert whole.ids == tuple(PATHS) and whole.images[:, 0, 0, 0].tolist() == list(range(COUNT))
    assert [whole.class_names["label"][label] for label in whole.labels["label"]] == ["cat", "dog"] * 10
    assert [f"img/{grey}.png" for grey in test.images[:, 0, 0, 0]] == list(test.ids)
    assert np.bincount(test.labels["label"]).tolist() == [2, 2]
    assert_names(built.understood, COUNT, "cat", "dog", "File Name", "Class", 4)


def test_no_group_is_in_both_drawn_splits(listed):
    patients = [f"p{row // 4}" for row in range(COUNT)]
    built = listed({"path": PATHS, "label": [row % 2 for row in range(COUNT)], "patient_id": patients})
    train, test = built.load("train"), built.load("test")
    assert set(train.labels["group"]).isdisjoint(test.labels["group"]) and len(test) == 4
    number = int(test.ids[0].removeprefix("img/").removesuffix(".png"))
    assert test.class_names["group"][test.labels["group"][0]] == patients[number]


def test_stated_splits_of_any_spelling(listed):
    splits = (["Train", "TRAIN", "training", "val", "Test"] * 4)[:COUNT]
    labels = ["" if split == "Test" else "x" for split in splits]
    built = listed({"path": PATHS, "label": labels, "subset": splits})
    assert built.official and built.load("test").ids == tuple(PATHS[3::5])
    assert len(built.load("train")) == 12 and built.load("test").class_names["label"] == ("x",)
    assert_names(built.understood, 12, 4, "subset", "Test")


def test_groups_in_both_stated_splits_are_named(listed):
    columns = {"path": PATHS, "split": ["train", "test"] * 10, "group": ["a", "a", "b", "c"] * 5}
    with pytest.warns(FullrankWarning) as warned:
        listed(columns).load("test")
    assert_names(str(warned[0].message), 1, "a")


def test_several_columns_of_labels(listed):
    binary = {"mass": [row % 2 for row in range(COUNT)], "edema": [1, 0, 0, ""] * 5}
    both = listed({"path": PATHS, **binary}, ",label=mass+edema").load("all")
    assert set(both.labels["label"]) == {-1} and both.class_names["label:mass"] == ("0", "1")
    assert both.labels["label:mass"].tolist() == [0, 1] * 10
    assert both.labels["label:edema"].tolist() == [1, 0, 0, -1] * 5
    named = {"kind": ["b", "a"] * 10, "shade": [10, 9, 9, 10] * 5}
    both = listed({"path": PATHS, **named}, ",label=kind+shade").load("all")
    assert both.class_names == {"label": ("a", "b"), "shade": ("9", "10")}
    assert both.labels["label"].tolist() == [1, 0] * 10 and both.labels["shade"].tolist() == [1, 0, 0, 1] * 5


def test_parquet_and_root(listed, tmp_path: Path):
    import pandas

    labels = [float("nan") if row < 4 else row % 3 for row in range(COUNT)]
    frame = pandas.DataFrame({"image": [path.removeprefix("img/") for path in PATHS], "y": labels})
    frame.to_parquet(tmp_path / "list.parquet")
    whole = source(f"table:{tmp_path / 'list.parquet'},root={tmp_path / 'img'}").load("all")
    assert whole.class_names["label"] == ("0", "1", "2") and whole.ids[5] == "5.png"
    assert whole.labels["label"].tolist() == [-1] * 4 + [row % 3 for row in range(4, COUNT)]


def test_a_comma_in_the_path_is_quoted(listed, tmp_path: Path):
    (tmp_path / "a,b.csv").write_text("\n".join(["path", *PATHS]))
    built = source(f'table:"{tmp_path}/a,b.csv"')
    assert len(built.load("all")) == COUNT and source(built.name).name == built.name


@pytest.mark.parametrize(
    ("columns", "parts"),
    [
        ({"path": [*PATHS[:-2], "no.png", "gone.png"]}, [2, COUNT, "'no.png'", "root"]),
        ({"path": [*PATHS[:-2], *PATHS[:2]]}, [2, COUNT, "'img/0.png'"]),
        ({"path": [*PATHS[:-1], ""], "label": [0] * COUNT}, [1, COUNT]),
        ({"pfad": PATHS, "label": [0] * COUNT}, ["pfad", "path=COLUMN"]),
        ({"path": PATHS, "split": ["train", "holdout"] * 10}, [10, COUNT, "'split'", "'holdout'"]),
        ({"path": PATHS, "split": ["train"] * COUNT}, ["'split'", "train"]),
        ({"path": PATHS, "group": ["p"] * COUNT}, [1, 2]),
        (
            {"path": PATHS, "label": [0, 1, 2, 3] * 5, "split": ["train", "train", "test", "test"] * 5},
            [2, "'2'"],
        ),
        ({"path": []}, ["list.csv"]),
    ],
)
def test_wrong_tables_are_refused(columns, parts, listed, fails):
    with fails(DataError, "list.csv", *parts):
        listed(columns).load("train")


def test_files_that_are_no_tables(tmp_path: Path, fails):
    (tmp_path / "list.csv").write_text("path,label\na.png,x,y\n")
    with fails(DataError, 2, 3):
        source(f"table:{tmp_path / 'list.csv'}").load("train")
    (tmp_path / "list.parquet").write_bytes(b"PAR1")
    for name in ("list.parquet", "gone.csv"):
        with fails(DataError, name):
            source(f"table:{tmp_path / name}").load("train")


def test_a_column_that_does_not_exist(listed, fails):
    for option in ("label=klass", "label=label+klass", "group=klass"):
        with fails(UsageError, "'klass'", "label"):
            listed({"path": PATHS, "label": [0] * COUNT}, f",{option}").load("train")


def test_words_of_cells():
    assert words([1, 2.0, None, float("nan"), "nan", " x "]) == ["1", "2.0", "", "", "", "x"]
    assert words([True, False]) == ["True", "False"]
