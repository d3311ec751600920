from pathlib import Path

import numpy as np
import pytest
from torchvision import datasets

from fullrank.data import source
from fullrank.errors import DataError

NAMES = ("airplane", "bird", "car")


@pytest.fixture
def tree(tmp_path: Path) -> dict[str, np.ndarray]:
    """The official files, of random images; gives back the images as (N, 96, 96, 3)."""
    folder = tmp_path / "stl10_binary"
    folder.mkdir()
    random, images = np.random.default_rng(0), {}
    for part, count in (("train", 6), ("test", 3), ("unlabeled", 4)):
        images[part] = random.integers(0, 256, (count, 96, 96, 3), np.uint8)
        with (folder / f"{part}_X.bin").open("wb") as file:
            for image in images[part]:
                for channel in range(3):
                    for column in range(96):
                        file.write(image[:, column, channel].tobytes())
        if part != "unlabeled":
            (folder / f"{part}_y.bin").write_bytes(bytes(row % 3 + 1 for row in range(count)))
    (folder / "class_names.txt").write_text("\n".join(NAMES) + "\n")
    return images


def test_labelled_and_unlabelled_images_are_read(tmp_path: Path, tree):
    for path in (tmp_path, tmp_path / "stl10_binary"):
        both = source(f"stl10:{path}").load("train")
        assert np.array_equal(both.images, np.concatenate([tree["train"], tree["unlabeled"]]))
        assert both.labels["label"].tolist() == [0, 1, 2, 0, 1, 2, -1, -1, -1, -1]
        alone = source(f"stl10:{path},unlabelled=false").load("train")
        assert np.array_equal(alone.images, tree["train"]) and alone.labels["label"].max() == 2
        test = source(f"stl10:{path}").load("test")
        assert np.array_equal(test.images, tree["test"]) and test.labels["label"].tolist() == [0, 1, 2]
        assert both.class_names == alone.class_names == test.class_names == {"label": NAMES}


def test_torchvision_reads_the_same(tmp_path: Path, tree, monkeypatch):
    monkeypatch.setattr(datasets.STL10, "_check_integrity", lambda self: True)  # it wants the official files
    for split, theirs in (("train", "train+unlabeled"), ("test", "test")):
        oracle, ours = datasets.STL10(tmp_path, split=theirs), source(f"stl10:{tmp_path}").load(split)
        assert np.array_equal(ours.images, oracle.data.transpose(0, 2, 3, 1))
        assert ours.labels["label"].tolist() == oracle.labels.tolist()
        assert list(ours.class_names["label"]) == oracle.classes


def test_a_fraction_and_a_choice_of_classes(tmp_path: Path, tree):
    train = source(f"stl10:{tmp_path}").load("train")
    half = train.fraction(0.5, seed=0)
    assert sorted(half.labels["label"].tolist()) == [-1, -1, 0, 1, 2]
    cars = train.of_classes(["car", "bird"])
    assert cars.labels["label"].tolist() == [1, 0, 1, 0]
    assert np.array_equal(cars.images, tree["train"][[1, 2, 4, 5]])


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("train_X.bin", b"1234", ["its 4 bytes", "27648"]),
        ("train_X.bin", b"", ["its 0 bytes"]),
        ("unlabeled_X.bin", bytes(27649), ["its 27649 bytes"]),
        ("train_y.bin", bytes([1, 2, 3]), ["3 labels for 6 images"]),
        ("train_y.bin", bytes([0, 1, 2, 3, 1, 2]), ["0 to 3, not 1 to 3"]),
        ("train_y.bin", bytes([4, 1, 2, 3, 1, 2]), ["1 to 4, not 1 to 3"]),
        ("class_names.txt", b"\xff\xff", ["classes"]),
    ],
)
def test_files_that_do_not_fit_are_named(file, content, words, tmp_path: Path, tree, fails):
    (tmp_path / "stl10_binary" / file).write_bytes(content)
    with fails(DataError, f"stl10:{tmp_path}", file, "original archive", *words):
        source(f"stl10:{tmp_path}").load("train")


def test_missing_files_are_named(tmp_path: Path, tree, fails):
    folder = tmp_path / "stl10_binary"
    (folder / "unlabeled_X.bin").unlink()
    with fails(DataError, "unlabeled_X.bin", "unlabelled=false"):
        source(f"stl10:{tmp_path}").load("train")
    assert len(source(f"stl10:{tmp_path},unlabelled=false").load("train")) == 6
    (folder / "train_y.bin").unlink()
    with fails(DataError, "train_y.bin", "unpack stl10_binary.tar.gz"):
        source(f"stl10:{tmp_path},unlabelled=false").load("train")
    (folder / "test_X.bin").unlink()
    (tmp_path / "stl10_binary.tar.gz").touch()
    with fails(
        DataError,
        "has no STL-10",
        f"{folder}",
        "train_X.bin",
        f"unpack {tmp_path}/stl10_binary.tar.gz there",
    ):
        source(f"stl10:{tmp_path}").load("train")
    with fails(DataError, "gone"):
        source(f"stl10:{tmp_path}/gone").load("train")
