from dataclasses import replace

import numpy as np
from PIL import Image

from fullrank.data import ImageSet, Source, StreamedImages
from fullrank.errors import DataError


def test_ids_follow_their_images():
    images = np.arange(4, dtype=np.uint8).reshape(4, 1, 1, 1)
    made = ImageSet(images, {"label": np.array([1, 0, 1, 0])}, {"label": ("a", "b")}, ids=tuple("wxyz"))
    assert made.subset(np.array([2, 0])).ids == ("y", "w")
    assert made.subset(np.array([True, False, False, True])).resized(3).ids == ("w", "z")
    assert made.of_classes(["b"]).ids == ("w", "y")
    numbered = ImageSet(images, made.labels, made.class_names)
    assert numbered.subset(np.array([3, 1])).ids == ("3", "1")


def test_joined_sets_match_classes_by_name_and_keep_ids_apart():
    pixels = np.arange(3, dtype=np.uint8).reshape(3, 1, 1, 1)
    names = {"label": ("cat", "dog"), "place": ("sea",)}
    train = ImageSet(pixels, {"label": np.array([0, 1, -1]), "place": np.array([0, -1, 0])}, names)
    test = ImageSet(pixels[:2] + 7, {"label": np.array([0, 1])}, {"label": ("dog", "elk")}, split="test")
    both = train.joined(test)
    named = [both.class_names["label"][label] if label >= 0 else None for label in both.labels["label"]]
    assert named == ["cat", "dog", None, "dog", "elk"]
    assert both.labels["place"].tolist() == [0, -1, 0, -1, -1] and both.split == "all"
    assert both.images.ravel().tolist() == [0, 1, 2, 7, 8]
    assert both.ids == ("train/0", "train/1", "train/2", "test/0", "test/1")


def test_joined_streamed_images_are_decoded_by_their_own_reader():
    def streamed(keys: str, shade: int) -> ImageSet:
        images = StreamedImages(lambda row: Image.new("L", (9, 7), shade + row), list(keys), 4, 4, channels=1)
        return ImageSet(images, {"label": np.zeros(len(keys), np.int64)}, {"label": ("a",)})

    both = streamed("abc", 10).subset(np.array([2, 0])).joined(streamed("de", 50)).subset(np.array([3, 0, 1]))
    assert both.ids == ("e", "c", "a") and both.tensor()[:, 0, 0, 0].tolist() == [51, 12, 10]


def test_sets_of_unlike_images_are_not_joined(fails):
    def made(*shape: int) -> ImageSet:
        return ImageSet(np.zeros(shape, np.uint8), {"label": np.array([-1])}, {"label": ()})

    with fails(DataError, "2x2x1", "2x2x3"):
        made(1, 2, 2, 1).joined(made(1, 2, 2, 3))
    with fails(DataError, 2, 1):
        replace(made(1, 2, 2, 1), ids=("a", "b"))


def test_an_id_twice_is_refused(fails):
    class Twice(Source):
        def read(self, split, image_size):
            pixels, labels = np.zeros((3, 2, 2, 1), np.uint8), np.full(3, -1)
            return ImageSet(pixels, {"label": labels}, {"label": ()}, ids=("a", "b", "a"))

    with fails(DataError, "'a'", "twice"):
        Twice("mine").load("train")
