from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision import datasets

from fullrank.data import SOURCES, class_list, source, write_miniature
from fullrank.errors import UsageError

NAMES = ("cifar10", "cifar100", "stl10", "imagenet", "imagenet-9", "folder")


@pytest.mark.parametrize("name", NAMES)
def test_both_splits_hold_every_class(name, tmp_path: Path):
    spec = write_miniature(name, tmp_path / "new", images=14, classes=3, size=10)
    train, test = (source(spec).load(split, image_size=8) for split in ("train", "test"))
    labels = train.labels["label"][train.labels["label"] >= 0]
    assert len(labels) == 14 and len(test) == 3
    assert set(labels) == set(test.labels["label"]) == {0, 1, 2}
    assert len(train.class_names["label"]) == 3


@pytest.mark.parametrize("name", NAMES)
def test_the_seed_decides_the_images(name, tmp_path: Path):
    made = [
        source(write_miniature(name, tmp_path / str(row), images=4, classes=2, size=9, seed=seed))
        .load("train", image_size=8)
        .tensor()
        for row, seed in enumerate((0, 0, 1))
    ]
    assert torch.equal(made[0], made[1]) and not torch.equal(made[0], made[2])


def test_classes_can_be_told_apart(tmp_path: Path):
    spec = write_miniature("folder", tmp_path, images=40, classes=4, size=12)
    train, test = source(spec).load("train"), source(spec).load("test")
    colours = [set_.images.reshape(len(set_), -1, 3).mean(1) for set_ in (train, test)]
    centres = np.stack([colours[0][train.labels["label"] == label].mean(0) for label in range(4)])
    guesses = np.linalg.norm(colours[1][:, None] - centres, axis=2).argmin(1)
    assert (guesses == test.labels["label"]).mean() > 0.8


def test_imagenet_takes_the_names_of_a_list(tmp_path: Path):
    names = class_list("imagenet-100")
    spec = write_miniature(
        "imagenet:/where/it/will/be,canvas=40",
        tmp_path,
        images=100,
        classes=2,
        size=16,
        class_names=names,
    )
    assert spec == f"imagenet:{tmp_path},canvas=40"
    train = source(spec).load("train", image_size=16)
    assert train.class_names["label"] == tuple(sorted(names)) and len(train) == 100
    assert train.of_classes(names).class_names["label"] == names
    assert datasets.ImageFolder(tmp_path / "val").classes == sorted(names)
    assert {tuple(size) for size in train.read(np.arange(100))[1].tolist()} == {(16, 16), (16, 21)}


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("stl10:/data,unlabelled=false", "stl10:{},unlabelled=false"),
        ("stl10", "stl10:{}"),
        ("folder,canvas=20", "folder:{},canvas=20"),
        ("cifar10:/a:b", "cifar10:{}"),
    ],
)
def test_the_rest_of_the_spec_is_kept(spec, expected, tmp_path: Path):
    assert write_miniature(spec, tmp_path, images=4, classes=2, size=8) == expected.format(tmp_path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"spec": "digits"}, ["'digits'", "cifar10, cifar100, stl10, imagenet, "]),
        ({"spec": "imagnet"}, ["'imagnet'", "'imagenet'"]),
        ({"classes": 1}, ["2 classes", "got 1"]),
        ({"class_names": ["a"]}, ["2 classes", "got 1"]),
        ({"images": 2}, ["3 images", "got 2"]),
        ({"size": 7}, ["8 pixels", "got 7"]),
        ({"spec": "imagenet-c,kind=fog"}, ["no severity"]),
        ({"spec": "imagenet-9", "images": 10, "classes": 10}, ["9 classes", "got 10", "fewer"]),
        ({"spec": "imagenet-r", "class_names": ["n01443537", "n01440764"]}, ["'n01440764'", "it has 200"]),
    ],
)
def test_what_cannot_be_written_is_refused(changes, words, tmp_path: Path):
    with pytest.raises(UsageError) as caught:
        write_miniature(
            **{"spec": "folder", "images": 6, "classes": 3, "size": 8, "folder": tmp_path / "new", **changes}
        )
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert not (tmp_path / "new").exists()


def test_every_source_of_large_official_data_has_a_miniature(tmp_path: Path):
    for entry in SOURCES:
        if (
            entry.value is not None
            and entry.value.required
            and entry.name not in ("npz", "table", "huggingface", "composite", "corrupted", "given")
        ):
            options = ",kind=fog,severity=1" if entry.name == "imagenet-c" else ""
            write_miniature(entry.name + options, tmp_path / entry.name, images=4, classes=2, size=8)
