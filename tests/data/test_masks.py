"""Masks of objects: from the layers of composites, in memory, and beside the images of a folder."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from refusals import assert_names, refuses

from fullrank.data import ImageSet, source
from fullrank.errors import DataError
from fullrank.preprocessing import Preprocessing


def labelled(images, **more):
    none = np.full(len(images), -1)
    return ImageSet(images, {"label": none}, {"label": ()}, **more)


@pytest.fixture
def folder(tmp_path):
    """Six images of two classes, wide and high, and a palette mask of each in a folder of its own."""
    random = np.random.default_rng(0)
    for number, (name, size) in enumerate((c, s) for c in ("cat", "dog") for s in ((12, 8), (8, 12), (8, 8))):
        (tmp_path / "images/test" / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / "images/train" / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / "masks").mkdir(exist_ok=True)
        pixels = random.integers(0, 255, (size[1], size[0], 3)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"images/test/{name}/{number}.png")
        Image.fromarray(pixels).save(tmp_path / f"images/train/{name}/t{number}.png")
        mask = np.zeros((size[1], size[0]), np.uint8)
        mask[-4:, -4:], mask[:2, :2] = 7, 255
        palette = Image.fromarray(mask, "P")
        palette.putpalette([*range(256)] * 3)
        palette.save(tmp_path / f"masks/{number}.png")
    return tmp_path


def test_an_object_of_a_composite_is_where_its_layer_changes_the_image():
    images = source("composite:two-cues").load("test")
    masks = images.object_masks()
    for number, name in ((1, "foreground"), (2, "object")):
        changed = (images.images != images.layers[name]).any(-1)
        assert (changed == (masks == number)).all() and changed.any()
    rows = np.array([7, 3])
    assert (images.subset(rows).object_masks() == masks[rows]).all()


def test_a_blended_foreground_is_an_object_and_an_invisible_one_is_not():
    strong, weak, none = (
        source(f"composite:digits-on-textures,n=30,strength={each}").load("test").object_masks()
        for each in (1, 0.3, 0)
    )
    assert (weak <= strong).mean() > 0.99 and weak.any() and not none.any()


def test_masks_in_memory_follow_subsets_and_sizes():
    masks = np.random.default_rng(0).integers(0, 4, (5, 8, 8)).astype(np.uint8)
    images = labelled(np.zeros((5, 8, 8, 1), np.uint8), masks=masks)
    assert images.has_masks and (images.object_masks() == masks).all()
    larger = images.resized(16).subset(np.array([4, 0])).object_masks()
    assert (larger == masks[[4, 0]].repeat(2, 1).repeat(2, 2)).all()


def test_masks_of_a_folder_have_the_geometry_of_its_images(folder):
    spec = f"folder:{folder}/images,masks={folder}/masks"
    test = source(spec).load("test", image_size=8)
    masks = test.object_masks()
    assert masks.shape == (6, 8, 8) and set(np.unique(masks)) == {0, 7, 255}
    by_id = dict(zip(test.ids, masks, strict=True))
    square, wide = by_id["test/cat/2.png"], by_id["test/cat/0.png"]
    assert (square[4:, 4:] == 7).all() and (square[:2, :2] == 255).all() and (square > 0).sum() == 20
    assert (wide[4:, 6:] == 7).all() and (wide > 0).sum() == 8  # the centre loses two columns at each side
    assert len(source(spec).load("train", image_size=8)) == 6  # whose masks are missing, which costs nothing


def test_masks_of_streamed_and_prepared_images_cover_the_same_pixels_as_a_white_square(folder):
    """The object is painted white on black, so its mask is where the image that encoders see is white."""
    for path in (folder / "images").rglob("*.png"):
        mask = np.asarray(Image.open(folder / "masks" / f"{path.stem.lstrip('t')}.png"))
        Image.fromarray(np.where(mask == 7, 255, 0).astype(np.uint8)).save(path)
    streamed = source(f"folder:{folder}/images,canvas=8,masks={folder}/masks").load("test", image_size=7)
    fitted = Preprocessing(lambda i: np.asarray(i.convert("RGB").resize((6, 6))), 6, (0.5,), (0.5,))
    for images in (streamed, streamed.prepared(fitted)):
        white = images.tensor().numpy()[:, 0] > 127
        assert ((images.object_masks() == 7) == white).mean() > 0.97


def test_masks_inside_the_folder_of_images_are_no_images(folder):
    (folder / "masks").rename(folder / "images/masks")
    test = source(f"folder:{folder}/images,masks={folder}/images/masks").load("test", image_size=8)
    assert len(test) == 6 and test.class_names["label"] == ("cat", "dog")


def test_bad_masks_are_refused(folder):
    spec = f"folder:{folder}/images,masks={folder}/masks"

    def fails():
        with pytest.raises(DataError) as error:
            source(spec).load("test", image_size=8).object_masks()
        return str(error.value)

    Image.new("P", (9, 8)).save(folder / "masks/0.png")
    assert_names(fails(), "0.png", "9 x 8", "12 x 8")
    Image.new("RGB", (12, 8)).save(folder / "masks/0.png")
    assert_names(fails(), "0.png", "RGB")
    (folder / "masks/0.png").unlink()
    assert_names(fails(), "cat/0.png")
    with refuses(DataError, "9 x 8", "8 x 8"):
        labelled(np.zeros((2, 8, 8, 1), np.uint8), masks=np.zeros((2, 8, 9), np.uint8))
    with refuses(DataError, 3, 2):
        labelled(np.zeros((2, 8, 8, 1), np.uint8), masks=np.zeros((3, 8, 8), np.uint8))
    plain = replace(labelled(np.zeros((2, 8, 8, 1), np.uint8)), name="plain")
    with refuses(DataError, "plain"):
        plain.object_masks()
