from pathlib import Path

import numpy as np
import pytest

from fullrank.data import source
from fullrank.errors import DataError

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
    ("arrays", "words"),
    [
        ({"images": GREY / 255}, ["images", "float64", "low=", "high="]),
        ({"images": GREY.astype(np.int64) - 1}, ["images", "-1 to ", "low=", "high="]),
        ({"images": COLOUR.transpose(0, 3, 1, 2)}, ["(20, 3, 6, 6)", "(N, H, W, C)"]),
        ({"images": GREY[0]}, ["(6, 6)"]),
        ({"images": GREY, "labels": LABELS / 1}, ["labels", "whole numbers", "float64"]),
        ({"images": GREY, "labels": np.eye(20, dtype=int)}, ["(20, 20)", "(N, 1)"]),
        ({"images": GREY, "labels": LABELS[:19]}, ["(20,)", "(19,)"]),
        ({"images": GREY, "labels": LABELS - 2}, ["-2", "0 or more"]),
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
