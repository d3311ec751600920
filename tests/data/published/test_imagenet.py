from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision import datasets
from torchvision.transforms import CenterCrop, Resize

from fullrank.data import source
from fullrank.errors import DataError, UsageError

WNIDS = ("n01440764", "n01443537", "n02869837")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The three classes in torchvision's tree: four images of each to train, two to validate."""
    random = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2)):
        for wnid in WNIDS:
            folder = tmp_path / split / wnid
            folder.mkdir(parents=True)
            for row in range(count):
                pixels = random.integers(0, 256, (30 + row, 40, 3), np.uint8)
                Image.fromarray(pixels).save(folder / f"{wnid}_{row}.JPEG", "JPEG")
    return tmp_path


def test_torchvision_reads_the_same(tree: Path):
    for split, folder in (("train", "train"), ("test", "val")):
        oracle, ours = datasets.ImageFolder(tree / folder), source(f"imagenet:{tree}").load(split)
        assert list(ours.class_names["label"]) == oracle.classes
        assert ours.labels["label"].tolist() == oracle.targets
        assert [str(tree / key) for key in ours.images.keys] == [path for path, _ in oracle.samples]
        small = ours.resized(16)
        assert small.images.shape == (len(oracle), 320, 320, 3)
        for found, (image, _) in zip(small.tensor(), oracle, strict=True):
            expected = CenterCrop(16)(Resize(18)(image))
            assert np.array_equal(found.permute(1, 2, 0).numpy(), np.asarray(expected))


def test_images_are_streamed_at_224_unless_told_otherwise(tree: Path):
    train = source(f"imagenet:{tree}").load("train")
    assert train.image_shape == (224, 224, 3) and train.images.shape == (12, 320, 320, 3)
    seen, sizes = source(f"imagenet:{tree},canvas=50").load("train", image_size=48).read(np.array([11, 0]))
    assert seen.shape == (2, 3, 50, 50) and sizes.tolist() == [[33, 40], [30, 40]]
    assert train.channel_statistics() == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert source(f"imagenet:{tree},canvas=320").name == f"imagenet:{tree}"


def test_classes_are_chosen_by_wnid(tree: Path):
    chosen = source(f"imagenet:{tree}").load("train").of_classes(WNIDS[:0:-1])
    assert chosen.class_names["label"] == WNIDS[:0:-1]
    assert chosen.labels["label"].tolist() == [1] * 4 + [0] * 4
    assert all(key.split("/")[1] in WNIDS[1:] for key in np.array(chosen.images.keys)[chosen.images.rows])


def test_one_split_may_be_missing_and_other_files_do_not_matter(tree: Path, fails):
    (tree / "val" / WNIDS[0] / "notes.txt").touch()
    (tree / "val" / WNIDS[0] / ".hidden.JPEG").touch()
    (tree / "val" / "LOC.csv").touch()
    (tree / "val" / ".cache").mkdir()
    (tree / "train").rename(tree / "elsewhere")
    test = source(f"imagenet:{tree}").load("test")
    assert len(test) == 6 and test.class_names["label"] == WNIDS
    with fails(DataError, f"{tree}/train", f"expected {tree}/train/n01440764/*.JPEG"):
        source(f"imagenet:{tree}").load("train")


def test_linked_class_folders_are_followed(tree: Path, tmp_path_factory):
    links = tmp_path_factory.mktemp("links")
    for split in ("train", "val"):
        (links / split).mkdir()
        for wnid in WNIDS[:2]:
            (links / split / wnid).symlink_to(tree / split / wnid)
    assert len(source(f"imagenet:{links}").load("train")) == 8


def test_the_flat_validation_set_is_explained(tree: Path, fails):
    for row, path in enumerate(sorted((tree / "val").glob("*/*.JPEG"))):
        path.rename(tree / "val" / f"ILSVRC2012_val_{row:08d}.JPEG")
    for wnid in WNIDS:
        (tree / "val" / wnid).rmdir()
    with fails(
        DataError,
        f"{tree}/val",
        6,
        f"expected {tree}/train/n01440764/*.JPEG and {tree}/val/n01440764/*.JPEG",
        "torchvision.datasets.ImageNet(PATH, split='val')",
    ):
        source(f"imagenet:{tree}").load("test")
    assert len(source(f"imagenet:{tree}").load("train")) == 12


def test_trees_of_another_shape_are_refused(tree: Path, tmp_path_factory, fails):
    empty = tmp_path_factory.mktemp("empty")
    expected = f"expected {empty}/train/n01440764/*.JPEG and {empty}/val/n01440764/*.JPEG"
    with fails(DataError, f"{empty}/train;", expected):
        source(f"imagenet:{empty}").load("train")
    (empty / "train").mkdir()
    with fails(DataError, f"{empty}/train", "has", expected):
        source(f"imagenet:{empty}").load("train")
    (empty / "train" / "n01440764").mkdir()
    with fails(DataError, f"{empty}/train", "has", expected):
        source(f"imagenet:{empty}").load("train")
    (tree / "val" / WNIDS[0]).rename(tree / "val" / "0")
    with fails(DataError, "1 of 3", "val", "train", "'0'"):
        source(f"imagenet:{tree}").load("test")
    with fails(DataError, "gone"):
        source(f"imagenet:{tree}/gone").load("train")


def test_a_canvas_below_one_is_refused(tree: Path, fails):
    with fails(UsageError, "canvas", 1, 0):
        source(f"imagenet:{tree},canvas=0").load("train")
