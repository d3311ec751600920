"""Every kind of pixels that Pillow knows becomes grey or RGB of eight bits, as another library makes it."""

import colorsys
import io

import numpy as np
import pytest
from PIL import Image
from refusals import assert_names

from fullrank.data import source
from fullrank.data.decoding import bands, to_array
from fullrank.errors import FullrankWarning

SIDE = 16
RAMP = np.rint(np.linspace(0, 255, SIDE * SIDE)).astype(np.uint8).reshape(SIDE, SIDE)
COLOURS = np.stack([RAMP, RAMP.T, 255 - RAMP // 2], 2)


def pixels(image: Image.Image, kind: str | None = None, channels: int = 3, **options) -> np.ndarray:
    """The image as a set sees it, written to a file of `kind` and read again where one is given."""
    if kind:
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        image = Image.open(buffer)
    (band,) = bands(image, channels)
    return to_array(band)


def on_white(colours: np.ndarray, opacity: np.ndarray) -> np.ndarray:
    share = opacity[..., None] / 255
    return colours * share + 255 * (1 - share)


def of_lab(lightness: np.ndarray, a: float, b: float) -> np.ndarray:
    """sRGB of L*a*b* under the light D50, from the definitions of CIE 1976 and IEC 61966-2-1."""
    y = (lightness + 16) / 116
    ratios = [y + a / 500, y, y - b / 200]
    linear = [np.where(r > 6 / 29, r**3, 3 * (6 / 29) ** 2 * (r - 4 / 29)) for r in ratios]
    xyz = np.stack(linear, 2) * [0.96422, 1.0, 0.82521]
    matrix = [[3.13386, -1.61687, -0.49061], [-0.97877, 1.91614, 0.03345], [0.07195, -0.22899, 1.40524]]
    rgb = (xyz @ np.transpose(matrix)).clip(0, 1)
    return 255 * np.where(rgb <= 0.0031308, 12.92 * rgb, 1.055 * rgb ** (1 / 2.4) - 0.055)


def palette_image() -> Image.Image:
    image = Image.fromarray(RAMP % 4, "P")
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255, 10, 20, 30])
    return image


PALETTE = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [10, 20, 30]])[RAMP % 4]
HSV = np.array([[colorsys.hsv_to_rgb(*(pixel / 255)) for pixel in row] for row in COLOURS]) * 255
LIGHT = RAMP // 2 + 64  # every colour of LAB lies inside sRGB
LAB = np.stack([LIGHT, np.full_like(RAMP, 10), np.full_like(RAMP, 246)], 2)  # signed: 10 and -10
CMYK = np.dstack([COLOURS, 255 - RAMP])


@pytest.mark.parametrize(
    ("image", "kind", "expected", "tolerance"),
    [
        pytest.param(Image.fromarray(COLOURS), "PNG", COLOURS, 0, id="rgb"),
        pytest.param(Image.fromarray(COLOURS), "WEBP", COLOURS, 0, id="webp"),
        pytest.param(
            Image.fromarray(CMYK, "CMYK"),
            "TIFF",
            (255 - CMYK[..., :3].astype(int)) * (255 - CMYK[..., 3:].astype(int)) / 255,
            1,
            id="cmyk",
        ),
        pytest.param(palette_image(), "PNG", PALETTE, 0, id="palette"),
        pytest.param(palette_image(), "GIF", PALETTE, 0, id="gif"),
        pytest.param(Image.fromarray(RAMP), "GIF", np.dstack([RAMP] * 3), 0, id="grey gif"),
        pytest.param(Image.fromarray(RAMP > 99), "PNG", np.dstack([(RAMP > 99) * 255] * 3), 0, id="1 bit"),
        pytest.param(
            Image.fromarray(np.dstack([COLOURS, RAMP])), "PNG", on_white(COLOURS, RAMP), 1, id="rgba"
        ),
        pytest.param(
            Image.fromarray(np.dstack([RAMP.T, RAMP]), "LA"),
            "PNG",
            on_white(np.dstack([RAMP.T] * 3), RAMP),
            1,
            id="la",
        ),
        pytest.param(Image.fromarray(COLOURS).convert("YCbCr"), "TIFF", COLOURS, 3, id="ycbcr"),
        pytest.param(Image.fromarray(COLOURS, "HSV"), None, HSV, 4, id="hsv"),
        pytest.param(
            Image.fromarray(LAB, "LAB"),
            "TIFF",
            of_lab(LIGHT / 2.55, 10, -10),
            4,
            id="lab",
        ),
        pytest.param(Image.fromarray(COLOURS).convert("RGBX"), None, COLOURS, 0, id="rgbx"),
        pytest.param(palette_image().convert("PA"), None, PALETTE, 0, id="pa"),
        pytest.param(
            Image.fromarray(np.dstack([COLOURS, RAMP])).convert("RGBa"),
            None,
            on_white(COLOURS, RAMP),
            2,
            id="premultiplied",
        ),
    ],
)
def test_every_mode_gives_its_colours(image, kind, expected, tolerance):
    options = {"lossless": True} if kind == "WEBP" else {}
    assert np.abs(pixels(image, kind, **options) - np.asarray(expected, float)).max() <= tolerance


def test_a_palette_with_transparent_entries_lies_on_white():
    expected = on_white(PALETTE, np.array([0, 255, 128, 255])[RAMP % 4])
    assert np.abs(pixels(palette_image(), "PNG", transparency=b"\x00\xff\x80\xff") - expected).max() <= 1
    keyed = pixels(Image.fromarray(COLOURS), "PNG", transparency=tuple(COLOURS[3, 4].tolist()))
    same = (COLOURS[3, 4] == COLOURS).all(2)
    assert (keyed[same] == 255).all() and np.array_equal(keyed[~same], COLOURS[~same])


def test_a_jpeg_of_cmyk_comes_close():
    smooth = np.stack([RAMP, RAMP, RAMP // 2], 2)
    found = pixels(Image.fromarray(smooth).convert("CMYK"), "JPEG", quality=98)
    assert np.abs(found - smooth.astype(float)).mean() < 3


@pytest.mark.parametrize("mode", ["1", "L", "LA"])
def test_grey_modes_stay_grey(mode):
    image = Image.fromarray(RAMP).convert(mode)
    assert np.array_equal(pixels(image, channels=1)[..., 0], np.asarray(image.convert("L")))


@pytest.mark.parametrize(
    ("ending", "options"), [("gif", {}), ("webp", {"lossless": True}), ("png", {}), ("tif", {})]
)
@pytest.mark.parametrize("canvas", ["", f",canvas={SIDE}"])
def test_of_several_frames_the_first_is_read_and_that_is_said(tmp_path, ending, options, canvas):
    red, blue = (Image.new("RGB", (SIDE, SIDE), colour) for colour in ("red", "blue"))
    for name in ("a/0", "a/1", "b/0", "b/1"):
        path = tmp_path / f"{name}.{ending}"
        path.parent.mkdir(exist_ok=True)
        if name == "b/1":
            red.save(path, **options)
        else:
            red.save(path, save_all=True, append_images=[blue], **options)
    spec = f"folder:{tmp_path}{canvas}"
    with pytest.warns(FullrankWarning) as said:
        images = source(spec).load("all", SIDE).tensor().numpy()
    assert (images.transpose(0, 2, 3, 1) == [255, 0, 0]).all()
    assert len(said) == 1
    assert_names(str(said[0].message), spec, 3, "4 images", f"a/0.{ending}")
