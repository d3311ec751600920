"""Images with other channels than grey and colour."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from refusals import refuses

import fullrank
from fullrank.data import source
from fullrank.data.datasets import image_set_of
from fullrank.errors import DataError, UsageError
from fullrank.preprocessing import Preprocessing
from fullrank.views import step_generator, view_pipeline

RANDOM = np.random.default_rng(0).integers(0, 256, (20, 12, 10, 5), np.uint8)


def folder(root: Path, ending: str = "npy", arrays=RANDOM) -> str:
    for number, array in enumerate(arrays):
        path = root / "ab"[number % 2] / f"{number:02d}.{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if ending == "npy":
            np.save(path, array)
        else:
            tifffile = pytest.importorskip("tifffile")
            tifffile.imwrite(path, array, photometric="minisblack", planarconfig="contig")
    return f"folder:{root}"


def each_channel(array: np.ndarray, size: int) -> np.ndarray:
    """Every channel resized by itself, as Pillow resizes a grey image."""
    grey = (Image.fromarray(np.ascontiguousarray(array[..., band])) for band in range(array.shape[2]))
    return np.stack([np.asarray(band.resize((size, size), Image.Resampling.BILINEAR)) for band in grey], 2)


@pytest.mark.parametrize("ending", ["npy", "tif"])
@pytest.mark.parametrize("channels", [2, 4, 5])
def test_any_number_of_channels_is_read_from_files(tmp_path, ending, channels):
    arrays = RANDOM[..., :channels]
    spec = folder(tmp_path, ending, arrays)
    square = source(spec).load("all", 10)
    assert square.image_shape == (10, 10, channels)
    rows = [int(name[2:4]) for name in square.ids]
    assert np.array_equal(square.images[0], arrays[rows[0]][1:11])
    canvases, sizes = source(f"{spec},canvas=8").load("all", 8).images.canvases(np.arange(2))
    assert sizes.tolist() == [[12, 10]] * 2
    assert np.array_equal(canvases[1], each_channel(arrays[rows[1]], 8))
    mean, spread = square.channel_statistics()
    assert np.allclose(mean, square.images.mean((0, 1, 2)) / 255)
    assert np.allclose(spread, square.images.std((0, 1, 2)) / 255)


def test_a_preprocessing_sees_each_channel(tmp_path):
    def fit(image):
        return np.asarray(image.resize((6, 6), Image.Resampling.BILINEAR))[..., None]

    images = source(folder(tmp_path)).load("all", preprocessing=Preprocessing(fit, 6, (0.5,), (0.5,)))
    assert images.image_shape == (6, 6, 5)
    first = next(images.batches(1))[0].numpy().transpose(1, 2, 0)
    assert np.array_equal(first, each_channel(RANDOM[int(images.ids[0][2:4])], 6))
    colour = Preprocessing(lambda image: np.zeros((6, 6, 3), np.uint8), 6, (0.5,), (0.5,))
    with refuses(UsageError, 5, 3):
        source(folder(tmp_path)).load("all", preprocessing=colour)


def test_arrays_with_the_channels_first_are_understood(tmp_path):
    last = source(folder(tmp_path / "last")).load("all", 10)
    first = source(folder(tmp_path / "first", arrays=RANDOM.transpose(0, 3, 1, 2))).load("all", 10)
    assert np.array_equal(last.images, first.images)
    spectra = RANDOM[:, :3, :3]
    assert source(folder(tmp_path / "spectra", arrays=spectra)).load("all").image_shape == (3, 3, 5)


def test_arrays_count_only_where_no_other_image_is(tmp_path, image_folder):
    spec = f"folder:{image_folder(tmp_path)}"
    np.save(tmp_path / "cat" / "embeddings.npy", np.zeros((20, 512)))
    assert len(source(spec).load("all")) == 20


@pytest.mark.parametrize("option", ["", ",canvas=8"])
def test_unlike_channel_counts_are_refused(tmp_path, option):
    spec = folder(tmp_path)
    np.save(tmp_path / "a" / "00.npy", RANDOM[0, ..., :2])
    np.save(tmp_path / "b" / "01.npy", RANDOM[0, ..., :2])
    with refuses(
        DataError, spec, "2 images of 2 channels", "a/00.npy", "18 images of 5 channels", "a/02.npy"
    ):
        source(spec + option).load("train", 8)


def test_a_later_image_of_other_channels_is_refused(tmp_path):
    spec = folder(tmp_path, arrays=np.zeros((240, 4, 4, 5), np.uint8))
    images = source(f"{spec},canvas=8").load("all", 8)
    for number in range(0, 240, 2):
        np.save(tmp_path / "a" / f"{number:02d}.npy", RANDOM[0, ..., :3])
    with refuses(DataError, spec, "3 channels", 5):
        images.tensor()


@pytest.mark.parametrize("spec", ["weak", "simclr,contrast=0,saturation=0,hue=0,grey=0"])
@pytest.mark.parametrize("colour", ["exact", "composed"])
def test_views_without_colour_take_any_channels(spec, colour):
    if spec != "weak":
        spec += f",colour={colour}"
    views = view_pipeline(spec, image_size=8, channels=5)
    batch = image_set_of([(image, 0) for image in RANDOM]).batch(np.arange(4))
    view, _ = views.apply(batch, views.sample(4, step_generator(0, 0, 0), source=(12, 10)))
    assert view.shape == (4, 5, 8, 8) and view.min() >= 0 and view.max() <= 1
    flat = torch.cat([batch.images[:, :1]] * 5, 1)
    same = views.apply(
        fullrank.batch.Batch(flat, batch.labels, batch.index),
        views.sample(4, step_generator(0, 0, 0), source=(12, 10)),
    )[0]
    assert torch.allclose(same, same[:, :1].expand_as(same), atol=1e-6)


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        ("simclr", ["contrast", "saturation", "hue", "grey"]),
        ("simclr,contrast=0,saturation=0,grey=0", ["hue"]),
        ("directclr", ["grey"]),
    ],
)
def test_views_that_mix_colours_refuse_other_channels(spec, named):
    with refuses(UsageError, *named, 5, "weak"):
        view_pipeline(spec, image_size=8, channels=5)


def test_encoders_take_five_channels():
    for spec in ("tiny-resnet", "resnet18"):
        built = fullrank.encoder(spec, image_size=32, in_chans=5)
        with torch.no_grad():
            assert built(torch.zeros(2, 5, 32, 32, dtype=torch.uint8)).shape == (2, built.feature_dim)


def test_corruptions_refuse_five_channels(tmp_path):
    spec = folder(tmp_path)
    with refuses(UsageError, "motion-blur", 5):
        source(f'corrupted:motion-blur,data="{spec}"').load("test", 10)
