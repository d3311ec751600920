"""Controlled images: pixels by loops, correlations by counting, layers, textures, and what is refused."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from PIL import Image
from refusals import refuses
from sklearn.linear_model import LogisticRegression

from fullrank.data import (
    SOURCES,
    BatchLoader,
    Cue,
    ImageSet,
    StreamedImages,
    compose,
    image_cue,
    source,
    write_miniature,
)
from fullrank.data.made.composite import PLACES, blend, paired_values
from fullrank.data.made.composite_presets import PRESETS, Composite
from fullrank.data.made.textures import OBJECTS, TEXTURES, objects, textures
from fullrank.errors import DataError, UsageError


def pictures(count=30, side=6, channels=3, classes=3, seed=0, split="train") -> ImageSet:
    """Random images, a third of their pixels black, classes in turn."""
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (count, side, side, channels), np.uint8)
    images[random.random(images.shape[:3]) < 0.3] = 0
    names = {"label": tuple("abcdefghij"[:classes])}
    return ImageSet(images, {"label": np.arange(count) % classes}, names, "pictures", split)


def flat(name: str, values: int, side: int, place="centre", correlation=None, channels=3) -> Cue:
    """A cue whose value can be read off its colour: 10, 20, ... everywhere."""

    def draw(chosen, random):
        shape = (len(chosen), side, side)
        pixels = np.broadcast_to(10 + 10 * chosen[:, None, None, None], (*shape, channels))
        return pixels.astype(np.uint8), np.ones(shape, bool)

    return Cue(name, tuple(f"{name}-{v}" for v in range(values)), draw, place, correlation)


def make(foreground=None, cues=None, **changes) -> ImageSet:
    cues = [flat("background", 3, 10)] if cues is None else cues
    asked = {"n": 30, "size": 10, "side": 6, "strength": 0.7} | changes
    return compose(foreground or pictures(), cues, **asked)


@given(strength=st.integers(0, 20), seed=st.integers(0, 9))
@settings(deadline=None, max_examples=30)
def test_a_blend_is_the_sum_pixel_by_pixel(strength, seed):
    random = np.random.default_rng(seed)
    below, above = random.integers(0, 256, (2, 3, 4, 5, 3), np.uint8)
    mask = random.random((3, 4, 5)) < 0.5
    before = below.copy()
    blended = blend(below, above, mask, strength / 20)
    assert np.array_equal(below, before) and blended.dtype == np.uint8
    for n, y, x, c in np.ndindex(below.shape):
        b, a = int(below[n, y, x, c]), int(above[n, y, x, c])
        expected = round(Fraction((20 - strength) * b + strength * a, 20)) if mask[n, y, x] else b
        assert blended[n, y, x, c] == expected


@pytest.mark.parametrize("place", ["centre", "top-left", "bottom-right", "middle-right", "drawn"])
def test_a_composite_is_what_loops_make_of_its_parts(place):
    foreground = pictures(count=20)
    made = make(foreground, n=20, place=place)
    corners = {
        name: (2 * row, 2 * column) for name, (row, column) in zip(PLACES, np.ndindex(3, 3), strict=True)
    }
    for row in range(20):
        where = PLACES[made.labels["position"][row]] if place == "drawn" else place
        top, left = corners[where]
        expected = np.full((10, 10, 3), 10 + 10 * made.labels["background"][row])
        for y, x in np.ndindex(6, 6):
            digit = foreground.images[row, y, x].astype(int)
            if digit.max() > 0:
                for c in range(3):
                    low = int(expected[top + y, left + x, c])
                    expected[top + y, left + x, c] = round(Fraction(3 * low + 7 * int(digit[c]), 10))
        assert np.array_equal(made.images[row], expected)


def test_mnist_on_cifar10_is_the_papers(tmp_path, idx_folder):
    """P2.5: the digit at 16 pixels, padded by 8, copied to RGB, weighs 0.7 where it is above 0."""
    written = idx_folder(tmp_path)
    cifar = write_miniature("cifar10", tmp_path, images=24, classes=3, size=32)
    spec = f"composite:mnist-on-cifar10,mnist={tmp_path},{cifar.replace(':', '=')},n=40"
    made, photographs = source(spec).load("train"), source(cifar).load("train").images.astype(int)
    assert made.image_shape == (32, 32, 3) and len(made) == 40 and len(source(spec).load("test")) == 8
    assert np.array_equal(made.labels["label"], written["train-labels-idx1-ubyte"])
    for row in range(40):
        digit = Image.fromarray(written["train-images-idx3-ubyte"][row])
        small = np.asarray(digit.resize((16, 16), Image.Resampling.BILINEAR)).astype(int)
        padded = np.pad(small, 8)[..., None]
        below = made.layers["foreground"][row].astype(int)
        assert (photographs == below).all((1, 2, 3)).any()
        expected = np.where(padded > 0, np.rint((3 * below + 7 * padded) / 10), below)
        assert np.array_equal(made.images[row], expected)


@settings(deadline=None)
@given(
    images=st.integers(20, 200),
    values=st.integers(2, 5),
    level=st.floats(0, 1),
    seed=st.integers(0, 3),
)
def test_the_partners_are_counted_exactly(images, values, level, seed):
    level = 1 / values + level * (1 - 1 / values)
    labels = np.sort(np.random.default_rng(seed).integers(0, 4, images))
    sizes = np.bincount(labels, minlength=4)
    try:
        drawn = paired_values(labels, values, level, seed)
    except DataError:
        assert level < 1 and any(m and (level * m < 0.51 or level * m > m - 0.51) for m in sizes)
        return
    assert np.array_equal(drawn, paired_values(labels, values, level, seed))
    for label in np.unique(labels):
        counts = np.bincount(drawn[labels == label], minlength=values)
        others = np.delete(counts, label % values)
        assert counts.sum() == sizes[label] and np.ptp(others) <= 1
        assert abs(counts[label % values] - level * sizes[label]) <= 1 - (level > 1 / values + 0.01) * 0.49


def test_balance_is_a_count_and_two_cues_are_independent_given_the_label():
    labels = np.repeat([0, 1], 400)
    first = paired_values(labels, 2, 0.95, seed=0)
    second = paired_values(labels, 2, 0.95, seed=1, before=first)
    groups = np.bincount(4 * labels + 2 * first + second)
    assert groups.tolist() == [361, 19, 19, 1, 1, 19, 19, 361]
    third = paired_values(labels, 4, 0.25, seed=2, before=2 * first + second)
    for group in range(8):
        counts = np.bincount(third[4 * labels + 2 * first + second == group], minlength=4)
        assert np.ptp(counts) <= 2
    assert np.bincount(third).tolist() == [200] * 4


def test_two_cues_are_correlated_in_training_and_balanced_in_the_test():
    train, test = Composite("two-cues").load("train"), Composite("two-cues").load("test")
    for cue in ("background", "object"):
        for label in (0, 1):
            mine = train.labels[cue][train.labels["label"] == label]
            assert (mine == label).sum() == np.floor(0.95 * len(mine) + 0.5)
    groups = np.bincount(test.labels["group"], minlength=8)
    assert np.ptp(groups) <= 2 and groups.sum() == 500
    assert np.bincount(train.labels["group"], minlength=8).min() > 0
    assert train.class_names["group"][0] == "low/lines/disc" and train.class_names["label"] == ("low", "high")
    for images in (train, test):
        label, background, thing = np.unravel_index(images.labels["group"], (2, 2, 2))
        for name, values in (("label", label), ("background", background), ("object", thing)):
            assert np.array_equal(images.labels[name], values)
        assert np.array_equal(images.labels["label"], images.labels["digit"] >= 5)
    half = source("composite:two-cues,correlation=0.5").load("train")
    assert np.ptp(np.bincount(half.labels["group"])) <= 3


def test_every_factor_is_a_label_and_balanced_unless_asked():
    made = source("composite:digits-on-textures,place=drawn,n=900").load("train")
    assert set(made.labels) == {"label", "background", "position", "group"}
    assert made.class_names["background"] == TEXTURES and made.class_names["position"] == PLACES
    assert np.bincount(made.labels["position"]).tolist() == [100] * 9
    table = np.zeros((10, 10), int)
    np.add.at(table, (made.labels["label"], made.labels["background"]), 1)
    assert np.ptp(table, axis=1).max() <= 1


def test_foregrounds_keep_their_proportion_and_are_reused_only_when_all_are_used():
    foreground = pictures(count=30)
    foreground.images[:, 0, 0, 0] = np.arange(30) + 1  # its number

    def numbers(n):
        made = make(foreground, n=n, place="top-left", strength=1.0)
        assert np.ptp(np.bincount(made.labels["label"])) <= 1
        return np.bincount(made.images[:, 0, 0, 0] - 1, minlength=30)

    assert numbers(20).max() == 1 and numbers(30).tolist() == [1] * 30
    assert set(numbers(75).tolist()) == {2, 3}


def test_images_of_a_cue_are_of_the_value_and_all_are_used_before_any_again():
    pool = pictures(count=12, side=10, seed=1)
    made = make(cues=[image_cue("background", pool, 10)], strength=0.0, n=30)
    keys = {image.tobytes(): row for row, image in enumerate(pool.images)}
    rows = np.array([keys[image.tobytes()] for image in made.images])
    assert np.array_equal(pool.labels["label"][rows], made.labels["background"])
    assert set(np.bincount(rows, minlength=12).tolist()) == {2, 3}


def test_the_parts_of_train_and_test_come_from_their_own_splits(tmp_path, idx_folder):
    cifar = write_miniature("cifar10", tmp_path, images=24, classes=3, size=32)
    idx_folder(tmp_path)
    spec = f"composite:mnist-on-cifar10,mnist={tmp_path},{cifar.replace(':', '=')},strength=0,n=60"
    for split in ("train", "test"):
        known = {image.tobytes() for image in source(cifar).load(split).images}
        assert {image.tobytes() for image in source(spec).load(split).images} <= known


def test_without_strength_and_without_foreground_the_background_is_left():
    cues = [flat("background", 3, 10), flat("object", 2, 4, "top-right")]
    made, clear = make(cues=cues), make(cues=cues, strength=0.0)
    assert np.array_equal(made.layers["foreground"], clear.images)
    alone = make(cues=cues[:1], strength=0.0)
    assert np.array_equal(
        alone.images, np.ones((1, 10, 10, 3)) * 10 + 10 * alone.labels["background"][:, None, None, None]
    )
    assert list(made.layers) == ["background", "object", "foreground"]


def test_a_layer_taken_out_leaves_the_others_as_they_lie():
    cues = [flat("background", 3, 10), flat("object", 2, 4, "centre")]  # below the foreground
    made = make(cues=cues, strength=0.7)
    assert np.array_equal(made.layers["object"], make(cues=cues[:1], strength=0.7).images)
    below = np.zeros((30, 10, 10, 3), np.uint8)
    below[:, 3:7, 3:7] = 10 + 10 * made.labels["object"][:, None, None, None]
    for image, floor, digit in zip(made.layers["background"], below, pictures().images, strict=True):
        inside = floor[2:8, 2:8]
        blended = np.rint((3.0 * inside + 7.0 * digit) / 10)
        shown = np.where(digit.max(-1, keepdims=True) > 0, blended, inside)
        assert np.array_equal(image[2:8, 2:8], shown) and not image[0].any()


@pytest.mark.parametrize("spec", ["composite:digits-on-textures,n=100", "composite:two-cues,n=200"])
def test_a_seed_is_a_set(spec):
    one, again, other = (source(spec + more).load("test") for more in ("", "", ",seed=1"))
    assert np.array_equal(one.images, again.images) and not np.array_equal(one.images, other.images)
    for key in one.labels:
        assert np.array_equal(one.labels[key], again.labels[key])
    assert not np.array_equal(one.labels["background"], other.labels["background"])


@pytest.mark.parametrize(("parts", "expected"), [((1, 1), 1), ((1, 3), 3), ((3, 1), 3)])
def test_grey_is_copied_to_rgb_where_a_part_has_colours(parts, expected):
    foreground = pictures(channels=parts[0])
    made = make(foreground, [flat("background", 3, 10, channels=parts[1])], strength=1.0)
    assert made.channels == expected
    assert all(layer.shape == made.images.shape for layer in made.layers.values())
    if parts[0] < expected:
        ink = np.broadcast_to(foreground.images, (30, 6, 6, 3))
        assert np.array_equal(made.images[:, 2:8, 2:8][ink > 0], ink[ink > 0])


def test_layers_go_where_their_images_go():
    made = make(n=60)
    for images in (
        made.limited(17, seed=1),
        made.fraction(0.5, seed=2),
        made.of_classes(["c", "a"]),
        made.subset(np.array([5, 3, 3])),
    ):
        keys = {image.tobytes(): row for row, image in enumerate(made.images)}
        rows = [keys[image.tobytes()] for image in images.images]
        for name, layer in images.layers.items():
            assert np.array_equal(layer, made.layers[name][rows])
    small = made.resized(5)
    for name in made.layers:
        alone = replace(made, images=made.layers[name], layers={}).resized(5)
        assert np.array_equal(small.layers[name], alone.images)
    assert made.resized(10) is made


def test_a_loader_hands_out_layers_with_their_images():
    made = make(n=60)
    for batch in BatchLoader(made, 16, seed=0):
        assert set(batch.layers) == {"background", "foreground"}
        for name, layer in batch.layers.items():
            expected = made.layers[name][batch.index.numpy()].transpose(0, 3, 1, 2)
            assert layer.dtype == torch.uint8 and np.array_equal(layer.numpy(), expected)
    assert next(iter(BatchLoader(pictures(), 4, seed=0))).layers is None
    batch = made.batch(np.array([7, 2]))
    assert batch.index.tolist() == [7, 2] and batch.labels.tolist() == [-1, -1]
    assert np.array_equal(
        batch.layers["foreground"].numpy(), made.layers["foreground"][[7, 2]].transpose(0, 3, 1, 2)
    )
    assert pictures().batch(np.array([0])).layers is None


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (np.zeros((30, 6, 6, 1), np.uint8), ["'mask'", "(30, 6, 6, 3)", "(30, 6, 6, 1)"]),
        (np.zeros((30, 6, 6, 3), np.float32), ["'mask'", "uint8", "float32"]),
    ],
)
def test_a_layer_that_does_not_fit_is_refused(layer, words, fails):
    with fails(DataError, *words):
        replace(pictures(), layers={"mask": layer})


def test_streamed_images_have_no_layers(fails):
    images = StreamedImages(lambda row: Image.new("L", (4, 4)), ["a"], canvas=4, image_size=4)
    streamed = ImageSet(images, {"label": np.zeros(1, np.int64)}, {"label": ("x",)})
    with fails(DataError, "images", "foreground"):
        replace(streamed, layers={"foreground": np.zeros((1, 4, 4, 3), np.uint8)})
    with fails(UsageError, "composites"):
        make(streamed)
    with fails(UsageError, "composites"):
        image_cue("background", streamed, 10)


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"strength": 1.2}, UsageError, ["1.2", "0 to 1"]),
        ({"side": 11}, UsageError, ["foreground of 11x11", "canvas of 10x10"]),
        ({"side": 0}, UsageError, ["0x0"]),
        ({"n": 0}, UsageError, ["n=0"]),
        ({"size": 0}, UsageError, ["0"]),
        ({"cues": []}, UsageError, ["0 cues"]),
        ({"cues": [flat("a", 2, 10), flat("a", 3, 4)]}, UsageError, ["cue 'a'", "another cue"]),
        ({"cues": [flat("label", 2, 10)]}, UsageError, ["cue 'label'"]),
        ({"cues": [flat("foreground", 2, 10)]}, UsageError, ["cue 'foreground'"]),
        ({"cues": [flat("a", 2, 12)]}, UsageError, ["cue 'a'", "12x12", "10x10"]),
        ({"cues": [flat("a", 4, 10, correlation=0.2)]}, UsageError, ["0.2", "0.25 to 1"]),
        ({"cues": [flat("a", 4, 10, correlation=1.1)]}, UsageError, ["1.1"]),
        ({"cues": [flat("a", 2, 10, correlation=0.95)]}, DataError, ["all", "10 images", "11 or more"]),
        ({"cues": [flat("a", 9, 10, correlation=0.2)], "n": 6}, DataError, ["none", "3 or more"]),
    ],
)
def test_what_cannot_be_composed_is_refused(changes, kind, words, fails):
    with fails(kind, *words):
        make(**changes)


@pytest.mark.parametrize("level", [0.5, 0.6, 0.9, 0.95, 0.99, 1.0])
def test_the_remedy_of_too_few_images_is_enough_and_not_more(level):
    for images in range(1, 60):
        labels = np.zeros(images, np.int64)
        try:
            paired_values(labels, 2, level, seed=0)
        except DataError as error:
            needed = int(str(error).split("give ")[1].split()[0])
            paired_values(np.zeros(needed, np.int64), 2, level, seed=0)
            with pytest.raises(DataError):
                paired_values(np.zeros(needed - 1, np.int64), 2, level, seed=0)


def test_a_cue_needs_two_values_a_known_place_and_images_of_each_value(fails):
    with fails(UsageError, "'a'", 1, "2 values"):
        flat("a", 1, 4)
    with refuses(UsageError, "'top-lft'", "'top-left'"):
        flat("a", 2, 4, place="top-lft")
    with pytest.raises(UsageError, match="'above'"):
        make(place="above")
    gap = pictures().subset(np.arange(0, 30, 3))
    with fails(DataError, "pictures (train)", "'b'"):
        image_cue("background", gap, 10)


def test_foregrounds_without_labels_are_refused_and_single_ones_left_out(fails):
    bare = replace(pictures(), labels={"label": np.full(30, -1)})
    with fails(DataError, "labels"):
        make(bare)
    some = replace(pictures(), labels={"label": np.where(np.arange(30) < 10, -1, np.arange(30) % 3)})
    assert make(some, n=20).labels["label"].min() == 0


def test_presets_are_those_of_the_catalogue():
    assert SOURCES["composite"].value.choices == tuple(PRESETS)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("composite:mnist-on-cifar10,mnist=x", ["lacks cifar10", "mnist=PATH,cifar10=PATH"]),
        ("composite:any,background=textures", ["lacks foreground", "foreground=SPEC,background=SPEC"]),
        ("composite:two-cues,mnist=x", ["mnist", "two-cues", "composite:any"]),
        ("composite:textures", ["mnist-on-cifar10", "'textures'"]),
        ("composite", ["value", "composite:PRESET"]),
    ],
)
def test_a_wrong_spec_is_refused(spec, words):
    with refuses(UsageError, *words):
        source(spec)
    with refuses(UsageError, "'two-cue'", "'two-cues'"):
        Composite("two-cue")


@pytest.mark.parametrize(
    "more", ["scale=1.5", "scale=0", "strength=2", "correlation=0.01", "n=0", "place=up"]
)
def test_a_wrong_option_is_refused_when_loaded(more):
    with pytest.raises(UsageError):
        source(f"composite:digits-on-textures,{more}").load("train")


def test_any_source_serves_as_foreground_and_background(tmp_path, image_folder):
    folder = image_folder(tmp_path / "folder", count=20)
    spec = f"composite:any,foreground=digits,background=folder:{folder},size=16,n=60"
    made = source(spec).load("train")
    assert made.images.shape == (60, 16, 16, 3) and made.class_names["background"] == ("cat", "dog")
    textured = source("composite:any,foreground=digits,background=textures,n=30,scale=0.25").load("test")
    assert textured.images.shape == (6, 32, 32, 3) and textured.class_names["background"] == TEXTURES


@pytest.mark.parametrize("part", ["foreground", "background", "object"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_a_composite_without_a_part_is_its_layer_under_the_same_labels(part, split):
    whole = source("composite:two-cues,n=200,seed=1").load(split)
    rest = source(f"composite:two-cues,n=200,seed=1,without={part}").load(split)
    assert np.array_equal(rest.images, whole.layers[part]) and rest.layers == {}
    assert not np.array_equal(rest.images, whole.images)
    assert rest.class_names == whole.class_names and rest.labels.keys() == whole.labels.keys()
    assert all(np.array_equal(rest.labels[key], whole.labels[key]) for key in whole.labels)
    assert rest.name == f"composite:two-cues,n=200,seed=1,without={part}"


def test_without_its_background_a_composite_is_black_there():
    """The offline twin of "only foreground": nothing but the digit and the thing is left."""
    rest = source("composite:two-cues,n=200,without=background").load("test")
    assert not rest.images[:, 0, 0].any()  # top left, where neither the digit nor the thing lies
    assert (rest.images.reshape(len(rest), -1) > 0).any(1).all()


def test_an_unknown_part_is_refused_with_those_there_are():
    with refuses(UsageError, "two-cues", "'foregrond'", "'foreground'", "background, object"):
        source("composite:two-cues,without=foregrond")
    with refuses(UsageError, "digits-on-textures", "'object'", "foreground, background"):
        source("composite:digits-on-textures,without=object")


@pytest.mark.parametrize("side", [8, 12, 32])
def test_textures_are_varied_and_contrasted(side):
    for kind in range(len(TEXTURES)):
        made = textures(np.full(20, kind), side, np.random.default_rng(kind)).astype(float)
        assert made.shape == (20, side, side, 3)
        assert len({image.tobytes() for image in made}) == 20
        assert made.mean(-1).std((1, 2)).min() > 8, TEXTURES[kind]
        assert made[:, 0, 0].std(0).min() > 10, "one pixel alone tells the class"


def test_textures_are_told_apart_by_their_spectra_but_not_by_their_pixels():
    """The spectrum's size forgets phase, as an encoder may; the pixels do not."""
    random = np.random.default_rng(0)
    kinds = np.arange(1000) % 10
    grey = textures(kinds, 12, random).mean(-1)
    grey = grey - grey.mean((1, 2), keepdims=True)
    grey /= grey.std((1, 2), keepdims=True)
    spectra = np.log(np.abs(np.fft.rfft2(grey)) + 1).reshape(1000, -1)
    scores = []
    for features in (spectra, grey.reshape(1000, -1)):
        model = LogisticRegression(C=0.1, max_iter=2000).fit(features[:700], kinds[:700])
        scores.append(model.score(features[700:], kinds[700:]))
    assert scores[0] > 0.9 and scores[1] < 0.7


def test_objects_lie_where_their_mask_is_true():
    pixels, masks = objects(np.array([0, 1, 0]), 5, np.random.default_rng(0))
    assert pixels.shape == (3, 5, 5, 3) and masks.dtype == bool and len(OBJECTS) == 2
    assert np.array_equal(masks[0], masks[2]) and not np.array_equal(masks[0], masks[1])
    assert not np.array_equal(pixels[0], pixels[2])
    for mask in masks[:2]:
        assert np.array_equal(mask, mask[:, ::-1]), "a flip would make another shape"
    assert pixels.min() > 170, "a thing must stand out from the textures"


def test_textures_and_objects_that_cannot_be_are_refused(fails):
    random = np.random.default_rng(0)
    for draw, least in ((textures, 8), (objects, 4)):
        with fails(UsageError, least - 1, least):
            draw(np.array([0]), least - 1, random)
    for kind in (-1, 10):
        with fails(UsageError, kind, "0 to 9"):
            textures(np.array([kind]), 8, random)
