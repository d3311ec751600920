import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torchvision.transforms.v2 import functional

from fullrank.data import ImageSet
from fullrank.data.selection import fixed_split, stratified_order
from fullrank.errors import DataError, UsageError


def make(shape=(12, 20, 14, 3), classes=3, **changes) -> ImageSet:
    random = np.random.default_rng(0)
    fields = {
        "images": random.integers(0, 256, shape, np.uint8),
        "labels": {"label": np.arange(shape[0]) % (classes + 1) - 1},
        "class_names": {"label": tuple("abcdefgh"[:classes])},
    }
    return ImageSet(**{**fields, **changes})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"images": np.zeros((12, 4, 4, 1), np.float32)}, ["uint8", "float32"]),
        ({"images": np.zeros((12, 4, 4), np.uint8)}, ["(N, H, W, C)", "(12, 4, 4)"]),
        ({"images": np.zeros((12, 3, 4, 4), np.uint8)}, ["C 1 or 3", "(12, 3, 4, 4)"]),
        ({"images": np.zeros((12, 0, 4, 1), np.uint8)}, ["(12, 0, 4, 1)"]),
        ({"images": np.zeros((0, 4, 4, 1), np.uint8)}, ["0 images", "1 or more"]),
        ({"labels": {"label": np.zeros(12, np.int32)}}, ["int64", "int32"]),
        ({"labels": {"label": np.zeros(11, np.int64)}}, ["(12,)", "(11,)"]),
        ({"labels": {"label": np.full(12, 3)}}, ["-1", "to 2", "first is 3", "12 of 12"]),
        ({"labels": {"label": np.full(12, -2)}}, ["first is -2"]),
        ({"labels": {"other": np.zeros(12, np.int64)}}, ["'label'"]),
        ({"class_names": {}}, ["'label'"]),
    ],
)
def test_what_is_no_image_set_is_refused(changes, words, fails):
    with fails(DataError, "images (train)", *words):
        make(**changes)


# sizes at which the longer side and the crop come out whole, so that nothing is rounded twice
@pytest.mark.parametrize(
    ("height", "width", "size"),
    [(28, 28, size) for size in (1, 8, 16, 33)]
    + [(8, 24, size) for size in (1, 4, 7, 16, 33)]
    + [(20, 12, 6), (20, 12, 3), (20, 12, 18), (12, 20, 6)],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_resizing_agrees_with_torchvision(height, width, size, channels):
    images = np.random.default_rng(0).integers(0, 256, (3, height, width, channels), np.uint8)
    ours = make(images=images, labels={"label": np.zeros(3, np.int64)}).resized(size)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    theirs = functional.center_crop(functional.resize(pixels, [size], antialias=True), [size])
    assert ours.image_shape == (size, size, channels)
    assert (ours.tensor().float() - theirs).abs().max() <= 1.01  # Pillow rounds twice, by half each


def test_resizing_to_the_same_size_changes_nothing():
    image_set = make((4, 8, 8, 3))
    assert image_set.resized(8) is image_set
    assert np.array_equal(image_set.labels["label"], image_set.resized(5).labels["label"])


def test_a_limit_is_seeded_nested_and_in_order():
    image_set = make((200, 2, 2, 1), images=np.arange(200, dtype=np.uint8).repeat(4).reshape(200, 2, 2, 1))
    rows = image_set.limited(50, seed=1).images[:, 0, 0, 0].tolist()
    assert rows == sorted(set(rows)) and len(rows) == 50
    assert rows == image_set.limited(50, seed=1).images[:, 0, 0, 0].tolist()
    assert rows != image_set.limited(50, seed=2).images[:, 0, 0, 0].tolist()
    assert set(rows) < set(image_set.limited(51, seed=1).images[:, 0, 0, 0].tolist())
    assert np.array_equal(image_set.limited(200, seed=5).images, image_set.images)


@pytest.mark.parametrize("n", [0, 13])
def test_a_limit_beyond_the_set_is_refused(n, fails):
    with fails(UsageError, str(n), "12", "images (train)"):
        make().limited(n, seed=0)
    with fails(UsageError, "-1"):
        make().limited(5, seed=-1)


@settings(max_examples=50, deadline=None)
@given(labels=st.lists(st.integers(-1, 4), min_size=2, max_size=60), data=st.data())
def test_every_beginning_of_the_order_is_in_proportion(labels, data):
    labels = np.array(labels)
    order = stratified_order(labels, seed=data.draw(st.integers(0, 9)))
    assert sorted(order) == list(range(len(labels)))
    n = data.draw(st.integers(1, len(labels)))
    for label in np.unique(labels):
        share = n * (labels == label).mean()
        assert (
            abs((labels[order[:n]] == label).sum() - share)
            <= 1 + 0.5 * len(np.unique(labels)) * (labels == label).mean()
        )


@given(labels=st.lists(st.integers(0, 3), min_size=2, max_size=60))
def test_the_fixed_split_parts_the_rows(labels):
    train, test = (fixed_split(np.array(labels), split, "x") for split in ("train", "test"))
    assert sorted([*train, *test]) == list(range(len(labels)))
    assert len(test) == max(1, round(0.2 * len(labels)))


def test_one_image_cannot_be_split(fails):
    with fails(DataError, "x has 1 image", "2 or more"):
        fixed_split(np.zeros(1), "train", "x")


def test_channel_statistics_are_numpys():
    image_set = make((300, 5, 4, 3))
    mean, deviation = image_set.channel_statistics()
    scaled = image_set.images.astype(np.float64) / 255
    assert mean == pytest.approx(scaled.mean((0, 1, 2)), rel=1e-12)
    assert deviation == pytest.approx(scaled.std((0, 1, 2)), rel=1e-10)
    assert all(type(value) is float for value in (*mean, *deviation))


def test_a_subset_keeps_every_label_beside_its_image():
    fine, coarse = np.arange(12), np.arange(12) // 6
    names = {"label": tuple("abcdefghijkl"), "coarse": ("x", "y")}
    image_set = make(labels={"label": fine, "coarse": coarse}, class_names=names)
    chosen = image_set.subset(np.array([7, 2]))
    assert chosen.labels["label"].tolist() == [7, 2] and chosen.labels["coarse"].tolist() == [1, 0]
    assert np.array_equal(chosen.images, image_set.images[[7, 2]])
