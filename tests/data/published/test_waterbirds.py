"""Waterbirds as its authors' metadata lists it: labels by the columns, splits by their number, bad tables."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from refusals import refuses

from fullrank.data import source, write_miniature
from fullrank.errors import DataError, UsageError

HEADER = "img_id,img_filename,y,split,place,place_filename"
# y, split, place; no waterbird on land is among the training images.
ROWS = [
    *((0, 0, 0), (1, 0, 1), (0, 2, 1), (1, 1, 0), (0, 0, 1)),
    *((1, 2, 0), (0, 1, 0), (1, 2, 1), (0, 0, 0), (0, 2, 0)),
]


def name(row: int) -> str:
    return f"{row % 3:03d}.Some_Bird/bird, {row}.jpg"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Ten images of different shapes, and metadata in which the splits lie mixed and a name holds a comma."""
    lines = [HEADER]
    for row, (bird, split, place) in enumerate(ROWS):
        (tmp_path / name(row)).parent.mkdir(exist_ok=True)
        Image.new("RGB", (20, 16 + row), (25 * row,) * 3).save(tmp_path / name(row), "JPEG", quality=100)
        lines.append(f'{row + 1},"{name(row)}",{bird},{split},{place},/b/bamboo/{row}.jpg')
    (tmp_path / "metadata.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def rewrite(tree: Path, before: str, after: str) -> None:
    path = tree / "metadata.csv"
    assert before in path.read_text()
    path.write_text(path.read_text().replace(before, after, 1))


@pytest.mark.parametrize(
    ("split", "number", "more"), [("train", 0, ""), ("test", 2, ""), ("test", 1, ",test=val")]
)
def test_the_columns_are_the_labels(tree: Path, split, number, more):
    loaded = source(f"waterbirds:{tree},canvas=8{more}").load(split, image_size=4)
    rows = [row for row, (_, where, _) in enumerate(ROWS) if where == number]
    assert list(loaded.images.keys) == [name(row) for row in rows]
    assert loaded.labels["label"].tolist() == [ROWS[row][0] for row in rows]
    assert loaded.labels["background"].tolist() == [ROWS[row][2] for row in rows]
    assert np.array_equal(loaded.labels["group"], 2 * loaded.labels["label"] + loaded.labels["background"])
    assert loaded.class_names == {
        "label": ("landbird", "waterbird"),
        "background": ("land", "water"),
        "group": ("landbird/land", "landbird/water", "waterbird/land", "waterbird/water"),
    }
    assert np.abs(loaded.tensor().float().mean((1, 2, 3)).numpy() - 25 * np.array(rows)).max() <= 1


def test_an_empty_group_has_its_name_all_the_same(tree: Path):
    train = source(f"waterbirds:{tree}").load("train")
    assert np.bincount(train.labels["group"], minlength=4).tolist() == [2, 1, 0, 1]
    assert len(train.class_names["group"]) == 4


def test_the_images_are_streamed(tree: Path, tmp_path_factory):
    train = source(f"waterbirds:{tree}").load("train")
    assert train.images.shape == (4, 320, 320, 3) and train.image_shape == (224, 224, 3)
    assert train.read(np.array([2, 0]))[1].tolist() == [[20, 20], [16, 20]]
    assert train.channel_statistics() == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert source(f"waterbirds:{tree},test=val").name == f"waterbirds:{tree},test=val"
    parent = tmp_path_factory.mktemp("data")
    (parent / "waterbird_complete95_forest2water2").symlink_to(tree)
    assert source(f"waterbirds:{parent}").load("train").images.keys == train.images.keys


@pytest.mark.parametrize("column", ["img_filename", "y", "split", "place"])
def test_a_missing_column_is_named(tree: Path, column, fails):
    rewrite(tree, f",{column},", ",other,")
    with fails(DataError, f"{tree}/metadata.csv", f"'{column}'", "img_filename, y, split, place"):
        source(f"waterbirds:{tree}").load("train")


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (",1,0,1,/b/bamboo/1.jpg", ",2,0,1,/b", ["line 3", "y must", "0 to 1", "'2'"]),
        (",1,0,1,/b/bamboo/1.jpg", ",1,3,1,/b", ["line 3", "split must", "0 to 2", "'3'"]),
        (",1,2,1,/b/bamboo/7.jpg", ",1,2,water,/b", ["line 9", "place must", "'water'"]),
        (",0,1,/b/bamboo/1.jpg", "", ["line 3", "split must", "None"]),
    ],
)
def test_a_value_that_cannot_be_is_named_with_its_line(tree: Path, before, after, words, fails):
    rewrite(tree, before, after)
    with fails(DataError, "metadata.csv", *words):
        source(f"waterbirds:{tree}").load("train")


def test_files_that_are_missing_are_counted_and_the_first_is_named(tree: Path, fails):
    for row in (1, 4):
        (tree / name(row)).unlink()
    with fails(DataError, "2 of 4 train images", name(1)):
        source(f"waterbirds:{tree}").load("train")
    assert len(source(f"waterbirds:{tree}").load("test")) == 4


def test_metadata_that_cannot_be_used_are_refused(tree: Path, fails):
    with fails(DataError, "gone"):
        source(f"waterbirds:{tree}/gone").load("train")
    lines = (tree / "metadata.csv").read_text().splitlines()
    without = [line for line in lines if ",1,1,0,/b" not in line and ",0,1,0,/b" not in line]
    (tree / "metadata.csv").write_text("\n".join(without))
    with fails(DataError, f"{tree}/metadata.csv", "val", "split", 1):
        source(f"waterbirds:{tree},test=val").load("test")
    (tree / "metadata.csv").write_bytes(b"img_id,img_filename\n\xff\xfe,y\n")
    with fails(DataError, f"{tree}/metadata.csv", "table"):
        source(f"waterbirds:{tree}").load("train")
    (tree / "metadata.csv").write_text("")
    with fails(DataError, f"{tree}/metadata.csv", "'img_filename'"):
        source(f"waterbirds:{tree}").load("train")
    (tree / "metadata.csv").unlink()
    with fails(DataError, f"{tree}/metadata.csv", "waterbird_complete95_forest2water2"):
        source(f"waterbirds:{tree}").load("train")
    with refuses(UsageError, "test", "val, test", "'train'"):
        source(f"waterbirds:{tree},test=train")


def test_the_miniature_has_every_group_in_every_split(tmp_path: Path):
    spec = write_miniature("waterbirds", tmp_path, images=16, classes=4, size=8)
    for more, split, count in (("", "train", 16), ("", "test", 4), (",test=val", "test", 4)):
        loaded = source(spec + more).load(split)
        assert len(loaded) == count
        assert np.bincount(loaded.labels["group"], minlength=4).tolist() == [count // 4] * 4
