import os
import pickle
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
from torchvision import datasets

from fullrank.data import source
from fullrank.data.sets.pickles import read_pickled
from fullrank.errors import DataError

FINE, COARSE = tuple(f"fine{i}" for i in range(10)), tuple(f"coarse{i}" for i in range(4))
NAMES = {"cifar10": "cifar-10", "cifar100": "cifar-100"}


def text(value: str) -> bytes:
    return b"U" + struct.pack("<B", len(value)) + value.encode()


def python2(value: object) -> bytes:
    """The opcodes that Python 2 wrote for `value` at protocol 2, as in the official files."""
    if isinstance(value, str):
        return text(value)
    if isinstance(value, int):
        return b"J" + struct.pack("<i", value)
    if isinstance(value, list):
        return b"](" + b"".join(map(python2, value)) + b"e"
    if isinstance(value, dict):
        return b"}(" + b"".join(python2(key) + python2(item) for key, item in value.items()) + b"u"
    assert isinstance(value, np.ndarray)
    raw = value.tobytes("F" if value.flags.f_contiguous else "C")
    kind = (
        b"cnumpy\ndtype\n" + text(value.dtype.str[1:]) + b"K\x00K\x01\x87R"
        b"(K\x03" + text("|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    shape = b"".join(python2(side) for side in value.shape)
    return (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text("b") + b"\x87R"
        b"(K\x01(" + shape + b"t" + kind + (b"\x88" if value.flags.f_contiguous else b"\x89")
        + b"T" + struct.pack("<i", len(raw)) + raw + b"tb"
    )  # fmt: skip


def write_python2(path: Path, value: object) -> None:
    path.write_bytes(b"\x80\x02" + python2(value) + b".")


def write_python3(path: Path, value: object) -> None:
    path.write_bytes(pickle.dumps(value, protocol=4))


def make(name: str, count: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images (N, 32, 32, 3), fine and coarse labels."""
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (count, 32, 32, 3), np.uint8)
    return images, random.permutation(np.arange(count) % 10), random.permutation(np.arange(count) % 4)


def written(name: str, form: str, folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Both splits, written in one of the forms that the official pages describe."""
    splits = {"train": make(name, 50, 0), "test": make(name, 20, 1)}
    ending = {"cifar10": "-batches-py", "cifar100": "-python"}[name]
    binary = {"cifar10": "-batches-bin", "cifar100": "-binary"}[name]
    root = folder / f"{NAMES[name]}{binary if form == 'binary' else ending}"
    root.mkdir(parents=True)
    write = write_python2 if form == "python 2" else write_python3
    suffix = ".bin" if form == "binary" else ""
    for split, arrays in splits.items():
        if name == "cifar100":
            files = {split: arrays}
        elif split == "test":
            files = {"test_batch": arrays}
        else:
            files = {f"data_batch_{i + 1}": tuple(a[10 * i : 10 * i + 10] for a in arrays) for i in range(5)}
        for file, (images, fine, coarse) in files.items():
            planes = np.ascontiguousarray(images.transpose(0, 3, 1, 2)).reshape(len(images), 3072)
            if form == "binary":
                labels = [fine] if name == "cifar10" else [coarse, fine]
                content = b"".join(
                    bytes(int(label[row]) for label in labels) + planes[row].tobytes()
                    for row in range(len(planes))
                )
                (root / f"{file}{suffix}").write_bytes(content)
            else:
                keys = (
                    {"labels": fine} if name == "cifar10" else {"fine_labels": fine, "coarse_labels": coarse}
                )
                lists = {key: value.tolist() for key, value in keys.items()}
                write(root / file, {"batch_label": "some", "data": planes, **lists, "filenames": ["x.png"]})
    if name == "cifar10":
        meta = {"label_names": list(FINE), "num_vis": 3072}
    else:
        meta = {"fine_label_names": list(FINE), "coarse_label_names": list(COARSE)}
    if form != "binary":
        write(root / ("batches.meta" if name == "cifar10" else "meta"), meta)
    elif name == "cifar10":
        (root / "batches.meta.txt").write_text("\n".join(FINE) + "\n\n")  # as the official one ends
    else:
        (root / "fine_label_names.txt").write_text("\n".join(FINE) + "\n")
        (root / "coarse_label_names.txt").write_text("\n".join(COARSE) + "\n")
    return splits


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
@pytest.mark.parametrize("form", ["python 2", "python 3", "binary"])
def test_both_forms_are_read_from_the_folder_or_its_parent(name, form, tmp_path: Path):
    splits = written(name, form, tmp_path)
    (root,) = tmp_path.iterdir()
    shutil.copytree(root, tmp_path / "renamed")
    for path in (tmp_path, root, tmp_path / "renamed"):
        for split, (images, fine, coarse) in splits.items():
            loaded = source(f"{name}:{path}").load(split)
            assert np.array_equal(loaded.images, images)
            assert np.array_equal(loaded.labels["label"], fine)
            if name == "cifar10":
                assert loaded.class_names == {"label": FINE}
            else:
                assert np.array_equal(loaded.labels["coarse"], coarse)
                assert loaded.class_names == {"label": FINE, "coarse": COARSE}


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_torchvision_reads_the_same(name, tmp_path: Path, monkeypatch):
    written(name, "python 2", tmp_path)
    kind = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    monkeypatch.setattr(kind, "_check_integrity", lambda self: True)  # it wants the whole official files
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": None})
    for split in ("train", "test"):
        theirs, ours = kind(tmp_path, train=split == "train"), source(f"{name}:{tmp_path}").load(split)
        assert np.array_equal(ours.images, theirs.data)
        assert ours.labels["label"].tolist() == theirs.targets
        assert list(ours.class_names["label"]) == theirs.classes


class Touch:
    """What an attacker pickles: reading it would make a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


class Call:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("where", ["data", "labels", "filenames", "extra"])
def test_nothing_in_a_pickle_is_run(where, tmp_path: Path, fails):
    written("cifar10", "python 3", tmp_path)
    path, touched = tmp_path / "cifar-10-batches-py" / "test_batch", tmp_path / "touched"
    content = pickle.loads(path.read_bytes())  # noqa: S301 - written above
    path.write_bytes(pickle.dumps({**content, where: Touch(touched)}))
    with fails(DataError, str(path), "pathlib", "original archive"):
        source(f"cifar10:{tmp_path}").load("test")
    assert not touched.exists()
    pickle.loads(path.read_bytes())  # noqa: S301 - harmless, and meant
    assert touched.exists()  # the usual reader does run it


@pytest.mark.parametrize(
    ("function", "arguments", "asked"),
    [
        (os.system, ("true",), "system"),
        (eval, ("1",), "eval)"),
        (getattr, ("", "upper"), "getattr)"),
        (np.load, ("x",), "numpy"),
        (np.frombuffer, (b"x", np.uint8), "numpy"),
        (bytearray, (b"x",), "bytearray)"),
        (set, ([1],), "set)"),
    ],
)
@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_no_other_name_is_known(function, arguments, asked, protocol, tmp_path: Path, fails):
    path = tmp_path / "x"
    path.write_bytes(pickle.dumps({"data": Call(function, *arguments)}, protocol=protocol))
    with fails(DataError, "would call", asked):
        read_pickled(path)


def test_no_other_array_is_known(tmp_path: Path, fails):
    path = tmp_path / "x"
    for array in (np.zeros(3), np.array([{}], dtype=object), np.array(["x"])):
        path.write_bytes(pickle.dumps({"data": array}, protocol=4))
        with fails(DataError, "array", "'u1'"):
            read_pickled(path)
    path.write_bytes(pickle.dumps([1], protocol=2))
    with fails(DataError, "no dictionary"):
        read_pickled(path)
    fortran = np.asfortranarray(np.arange(6, dtype=np.uint8).reshape(2, 3))
    write_python2(path, {"data": fortran})
    assert np.array_equal(read_pickled(path)["data"].values, fortran)


def test_no_damage_gets_past_the_reader(tmp_path: Path):
    path, random = tmp_path / "x", np.random.default_rng(0)
    write_python2(path, {"data": np.zeros((2, 3), np.uint8), "labels": [1, 2]})
    content = path.read_bytes()
    damaged = [content[:length] for length in range(len(content))]
    for _ in range(400):
        changed = bytearray(content)
        changed[random.integers(len(content))] = random.integers(256)
        damaged.append(bytes(changed))
    refused = 0
    for attempt in damaged:
        path.write_bytes(attempt)
        try:
            assert isinstance(read_pickled(path), dict)
        except DataError:
            refused += 1
    assert refused > len(content)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data": None}, ["'data'", "(N, 3072)"]),
        ({"data": np.zeros((20, 3071), np.uint8)}, ["'data'", "(N, 3072)"]),
        ({"data": np.zeros(20 * 3072, np.uint8)}, ["'data'"]),
        ({"labels": None}, ["'labels'", "whole numbers"]),
        ({"labels": ["1"] * 20}, ["'labels'", "whole numbers"]),
        ({"labels": [1] * 19}, ["'labels' has 19 entries for 20 images"]),
        ({"labels": [10] * 20}, ["'label'", "first is 10"]),
    ],
)
def test_pickles_of_other_things_are_refused(changes, words, tmp_path: Path, fails):
    written("cifar10", "python 3", tmp_path)
    path = tmp_path / "cifar-10-batches-py" / "test_batch"
    content = pickle.loads(path.read_bytes())  # noqa: S301 - written above
    write_python3(path, {**content, **changes})
    with fails(DataError, f"cifar10:{tmp_path}", *words):
        source(f"cifar10:{tmp_path}").load("test")
    assert len(source(f"cifar10:{tmp_path}").load("train")) == 50


def test_class_names_must_be_names(tmp_path: Path, fails):
    written("cifar100", "python 3", tmp_path)
    meta = tmp_path / "cifar-100-python" / "meta"
    write_python3(meta, {"fine_label_names": list(FINE), "coarse_label_names": 3})
    with fails(DataError, "meta", "'coarse_label_names'", "list"):
        source(f"cifar100:{tmp_path}").load("test")
    meta.unlink()
    with fails(DataError, str(meta)):
        source(f"cifar100:{tmp_path}").load("test")


def test_binary_files_must_be_whole(tmp_path: Path, fails):
    written("cifar100", "binary", tmp_path)
    folder = tmp_path / "cifar-100-binary"
    (folder / "train.bin").write_bytes((folder / "train.bin").read_bytes()[:-1])
    with fails(DataError, "train.bin", f"{50 * 3074 - 1} bytes", "3074", "original archive"):
        source(f"cifar100:{tmp_path}").load("train")
    (folder / "train.bin").unlink()
    with fails(DataError, str(folder / "train.bin")):
        source(f"cifar100:{tmp_path}").load("train")
    (folder / "coarse_label_names.txt").unlink()
    with fails(DataError, "coarse_label_names.txt", "classes"):
        source(f"cifar100:{tmp_path}").load("test")


def test_another_tree_shows_the_expected_one(tmp_path: Path, fails):
    with fails(DataError, str(tmp_path / "gone")):
        source(f"cifar10:{tmp_path / 'gone'}").load("train")
    expected = [
        f"{tmp_path}/cifar-10-batches-py/test_batch",
        f"{tmp_path}/cifar-10-batches-bin/test_batch.bin",
    ]
    with fails(DataError, "cifar10", *expected, "unpack cifar-10-python.tar.gz"):
        source(f"cifar10:{tmp_path}").load("train")
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(b"")
    for path in (tmp_path, tmp_path / "below"):
        path.mkdir(exist_ok=True)
        with fails(DataError, f"unpack {tmp_path / 'cifar-10-binary.tar.gz'} there"):
            source(f"cifar10:{path}").load("train")
    (tmp_path / "file").touch()
    with fails(DataError, "is a file, not a folder"):
        source(f"cifar100:{tmp_path / 'file'}").load("train")
