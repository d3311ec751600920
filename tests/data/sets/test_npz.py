from pathlib import Path

import numpy as np
import pytest
from refusals import assert_names

from fullrank.data import source
from fullrank.errors import DataError, FullrankWarning

RANDOM = np.random.default_rng(0)
GREY, COLOUR = (RANDOM.integers(0, 256, shape, np.uint8) for shape in ((20, 6, 6), (20, 6, 6, 3)))
LABELS = np.arange(20) % 4


def save(folder: Path, **arrays: np.ndarray) -> str:
    np.savez_compressed(folder / "x.npz", **arrays)
    return f"npz:{folder / 'x.npz'}"


@pytest.mark.parametrize(
    "names",
    [
        ("train_images", "train_labels", "test_images", "test_labels"),
        ("train_images", "train_labels", "val_images", "val_labels"),
        ("x_train", "y_train", "x_test", "y_test"),
    ],
)
@pytest.mark.parametrize("images", [GREY, GREY[..., None], COLOUR])
@pytest.mark.parametrize("labels", [LABELS, LABELS[:, None].astype(np.uint8)])
def test_layouts_with_splits(names, images, labels, tmp_path: Path):
    built = source(
        save(tmp_path, **dict(zip(names, (images[:15], labels[:15], images[15:], labels[15:]), strict=True)))
    )
    train, test = built.load("train"), built.load("test")
    shape = (6, 6, 3 if images is COLOUR else 1)
    assert np.array_equal(train.images, images[:15].reshape(15, *shape))
    assert np.array_equal(test.images, images[15:].reshape(5, *shape))
    assert train.labels["label"].tolist() == LABELS[:15].tolist()
    assert test.labels["label"].tolist() == LABELS[15:].tolist()
    assert train.class_names == test.class_names == {"label": ("0", "1", "2", "3")}


def test_test_images_come_before_val_images(tmp_path: Path):
    spec = save(tmp_path, train_images=GREY, val_images=GREY[:3], test_images=GREY[:2])
    assert len(source(spec).load("test")) == 2


def test_images_alone_are_split_once_and_for_all(tmp_path: Path):
    built = source(save(tmp_path, images=GREY, labels=LABELS))
    train, test = built.load("train"), built.load("test")
    assert (len(train), len(test)) == (16, 4)
    assert np.bincount(test.labels["label"]).tolist() == [1, 1, 1, 1]
    rows = {image.tobytes(): row for row, image in enumerate(GREY)}
    for part in (train, test):
        assert [LABELS[rows[image.tobytes()]] for image in part.images] == part.labels["label"].tolist()
    assert {i.tobytes() for i in train.images} | {i.tobytes() for i in test.images} == set(rows)


def test_labels_may_be_missing_or_any_whole_numbers(tmp_path: Path):
    unlabelled = source(save(tmp_path, images=GREY)).load("train")
    assert set(unlabelled.labels["label"]) == {-1} and unlabelled.class_names == {"label": ()}
    labels = np.array([7, -1, 300, 7] * 5)
    sparse = source(save(tmp_path, x_train=GREY, y_train=labels, x_test=GREY, y_test=np.full(20, 9))).load(
        "train"
    )
    assert sparse.class_names == {"label": ("7", "9", "300")}
    assert sparse.labels["label"].tolist() == [0, -1, 2, 0] * 5


@pytest.mark.parametrize(
    ("labels", "classes", "numbers"),
    [
        (LABELS / 1, "0123", LABELS),
        (np.where(LABELS == 2, np.nan, LABELS), "013", np.array([0, 1, -1, 2])[LABELS]),
        (LABELS == 2, "01", LABELS == 2),
        (np.array(["owl", "ant", "", "cat"])[LABELS], ("ant", "cat", "owl"), np.array([2, 0, -1, 1])[LABELS]),
        (np.array([b"b", b"a", b"b", b"b"])[LABELS], "ab", np.array([1, 0, 1, 1])[LABELS]),
        (np.eye(4, dtype=np.uint8)[LABELS], "0123", LABELS),  # one-hot, as Keras writes classes
    ],
)
def test_labels_may_be_floats_words_or_one_hot(labels, classes, numbers, tmp_path: Path):
    arrays = {"x_train": GREY, "y_train": labels, "x_test": GREY[:3], "y_test": labels[:3]}
    built = source(save(tmp_path, **arrays))
    assert built.load("train").class_names == built.load("test").class_names == {"label": tuple(classes)}
    assert built.load("train").labels["label"].tolist() == numbers.tolist()
    assert built.load("test").labels["label"].tolist() == numbers[:3].tolist()


@pytest.mark.parametrize("kind", [np.uint8, bool, float])
def test_columns_of_zero_and_one_are_several_labels(kind, tmp_path: Path):
    # As in ChestMNIST: most images have no finding, and some have several.
    table = np.stack([LABELS > 1, LABELS == 3, LABELS == 9], 1)
    arrays = {"train_images": GREY, "train_labels": table.astype(kind), "test_images": GREY[:4]}
    built = source(save(tmp_path, **arrays, test_labels=table[:4].astype(kind)))
    for images, rows in ((built.load("train"), table), (built.load("test"), table[:4])):
        assert images.several == ("label:0", "label:1", "label:2")
        assert np.array_equal(np.stack([images.labels[name] for name in images.several], 1), rows)
        assert set(images.labels["label"]) == {-1} and images.class_names["label:1"] == ("0", "1")
    assert built.load("train").subset(np.array([3])).labels["label:1"].tolist() == [1]
    pooled = source(save(tmp_path, images=GREY, labels=table)).load("train")
    assert len(pooled) == 16 and len(pooled.labels["label:0"]) == 16


@pytest.mark.parametrize(
    ("labels", "parts"),
    [
        (LABELS / 2, ["labels", 0.5]),
        (LABELS - 2, ["labels", -2, 0]),
        (np.stack([LABELS, LABELS], 1), ["2 columns", 2]),
        (np.zeros((20, 2, 2), int), ["(20, 2, 2)"]),
    ],
)
def test_labels_of_no_known_kind_are_said_and_not_used(labels, parts, tmp_path: Path):
    with pytest.warns(FullrankWarning) as warned:
        images = source(save(tmp_path, images=GREY, labels=labels)).load("train")
    assert_names(str(warned[0].message), "x.npz", *parts)
    assert len(images) == 16 and set(images.labels["label"]) == {-1} and images.class_names == {"label": ()}


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"images": GREY / 255}, ["images", "float64", "low=", "high="]),
        ({"images": GREY.astype(np.int64) - 1}, ["images", "-1 to ", "low=", "high="]),
        ({"images": COLOUR.transpose(0, 3, 1, 2)}, ["(20, 3, 6, 6)", "(N, H, W, C)"]),
        ({"images": GREY[0]}, ["(6, 6)"]),
        ({"images": GREY, "labels": LABELS[:19]}, ["images", 20, "labels", 19]),
        ({"images": np.array([{}] * 3, dtype=object)}, ["images", "numpy.savez", "numpy.savez"]),
        ({"images": GREY, "labels": np.array([None] * 20)}, ["labels", "numpy.savez"]),
        ({"pictures": GREY}, ["pictures", "train_images", "x_train"]),
        ({"train_images": GREY}, ["train_images", "test_images"]),
        ({}, ["has nothing"]),
        ({"images": GREY[:0]}, ["0 images"]),
        ({"images": GREY[:1]}, ["1 image", "2 or more"]),
    ],
)
def test_what_is_no_set_of_images_is_refused(arrays, words, tmp_path: Path, fails):
    spec = save(tmp_path, **arrays)
    with fails(DataError, "x.npz", *words):
        source(spec).load("train")


def test_files_that_are_no_archive_are_refused(tmp_path: Path, fails):
    path = tmp_path / "x.npz"
    with fails(DataError, str(path), "not exist"):
        source(f"npz:{path}").load("train")
    path.write_bytes(b"something else")
    with fails(DataError, str(path), "not a complete .npz file"):
        source(f"npz:{path}").load("train")
    with path.open("wb") as file:
        np.save(file, GREY)
    with fails(DataError, str(path), "single array"):
        source(f"npz:{path}").load("train")


def test_every_prefix_of_a_file_is_refused(tmp_path: Path):
    spec = save(tmp_path, images=GREY[:4, :2, :2], labels=LABELS[:4])
    path = tmp_path / "x.npz"
    content = path.read_bytes()
    for length in range(0, len(content), 7):
        path.write_bytes(content[:length])
        with pytest.raises(DataError):
            source(spec).load("train")


def test_a_flipped_bit_is_found(tmp_path: Path, fails):
    spec = save(tmp_path, images=GREY)
    path = tmp_path / "x.npz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    with fails(DataError, "images", "numpy.savez"):
        source(spec).load("train")
