"""Any source, corrupted: which images are spoilt how, streamed ones too, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from refusals import refuses

from fullrank.data import ImageSet, StreamedImages, corrupt, source
from fullrank.data.made.corrupted import Corrupted
from fullrank.data.made.corruptions import CORRUPTIONS
from fullrank.data.sources import Source
from fullrank.errors import DataError, UsageError


@pytest.fixture
def flat(tmp_path: Path) -> str:
    """40 images to train and 10 to test, all of one grey: what differs was drawn."""
    images = np.full((50, 9, 9, 3), 120, np.uint8)
    np.savez(tmp_path / "flat.npz", images=images, labels=np.arange(50) % 5)
    return f"npz:{tmp_path / 'flat.npz'}"


def test_labels_stay_and_layers_do_not():
    clean = source("composite:two-cues,n=200").load("train")
    noisy = source('corrupted:shot-noise,severity=2,data="composite:two-cues,n=200"').load("train")
    assert clean.layers and noisy.layers == {}
    assert noisy.class_names == clean.class_names and noisy.labels.keys() == clean.labels.keys()
    assert all(np.array_equal(noisy.labels[key], clean.labels[key]) for key in clean.labels)
    assert noisy.images.shape == clean.images.shape and (noisy.images != clean.images).mean() > 0.5


def test_the_spec_is_canonical():
    spec = 'corrupted:jpeg,seed=0,severity=3,data="composite:two-cues,n=200"'
    assert source(spec).name == 'corrupted:jpeg,data="composite:two-cues,n=200"'
    assert source("corrupted:jpeg,severity=1,seed=4,data=digits").name == (
        "corrupted:jpeg,data=digits,seed=4,severity=1"
    )


@pytest.mark.parametrize("split", ["train", "test"])
def test_an_image_is_spoilt_by_its_row_alone(split, flat):
    whole = source(f"corrupted:gaussian-noise,data={flat}").load(split)
    assert len({image.tobytes() for image in whole.images}) == len(whole)
    again = source(f"corrupted:gaussian-noise,data={flat}").load(split)
    assert np.array_equal(whole.images, again.images)
    rows = np.array([7, 0, 3])
    assert np.array_equal(whole.subset(rows).images, again.images[rows])
    assert torch.equal(torch.cat(list(whole.batches(3))), whole.tensor())


def test_the_seed_and_the_split_decide_what_is_drawn(flat):
    def noise(split="test", **options):
        more = "".join(f",{key}={value}" for key, value in options.items())
        noisy = source(f"corrupted:gaussian-noise,data={flat}{more}").load(split)
        return noisy.images[:8].astype(float) - 120

    assert np.array_equal(noise(), noise(seed=0))
    first = noise(severity=1)
    for other in (noise(severity=1, seed=1), noise(severity=1, split="train")):
        assert abs(np.corrcoef(first.ravel(), other.ravel())[0, 1]) < 0.1
    # Severity 3 is three times severity 1, up to rounding: the draws are the same.
    assert np.abs(noise() - 3 * first).max() <= 2


def test_images_are_corrupted_at_their_own_size_and_then_resized():
    own = source("corrupted:pixelate,severity=5,data=digits").load("test")
    assert torch.equal(
        source("corrupted:pixelate,severity=5,data=digits").load("test", image_size=16).tensor(),
        own.resized(16).tensor(),
    )


def test_images_of_different_sizes_are_corrupted_at_the_size_asked_for(tmp_path: Path):
    for row, size in enumerate([(12, 12), (30, 20), (8, 40)]):
        Image.new("RGB", size, "green").save(tmp_path / f"{row}.png")
    noisy = source(f"corrupted:gaussian-noise,data=folder:{tmp_path}").load("train", image_size=10)
    assert noisy.images.shape == (2, 10, 10, 3) and noisy.images[0].std(axis=(0, 1)).min() > 10


def test_streamed_images_are_corrupted_as_those_in_memory(tmp_path: Path, image_folder):
    image_folder(tmp_path)
    for kind in ("gaussian-noise", "motion-blur"):
        spec = f"corrupted:{kind},data=folder:{tmp_path}"
        memory, streamed = (
            source(text).load("train", image_size=12)
            for text in (spec, f'corrupted:{kind},data="folder:{tmp_path},canvas=12"')
        )
        assert isinstance(streamed.images, StreamedImages)
        rows = np.array([5, 0, 11])
        for images in (streamed, streamed.subset(np.arange(len(streamed)))):
            assert np.array_equal(images.read(rows)[0], memory.read(rows)[0])
        some = streamed.subset(rows).read(np.array([0, 1, 2]))[0]
        assert torch.equal(some, memory.read(rows)[0])


def test_large_streamed_images_are_corrupted_at_256_pixels(tmp_path: Path):
    """The centre crop at 224 then takes the pixels as they are."""
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        Image.new("RGB", (800, 600), (120, 120, 120)).save(tmp_path / split / "0.png")
    noisy = source(f'corrupted:gaussian-noise,severity=1,data="folder:{tmp_path},canvas=320"').load("test")
    assert noisy.read(np.array([0]))[1].tolist() == [[256, 341]]
    crop = noisy.tensor().float()
    assert crop.shape == (1, 3, 224, 224) and abs(crop.std() - 255 * 0.04) < 0.2
    assert noisy.images.name == noisy.name


class GreyStream(Source):
    """Four grey images, decoded on demand."""

    def read(self, split, image_size):
        images = StreamedImages(
            lambda row: Image.new("L", (8, 8), 60 + 40 * row), list("abcd"), 8, image_size or 7, channels=1
        )
        return ImageSet(images, {"label": np.zeros(4, np.int64)}, {"label": ("x",)}, self.name, split)


def test_grey_stays_grey(fails):
    noisy, faded = Corrupted("impulse-noise", data="digits"), Corrupted("saturation", data="digits")
    noisy.data = faded.data = GreyStream("grey")
    test = noisy.load("test")
    assert test.tensor().shape == (4, 1, 7, 7)
    assert test.tensor().unique().tolist() == [0, 60, 100, 140, 180, 255]
    for images in (faded, source("corrupted:saturation,data=digits")):
        with fails(UsageError, "'saturation'", "grey"):
            images.load("train")


def test_a_file_that_is_no_image_is_still_named(tmp_path: Path, image_folder, fails):
    image_folder(tmp_path, count=3)
    noisy = source(f'corrupted:jpeg,data="folder:{tmp_path},canvas=12"').load("train")
    (tmp_path / noisy.images.keys[1]).write_text("no image")
    with fails(DataError, "corrupted:jpeg", noisy.images.keys[1]):
        noisy.tensor()


def test_corruptions_may_follow_each_other():
    spec = 'corrupted:jpeg,severity=1,data="corrupted:contrast,data=digits"'
    twice = source(spec).load("test").images[:5]
    once = source("corrupted:contrast,data=digits").load("test").images[:5]
    random = np.random.default_rng(0)
    assert np.array_equal(twice, [corrupt(image, "jpeg", 1, random) for image in once])


def test_only_the_splits_of_the_data_are_there():
    shift = source("corrupted:jpeg,severity=1,data=imagenet-r:/nowhere")
    assert shift.splits == ("test",)
    assert source("corrupted:jpeg,data=digits").splits == ("train", "test")


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("corrupted:jpeg", ["lacks data", "corrupted:jpeg,data=SPEC"]),
        ("corrupted:jpg,data=digits", ["kind", "gaussian-noise", "'jpg'"]),
        ("corrupted,data=digits", ["needs", "corrupted:KIND"]),
        ("corrupted:jpeg,data=digts", ["'digts'", "'digits'"]),
        ("corrupted:jpeg,data=digits,severity=0", ["severity", 0, "1 to 5"]),
        ("corrupted:jpeg,data=digits,severity=6", ["severity", 6, "1 to 5"]),
        ("corrupted:jpeg,data=digits,severity=mild", ["severity", "whole", "'mild'"]),
        ("corrupted:jpeg,data=digits,seed=-1", ["seed", 0, -1]),
    ],
)
def test_a_wrong_spec_is_refused(spec, words):
    with refuses(UsageError, *words):
        source(spec)


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_every_kind_makes_a_set(kind, flat):
    made = source(f"corrupted:{kind},data={flat}").load("test")
    assert made.images.shape == (10, 9, 9, 3) and made.images.dtype == np.uint8
