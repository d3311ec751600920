import zlib
from contextlib import suppress

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
        ({"images": np.zeros((12, 3, 4, 4), np.uint8)}, ["(N, H, W, C)", "(12, 3, 4, 4)"]),
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


FINE = {"label": tuple("abcdefghijkl"), "coarse": ("x", "y")}


def two_labels() -> ImageSet:
    return make(labels={"label": np.arange(12), "coarse": np.arange(12) // 6}, class_names=FINE)


def test_chosen_classes_are_numbered_in_the_order_given():
    image_set = make((40, 2, 2, 1), images=np.arange(40, dtype=np.uint8).repeat(4).reshape(40, 2, 2, 1))
    chosen = image_set.of_classes(["c", "a"])  # labels were row % 4 - 1
    rows = chosen.images[:, 0, 0, 0]
    assert rows.tolist() == [row for row in range(40) if row % 4 in (1, 3)]
    assert chosen.class_names == {"label": ("c", "a")}
    assert chosen.labels["label"].tolist() == [1 if row % 4 == 1 else 0 for row in rows]
    everything = image_set.of_classes(["a", "b", "c"])
    assert len(everything) == 30 and everything.labels["label"].min() == 0


def test_other_labels_stay_beside_the_chosen():
    chosen = two_labels().of_classes(("h", "b"))
    assert chosen.labels["label"].tolist() == [1, 0] and chosen.labels["coarse"].tolist() == [0, 1]
    assert chosen.class_names == {"label": ("h", "b"), "coarse": ("x", "y")}
    coarse = two_labels().of_classes(["y"], label="coarse")
    assert coarse.labels["label"].tolist() == [6, 7, 8, 9, 10, 11] and set(coarse.labels["coarse"]) == {0}
    assert np.array_equal(coarse.images, two_labels().images[6:])


def test_names_that_are_no_classes_are_refused(fails):
    image_set = make(class_names={"label": ("cat", "dog", "horse")})
    with fails(UsageError, "2 of 3 names", "'label'", "images (train)", "'hors'", "it has 3", "'horse'"):
        image_set.of_classes(["cat", "hors", "dgo"])
    with fails(UsageError, "1 of 1 names", "'zzz'", "'cat'", "'dog'", "'horse'"):
        image_set.of_classes(["zzz"])
    with fails(UsageError, "'dog'", "twice"):
        image_set.of_classes(["dog", "cat", "dog"])
    with pytest.raises(UsageError, match=r"'label'.* has label"):
        image_set.of_classes(["cat"], label="lable")
    with fails(DataError, "0 images"):
        image_set.of_classes([])


@settings(max_examples=50, deadline=None)
@given(
    labels=st.lists(st.integers(-1, 3), min_size=1, max_size=60),
    share=st.floats(0.01, 1),
    smaller=st.floats(0.1, 1),
    seed=st.integers(0, 3),
)
def test_a_fraction_is_that_share_of_every_class(labels, share, smaller, seed):
    rows = np.arange(len(labels), dtype=np.uint8)
    image_set = make(images=rows.reshape(-1, 1, 1, 1), labels={"label": np.array(labels)}, classes=4)
    try:
        kept = image_set.fraction(share, seed)
    except DataError:
        given_labels = [label for label in labels if label >= 0] or labels
        assert any(share * given_labels.count(label) < 0.5 for label in given_labels)
        return
    for label in set(labels):
        assert abs((kept.labels["label"] == label).sum() - share * labels.count(label)) <= 0.5 + 1e-9
    chosen = kept.images.ravel().tolist()
    assert chosen == sorted(set(chosen)) and [labels[row] for row in chosen] == kept.labels["label"].tolist()
    with suppress(DataError):
        assert set(image_set.fraction(share * smaller, seed).images.ravel().tolist()) <= set(chosen)


def test_a_fraction_is_seeded():
    image_set = make((200, 2, 2, 1), images=np.arange(200, dtype=np.uint8).repeat(4).reshape(200, 2, 2, 1))
    rows = [image_set.fraction(0.25, seed).images[:, 0, 0, 0].tolist() for seed in (1, 1, 2)]
    assert rows[0] == rows[1] != rows[2] and len(rows[0]) == 52  # 12.5 of each, a half up
    assert np.array_equal(image_set.fraction(1, seed=0).images, image_set.images)


@pytest.mark.parametrize("share", [0, -0.1, 1.01, float("nan")])
def test_a_share_outside_the_set_is_refused(share, fails):
    with fails(UsageError, f"{share:g}", "0 to 1", "images (train)"):
        make().fraction(share, seed=0)


@pytest.mark.parametrize("smallest", [3, 7, 41])
def test_a_share_that_empties_a_class_names_the_smallest_that_does_not(smallest, fails):
    labels = np.repeat([0, 1, 2, -1], [smallest, 100, smallest + 1, 3])
    image_set = make(images=np.zeros((len(labels), 1, 1, 1), np.uint8), labels={"label": labels})
    with fails(DataError, "0.006", "2 of 3 classes", "images (train)"):
        image_set.fraction(0.006, seed=0)
    with pytest.raises(DataError) as caught:
        image_set.fraction(0.006, seed=0)
    needed = float(str(caught.value).split("choose ")[1].split(" ")[0])
    assert set(image_set.fraction(needed, seed=0).labels["label"]) >= {0, 1, 2}
    with pytest.raises(DataError):
        image_set.fraction(needed - 2e-6, seed=0)


def test_a_fraction_of_unlabelled_images(fails):
    image_set = make(images=np.zeros((40, 1, 1, 1), np.uint8), labels={"label": np.full(40, -1)})
    assert len(image_set.fraction(0.1, seed=0)) == 4
    with fails(DataError, "0.01", "0.0125"):
        image_set.fraction(0.01, seed=0)


def test_images_in_memory_are_read_as_they_are():
    image_set = make((10, 5, 6, 3))
    seen, sizes = image_set.read(np.array([7, 2]))
    assert sizes is None and seen.dtype == torch.uint8
    assert np.array_equal(seen.permute(0, 2, 3, 1).numpy(), image_set.images[[7, 2]])
    batches = list(image_set.batches(4))
    assert [len(batch) for batch in batches] == [4, 4, 2] and all(b.is_contiguous() for b in batches)
    assert torch.equal(torch.cat(batches), image_set.tensor())
    assert (image_set.image_size, image_set.channels) == (5, 3)
    assert image_set.checksum() == zlib.crc32(image_set.images.tobytes())
    assert image_set.checksum() != image_set.subset(np.arange(9, -1, -1)).checksum()
