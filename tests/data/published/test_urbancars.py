"""UrbanCars in the tree of its authors' code: labels by the folders, masks left alone, what is refused."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from refusals import refuses

from fullrank.data import source, write_miniature
from fullrank.errors import DataError, UsageError

SPLITS = {
    "train": "bg-0.95_co_occur_obj-0.95/train",
    "val": "bg-0.5_co_occur_obj-0.5/val",
    "test": "bg-0.5_co_occur_obj-0.5/test",
}
WORDS = ("urban", "country")
GROUPS = [f"obj-{car}_bg-{ground}_co_occur_obj-{thing}" for car, ground, thing in product(WORDS, repeat=3)]


def shade(split: str, group: int, row: int) -> int:
    """A grey of its own for every image of the tree."""
    return 20 + 80 * list(SPLITS).index(split) + 9 * group + 3 * row


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Of group g 1 + (g mod 3) images in each split, and beside each the masks that training comes with."""
    for split, folder in SPLITS.items():
        for group, name in enumerate(GROUPS):
            (tmp_path / folder / name).mkdir(parents=True)
            for row in range(1 + group % 3):
                image = Image.new("RGB", (16, 16), (shade(split, group, row),) * 3)
                image.save(tmp_path / folder / name / f"{row:03d}.jpg", "JPEG", quality=100)
                for mask in ("mask", "co_occur_obj_mask", "bg_only"):
                    image.save(tmp_path / folder / name / f"{row:03d}_{mask}.png")
    return tmp_path


@pytest.mark.parametrize(
    ("split", "official", "more"),
    [("train", "train", ""), ("test", "test", ""), ("test", "val", ",test=val")],
)
def test_labels_are_those_of_the_folders_and_images_those_of_the_files(tree: Path, split, official, more):
    loaded = source(f"urbancars:{tree},canvas=8{more}").load(split, image_size=4)
    assert loaded.class_names["group"][:3] == (
        "urban/urban/urban",
        "urban/urban/country",
        "urban/country/urban",
    )
    assert all(loaded.class_names[key] == WORDS for key in ("label", "background", "object"))
    assert np.bincount(loaded.labels["group"], minlength=8).tolist() == [1, 2, 3, 1, 2, 3, 1, 2]
    shades = loaded.tensor().float().mean((1, 2, 3)).round()
    expected = [shade(official, group, row) for group in range(8) for row in range(1 + group % 3)]
    assert np.abs(shades.numpy() - expected).max() <= 1
    for row, path in enumerate(loaded.images.keys):
        car, ground, thing = (loaded.labels[key][row] for key in ("label", "background", "object"))
        folder = f"obj-{WORDS[car]}_bg-{WORDS[ground]}_co_occur_obj-{WORDS[thing]}"
        assert Path(path).parent.name == folder and path.endswith(".jpg")
        assert loaded.class_names["group"][loaded.labels["group"][row]].split("/") == [
            WORDS[car],
            WORDS[ground],
            WORDS[thing],
        ]


def test_the_images_are_streamed_in_the_spread_of_imagenet(tree: Path):
    train = source(f"urbancars:{tree}").load("train")
    assert train.images.shape == (15, 320, 320, 3) and train.image_shape == (224, 224, 3)
    assert train.channel_statistics() == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert source(f"urbancars:{tree},test=test,canvas=320").name == f"urbancars:{tree}"
    assert source(f"urbancars:{tree},test=val,canvas=9").name == f"urbancars:{tree},canvas=9,test=val"


def test_the_folder_may_be_the_parent_or_that_of_the_splits(tree: Path, tmp_path_factory):
    keys = source(f"urbancars:{tree}").load("train").images.keys
    parent = tmp_path_factory.mktemp("data")
    (parent / "urbancars").symlink_to(tree)
    assert source(f"urbancars:{parent}").load("train").images.keys == keys
    assert source(f"urbancars:{tree / 'bg-0.95_co_occur_obj-0.95'}").load("train").images.keys == keys


def test_groups_may_be_empty_and_the_other_splits_missing(tree: Path, fails):
    folder = tree / SPLITS["train"]
    for group in GROUPS[1:3]:
        (folder / group).rename(tree / group)
    for path in (folder / GROUPS[0]).iterdir():
        path.unlink()
    (tree / "bg-0.5_co_occur_obj-0.5").rename(tree / "elsewhere")
    train = source(f"urbancars:{tree}").load("train")
    assert np.bincount(train.labels["group"], minlength=8).tolist() == [0, 0, 0, 1, 2, 3, 1, 2]
    assert len(train.class_names["group"]) == 8
    for official in ("test", "val"):
        expected = f"expected {tree}/bg-0.5_co_occur_obj-0.5/{official}/{GROUPS[0]}/*.jpg"
        with fails(DataError, f"no {official} images", expected):
            source(f"urbancars:{tree},test={official}").load("test")


def test_trees_of_another_shape_are_refused(tree: Path, fails):
    with fails(DataError, "gone"):
        source(f"urbancars:{tree}/gone").load("train")
    for path in (tree / SPLITS["train"]).glob("*/*.jpg"):
        path.unlink()
    with fails(DataError, f"{tree / SPLITS['train']}", f"{GROUPS[0]}/*.jpg"):
        source(f"urbancars:{tree}").load("train")
    with refuses(UsageError, "test", "val, test", "'train'"):
        source(f"urbancars:{tree},test=train")


def test_a_file_that_is_no_image_is_named_when_it_is_decoded(tree: Path, fails):
    (tree / SPLITS["test"] / GROUPS[5] / "001.jpg").write_text("no image")
    with fails(DataError, f"urbancars:{tree}", f"{GROUPS[5]}/001.jpg"):
        source(f"urbancars:{tree}").load("test", image_size=4).tensor()


def test_the_miniature_has_every_group_in_every_split(tmp_path: Path):
    spec = write_miniature("urbancars:/x,canvas=8", tmp_path, images=16, classes=4, size=8)
    assert spec == f"urbancars:{tmp_path},canvas=8"
    assert np.bincount(source(spec).load("train").labels["group"]).tolist() == [2] * 8
    val = source(f"{spec},test=val").load("test")
    assert len(val) == 4 and val.class_names["label"] == WORDS
