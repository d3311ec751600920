from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fullrank.data import BadImages, BatchLoader, ImageSet, StreamedImages, source
from fullrank.errors import DataError, UsageError

BROKEN = {3, 4, 7, 11}


def read(row: int) -> Image.Image:
    if row in BROKEN:
        raise OSError("truncated")
    return Image.new("L", (4, 4), row)


def numbers(n: int = 12, most: int = 4, **labels: list[int]) -> ImageSet:
    """Images of which each is its own number, some of them broken."""
    images = StreamedImages(read, [f"{row}.png" for row in range(n)], 4, 4, channels=1, name="numbers")
    labels = labels or {"label": [row % 2 for row in range(n)]}
    names = {key: tuple("abc") for key in labels}
    made = ImageSet(images, {key: np.array(each) for key, each in labels.items()}, names)
    return made.despite(BadImages(most))


def shown(images: ImageSet) -> list[int]:
    return images.tensor()[:, 0, 0, 0].tolist()


def test_the_next_image_of_its_label_stands_for_a_bad_one():
    images = numbers()
    #                        3->5       4->6       7->9              11->1
    assert shown(images) == [0, 1, 2, 5, 6, 5, 6, 9, 8, 9, 10, 1]
    assert images.bad.found == {f"{row}.png": "truncated" for row in sorted(BROKEN, key=str)}
    assert images.images.bad is images.bad


def test_the_stand_in_has_all_the_labels_of_the_bad_one():
    images = numbers(label=[0] * 12, colour=[row // 3 % 3 for row in range(12)])
    colours = images.labels["colour"]
    assert shown(images)[3:5] == [5, 5] and all(
        colours[stand_in] == colours[row] for row, stand_in in enumerate(shown(images))
    )


def test_a_subset_takes_its_stand_ins_from_itself():
    images = numbers()
    assert shown(images.subset(np.array([1, 3, 9]))) == [1, 9, 9]
    assert shown(images.subset(np.array([3, 1]))) == [1, 1]
    rest, held = images.held_out(0.5, seed=0)
    for part in (rest, held):
        own = set(map(int, part.images.originals))
        assert set(shown(part)) <= own - BROKEN


def test_batches_do_not_depend_on_what_else_is_in_them():
    alone = [numbers().read(np.array([row]))[0][0, 0, 0, 0].item() for row in range(12)]
    assert alone == shown(numbers()) == numbers().read(np.arange(12))[0][:, 0, 0, 0].tolist()


def test_a_loader_gives_whole_batches_with_the_labels_that_are_shown():
    for batch in BatchLoader(numbers(), 4, seed=0):
        assert batch.images.shape[0] == 4
        assert (batch.images[:, 0, 0, 0] % 2 == batch.labels).all()
        assert torch.equal(batch.labels, batch.index % 2)


def test_above_the_bound_one_sentence_names_the_last(fails):
    images = numbers(most=3)
    with fails(DataError, "images", "more than 3", "truncated", "--max-bad"):
        replace(images, images=replace(images.images, name="images")).tensor()
    with fails(DataError, "numbers", "3.png", "truncated", "--max-bad"):
        numbers(most=0).read(np.array([3]))


def test_without_another_image_of_its_labels_there_is_an_error(fails):
    with fails(DataError, "numbers", "3.png", "labels"):
        numbers().subset(np.array([3, 0, 7])).tensor()


def test_an_image_counts_once_and_threads_do_not_lose_any():
    bad = BadImages(200)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: bad.note(f"{i % 200}", "x", "s"), range(4000)))
    assert len(bad.found) == 200 and list(bad.found) == sorted(bad.found)


def test_a_bound_below_zero_is_refused(fails):
    with fails(UsageError, "0 or more", "-1"):
        BadImages(-1)


@pytest.fixture
def spoilt(tmp_path: Path, image_folder) -> Path:
    image_folder(tmp_path / "train", ("a", "b"), count=6)
    image_folder(tmp_path / "test", ("a", "b"), count=2)
    (tmp_path / "train/a/2.png").write_text("no image")
    path = tmp_path / "train/b/4.png"
    path.write_bytes(path.read_bytes()[:200])
    return tmp_path


def test_a_folder_in_memory_is_without_its_bad_images(spoilt):
    built, bad = source(f"folder:{spoilt}"), BadImages(2)
    train, test = (built.load(split, bad=bad) for split in ("train", "test"))
    assert len(train) == 10 and np.bincount(train.labels["label"]).tolist() == [5, 5] and len(test) == 4
    assert list(bad.found) == ["train/a/2.png", "train/b/4.png"] and train.bad is test.bad is bad
    for row, path in zip(
        train.images, sorted(set(spoilt.glob("train/*/*")) - {spoilt / n for n in bad.found}), strict=True
    ):
        assert np.array_equal(row, np.asarray(Image.open(path)))


def test_a_folder_in_memory_with_one_too_many(spoilt, fails):
    with fails(DataError, "more than 1", "--max-bad"):
        source(f"folder:{spoilt}").load("train", bad=BadImages(1))
    with fails(DataError, "2 of 12"):
        source(f"folder:{spoilt}").load("train")


def test_a_corrupted_source_stands_in_too(spoilt):
    bad = BadImages(5)
    images = source(f'corrupted:gaussian-noise,data="folder:{spoilt},canvas=12"').load("train", 12, bad=bad)
    assert images.tensor().shape == (12, 3, 12, 12) and len(bad.found) == 2
