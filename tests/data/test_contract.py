"""What every registered source promises. A new one needs a row in `SPECS`, or these tests fail."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from fullrank.data import SOURCES, ImageSet, Source, source, write_miniature
from fullrank.data.sets.idx import FASHION_MNIST
from fullrank.errors import DataError, UsageError

# Images that were given in Python cannot be read by a spec.
NAMES = [entry.name for entry in SOURCES if entry.name != "given"]


@pytest.fixture(
    params=[
        *NAMES,
        "fashion-mnist as packaged",
        "folder streamed",
        "composite of two sets",
        "corrupted streamed",
    ]
)
def spec(request, tmp_path: Path, idx_folder, image_folder, saved) -> str:
    name = request.param
    if name == "digits":
        return name
    if name == "fashion-mnist as packaged":
        if not FASHION_MNIST.packaged.is_dir():
            pytest.skip("dataset-fashion-mnist is not installed")
        return "fashion-mnist"
    if name in ("mnist", "fashion-mnist"):
        idx_folder(tmp_path)
    elif name == "folder":
        image_folder(tmp_path)
    elif name == "table":
        image_folder(tmp_path)
        rows = [f"{kind}/{row}.png,{kind},{row // 2}" for kind in ("cat", "dog") for row in range(10)]
        (tmp_path / "list.csv").write_text("\n".join(["path,label,group", *rows]))
        return f"table:{tmp_path / 'list.csv'}"
    elif name == "folder streamed":
        return f"folder:{image_folder(tmp_path)},canvas=16"
    elif name in ("cifar10", "cifar100", "stl10", "urbancars", "waterbirds") or name.startswith("imagenet"):
        options = ",kind=fog,severity=3" if name == "imagenet-c" else ""
        return write_miniature(name + options, tmp_path, images=24, classes=3, size=12)
    elif name == "huggingface":
        return f"huggingface:{saved(tmp_path)}"
    elif name == "composite":
        return "composite:digits-on-textures,n=120"
    elif name == "corrupted":
        return "corrupted:motion-blur,data=digits,severity=1"
    elif name == "corrupted streamed":
        spec = write_miniature("imagenet", tmp_path, images=24, classes=3, size=12)
        return f"corrupted:elastic,data={spec},seed=2"
    elif name == "composite of two sets":
        idx_folder(tmp_path, train=40, test=20)
        cifar10 = write_miniature("cifar10", tmp_path, images=24, classes=3, size=32)
        return f"composite:mnist-on-cifar10,{cifar10.replace(':', '=')},mnist={tmp_path},n=100"
    elif name == "npz":
        images = np.random.default_rng(2).integers(0, 256, (50, 9, 9, 3), np.uint8)
        np.savez(tmp_path / "x.npz", images=images, labels=np.arange(50) % 4)
        return f"npz:{tmp_path / 'x.npz'}"
    else:
        raise NotImplementedError(f"write a small {name} here")
    return f"{name}:{tmp_path}"


def keys(image_set: ImageSet) -> set[bytes]:
    return {image.tobytes() for image in image_set.tensor().numpy()}


def test_a_source_keeps_the_contract(spec: str, fails):
    built = source(spec)
    assert isinstance(built, Source) and built.name == str(SOURCES.parse(spec))
    sets = {split: built.load(split) for split in built.splits}
    test, train = sets["test"], sets.get("train", sets["test"])  # a shift is a test set alone
    for split, image_set in sets.items():
        assert image_set.images.dtype == np.uint8 and len(image_set.images.shape) == 4
        assert image_set.images.shape[3] == image_set.channels in (1, 3)
        assert set(image_set.labels) == set(image_set.class_names) >= {"label"}
        assert image_set.labels["label"].dtype == np.int64
        pixels = image_set.tensor()
        assert pixels.shape[1:] == (image_set.channels, *image_set.image_shape[:2])
        assert pixels.max() > 200 > 50 > pixels.min()
        assert torch.equal(pixels, torch.cat(list(image_set.batches(len(image_set) // 3))))
        seen, sizes = image_set.read(np.array([2, 0]))
        assert seen.dtype == torch.uint8 and seen.shape == (2, *np.roll(image_set.images.shape[1:], 1))
        if sizes is None:
            assert torch.equal(seen, pixels[[2, 0]])
        else:
            assert sizes.shape == (2, 2) and sizes.dtype == torch.int64 and sizes.min() > 0
        assert (image_set.name, image_set.split) == (built.name, split)
    assert train.image_shape == test.image_shape and train.class_names == test.class_names
    assert set(train.labels["label"]) - {-1} == set(range(len(train.class_names["label"])))
    if "train" in sets:
        assert len(train) > len(test)
    else:
        with fails(DataError, built.name, f"fullrank probe RUN --shift {built.name}"):
            built.load("train")
    if len(train) < 10_000:
        again = source(spec).load(train.split)
        assert torch.equal(train.tensor(), again.tensor()) and train.checksum() == again.checksum()
        if "train" in sets:
            assert keys(train).isdisjoint(keys(test)) and train.checksum() != test.checksum()
        assert np.array_equal(train.labels["label"], again.labels["label"])
        whole, parts = built.load("all"), list(sets.values())
        assert len(whole) == sum(map(len, parts)) == len(set(whole.ids)) and keys(whole) == {
            key for part in parts for key in keys(part)
        }
        assert whole.split == ("all" if len(parts) == 2 else "test")
        if not built.official:  # then an image has one id, in its split and among all
            assert {id_ for part in parts for id_ in part.ids} == set(whole.ids)
        resized = built.load("test", image_size=6)
        assert resized.ids == test.ids and len(set(test.ids)) == len(test)
        assert resized.image_shape == (6, 6, train.image_shape[2]) and len(resized) == len(test)
        assert torch.equal(resized.tensor(), test.resized(6).tensor())
    limited = train.limited(len(train) // 2, seed=3)
    assert len(limited) == len(train) // 2
    shares = np.bincount(train.labels["label"] + 1) / 2 - np.bincount(limited.labels["label"] + 1)
    assert np.abs(shares).max() <= 1
    with fails(UsageError, "'val'"):
        built.load("val")
    with fails(UsageError, "0"):
        built.load("test", image_size=0)


def test_the_catalogue_imports_nothing_heavy():
    code = (
        "import sys, fullrank.data as d; d.SOURCES.parse('digits'), d.class_list('imagenet-100');"
        "print([m for m in ('torch', 'torchvision', 'sklearn', 'PIL', 'numpy') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_loading_the_public_names_leaves_source_a_function():
    for entry in SOURCES:
        __import__(entry.builder.partition(":")[0])
    import fullrank.data

    assert callable(fullrank.data.source)
    for name in fullrank.data.__all__:
        assert getattr(fullrank.data, name) is not None
    with pytest.raises(AttributeError):
        _ = fullrank.data.nothing


def test_digits_are_the_embedded_ones():
    from sklearn.datasets import load_digits

    train, test = source("digits").load("train"), source("digits").load("test")
    assert (len(train), len(test)) == (1297, 500)
    assert {train.images.max(), test.images.max()} == {255}
    both = np.concatenate([train.images, test.images])[..., 0].reshape(1797, -1).astype(float) / 255 * 16
    original = load_digits()
    order, back = np.lexsort(both.round().T), np.lexsort(original.images.reshape(1797, -1).T)
    assert np.array_equal(both.round()[order], original.images.reshape(1797, -1)[back])
    labels = np.concatenate([train.labels["label"], test.labels["label"]])
    assert np.array_equal(labels[order], original.target[back])
    assert np.abs(np.bincount(test.labels["label"]) - np.bincount(original.target) * 500 / 1797).max() <= 1


def test_a_tensor_is_a_copy_in_torch_order():
    image_set = source("digits").load("test")
    tensor = image_set.tensor()
    assert tensor.dtype == torch.uint8 and tensor.shape == (500, 1, 8, 8)
    tensor.zero_()
    assert image_set.images.any()
