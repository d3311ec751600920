import gzip
import re
import struct
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from refusals import refuses

Fails = Callable[..., AbstractContextManager[None]]


@pytest.fixture
def fails() -> Fails:
    """`refuses`, of exactly that class and of a message that is one sentence and has a remedy."""

    @contextmanager
    def check(kind: type[Exception], *parts: object) -> Iterator[None]:
        with refuses(kind, *parts) as raised:
            yield
        message = str(raised.value)
        assert type(raised.value) is kind
        assert message.endswith(".") and "\n" not in message, message
        assert not re.search(r"[.!?] +[A-Z]", message), message
        assert ";" in message, f"no remedy: {message}"

    return check


def write_idx(path: Path, array: np.ndarray, magic: int | None = None) -> None:
    header = struct.pack(f">{1 + array.ndim}I", magic or 0x800 + array.ndim, *array.shape)
    content = header + array.astype(np.uint8).tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


@pytest.fixture
def idx_folder() -> Callable[..., dict[str, np.ndarray]]:
    """Writes the four files of MNIST, small, and gives back what it wrote."""

    def write(folder: Path, ending: str = "", train: int = 40, test: int = 20) -> dict[str, np.ndarray]:
        random = np.random.default_rng(0)
        written = {}
        for prefix, count in (("train", train), ("t10k", test)):
            written[f"{prefix}-images-idx3-ubyte"] = random.integers(0, 256, (count, 28, 28), np.uint8)
            written[f"{prefix}-labels-idx1-ubyte"] = (np.arange(count) % 10).astype(np.uint8)
        for name, array in written.items():
            write_idx(folder / f"{name}{ending}", array)
        return written

    return write


@pytest.fixture
def image_folder() -> Callable[..., Path]:
    """Writes `count` grey or RGB PNG files of each class below a folder, every one different."""

    def write(
        folder: Path, classes: tuple[str, ...] = ("cat", "dog"), count: int = 10, mode: str = "RGB"
    ) -> Path:
        random = np.random.default_rng(1)
        for name in classes:
            (folder / name).mkdir(parents=True, exist_ok=True)
            for number in range(count):
                pixels = random.integers(0, 256, (12, 12) if mode == "L" else (12, 12, 3), np.uint8)
                Image.fromarray(pixels).save(folder / name / f"{number}.png")
        return folder

    return write


@pytest.fixture
def saved(monkeypatch) -> Callable[..., Path]:
    """Saves a small data set of the `datasets` library: 12 images to train, 6 to test, unless told otherwise.

    The columns are `picture` (PNG, each of another size) and `kind` (cat or dog) beside a number.
    """
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def write(folder: Path, **counts: int) -> Path:
        import datasets

        datasets.disable_progress_bars()
        random = np.random.default_rng(3)
        splits = {}
        for split, count in (counts or {"train": 12, "test": 6}).items():
            pixels = [random.integers(0, 256, (10 + row, 12, 3), np.uint8) for row in range(count)]
            columns = {
                "number": list(range(count)),
                "picture": [Image.fromarray(image) for image in pixels],
                "kind": [row % 2 for row in range(count)],
            }
            features = datasets.Features(
                number=datasets.Value("int64"),
                picture=datasets.Image(),
                kind=datasets.ClassLabel(names=["cat", "dog"]),
            )
            splits[split] = datasets.Dataset.from_dict(columns, features=features)
        datasets.DatasetDict(splits).save_to_disk(folder / "saved")
        return folder / "saved"

    return write
