import io
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from refusals import assert_names

from fullrank.data import source
from fullrank.errors import DataError, FullrankWarning, UsageError

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 12, 3), np.uint8)
GREY = PIXELS[..., 0]


def load_one(folder: Path, image: Image.Image, name: str = "x.png", **options) -> np.ndarray:
    """What becomes of one image: it is the whole training split."""
    for split in ("train", "test"):
        (folder / split).mkdir()
        image.save(folder / split / name, **options)
    return source(f"folder:{folder}").load("train").images[0]


def test_classes_are_the_first_folders_and_deeper_ones_belong_to_them(tmp_path: Path, image_folder):
    image_folder(tmp_path, ("train/dog", "train/cat/deep/er", "train/cat", "test/eel", "test/cat"), count=2)
    shutil.copy(tmp_path / "train/dog/0.png", tmp_path / "train/alone.png")
    for hidden in (".thumbs/0.png", "train/.x/0.png", "train/dog/.0.png"):
        (tmp_path / hidden).parent.mkdir(exist_ok=True)
        shutil.copy(tmp_path / "train/dog/0.png", tmp_path / hidden)
    (tmp_path / "train/dog/notes.txt").write_text("no image")
    with pytest.warns(FullrankWarning) as warned:
        train, test = source(f"folder:{tmp_path}").load("train"), source(f"folder:{tmp_path}").load("test")
    assert_names(str(warned[0].message), 1, 2, "eel")
    assert train.class_names == test.class_names == {"label": ("cat", "dog", "eel")}
    assert sorted(train.labels["label"].tolist()) == [-1, 0, 0, 0, 0, 1, 1]
    assert sorted(test.labels["label"].tolist()) == [0, 0, 2, 2]
    dog = np.asarray(Image.open(tmp_path / "train/dog/1.png"))
    assert [
        label
        for image, label in zip(train.images, train.labels["label"], strict=True)
        if np.array_equal(image, dog)
    ] == [1]


def test_of_three_splits_the_labelled_one_is_tested_on_and_all_are_named(tmp_path: Path, image_folder):
    image_folder(tmp_path / "Train", count=3)
    image_folder(tmp_path / "val", count=1)
    image_folder(tmp_path / "test", (".",), count=4)
    built = source(f"folder:{tmp_path}")
    assert (len(built.load("train")), len(built.load("test"))) == (6, 2) and built.official
    assert built.load("test").ids == ("val/cat/0.png", "val/dog/0.png")
    assert_names(built.understood, 6, "cat", "dog", "Train", 2, "val", 4, "test")


def test_what_was_understood_is_printed_once(tmp_path: Path, image_folder, capsys):
    image_folder(tmp_path, ("cat", "dog"), count=5)
    (tmp_path / "cat/notes.md").touch()
    for split in ("train", "test"):
        source(f"folder:{tmp_path}").load(split)
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert_names(printed, f"folder:{tmp_path}", 10, "cat", "dog", 2, ".md")


def test_the_list_of_tiny_imagenets_validation_images_names_their_classes(tmp_path: Path, image_folder):
    for name in ("n01", "n02"):
        image_folder(tmp_path / "set/train" / name, ("images",), count=3)
    image_folder(tmp_path / "set/val", ("images",), count=3)
    image_folder(tmp_path / "set/test", ("images",), count=2)
    lines = "0.png\tn02\t0\t0\n1.png\tn01\t0\t0\n2.png\tn02\t0\t0\n"
    (tmp_path / "set/val/val_annotations.txt").write_text(lines)
    test = source(f"folder:{tmp_path}").load("test")
    assert test.ids == tuple(f"set/val/images/{row}.png" for row in range(3))
    assert [test.class_names["label"][label] for label in test.labels["label"]] == ["n02", "n01", "n02"]


def test_names_that_are_no_utf8_are_printable_but_open_their_files(tmp_path: Path, image_folder):
    image_folder(tmp_path, ("tea", os.fsdecode(b"caf\xe9")), count=5)
    whole = source(f"folder:{tmp_path}").load("all")
    assert whole.class_names["label"] == ("caf\\xe9", "tea") and len(whole) == 10
    assert whole.ids[0] == "caf\\xe9/0.png" and "".join(whole.ids).isascii()


def test_one_class_in_two_forms_of_unicode_is_one_class(tmp_path: Path, image_folder):
    image_folder(tmp_path / "train", ("cafe\u0301",), count=2)
    image_folder(tmp_path / "test", ("caf\u00e9",), count=1)
    assert source(f"folder:{tmp_path}").load("test").class_names["label"] == ("caf\u00e9",)


def test_without_splits_the_same_fifth_is_the_test(tmp_path: Path, image_folder):
    image_folder(tmp_path, ("cat", "dog"), count=10)
    train, test = source(f"folder:{tmp_path}").load("train"), source(f"folder:{tmp_path}").load("test")
    assert np.bincount(train.labels["label"]).tolist() == [8, 8]
    assert np.bincount(test.labels["label"]).tolist() == [2, 2]
    images = [image.tobytes() for image in (*train.images, *test.images)]
    assert len(set(images)) == 20


def test_images_without_folders_are_unlabelled(tmp_path: Path, image_folder):
    image_folder(tmp_path, (".",), count=5)
    train = source(f"folder:{tmp_path}").load("train")
    assert train.labels["label"].tolist() == [-1] * 4 and train.class_names == {"label": ()}


def test_grey_stays_grey_only_if_all_of_both_splits_are(tmp_path: Path, image_folder):
    image_folder(tmp_path / "train", count=2, mode="L")
    image_folder(tmp_path / "test", count=2, mode="L")
    grey = source(f"folder:{tmp_path}").load("train")
    assert grey.images.shape == (4, 12, 12, 1)
    Image.fromarray(PIXELS).save(tmp_path / "test/cat/colour.png")
    colour = source(f"folder:{tmp_path}").load("train")
    assert np.array_equal(colour.images, grey.images.repeat(3, axis=3))


@pytest.mark.parametrize("ending", ["png", "bmp", "webp", "tif", "tiff", "ppm", "PNG"])
def test_lossless_formats_give_their_pixels(ending, tmp_path: Path):
    options = {"lossless": True} if ending == "webp" else {}
    assert np.array_equal(load_one(tmp_path, Image.fromarray(PIXELS), f"x.{ending}", **options), PIXELS)


@pytest.mark.parametrize("ending", ["jpg", "jpeg"])
def test_jpeg_comes_close(ending, tmp_path: Path):
    smooth = np.linspace(0, 255, 144 * 3).reshape(12, 12, 3).astype(np.uint8)
    loaded = load_one(tmp_path, Image.fromarray(smooth), f"x.{ending}", quality=95, subsampling=0)
    assert np.abs(loaded.astype(int) - smooth).max() < 12


def test_grey_formats(tmp_path: Path):
    assert np.array_equal(load_one(tmp_path, Image.fromarray(GREY), "x.pgm")[..., 0], GREY)


def test_one_bit_images_are_black_and_white(tmp_path: Path):
    bits = Image.fromarray(GREY > 127)
    assert bits.mode == "1"
    assert np.array_equal(load_one(tmp_path, bits)[..., 0], (GREY > 127) * np.uint8(255))


def test_transparency_lies_on_white(tmp_path: Path):
    alpha = np.full((12, 12, 1), 128, np.uint8)
    alpha[:6] = 0
    loaded = load_one(tmp_path, Image.fromarray(np.concatenate([PIXELS, alpha], axis=2)))
    assert (loaded[:6] == 255).all()
    expected = PIXELS[6:] * (128 / 255) + 255 * (127 / 255)
    assert np.abs(loaded[6:] - expected).max() <= 1


def test_grey_with_transparency_stays_grey(tmp_path: Path):
    pixels = np.stack([GREY, np.where(GREY > 99, 255, 0).astype(np.uint8)], axis=2)
    loaded = load_one(tmp_path, Image.fromarray(pixels, "LA"))
    assert loaded.shape == (12, 12, 1) and np.array_equal(loaded[..., 0], np.where(GREY > 99, GREY, 255))


def test_palettes_give_their_colours(tmp_path: Path):
    image = Image.fromarray(GREY % 3).convert("P")
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    expected = np.eye(3, dtype=np.uint8)[GREY % 3] * 255
    assert np.array_equal(load_one(tmp_path, image), expected)


def test_a_transparent_palette_entry_is_white(tmp_path: Path):
    image = Image.fromarray(GREY % 3).convert("P")
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    expected = np.where((GREY % 3 == 1)[..., None], 255, np.eye(3)[GREY % 3] * 255)
    assert np.array_equal(load_one(tmp_path, image, transparency=1), expected)


def test_of_an_animation_the_first_frame_counts(tmp_path: Path):
    red, blue = (Image.new("RGB", (12, 12), colour) for colour in ("red", "blue"))
    with pytest.warns(FullrankWarning, match="2 of 2 images"):
        loaded = load_one(tmp_path, red, "x.gif", save_all=True, append_images=[blue])
    assert (loaded == [255, 0, 0]).all()


def test_cmyk_becomes_rgb(tmp_path: Path):
    loaded = load_one(tmp_path, Image.new("CMYK", (12, 12), (0, 255, 255, 0)), "x.tif")
    assert (loaded == [255, 0, 0]).all()


@pytest.mark.parametrize(("orientation", "undo"), [(3, 2), (6, -1), (8, 1)])
def test_the_exif_orientation_is_applied(orientation, undo, tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    loaded = load_one(tmp_path, Image.fromarray(PIXELS), exif=exif)
    assert np.array_equal(loaded, np.rot90(PIXELS, undo))


def test_sizes_that_differ_need_an_image_size(tmp_path: Path, fails):
    for number, size in enumerate([(12, 12), (30, 20), (8, 40)]):
        Image.new("RGB", size, "green").save(tmp_path / f"{number}.png")
    built = source(f"folder:{tmp_path}")
    with fails(UsageError, "3 sizes", "8 x 40", "30 x 20", "--image-size"):
        built.load("train")
    assert built.load("train", image_size=10).images.shape == (2, 10, 10, 3)
    for path in tmp_path.iterdir():
        Image.new("RGB", (30, 20)).save(path)
    with fails(UsageError, "30 x 20", "not square", "--image-size"):
        source(f"folder:{tmp_path}").load("train")


def test_of_an_oblong_the_centre_is_kept(tmp_path: Path):
    stripes = np.zeros((8, 24, 3), np.uint8)
    stripes[:, 8:16] = 200
    for number in range(2):
        Image.fromarray(stripes).save(tmp_path / f"{number}.png")
    image = source(f"folder:{tmp_path}").load("train", image_size=4).images[0]
    assert (image[:, 1:3] == 200).all() and (image > 150).all()


def test_unreadable_files_are_counted_and_the_first_is_named(tmp_path: Path, image_folder, fails):
    image_folder(tmp_path / "train", ("a", "b"), count=60)
    image_folder(tmp_path / "test", ("a",), count=1)
    for name in ("train/a/7.png", "train/b/3.png"):
        path = tmp_path / name
        path.write_bytes(path.read_bytes()[:200])
    (tmp_path / "train/b/5.png").write_text("no image")
    (tmp_path / "train/b/note.png").symlink_to("nowhere")
    built = source(f"folder:{tmp_path}")
    with fails(
        DataError,
        f"folder:{tmp_path}",
        "4 of 121 images",
        "train/a/7.png",
        "truncated",
    ):
        built.load("train")
    assert len(built.load("test")) == 1
    for path in tmp_path.glob("*/*/*.png"):
        path.unlink()
        path.write_text("no image")
    with fails(DataError, "122 of 122 images", "inside"):
        source(f"folder:{tmp_path}").load("train")


@pytest.mark.parametrize("ending", ["png", "jpg", "bmp", "webp", "tif", "gif", "ppm"])
def test_no_beginning_of_a_file_breaks_the_reader(ending, tmp_path: Path):
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, Image.registered_extensions()[f".{ending}"])
    content = buffer.getvalue()
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        (tmp_path / split / f"x.{ending}").write_bytes(content)
    refused = 0
    for length in range(0, len(content), 1 + len(content) // 40):
        (tmp_path / f"train/x.{ending}").write_bytes(content[:length])
        try:
            source(f"folder:{tmp_path}").load("train")
        except DataError:
            refused += 1
    assert refused > 30


def test_folders_that_hold_nothing(tmp_path: Path, fails):
    with fails(DataError, "no", str(tmp_path / "gone")):
        source(f"folder:{tmp_path / 'gone'}").load("train")
    with fails(DataError, str(tmp_path), "png"):
        source(f"folder:{tmp_path}").load("train")
    (tmp_path / "notes.txt").write_text("x")
    with fails(DataError, "is a file, not a folder"):
        source(f"folder:{tmp_path / 'notes.txt'}").load("train")
    Image.fromarray(PIXELS).save(tmp_path / "one.png")
    with fails(DataError, "1 image", "2 or more"):
        source(f"folder:{tmp_path}").load("train")
    (tmp_path / "train").mkdir()
    (tmp_path / "test").mkdir()
    with fails(DataError, f"folder:{tmp_path}", "train"):
        source(f"folder:{tmp_path}").load("test")


def test_links_are_followed_but_not_in_circles(tmp_path: Path, image_folder):
    image_folder(tmp_path / "elsewhere", ("cat",), count=4)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/cat").symlink_to(tmp_path / "elsewhere/cat")
    (tmp_path / "elsewhere/cat/round").symlink_to(tmp_path / "data")
    built = source(f"folder:{tmp_path / 'data'}")
    assert len(built.load("train")) + len(built.load("test")) == 4


def test_too_many_pixels_are_refused_before_decoding(tmp_path: Path, image_folder, fails):
    image_folder(tmp_path, count=5)
    with fails(DataError, "8 images", "100000 x 100000 x 3", "223.5 GiB", "limit is 8 GiB", "--image-size"):
        source(f"folder:{tmp_path}").load("train", image_size=100_000)
