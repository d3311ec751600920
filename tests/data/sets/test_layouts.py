"""Each layout is a few paths; the expected splits and classes are written out by hand."""

import pytest
from refusals import assert_names

from fullrank.data.classes import check_classes
from fullrank.data.sets.layouts import layout_of, sentence
from fullrank.errors import DataError, FullrankWarning


def layout(*files: str, folders: tuple[str, ...] = (), lists=None):
    tops = {file.split("/")[0] for file in files if "/" in file}
    return layout_of(files, [*tops, *folders], "folder:mine", lists or {})


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("train", "test"),
        ("TRAIN", "VAL"),
        ("training", "validation"),
        ("Train", "Testing"),
        ("train", "valid"),
        ("train", "dev"),
        ("trn", "eval"),
        ("train_images", "test-set"),
    ],
)
def test_spellings_of_splits(train, test):
    found = layout(f"{train}/cat/1.png", f"{train}/dog/2.png", f"{test}/dog/deep/3.png")
    assert found.train == [(f"{train}/cat/1.png", "cat"), (f"{train}/dog/2.png", "dog")]
    assert found.test == [(f"{test}/dog/deep/3.png", "dog")] and found.folders == (train, test)


def test_a_training_folder_alone_is_no_class():
    found = layout("train/cat/1.png", "train/dog/2.png", "logo.png")
    assert found.train == [("train/cat/1.png", "cat"), ("train/dog/2.png", "dog")]
    assert found.test is None and found.folders == ("train",) and sum(found.unused.values()) == 1
    vehicles = layout("bus/1.png", "train/2.png")
    assert [each for _, each in vehicles.train] == ["bus", "train"] and vehicles.test is None


@pytest.mark.parametrize(
    ("files", "parts"),
    [
        (("train/cat/1.png", "bus/2.png"), ["train", "bus"]),
        (("test/cat/1.png", "val/cat/2.png"), ["test", "val"]),
        (("train/cat/1.png", "Training/cat/2.png", "test/cat/3.png"), ["train", "Training"]),
        (("images/1.png", "masks/1.png"), ["images", "masks"]),
        (("train/Tea/1.png", "test/tea/2.png"), ["'Tea'", "'tea'"]),
        (("train/cat/1.png", "train/dog/1.png", "test/0/2.png", "test/1/3.png"), [2, "'0'", "'cat'"]),
    ],
)
def test_what_can_be_understood_in_two_ways_is_refused(files, parts, fails):
    with fails(DataError, "folder:mine", *parts):
        layout(*files)


def test_an_empty_training_folder_is_refused(fails):
    with fails(DataError, "train"):
        layout("test/cat/1.png", folders=("train",))


def test_the_first_labelled_folder_is_tested_on():
    paths = ("train/cat/1.png", "test/images/2.png", "val/cat/3.png", "dev/cat/4.png", "x/5.png")
    found = layout(*paths)
    assert found.folders == ("train", "val") and found.unused == {"test": 1, "dev": 1, "x": 1}
    alone = layout("train/cat/1.png", "test/images/2.png")
    assert alone.test == [("test/images/2.png", "")]
    assert_names(alone.remark, "test/images", "train")


def test_a_list_names_the_classes_of_a_split():
    lists = {"val": {"2.png": "dog"}}
    found = layout("train/cat/1.png", "train/dog/1.png", "val/images/2.png", "val/images/3.png", lists=lists)
    assert found.test == [("val/images/2.png", "dog"), ("val/images/3.png", "")]


def test_splits_inside_another_folder_or_inside_each_class():
    inside = layout("images/train/1.png", "images/val/2.png", folders=("labels",))
    assert inside.train == [("images/train/1.png", "")] and inside.test == [("images/val/2.png", "")]
    assert inside.folders == ("images/train", "images/val")
    first = layout("cat/train/1.png", "cat/test/2.png", "dog/train/3.png")
    assert first.train == [("cat/train/1.png", "cat"), ("dog/train/3.png", "dog")]
    assert first.test == [("cat/test/2.png", "cat")]


def test_the_sentence_has_every_number():
    found = layout("train/cat/1.png", "train/2.png", "test/cat/3.png", "val/cat/4.png")
    assert_names(sentence(found, 0, {".txt": 5}), 2, "cat", "train", 1, "test", "val", 5, ".txt")
    drawn = layout("dataset/cat/1.png", "dataset/dog/2.png")
    assert_names(sentence(drawn, 1, {}), 2, 1, "folder:PATH/dataset")


def test_test_classes_that_training_lacks_are_named():
    with pytest.warns(FullrankWarning) as warned:
        check_classes({"cat"}, {"cat", "elk", "gnu"}, "mine")
    assert_names(str(warned[0].message), "mine", 2, 3, "elk")
    check_classes(set(), {"cat"}, "mine")  # training without labels
