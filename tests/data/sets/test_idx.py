import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from torchvision import datasets

from fullrank.data import source
from fullrank.data.sets.idx import FASHION_MNIST, read_idx
from fullrank.errors import DataError

IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
@pytest.mark.parametrize("ending", ["", ".gz"])
def test_torchvision_reads_the_same(name, ending, tmp_path: Path, idx_folder):
    kind = {"mnist": datasets.MNIST, "fashion-mnist": datasets.FashionMNIST}[name]
    raw = tmp_path / kind.__name__ / "raw"
    idx_folder(raw, "")
    oracle = {split: kind(tmp_path, train=split == "train") for split in ("train", "test")}
    if ending:
        for path in list(raw.iterdir()):
            path.with_name(path.name + ending).write_bytes(gzip.compress(path.read_bytes()))
            path.unlink()
    for folder in (tmp_path, raw.parent, raw):
        for split, theirs in oracle.items():
            ours = source(f"{name}:{folder}").load(split)
            assert np.array_equal(ours.images[..., 0], theirs.data.numpy())
            assert np.array_equal(ours.labels["label"], theirs.targets.numpy())
    names = ours.class_names["label"]
    assert len(names) == 10
    if name == "fashion-mnist":
        assert list(names) == theirs.classes


def test_the_debian_package_is_fashion_mnist():
    if not FASHION_MNIST.packaged.is_dir():
        pytest.skip("dataset-fashion-mnist is not installed")
    train, test = source("fashion-mnist").load("train"), source("fashion-mnist").load("test")
    assert train.images.shape == (60_000, 28, 28, 1) and test.images.shape == (10_000, 28, 28, 1)
    assert np.bincount(train.labels["label"]).tolist() == [6000] * 10
    mean, deviation = train.channel_statistics()
    assert mean[0] == pytest.approx(0.2860, abs=1e-4) and deviation[0] == pytest.approx(0.3530, abs=1e-4)


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "truncated":
        content = content[:-1]
    elif how == "longer":
        content += b"\0"
    elif how == "header":
        content = content[:7]
    elif how == "empty":
        content = b""
    elif how == "magic":
        content = struct.pack(">I", 0x801) + content[4:]
    elif how == "count":
        content = content[:4] + struct.pack(">I", 2**32 - 1) + content[8:]
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("truncated", ["31375 bytes", "31376"]),
        ("longer", ["31377 bytes", "31376"]),
        ("header", ["7 bytes", "16"]),
        ("empty", ["0 bytes", "16"]),
        ("magic", ["0x00000801", "0x00000803"]),
        ("count", ["31376 bytes", "promised"]),
    ],
)
def test_a_damaged_file_is_named(how, words, tmp_path: Path, idx_folder, fails):
    idx_folder(tmp_path)
    damage(tmp_path / IMAGES, how)
    with fails(DataError, str(tmp_path / IMAGES), "download", *words):
        source(f"mnist:{tmp_path}").load("train")
    assert len(source(f"mnist:{tmp_path}").load("test")) == 20


@pytest.mark.parametrize("keep", [5, 100, -1])
def test_half_a_gzip_file_is_named(keep, tmp_path: Path, idx_folder, fails):
    idx_folder(tmp_path, ".gz")
    path = tmp_path / f"{IMAGES}.gz"
    path.write_bytes(path.read_bytes()[:keep])
    with fails(DataError, str(path), "download"):
        source(f"mnist:{tmp_path}").load("train")
    path.write_bytes(b"no gzip at all")
    with fails(DataError, str(path), "download"):
        source(f"mnist:{tmp_path}").load("train")


def test_every_prefix_of_a_file_is_refused(tmp_path: Path):
    content = struct.pack(">IIII", 0x803, 2, 3, 2) + bytes(range(12))
    path = tmp_path / "x"
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(DataError):
            read_idx(path, 0x803)
    path.write_bytes(content)
    assert read_idx(path, 0x803).tolist() == np.arange(12).reshape(2, 3, 2).tolist()


def test_counts_and_labels_must_fit(tmp_path: Path, idx_folder, fails):
    idx_folder(tmp_path, train=40)
    (tmp_path / LABELS).write_bytes(struct.pack(">II", 0x801, 39) + bytes(39))
    with fails(DataError, "40 images", "39 labels", str(tmp_path / LABELS)):
        source(f"fashion-mnist:{tmp_path}").load("train")
    (tmp_path / LABELS).write_bytes(struct.pack(">II", 0x801, 40) + bytes([10] * 40))
    with fails(DataError, "label 10", "0 to 9", str(tmp_path / LABELS)):
        source(f"fashion-mnist:{tmp_path}").load("train")


def test_a_missing_folder_or_file_is_named(tmp_path: Path, fails):
    with fails(DataError, f"There is no {tmp_path}/nowhere", f"mnist:{tmp_path}/nowhere"):
        source(f"mnist:{tmp_path}/nowhere").load("train")
    with fails(DataError, str(tmp_path), IMAGES):
        source(f"mnist:{tmp_path}").load("train")


@pytest.mark.parametrize(
    ("name", "remedies"), [("mnist", []), ("fashion-mnist", ["apt install", "dataset-fashion-mnist"])]
)
def test_without_a_network_the_remedies_are_named(name, remedies, tmp_path, monkeypatch, fails, unpackaged):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(datasets.MNIST, "mirrors", ["http://127.0.0.1:9/"])
    monkeypatch.setattr(datasets.FashionMNIST, "mirrors", ["http://127.0.0.1:9/"])
    with fails(DataError, name, f"{name}:PATH", *remedies):
        source(name).load("train")


def test_the_cache_is_read_without_a_network(tmp_path, monkeypatch, idx_folder, unpackaged):
    monkeypatch.setenv("HOME", str(tmp_path))
    idx_folder(tmp_path / ".cache/fullrank/fashion-mnist/FashionMNIST/raw")
    assert len(source("fashion-mnist").load("train")) == 40


@pytest.fixture
def unpackaged(monkeypatch):
    """As on a machine without Debian's package."""
    monkeypatch.setattr(
        Path, "is_dir", lambda path, real=Path.is_dir: path != FASHION_MNIST.packaged and real(path)
    )
