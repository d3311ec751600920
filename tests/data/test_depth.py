"""Pixels of more than eight bits, of which the fewest bits that hold them are taken."""

import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from refusals import assert_names, refuses

from fullrank.data import source
from fullrank.data.depth import DEPTHS, Window
from fullrank.errors import DataError, FullrankWarning, UsageError
from fullrank.preprocessing import Preprocessing

SIDE = 16
RAMP = np.linspace(0, 1, SIDE * SIDE).reshape(SIDE, SIDE)


def folder(root: Path, *arrays: np.ndarray, ending: str = "png") -> str:
    """Two classes of each array as files; the spec of their folder."""
    for number, array in enumerate(arrays):
        for name in "ab":
            path = root / name / f"{number}.{ending}"
            path.parent.mkdir(parents=True, exist_ok=True)
            if ending == "npy":
                np.save(path, array)
            elif array.ndim == 3 or array.dtype.kind == "i":
                pytest.importorskip("tifffile").imwrite(path, array)
            else:
                Image.fromarray(array).save(path)
    return f"folder:{root}"


def pixels(spec: str, size: int = SIDE) -> np.ndarray:
    """The first training image that encoders see."""
    images = source(spec).load("train", size)
    return next(images.batches(1))[0].numpy().transpose(1, 2, 0)


@pytest.mark.parametrize("bits", DEPTHS)
@pytest.mark.parametrize("ending", ["png", "tif", "npy"])
def test_the_fewest_bits_that_hold_the_largest_value_are_taken(tmp_path, bits, ending):
    deep = np.rint(RAMP * (2**bits - 1)).astype(np.uint16)
    spec = folder(tmp_path, *[deep] * 3, ending=ending)
    with pytest.warns(FullrankWarning) as said:
        images = pixels(spec)
    assert_names(str(said[0].message), spec, 2**bits - 1, f"{bits} bits")
    assert np.abs(images[..., 0] - RAMP * 255).max() <= 0.5 + 255 / 2**bits / 2
    built = source(f"{spec},bits={bits}")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(built.load("train").images[0], images)
    assert (built.window.low, built.window.high, built.window.bits) == (0, 2**bits - 1, bits)


def test_sixteen_bits_are_divided_by_257(tmp_path):
    eight = np.arange(256, dtype=np.uint8).reshape(SIDE, SIDE)
    spec = folder(tmp_path, *[eight.astype(np.uint16) * 257] * 3)
    assert np.array_equal(pixels(f"{spec},bits=16")[..., 0], eight)


def test_canvases_and_centres_and_prepared_images_have_the_same_levels(tmp_path):
    twelve = np.rint(RAMP * 4095).astype(np.uint16)
    spec = folder(tmp_path, *[twelve] * 5)
    whole = Preprocessing(lambda image: np.asarray(image)[..., None], SIDE, (0.5,), (0.5,))
    with pytest.warns(FullrankWarning, match="12 bits"):
        prepared = source(spec).load("test", preprocessing=whole)
    with pytest.warns(FullrankWarning, match="12 bits"):
        canvas = source(f"{spec},canvas={SIDE}").load("test", SIDE).batch(np.array([0]))
    expected = np.rint(twelve / (4095 / 255))
    assert np.array_equal(next(prepared.batches(1))[0, 0].numpy(), expected)
    assert np.array_equal(canvas.images[0, 0].numpy(), expected)


@pytest.mark.parametrize("option", ["", ",canvas=8"])
def test_images_of_eight_bits_stay_beside_deeper_ones(tmp_path, option):
    eight = np.rint(RAMP * 255).astype(np.uint8)
    spec = folder(tmp_path, eight, np.rint(RAMP * 4095).astype(np.uint16), eight)
    with pytest.warns(FullrankWarning, match="12 bits"):
        images = source(spec + option).load("all").resized(SIDE).tensor().numpy()[:, 0].mean((1, 2))
    assert np.abs(images - 127.5).max() < 1


def test_a_larger_value_than_the_sample_is_an_error(tmp_path):
    small, large = (np.full((SIDE, SIDE), value, np.uint16) for value in (1000, 5000))
    spec = folder(tmp_path, *[small] * 3, large)
    for number in range(4, 60):
        for name in "ab":
            Image.fromarray(small).save(tmp_path / name / f"{number}.png")
    built = source(f"{spec},bits=10")
    with refuses(DataError, spec, "3.png", 5000, 1023, "bits=14"):
        built.load("all")
    streamed = source(f"{spec},bits=10,canvas=8").load("all")
    with refuses(DataError, spec, "3.png", 5000, 1023, "bits=14"):
        streamed.tensor()


def test_a_deeper_file_after_a_sample_of_eight_bits_is_an_error(tmp_path):
    eight = np.rint(RAMP * 255).astype(np.uint8)
    spec = folder(tmp_path, *[eight] * 150)
    names = sorted(tmp_path.rglob("*.png"))
    built = source(f"{spec},canvas=8")
    images = built.load("all")
    assert built.window is None
    for path in names[::7]:
        Image.fromarray(np.full((SIDE, SIDE), 300, np.uint16)).save(path)
    with refuses(DataError, spec, "a/0.png", 300, 255, "bits=10"):
        images.tensor()


@pytest.mark.parametrize(
    ("array", "ending", "named"),
    [
        ((RAMP * 4000 - 1000).astype(np.int16), "tif", ["-1000", "3000"]),
        ((RAMP * 4000 - 1000).astype(np.int16), "npy", ["-1000", "3000"]),
        ((RAMP * 1e6).astype(np.int32), "tif", ["1000000"]),
        (RAMP.astype(np.float32), "tif", ["float32"]),
        (RAMP, "npy", ["float64"]),
    ],
)
def test_other_pixels_need_a_window(tmp_path, array, ending, named):
    spec = folder(tmp_path, *[array] * 3, ending=ending)
    for option in ("", ",canvas=8"):
        with refuses(DataError, spec, f"0.{ending}", *named, "low=", "high="):
            source(spec + option).load("train")
    low, high = array.min() + 0.25 * np.ptp(array), array.max()
    images = pixels(f"{spec},low={low:.7g},high={high:.7g}")
    expected = ((array.astype(float) - low) / (high - low)).clip(0, 1) * 255
    assert np.abs(images[..., 0] - expected).max() <= 0.51


def test_nan_is_refused(tmp_path):
    holes = np.where(RAMP > 0.5, np.nan, RAMP)
    spec = folder(tmp_path, *[holes] * 3, ending="npy")
    with refuses(DataError, spec, "0.npy", "NaN"):
        source(f"{spec},low=0,high=1").load("train")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ("bits=17", ["17", "1 to 16"]),
        ("bits=0", ["0", "1 to 16"]),
        ("bits=12,low=0,high=5", ["bits=12", "low="]),
        ("low=3", ["low=3", "high="]),
        ("high=3", ["high=3", "low="]),
        ("low=3,high=3", ["low=3", "high=3"]),
    ],
)
@pytest.mark.parametrize("name", ["folder", "npz"])
def test_options_outside_their_limits_are_refused(tmp_path, name, options, named):
    with refuses(UsageError, *named):
        source(f"{name}:{tmp_path},{options}")


@pytest.mark.parametrize("kind", ["png", "tif", "compressed", "big", "apart", "opaque"])
def test_deep_colours_keep_their_bits(tmp_path, kind):
    colours = np.stack([RAMP, RAMP.T, 1 - RAMP], 2)
    deep = np.rint(colours * 1023).astype(np.uint16)
    for name in ("a/0", "b/0", "b/1"):
        path = tmp_path / f"{name}.{'png' if kind == 'png' else 'tif'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_deep(path, deep, kind)
    with pytest.warns(FullrankWarning, match="10 bits"):
        assert np.abs(pixels(f"folder:{tmp_path}") - colours * 255).max() <= 0.65


def write_deep(path: Path, pixels: np.ndarray, kind: str) -> None:
    """Colours of 16 bits, which Pillow cannot write."""
    if kind == "png":
        return write_deep_png(path, pixels)
    tifffile = pytest.importorskip("tifffile")
    options = {"compressed": {"compression": "zlib", "predictor": True}, "big": {"byteorder": ">"}}
    if kind == "apart":
        tifffile.imwrite(path, pixels.transpose(2, 0, 1), photometric="rgb", planarconfig="separate")
    elif kind == "opaque":
        full = np.full((*pixels.shape[:2], 1), 65535, np.uint16)
        tifffile.imwrite(path, np.dstack([pixels, full]), photometric="rgb", extrasamples=["unassalpha"])
    else:
        tifffile.imwrite(path, pixels, photometric="rgb", **options.get(kind, {}))
    return None


def write_deep_png(path: Path, pixels: np.ndarray) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


def test_deep_colours_with_transparency_are_refused(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    deep = np.rint(np.dstack([RAMP] * 4) * 65535).astype(np.uint16)
    for name in "ab":
        (tmp_path / name).mkdir()
        tifffile.imwrite(tmp_path / name / "0.tif", deep, photometric="rgb", extrasamples=["unassalpha"])
    with refuses(DataError, "0.tif", "16 bits", "transparency"):
        source(f"folder:{tmp_path}").load("train")


def test_arrays_in_one_file_have_one_depth(tmp_path):
    train = np.rint(np.stack([RAMP] * 6) * 700).astype(np.uint16)
    test = np.rint(np.stack([RAMP] * 4) * 4095).astype(np.int64)
    np.savez(tmp_path / "x.npz", train_images=train, test_images=test)
    built = source(f"npz:{tmp_path / 'x.npz'}")
    with pytest.warns(FullrankWarning, match="12 bits"):
        first, second = (built.load(split).images[0, ..., 0] for split in ("train", "test"))
    assert np.abs(first - RAMP * 700 / 4095 * 255).max() < 0.6
    assert np.abs(second - RAMP * 255).max() < 0.6
    with refuses(DataError, "test_images", 4095, 1023, "bits=12"):
        source(f"npz:{tmp_path / 'x.npz'},bits=10").load("test")
    masks = np.stack([RAMP > 0.5] * 6)
    np.savez(tmp_path / "y.npz", images=masks)
    assert np.array_equal(source(f"npz:{tmp_path / 'y.npz'}").load("train").images[0, ..., 0], masks[0] * 255)


def test_a_window_is_rounded_to_the_nearest_level():
    values = np.arange(4096)
    nearest = np.rint(values * 255 / 4095).astype(np.uint8)
    assert np.array_equal(Window(0, 4095, bits=12).eight_bit(values), nearest)
