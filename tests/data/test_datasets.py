"""Any torch Dataset of (image, label): what it may hold, and what is refused."""

import numpy as np
import pytest
import torch
from PIL import Image
from refusals import refuses
from torch.utils.data import Dataset, TensorDataset

from fullrank import diagnose, probe, train
from fullrank.data import source
from fullrank.data.datasets import image_set_of
from fullrank.errors import DataError, UsageError
from fullrank.runs.build import GivenImages

QUICK = {"encoder": "tiny-resnet,width=4", "head": "linear:8", "batch_size": 40, "epochs": 1}


class Pairs(Dataset):
    def __init__(self, images, labels, classes=None):
        self.images, self.all_labels = images, labels
        if classes is not None:
            self.classes = classes

    def __len__(self):
        return len(self.images)

    def __getitem__(self, row):
        return self.images[row], self.all_labels[row]


def pixels(count=6, side=8, channels=1):
    return np.random.default_rng(0).integers(0, 256, (count, side, side, channels), np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
def test_every_kind_of_image_gives_the_same_set(channels):
    given = pixels(channels=channels)
    tensors = torch.from_numpy(given).permute(0, 3, 1, 2)
    kinds = {
        "array": list(given),
        "byte tensor": list(tensors),
        "float tensor": list(tensors.float() / 255),
        "pillow": [Image.fromarray(image[..., 0] if channels == 1 else image) for image in given],
    }
    for kind, images in kinds.items():
        found = image_set_of(Pairs(images, [0, 1, 2, 0, 1, -1]))
        assert np.array_equal(found.images, given), kind
        assert found.labels["label"].tolist() == [0, 1, 2, 0, 1, -1] and len(found.class_names["label"]) == 3


def test_classes_are_called_as_the_dataset_says_and_the_test_set_follows():
    train_set = image_set_of(Pairs(pixels(), [0, 1, 0, 1, 0, 1], classes=["cat", "dog", "owl"]))
    assert train_set.class_names["label"] == ("cat", "dog", "owl")
    test_set = image_set_of(Pairs(pixels(), [0, 0, 0, 0, 0, 0]), "test", like=train_set)
    assert test_set.class_names == train_set.class_names and test_set.split == "test"


def test_words_are_classes_and_the_test_set_has_the_same_numbers():
    train_set = image_set_of(Pairs(pixels(), ["owl", "cat", None, "owl", "cat", ""]))
    assert train_set.class_names["label"] == ("cat", "owl")
    assert train_set.labels["label"].tolist() == [1, 0, -1, 1, 0, -1]
    test_set = image_set_of(Pairs(pixels(3), ["owl", "ant", "cat"]), "test", like=train_set)
    assert test_set.class_names["label"] == ("cat", "owl", "ant")
    assert test_set.labels["label"].tolist() == [1, 2, 0]


@pytest.mark.parametrize(
    ("own", "test", "names", "numbers"),
    [
        (["cat", "dog"], ["dog", "cat", "emu"], ("cat", "dog", "emu"), [1, 0, 2]),  # by name
        (["cat", "dog"], None, ("cat", "dog", "2"), [0, 1, 2]),  # a set without names has the same numbers
        (None, ["cat", "dog", "emu"], ("0", "1", "2"), [0, 1, 2]),
    ],
)
def test_classes_of_two_sets_are_matched_by_name(own, test, names, numbers):
    train_set = image_set_of(Pairs(pixels(2), [0, 1], own))
    test_set = image_set_of(Pairs(pixels(4), [0, 1, 2, -1], test), "test", like=train_set)
    assert test_set.class_names["label"] == names and test_set.labels["label"].tolist() == [*numbers, -1]


@pytest.mark.parametrize("kind", [list, tuple, np.array, torch.tensor])
def test_vectors_of_zero_and_one_are_several_labels(kind):
    rows = [[0, 1, 1], [0, 0, 0], [1, 0, 1]]
    found = image_set_of(Pairs(pixels(3), [kind(row) for row in rows], classes=["ant", "bee", "cow"]))
    assert found.several == ("label:ant", "label:bee", "label:cow")
    assert np.stack([found.labels[name] for name in found.several], 1).tolist() == rows
    assert found.labels["label"].tolist() == [-1] * 3 and found.class_names["label"] == ()


def test_images_of_different_sizes_are_read_when_they_are_needed():
    images = [Image.new("L", (10 + row, 12), row) for row in range(4)]
    found = image_set_of(Pairs(images, [0, 1, 0, 1]))
    assert found.resized(8).image_shape == (8, 8, 1)
    assert found.resized(8).batch(np.array([3])).images.float().mean() == 3


def test_a_tensor_dataset_and_images_alone_are_datasets():
    floats = torch.rand(5, 3, 8, 8)
    assert len(image_set_of(TensorDataset(floats, torch.arange(5)))) == 5
    assert image_set_of(list(floats)).labels["label"].tolist() == [-1] * 5


class Listed(Pairs):
    """As torchvision's: labels can be had without decoding."""

    def __init__(self, *args):
        super().__init__(*args)
        self.targets, self.reads = self.all_labels, 0

    def __getitem__(self, row):
        self.reads += 1
        return super().__getitem__(row)


def test_listed_labels_are_taken_as_they_are():
    dataset = Listed(list(pixels()), [0, 1, 0, 1, 0, 1])
    assert image_set_of(dataset).labels["label"].tolist() == dataset.targets
    assert dataset.reads <= len(dataset) + 1


@pytest.mark.parametrize(
    ("items", "words"),
    [
        ([], ["0 items"]),
        ([(pixels()[0], "cat"), (pixels()[0], 3)], ["numbers", "words"]),
        ([(pixels()[0], 0.5)], ["0.5", "whole numbers"]),
        ([(pixels()[0], [0, 2])], ["2 columns", 2, -1]),
        ([(pixels()[0], [0, 1]), (pixels()[0], [0, 1, 1])], ["2, 3"]),
        ([(pixels()[0], 0, 1)], ["3 parts"]),
        ([(torch.randn(1, 8, 8) * 3, 0)], ["normalisation"]),
        ([(np.zeros((2, 8, 8, 2), np.uint8), 0)], ["uint8", "(2, 8, 8, 2)"]),
        ([(Image.fromarray(np.full((8, 8), 4000, np.uint16)), 0)], ["I;16", 8]),
        ([(np.zeros((8, 8)), 0)], ["float64"]),
    ],
)
def test_what_is_no_dataset_of_images_is_one_sentence(items, words):
    with refuses(DataError, *words):
        image_set_of(items)


@pytest.mark.parametrize("data", [3, [], (1, 2), ([], [], [])])
def test_what_is_no_dataset_at_all_is_refused(data):
    with pytest.raises((UsageError, DataError)):
        GivenImages.of(data)


@pytest.fixture(scope="module")
def digits():
    """Digits of two classes as two datasets, and as fullrank's own source has them."""
    sets = [source("digits").load(split).of_classes(["3", "8"]) for split in ("train", "test")]
    sets[0] = sets[0].limited(80, seed=0)
    return [Pairs(list(each.images), each.labels["label"].tolist()) for each in sets]


def test_a_run_on_datasets_is_the_run_on_the_same_images(digits, tmp_path):
    ours = train("digits", out=tmp_path / "ours", classes="3+8", limit=80, **QUICK)
    given = train("digits", data=tuple(digits), out=tmp_path / "given", **QUICK)
    assert given.recipe.data == "given:Pairs"
    assert given.record.runs[0].probes == ours.record.runs[0].probes
    again = probe(given, ["h"], data=tuple(digits))
    assert again.probes["h"] == given.record.runs[0].probes["h"]
    with pytest.raises(DataError, match=r"passed in Python.*again"):
        probe(given)
    entry = diagnose(given, data=digits[1], limit=40, out=tmp_path / "diagnosis").entry
    assert entry.rows == 40 and all(row.linear is None for row in entry.layers)
    entry = diagnose(given, data=tuple(digits), limit=40, out=tmp_path / "with-labels").entry
    assert all(row.linear is not None for row in entry.layers)


def test_one_dataset_needs_a_share_to_be_held_out(digits, tmp_path):
    with pytest.raises(UsageError, match=r"held_out=0\.2"):
        train("digits", data=digits[0], out=tmp_path / "run", **QUICK)
    run = train("digits", data=digits[0], held_out=0.2, out=tmp_path / "run", **QUICK)
    assert run.record.runs[0].probes


def test_the_keys_of_a_recipe_shorten_given_images_too(digits, tmp_path):
    run = train("digits", data=tuple(digits), limit=40, image_size=12, out=tmp_path / "run", **QUICK)
    assert run.record.runs[0].steps == 1
