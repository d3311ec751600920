import numpy as np
import pytest
import torch
from PIL import Image
from refusals import refuses

from fullrank.data import ImageSet, source
from fullrank.data.undecodable import BadImages
from fullrank.errors import DataError, UsageError
from fullrank.preprocessing import Preprocessing
from fullrank.views import step_generator, view_pipeline

SIZE = 4


def corner(image: Image.Image) -> np.ndarray:
    """The upper left pixels of an image with its mode and its own size written into the first row."""
    pixels = np.asarray(image)
    pixels = (pixels if pixels.ndim == 3 else pixels[..., None])[:SIZE, :SIZE].copy()
    pixels[0, :3] = [[image.width], [image.height], [len(image.getbands())]]
    return pixels


def normalised(image: Image.Image) -> np.ndarray:
    return corner(image).astype(np.float32) / 100


def preprocessing(fit=corner, **changes) -> Preprocessing:
    return Preprocessing(fit, **{"size": SIZE, "mean": (0.5,), "std": (0.25,), **changes})


def pixels_of(images: ImageSet) -> np.ndarray:
    return torch.cat(list(images.batches(64))).numpy().transpose(0, 2, 3, 1)


def saved(folder, sizes, mode="RGB"):
    """Noise of these sizes as PNG files, in the order of their names."""
    random = np.random.default_rng(0)
    images = []
    for number, (width, height) in enumerate(sizes):
        shape = (height, width, 3) if mode == "RGB" else (height, width)
        images.append(Image.fromarray(random.integers(0, 256, shape, np.uint8)))
        path = folder / f"{'ab'[number % 2]}/{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        images[-1].save(path)
    return images


@pytest.mark.parametrize(("mode", "options"), [("RGB", ""), ("RGB", ",canvas=8"), ("L", "")])
def test_files_reach_the_preprocessing_at_their_own_size(tmp_path, mode, options):
    sizes = [(9 + number, 30 - number) for number in range(20)]
    images = saved(tmp_path, sizes, mode)
    by_key = {f"{'ab'[number % 2]}/{number}.png": image for number, image in enumerate(images)}
    split = source(f"folder:{tmp_path}{options}").load("train", preprocessing=preprocessing())
    assert split.image_shape == (SIZE, SIZE, len(mode))
    assert split.channel_statistics() == ((0.5,), (0.25,))
    keys = [split.images.keys[row] for row in split.images.originals]
    assert np.array_equal(pixels_of(split), np.stack([corner(by_key[key]) for key in keys]))


def test_images_in_memory_reach_the_preprocessing_unchanged():
    images = source("digits").load("test")
    prepared = source("digits").load("test", preprocessing=preprocessing())
    expected = images.images[:, :SIZE, :SIZE].copy()
    expected[:, 0, :3, 0] = [8, 8, 1]
    assert np.array_equal(pixels_of(prepared), expected)
    assert np.array_equal(prepared.labels["label"], images.labels["label"])
    few = prepared.subset(np.array([7, 2]))
    assert np.array_equal(few.tensor().numpy(), expected[[7, 2]].transpose(0, 3, 1, 2))
    assert few.batch(np.array([1])).sizes.tolist() == [[8, 8]]


def test_layers_of_composites_are_prepared_too():
    composite = source("composite:digits-on-textures,n=10").load("test")
    prepared = composite.prepared(preprocessing())
    for name, layer in composite.layers.items():
        expected = np.stack([corner(Image.fromarray(image)) for image in layer])
        assert np.array_equal(prepared.layers[name], expected)
    assert prepared.images.shape == (len(composite), SIZE, SIZE, 3)


def test_an_undecodable_file_is_replaced_as_in_streamed_sets(tmp_path, fails):
    saved(tmp_path, [(9, 9)] * 20)
    (tmp_path / "a/0.png").write_bytes(b"no image")
    whole = source(f"folder:{tmp_path}")
    for split in ("train", "test"):
        bad = BadImages(1)
        images = whole.load(split, bad=bad, preprocessing=preprocessing())
        assert len(pixels_of(images)) == len(images)
        if bad.found:
            assert list(bad.found) == ["a/0.png"]
            with fails(DataError, "a/0.png"):
                pixels_of(whole.load(split, preprocessing=preprocessing()))
            return
    raise AssertionError("the file is in neither split")


def test_floats_are_kept_and_views_refuse_them():
    images = source("digits").load("test", preprocessing=preprocessing(normalised)).subset(np.arange(5))
    plain = source("digits").load("test", preprocessing=preprocessing()).subset(np.arange(5))
    batch = next(images.batches(5))
    assert batch.dtype == torch.float32
    assert np.array_equal(pixels_of(images), (pixels_of(plain) / 100).astype(np.float32))
    with refuses(UsageError, "digits", "float32"):
        images.batch(np.arange(2))
    views = view_pipeline("weak", image_size=SIZE, channels=1)
    made = plain.batch(np.arange(2))
    drawn = views.sample(2, step_generator(0, 0, 0), source=made.images.shape[2:], sizes=made.sizes)
    views.apply(made, drawn)
    with refuses(UsageError, "float32"):
        views.apply(made._each(torch.Tensor.float), drawn)


@pytest.mark.parametrize(
    ("fit", "named"),
    [
        (lambda image: np.zeros((5, 4, 1), np.uint8), "(5, 4, 1)"),
        (lambda image: np.zeros((4, 4), np.uint8), "(4, 4)"),
        (lambda image: np.zeros((4, 4, 1)), "float64"),
        (lambda image: image, "Image"),
    ],
)
def test_a_transform_of_another_form_is_refused(fit, named):
    with refuses(UsageError, named, "4"):
        source("digits").load("test", preprocessing=preprocessing(fit))


def test_a_size_beside_a_preprocessing_is_refused():
    with refuses(UsageError, "16", "4"):
        source("digits").load("test", 16, preprocessing=preprocessing())
