import io
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

from fullrank.data import ImageSet, StreamedImages, source
from fullrank.errors import DataError, UsageError

SIZES = [(375, 500), (500, 375), (97, 131), (40, 40), (12, 200), (301, 300)]


def pictures(mode: str = "RGB") -> list[Image.Image]:
    """Smooth images of every size in SIZES, so that a JPEG comes close."""
    made = []
    for row, (height, width) in enumerate(SIZES):
        y, x = np.mgrid[:height, :width]
        waves = [np.sin(x / (9 + row)) + np.cos(y / (7 + 2 * c)) for c in range(3)]
        made.append(Image.fromarray((np.stack(waves, 2) * 60 + 127).astype(np.uint8)).convert(mode))
    return made


def streamed(canvas: int = 64, image_size: int = 32, **changes) -> StreamedImages:
    images = pictures()
    fields = {"read": lambda row: images[row].copy(), "keys": [f"{row}.png" for row in range(len(images))]}
    return StreamedImages(**{**fields, "canvas": canvas, "image_size": image_size, **changes})


def as_set(images: StreamedImages) -> ImageSet:
    labels = np.arange(len(images)) % 2
    return ImageSet(images, {"label": labels}, {"label": ("a", "b")}, "these")


def opened(image: Image.Image, kind: str, **options) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return Image.open(buffer)


@pytest.mark.parametrize("size", [7, 32, 64, 224])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_centres_are_torchvisions_test_transform(size, mode):
    images = pictures(mode)
    shorter = {7: 8, 32: 37, 64: 73, 224: 256}[size]
    theirs = Compose([Resize(shorter, InterpolationMode.BILINEAR), CenterCrop(size)])
    ours = streamed(image_size=size, channels=1 if mode == "L" else 3, read=lambda row: images[row].copy())
    found = ours.centres(np.array([4, 0, 1, 2, 3, 5]))
    assert found.dtype == np.uint8 and found.shape == (6, size, size, 1 if mode == "L" else 3)
    for row, centre in zip([4, 0, 1, 2, 3, 5], found, strict=True):
        assert np.array_equal(centre.squeeze(), np.asarray(theirs(images[row])))


def test_a_jpeg_is_not_drafted_for_its_centre():
    jpeg = opened(pictures()[0], "JPEG")
    expected = CenterCrop(32)(Resize(37)(opened(pictures()[0], "JPEG")))
    centre = streamed(read=lambda row: jpeg, keys=["x"]).centres(np.array([0]))[0]
    assert np.array_equal(centre, np.asarray(expected))


def test_canvases_hold_the_whole_image_and_its_size():
    rows = np.array([5, 1, 0, 2, 3, 4])
    canvases, sizes = streamed().canvases(rows)
    assert canvases.shape == (6, 64, 64, 3) and canvases.dtype == np.uint8
    assert sizes.dtype == np.int64 and sizes.tolist() == [list(SIZES[row]) for row in rows]
    for row, canvas in zip(rows, canvases, strict=True):
        expected = pictures()[row].resize((64, 64), Image.Resampling.BILINEAR)
        assert np.array_equal(canvas, np.asarray(expected))


@pytest.mark.parametrize(("canvas", "decoded"), [(320, (500, 375)), (187, (250, 188)), (40, (63, 47))])
def test_a_large_jpeg_is_decoded_at_a_fraction(canvas, decoded):
    jpeg = opened(pictures()[0], "JPEG", quality=95)
    canvases, sizes = streamed(canvas=canvas, read=lambda row: jpeg, keys=["x"]).canvases(np.array([0]))
    assert jpeg.size == decoded and sizes.tolist() == [[375, 500]]
    whole = opened(pictures()[0], "JPEG", quality=95)
    expected = np.asarray(whole.resize((canvas, canvas), Image.Resampling.BILINEAR))
    assert np.abs(canvases[0].astype(int) - expected).mean() < 3


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG"])
def test_the_orientation_turns_the_image_and_its_size(orientation, kind):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 95}}.get(kind, {})
    image = pictures()[2]
    images = streamed(32, 32, read=lambda row: opened(image, kind, exif=exif, **options), keys=["x"])
    canvases, sizes = images.canvases(np.array([0]))
    assert sizes.tolist() == [[131, 97] if orientation > 4 else [97, 131]]
    flip = [np.asarray, np.fliplr][orientation in (2, 4, 5, 7)]
    quarters = {1: 0, 2: 0, 3: 2, 4: 2, 5: 1, 6: 3, 7: 3, 8: 1}[orientation]
    upright = Image.fromarray(np.ascontiguousarray(np.rot90(flip(np.asarray(image)), quarters)))
    for found, expected in (
        (canvases[0], upright.resize((32, 32), Image.Resampling.BILINEAR)),
        (images.centres(np.array([0]))[0], CenterCrop(32)(Resize(37)(upright))),
    ):
        difference = np.abs(found.astype(int) - np.asarray(expected))
        assert difference.max() <= 1 if kind != "JPEG" else difference.mean() < 3


def test_a_subset_decodes_nothing_and_keeps_its_rows():
    read = []
    images = streamed(read=lambda row: read.append(row) or pictures()[row].copy())
    chosen = images[np.array([4, 1, 3])][np.array([2, 0])]
    assert len(chosen) == 2 and chosen.shape == (2, 64, 64, 3) and not read
    assert chosen.canvases(np.array([0, 1]))[1].tolist() == [list(SIZES[3]), list(SIZES[4])]
    assert sorted(read) == [3, 4]
    assert images[np.array([3, 4])].checksum() == chosen.checksum() != images[np.array([4, 3])].checksum()


def test_the_checksum_is_of_keys_and_count():
    assert streamed().checksum() == streamed(canvas=9).checksum()
    assert streamed(keys=["a", "b\nc"]).checksum() != streamed(keys=["a", "b", "c"]).checksum()
    assert isinstance(streamed(keys=["\udcff"]).checksum(), int)  # a file name that is no UTF-8


def test_a_larger_image_size_takes_the_canvas_with_it():
    images = as_set(streamed(canvas=64, image_size=32))
    assert images.image_size == 32 and images.image_shape == (32, 32, 3) and images.channels == 3
    assert images.resized(32) is images
    larger = images.resized(100)
    assert larger.image_size == 100 and larger.images.shape == (6, 100, 100, 3)
    assert larger.resized(16).images.shape == (6, 64, 64, 3)
    assert torch.equal(larger.resized(32).tensor(), images.tensor())


def test_a_set_reads_canvases_to_train_and_centres_to_judge():
    images = as_set(streamed())
    rows = np.array([3, 0])
    seen, sizes = images.read(rows)
    canvases, originals = images.images.canvases(rows)
    assert torch.equal(seen, torch.from_numpy(canvases).permute(0, 3, 1, 2)) and seen.is_contiguous()
    assert torch.equal(sizes, torch.from_numpy(originals))
    centres = torch.from_numpy(images.images.centres(np.arange(6))).permute(0, 3, 1, 2)
    assert [len(batch) for batch in images.batches(4)] == [4, 2]
    assert torch.equal(torch.cat(list(images.batches(4))), centres)
    assert torch.equal(images.subset(rows).tensor(), centres[rows])


def test_statistics_are_given_or_those_of_a_sample():
    given = ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert as_set(streamed(statistics=given)).channel_statistics() == given
    assert as_set(streamed(statistics=given)[np.array([1])]).channel_statistics() == given
    pixels = as_set(streamed()).tensor().double() / 255
    mean, deviation = as_set(streamed()).channel_statistics()
    assert mean == pytest.approx(pixels.mean((0, 2, 3)).tolist(), rel=1e-12)
    assert deviation == pytest.approx(pixels.std((0, 2, 3), correction=0).tolist(), rel=1e-10)


def test_the_sample_is_1024_images_always_the_same():
    read: list[int] = []

    def grey(row: int) -> Image.Image:
        read.append(row)
        return Image.new("RGB", (4, 4), (row % 256,) * 3)

    images = StreamedImages(grey, [str(row) for row in range(1500)], canvas=2, image_size=2)
    labels = {"label": np.zeros(1500, np.int64)}
    first = ImageSet(images, labels, {"label": ("a",)}).channel_statistics()
    drawn = sorted(read)
    assert len(set(drawn)) == 1024 and drawn != list(range(1024))
    read.clear()
    assert ImageSet(images, labels, {"label": ("a",)}).channel_statistics() == first
    assert sorted(read) == drawn


@pytest.mark.parametrize("content", [b"", b"no image", "half"])
def test_what_cannot_be_decoded_is_named(content, tmp_path: Path, image_folder, fails):
    image_folder(tmp_path, count=5)
    images = source(f"folder:{tmp_path},canvas=8").load("train", image_size=8)
    path = tmp_path / "cat" / "3.png"
    path.write_bytes(path.read_bytes()[:150] if content == "half" else content)
    broken = f"folder:{tmp_path},canvas=8: cat/3.png"
    for read in (
        lambda: images.images.canvases(np.arange(len(images))),
        lambda: images.images.centres(np.arange(len(images))),
        images.tensor,
        lambda: list(images.batches(2)),
        images.channel_statistics,
        lambda: images.read(np.arange(len(images))),
    ):
        with fails(DataError, broken, "remove"):
            read()
    path.unlink()
    with fails(DataError, broken):
        images.tensor()


def test_files_are_closed_again(tmp_path: Path, image_folder):
    image_folder(tmp_path, count=5)
    opened_files: list[Image.Image] = []

    def read(row: int) -> Image.Image:
        opened_files.append(Image.open(tmp_path / "cat" / f"{row}.png"))
        return opened_files[-1]

    images = StreamedImages(read, [str(row) for row in range(5)], canvas=8, image_size=8)
    images.canvases(np.arange(5)), images.centres(np.arange(5))
    assert len(opened_files) == 10 and all(image.fp is None or image.fp.closed for image in opened_files)


def test_images_that_take_long_are_decoded_at_the_same_time():
    met = threading.Barrier(2, timeout=30)

    def read(row: int) -> Image.Image:
        if row == 0:  # the first image shows how long one takes
            time.sleep(0.01)
        else:
            met.wait()  # passes only if two are being read at once
        return Image.new("RGB", (4, 4))

    images = StreamedImages(read, ["a", "b", "c"], canvas=2, image_size=2)
    assert images.centres(np.arange(3)).shape == (3, 2, 2, 3)


def test_streamed_folders_of_all_sizes(tmp_path: Path):
    for split, count in (("train", 4), ("test", 2)):
        (tmp_path / split / "x").mkdir(parents=True)
        for row in range(count):
            pictures()[row].save(tmp_path / split / "x" / f"{row}.png")
    train = source(f"folder:{tmp_path},canvas=48").load("train")
    assert train.image_size == 224 and train.images.shape == (4, 224, 224, 3)
    small = source(f"folder:{tmp_path},canvas=48").load("train", image_size=40)
    seen, sizes = small.read(np.arange(4))
    assert seen.shape == (4, 3, 48, 48) and sizes.tolist() == [list(size) for size in SIZES[:4]]
    expected = np.asarray(pictures()[1].resize((48, 48), Image.Resampling.BILINEAR))
    assert np.array_equal(seen[1].permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize("option", ["canvas=0", "canvas=-3"])
def test_a_canvas_below_one_is_refused(option, tmp_path: Path, image_folder, fails):
    image_folder(tmp_path)
    with fails(UsageError, "canvas", 1, option.partition("=")[2]):
        source(f"folder:{tmp_path},{option}").load("train")


def test_an_image_size_below_one_is_refused(fails):
    with fails(UsageError, "image size", 1, 0):
        streamed(image_size=0)
    with fails(UsageError, "batch size", 1, 0):
        as_set(streamed()).batches(0)
