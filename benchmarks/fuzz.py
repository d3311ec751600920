"""Fuzz specs, recipes, records, images and files of numbers: each must be read, or refused in one sentence.

    uv run python benchmarks/fuzz.py                                (a quarter of an hour on two cores)
    uv run python benchmarks/fuzz.py --texts 1000 --files 300       (seconds)

Every case is noise, or a valid input with a changed bit, slice, length or field, or with a word replaced by a
hostile one. A case passes if it is read, or refused with a FullrankError whose
message is one printable line. It fails if any of these happens:

- another exception is raised;
- it works for more than 10 seconds;
- it asks for more than 3 GiB of memory beyond what was in use at the start;
- it unpickles arbitrary objects, starts a process or opens a connection;
- it writes a file outside the case's folder;
- a word of a record appears unescaped in its page.

Failed cases are saved under --keep with their tracebacks, and the exit status is 1. The same seed makes the
same cases.
"""

import argparse
import io
import json
import os
import pickle
import random
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image
from safetensors.numpy import save as save_tensors

from fullrank.cli.choice import assignment
from fullrank.cli.diagnosis import print_diagnosis
from fullrank.cli.reproduction import print_reproduction
from fullrank.cli.tables import print_record
from fullrank.data import SOURCES, class_list, source
from fullrank.embeddings.files import open_embeddings
from fullrank.encoders import ENCODERS
from fullrank.encoders.weights import read_weights
from fullrank.errors import FullrankError
from fullrank.files import save_arrays
from fullrank.heads import HEADS, head
from fullrank.objectives import OBJECTIVES, objective
from fullrank.record import Record, TableEntry, TableRow
from fullrank.reports.page import write_page
from fullrank.runs.recipe import Recipe, recipe_names
from fullrank.specs import split_specs
from fullrank.views import VIEWS, view_pipeline

SECONDS, PATIENCE, GIBIBYTES, LONGEST = 10, 900, 3, 2000
SCRIPT = "<script>alert(1)</script>"
# Texts that are known to break programs that read text.
WORDS = (
    *("", " ", "0", "-1", "1", "2", "-0.0", "1e308", "1e400", "nan", "inf", "-inf", "9" * 30, "9" * 5000),
    *("true", "null", "~", "none", "x", "٣", "1_000", "0x10", "1:30", "2001-99-99", "!!int ''", "!!float x"),
    *("../../x", "/etc/passwd", "a\0b", "\x1b[31m", "\n", "\r\n", "\u2028", "\ud800", "é", "𝒳", "a" * 20000),
    *(
        ",",
        "=",
        ":",
        '"',
        '\\"',
        "-",
        "+",
        "/",
        ".",
        "..",
        "*a",
        "&a",
        "%s",
        "{0}",
        "{{7*7}}",
        "${x}",
        SCRIPT,
    ),
    *("!!python/object/apply:os.system ['true']", "[" * 3000, "{a: " * 500, "? {}", "<<: *a", "---\n"),
)
VALUES = (
    *(None, True, False, 0, -1, 1, 2**63, -(2**63), 10**30, 0.5, -0.0, 1e308, float("nan"), float("inf")),
    *([], {}, [[]], [{}], [None], [1e308] * 3, {"a": 1}, {"": {}}, [0.0] * 3, "", "x", "run", "h", SCRIPT),
    *(
        "../../x",
        "/etc",
        "..",
        ".",
        "a\0b",
        "\x1b[31m",
        "a\nb",
        "{{7*7}}",
        "javascript:alert(1)",
        "a" * 20000,
    ),
)
IMAGE_MODES = ("RGB", "L", "RGBA", "LA", "P", "1", "I;16", "CMYK")
IMAGE_ENDINGS = ("png", "jpg", "webp", "bmp", "gif", "tif", "ppm", "pgm")


class Slow(BaseException):
    """A case that takes too long; not an Exception, so that no handler swallows it."""


@dataclass(frozen=True)
class Family:
    """One kind of input: how a case is made from a generator, and what reads it in its own folder."""

    name: str
    make: Callable[[random.Random], bytes]
    read: Callable[[bytes, Path], None]


@dataclass
class Watch:
    """An audit hook that records everything that reaches outside `folder`, the only writable folder."""

    folder: str | None = None
    seen: list[str] = field(default_factory=list)

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.folder is None:
            return
        if event in _PATHS and (event != "open" or _writes(arguments)):
            paths = [arguments[number] for number in _PATHS[event]]
            if any(not self._inside(path) for path in paths):
                self.seen.append(f"{event} {paths!r}")
        elif event in _NEVER:
            self.seen.append(f"{event} {arguments!r}"[:300])

    def _inside(self, path: object) -> bool:
        if isinstance(path, int) or path is None:
            return True  # an open file descriptor: the hook saw it when it was opened
        text = os.path.abspath(os.fsdecode(path))  # type: ignore[arg-type]  # noqa: PTH100  # follows no link
        return text == os.devnull or text.startswith(f"{self.folder}{os.sep}") or text == self.folder


_PATHS = {
    "open": (0,),
    **dict.fromkeys(("os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.chmod", "os.chown"), (0,)),
    **dict.fromkeys(("os.rename", "os.link"), (0, 1)),
    "os.symlink": (1,),
}
_NEVER = {
    *("os.system", "os.exec", "os.fork", "os.posix_spawn", "subprocess.Popen", "socket.connect"),
    *("pickle.find_class", "ctypes.dlopen", "webbrowser.open"),
}
WATCH = Watch()
TALLY: Counter[str] = Counter()


def _writes(arguments: tuple[Any, ...]) -> bool:
    _, mode, flags = arguments
    if isinstance(mode, str) and set(mode) & set("wax+"):
        return True
    return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC))


def changed(content: bytes, rng: random.Random) -> bytes:
    """Bytes with one to four changes of bits, slices, lengths or words; sometimes noise instead."""
    if rng.random() < 0.02:
        return rng.randbytes(rng.randrange(200))
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        start = rng.randrange(len(data) + 1)
        stop = min(len(data), start + rng.choice((1, 1, 2, 4, 8, 64)))
        way = rng.randrange(7)
        if way == 0:
            del data[start:]
        elif way == 1 and start < len(data):
            data[start] ^= 1 << rng.randrange(8)
        elif way == 2:
            del data[start:stop]
        elif way == 3:
            data[start:start] = data[start:stop]
        elif way == 4:
            data[start:stop] = rng.randbytes(stop - start)
        elif way == 5:
            data[start:stop] = rng.choice((b"\xff", b"\0", b"\x7f", b"\x80")) * (stop - start)
        else:
            data[start:stop] = rng.choice(WORDS).encode("utf-8", "surrogatepass")
    return bytes(data)


def reworded(text: str, rng: random.Random) -> str:
    """Text in which one to three pieces between separators are replaced by others or by a hostile word."""
    pieces = [""]
    for character in text:
        if character in ':,=-\n ./+"[]':
            pieces += [character, ""]
        else:
            pieces[-1] += character
    for _ in range(rng.choice((1, 1, 2, 3))):
        place = rng.randrange(len(pieces))
        way = rng.randrange(4)
        if way == 0:
            pieces[place] = rng.choice(WORDS)
        elif way == 1:
            pieces[place] += rng.choice(WORDS)
        elif way == 2:
            pieces[place] = rng.choice(pieces)
        else:
            pieces[place : place + rng.randrange(4)] = []
            pieces = pieces or [""]
    return "".join(pieces)


def restructured(content: Any, rng: random.Random) -> Any:
    """A copy of lists and dictionaries in which one to three values are replaced, missing or repeated."""
    copy = deepcopy(content)
    for _ in range(rng.choice((1, 1, 2, 3))):
        holder, key = _somewhere(copy, rng)
        way = rng.choice((0, 1, 2, 3, 3, 3, 4))
        if holder is None:
            return deepcopy(rng.choice(VALUES))
        if way == 0 and isinstance(holder, dict):
            del holder[key]
        elif way == 1 and isinstance(holder, list):
            holder.append(holder[key])
        elif way == 2 and isinstance(holder, dict):
            holder[rng.choice(WORDS)] = holder.pop(key)
        elif way == 3:
            alike = [value for value in (*VALUES, *WORDS) if type(value) is type(holder[key])]
            holder[key] = deepcopy(rng.choice(alike or VALUES))
        else:
            holder[key] = deepcopy(rng.choice(VALUES))
    return copy


def _somewhere(content: Any, rng: random.Random) -> tuple[Any, Any]:
    holder, key, here = None, None, content
    while isinstance(here, dict | list) and here and rng.random() < 0.85:
        holder, key = here, rng.choice(list(here)) if isinstance(here, dict) else rng.randrange(len(here))
        here = holder[key]
    return holder, key


# ----------------------------------------------------------------------------------------------- texts


def spec_family() -> Family:
    """Specs of every registered part; valid specs are also built where that is cheap."""
    specs = []
    for registry in (HEADS, OBJECTIVES, ENCODERS, SOURCES, VIEWS):
        for entry in registry:
            value = f":{entry.value.choices[0] if entry.value.choices else 8}" if entry.value else ""
            options = [
                f"{option.name}={option.choices[0] if option.choices else 3}" for option in entry.options
            ]
            specs += [entry.name + value, ",".join([entry.name + value, *options])]
    specs += ["imagenet-100", "cat+dog", "none,linear:8,none,norm=batch", "optimizer.lr=0.001", "seed=1"]

    def make(rng: random.Random) -> bytes:
        text = rng.choice(specs)
        text = reworded(text, rng) if rng.random() < 0.7 else text
        content = text.encode("utf-8", "surrogatepass")
        return changed(content, rng) if rng.random() < 0.5 else content

    return Family("specs", make, read_spec)


def read_spec(content: bytes, folder: Path) -> None:
    """Everything that takes a spec from a command line."""
    text = content.decode("utf-8", "surrogateescape")
    for registry in (HEADS, OBJECTIVES, ENCODERS, SOURCES, VIEWS):
        with refused():
            spec = registry.parse(text)
            canonical = str(spec)
            if str(registry.parse(canonical)) != canonical:
                raise AssertionError(f"{canonical!r} is not canonical")
    with refused():
        split_specs(text)
    with refused():
        class_list(text)
    with refused():
        key, value = assignment(text)
        Recipe.resolve("digits", {key: value})
    for key in ("data", "head", "objective"):
        with refused():
            Recipe.resolve("digits", {key: text})
    with refused():
        source(text)
    with refused():
        head(text, in_dim=8)
    with refused():
        objective(text, in_dim=8, num_classes=3)
    with refused():
        view_pipeline(text, image_size=8, channels=3)


def recipe_family() -> Family:
    """Recipes as YAML files: the shipped ones and one with every key."""
    recipes = [Recipe.resolve(name, {"data": "digits"}).dump() for name in recipe_names()]
    recipes += [Recipe.resolve("digits", {"sgd_probe.epochs": 3, "init": "x.pth"}).dump()]
    bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n"
        for old, new in zip("abcdefghijk", "bcdefghijkl", strict=True)
    )
    recipes += [f"{bomb}data: *l\n", f"{bomb}data: digits\noptimizer: *l\n", "data: &d {data: *d}\n"]

    def make(rng: random.Random) -> bytes:
        text = rng.choice(recipes)
        way = rng.randrange(3)
        if way == 0:
            loaded = yaml.safe_load(text) if "*" not in text else {"data": "digits"}
            return yaml.safe_dump(restructured(loaded, rng), sort_keys=False).encode("utf-8", "surrogatepass")
        if way == 1:
            return reworded(text, rng).encode("utf-8", "surrogatepass")
        return changed(text.encode(), rng)

    return Family("recipes", make, read_recipe)


def read_recipe(content: bytes, folder: Path) -> None:
    """Resolve a recipe file; a valid one must be the same after it is written and read again."""
    (folder / "recipe.yaml").write_bytes(content)
    with refused():
        recipe = Recipe.resolve(folder / "recipe.yaml", {"epochs": 3})
        (folder / "again.yaml").write_text(recipe.dump())
        if Recipe.resolve(folder / "again.yaml") != recipe:
            raise AssertionError("the recipe changes when it is written and read again")


def record_family(folders: list[Path], pages: float) -> Family:
    """Records of every kind; for a share of the valid ones the page is written."""
    texts = [(path / "record.json").read_bytes() for path in folders]
    contents = [json.loads(text) for text in texts]

    def make(rng: random.Random) -> bytes:
        number = rng.randrange(len(folders))
        if rng.random() < 0.7:
            record = json.dumps(restructured(contents[number], rng)).encode()
        else:
            record = changed(texts[number], rng)
        return struct.pack("<Bd", number, rng.random()) + record

    def read(content: bytes, folder: Path) -> None:
        number, chance = struct.unpack_from("<Bd", content)
        (folder / "record.json").write_bytes(content[9:])
        with refused():
            record = Record.load(folder)
            with redirect_stdout(io.StringIO()):
                _print(record)
            if chance < pages:
                shutil.copy(folders[number] / "arrays.npz", folder / "arrays.npz")
                page = write_page(folder).read_text()
                if SCRIPT in page:
                    raise AssertionError("a word of the record appears unescaped in its page")

    return Family("records", make, read)


def _print(record: Record) -> None:
    """Print a record as the commands do."""
    if record.diagnosis is not None:
        print_diagnosis(record.diagnosis)
    print_reproduction("A title", record)  # prints a theory run or a table, if the record holds one
    if record.kind in ("run", "study") and record.runs:
        print_record(record)


# ----------------------------------------------------------------------------------------------- files


def image_family() -> Family:
    """Image files of every kind: damaged, truncated, misnamed, or with a wrong size in the header."""

    def make(rng: random.Random) -> bytes:
        ending = rng.choice(IMAGE_ENDINGS)
        content = damaged_image(ending, rng)
        name = ending if rng.random() < 0.9 else rng.choice(IMAGE_ENDINGS)
        return name.ljust(4).encode() + content

    def read(content: bytes, folder: Path) -> None:
        _read_images(content[:4].decode().strip(), content[4:], folder)

    return Family("images", make, read)


def damaged_image(ending: str, rng: random.Random) -> bytes:
    """An image file, usually with something wrong in it."""
    pixels = np.frombuffer(rng.randbytes(24 * 20 * 3), np.uint8).reshape(24, 20, 3)
    image = Image.fromarray(pixels)
    allowed = {
        "jpg": ("RGB", "L", "CMYK"),
        "ppm": ("RGB",),
        "pgm": ("L",),
        "gif": ("P", "L"),
        "webp": ("RGB",),
    }
    mode = rng.choice(allowed.get(ending, IMAGE_MODES))
    if ending == "bmp" and mode in ("LA", "I;16", "CMYK"):
        mode = "RGB"
    if ending == "png" and mode == "CMYK":
        mode = "RGBA"
    options: dict[str, Any] = {}
    if ending in ("jpg", "png", "webp", "tif") and rng.random() < 0.3:
        exif = Image.Exif()
        exif[0x0112] = rng.choice((0, 1, 3, 6, 8, 9, 65535))
        options["exif"] = exif
    if ending == "jpg" and rng.random() < 0.3:
        options["progressive"] = True
    file = io.BytesIO()
    image = image.convert("L").convert(mode) if mode == "I;16" else image.convert(mode)
    image.save(file, Image.registered_extensions()[f".{ending}"], **options)
    content = file.getvalue()
    if rng.random() < 0.25:
        content = oversized(content, ending, rng)
        return changed(content, rng) if rng.random() < 0.3 else content
    return changed(content, rng)


def oversized(content: bytes, ending: str, rng: random.Random) -> bytes:
    """The file with a header that claims a far larger width or height."""
    sides = [rng.choice((0, 1, 9000, 13000, 16383, 65535, 2**24, 2**31 - 1)) for _ in range(2)]
    small = [min(side, 65535) for side in sides]
    data = bytearray(content)
    if ending == "png":
        data[16:24] = struct.pack(">II", *sides)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    elif ending == "bmp":
        data[18:26] = struct.pack("<ii", *sides)
    elif ending == "gif":
        data[6:10] = struct.pack("<HH", *small)
    elif ending in ("ppm", "pgm"):
        magic, _, *rest = content.split(b"\n", 3)
        data = bytearray(b"\n".join([magic, f"{sides[0]} {sides[1]}".encode(), *rest]))
    elif ending == "jpg" and (start := max(content.find(b"\xff\xc0"), content.find(b"\xff\xc2"))) > 0:
        data[start + 5 : start + 9] = struct.pack(">HH", *small)
    elif ending == "tif":
        for tag in (256, 257):
            for kind, code in ((3, "<HHIHxx"), (4, "<HHII")):
                place = content.find(struct.pack("<HHI", tag, kind, 1))
                if place >= 0:
                    struct.pack_into(
                        code, data, place, tag, kind, 1, (small if kind == 3 else sides)[tag - 256]
                    )
    elif ending == "webp" and (start := content.find(b"\x9d\x01\x2a")) > 0:
        data[start + 3 : start + 7] = struct.pack("<HH", *(side & 0x3FFF for side in sides))
    return bytes(data)


def _read_images(ending: str, content: bytes, folder: Path) -> None:
    for split in ("train", "test"):
        (folder / split).mkdir(exist_ok=True)
        for old in (folder / split).iterdir():
            old.unlink()
        (folder / split / f"x.{ending}").write_bytes(content)
    with refused():
        source(f"folder:{folder}").load("train", image_size=8)
    with refused():
        images = source(f"folder:{folder},canvas=16").load("train", image_size=8)
        images.read(np.array([0]))
    with refused():
        images.tensor()


def number_family() -> Family:
    """Files of embeddings, weights and image arrays: damaged, or with a wrong shape in the header."""
    rng = np.random.default_rng(0)
    features = rng.standard_normal((12, 5)).astype(np.float32)
    labels = np.arange(12) % 3
    valid = list(_number_files(features, labels))

    def make(rng: random.Random) -> bytes:
        name, content = rng.choice(valid)
        if name.endswith(".npy") and rng.random() < 0.3:
            content = _claims(content, rng)
        elif name.endswith(".npz") and rng.random() < 0.3:
            content = _claims_inside(content, rng)
        elif name.endswith(".safetensors") and rng.random() < 0.4:
            length = struct.unpack("<Q", content[:8])[0]
            header = json.dumps(restructured(json.loads(content[8 : 8 + length]), rng)).encode()
            content = struct.pack("<Q", len(header)) + header + content[8 + length :]
        return name.ljust(24).encode() + changed(content, rng)

    return Family("numbers", make, read_numbers)


def _number_files(features: np.ndarray, labels: np.ndarray) -> Iterator[tuple[str, bytes]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    for name, array in (
        ("x.npy", features),
        ("x.npy", np.asfortranarray(features.astype(np.float64))),
        ("x.labels.npy", labels),
        ("x.labels.npy", labels.astype("U4")),
    ):
        file = io.BytesIO()
        np.save(file, array)
        yield name, file.getvalue()
    for save in (np.savez, np.savez_compressed):
        file = io.BytesIO()
        save(file, features=features, labels=labels)
        yield "x.npz", file.getvalue()
        file = io.BytesIO()
        save(file, images=np.zeros((6, 4, 4, 3), np.uint8), labels=labels[:6])
        yield "images.npz", file.getvalue()
    yield "x.safetensors", save_tensors({"features": features, "labels": labels})
    yield "w.safetensors", save_tensors({"fc.weight": features})
    yield "x.labels.txt", "\n".join(["cat", "dog", "", "é"] * 3).encode()
    for compression in ("snappy", "none"):
        file = io.BytesIO()
        table = pa.table({"features": list(features), "label": [f"c{label}" for label in labels]})
        pq.write_table(table, file, compression=compression)
        yield "x.parquet", file.getvalue()
    for legacy in (False, True):
        file = io.BytesIO()
        torch.save(
            {"state_dict": {"fc": torch.ones(3, 2)}, "epoch": 3},
            file,
            _use_new_zipfile_serialization=not legacy,
        )
        yield "w.pth", file.getvalue()
    yield "w.pth", pickle.dumps({"a": Path("x")})
    idx = struct.pack(">IIII", 0x803, 4, 28, 28) + bytes(4 * 784)
    yield "idx/train-images-idx3-ubyte", idx
    yield (
        "cifar/data_batch_1",
        pickle.dumps({"data": np.zeros((4, 3072), np.uint8), "labels": [0, 1, 2, 3]}, 2),
    )
    file = io.BytesIO()
    np.savez(file, loss=np.arange(4.0), examples=np.zeros((2, 3, 4, 4, 1), np.uint8))
    yield "arrays.npz", file.getvalue()


def _claims(content: bytes, rng: random.Random) -> bytes:
    """An array file whose header claims another array; the header keeps its length, so that no byte moves."""
    head, body = content[:128], content[128:]
    old = head[10:].decode("latin1").rstrip()
    shape = rng.choice(
        ("(12,)", "(2**9, 5)", "(10000000000, 5)", "(-1, 5)", "(0, 0)", f"({10**30}, 2)", "()")
    )
    kind = rng.choice(("'<f4'", "'|O'", "'<f8'", "'<U9'", "'V0'", "'<c8'", "[('a', '<f4')]", "'<m8'"))
    text = f"{{'descr': {kind}, 'fortran_order': False, 'shape': {shape}, }}"
    if rng.random() < 0.5:
        text = old[: old.find("'shape'")] + f"'shape': {shape}, }}"
    return head[:10] + text.ljust(117)[:117].encode("latin1") + b"\n" + body


def _claims_inside(content: bytes, rng: random.Random) -> bytes:
    """An archive in which an array claims another shape or type, or has a wrong name."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            inside = old.read(name)
            inside = _claims(inside, rng) if rng.random() < 0.6 else inside
            new.writestr(rng.choice((name, name, name, "../../x.npy", "/x.npy", "x")), inside)
    return file.getvalue()


def read_numbers(content: bytes, folder: Path) -> None:
    """Read the file with everything that accepts a file of that name."""
    name = content[:24].decode().strip()
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    for old in folder.glob("*.npy"):
        old.unlink()
    if name.startswith("x.labels."):
        np.save(folder / "x.npy", np.ones((12, 5), np.float32))
    path.write_bytes(content[24:])
    if name.startswith("x.") and "labels" not in name:
        with refused():
            _sum(open_embeddings(path))
        with refused():
            _sum(open_embeddings(path, skip_bad=True, labels="labels"))
    elif name.startswith("x."):
        with refused():
            _sum(open_embeddings(folder / "x.npy", labels=path))
    elif name.startswith("w."):
        with refused():
            read_weights(path)
    elif name == "images.npz":
        with refused():
            source(f"npz:{path}").load("train").checksum()
    elif name.startswith("idx/"):
        with refused():
            source(f"mnist:{path.parent}").load("train")
    elif name.startswith("cifar/"):
        with refused():
            source(f"cifar10:{path.parent}").load("train")
    else:
        shutil.copy(folder.parent / "run" / "record.json", folder)
        with refused():
            write_page(folder)


def _sum(file: Any) -> None:
    file.sample(4, seed=0)
    for chunk in file.chunks(5):
        chunk.sum()


# ----------------------------------------------------------------------------------------------- running


@contextmanager
def refused() -> Iterator[None]:
    """Allow a refusal that the command line can print: a FullrankError of one printable line."""
    try:
        yield
        TALLY["read"] += 1
    except FullrankError as error:
        TALLY["refused"] += 1
        message = str(error)
        if not message.isprintable() or len(message) > LONGEST:
            raise AssertionError(f"a message of {len(message)} characters: {message[:200]!r}") from error


@contextmanager
def limits() -> Iterator[None]:
    """Limit the memory and set the alarm clock; restore both afterwards."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + GIBIBYTES * 2**30, hard))
    before = {number: signal.signal(number, _too_slow) for number in (signal.SIGPROF, signal.SIGALRM)}
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        for number, handler in before.items():
            signal.signal(number, handler)


def _too_slow(signum: int, frame: FrameType | None) -> None:
    raise Slow(f"more than {SECONDS} seconds of work, or more than {PATIENCE} seconds of waiting")


def failure(family: Family, content: bytes, folder: Path) -> str | None:
    """Why a case fails, or None if it passes."""
    folder.mkdir(exist_ok=True)
    WATCH.folder, WATCH.seen = str(folder), []
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            family.read(content, folder)
    except (Exception, Slow):  # noqa: BLE001  # any exception is a finding
        return traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        WATCH.folder = None
    return "\n".join(WATCH.seen) or None


def fuzz(family: Family, cases: int, seed: int, folder: Path, keep: Path) -> int:
    """Run the cases and return how many failed; each of those is saved in `keep` with its traceback."""
    failed = 0
    causes: Counter[str] = Counter()
    for number in range(cases):
        content = family.make(random.Random(f"{family.name}-{seed}-{number}"))
        why = failure(family, content, folder)
        if why is None:
            continue
        failed += 1
        cause = why.strip().splitlines()[-1][:150]
        causes[cause] += 1
        if causes[cause] <= 3:
            keep.mkdir(parents=True, exist_ok=True)
            (keep / f"{family.name}-{number}.bin").write_bytes(content)
            (keep / f"{family.name}-{number}.txt").write_text(why, errors="backslashreplace")
    for cause, times in causes.most_common(20):
        print(f"  {times} x {cause!a}", file=sys.stderr)
    return failed


def valid_records(folder: Path) -> list[Path]:
    """Folders with a record of each kind, as the commands write them."""
    from fullrank import compare, diagnose, train
    from fullrank.theory.run import run_theorem

    quick = {"encoder": "tiny-resnet,width=4", "limit": 64, "batch_size": 32, "epochs": 1}
    run = train("digits", out=folder / "run", head="mlp:8", **quick)
    study = compare("digits", heads=["none", "linear:8"], seeds=1, out=folder / "study", **quick)
    save_arrays(study.path, {"loss": np.ones(2)})
    np.save(folder / "x.npy", np.random.default_rng(0).standard_normal((40, 6)).astype(np.float32))
    diagnosis = diagnose(str(folder / "x.npy"), out=folder / "diagnosis")
    save_arrays(diagnosis.path, {"loss": np.ones(2)})
    theory = run_theorem("feature-weighting", strengths=(1, 2), keep=(1, 0.5), out=folder / "theory")
    entry = TableEntry(
        name="t",
        scale="mini",
        title="A table",
        source="P1",
        question="Which?",
        paper="CIFAR",
        here="digits",
        alike=True,
        columns=["a", "b"],
        units=["points", "number"],
        differences=[0],
        spectrum=["h"],
        x=None,
        log_x=False,
        remarks=["one"],
        rows=[TableRow(title="none", seeds=[0], runs=["run"], paper=[1.0, None], values=[[1.0], [2.0]])],
    )
    table = folder / "table"
    table.mkdir()
    Record.load(study.path).model_copy(update={"table": entry}).save(table)
    save_arrays(table, {"loss": np.ones(2)})
    return [run.path, study.path, diagnosis.path, theory.path, table]


def families(folder: Path, texts: int, files: int, pages: float) -> list[tuple[Family, int]]:
    """Every family with its number of cases."""
    return [
        (spec_family(), texts // 2),
        (recipe_family(), texts // 4),
        (record_family(valid_records(folder), pages), texts // 4),
        (image_family(), files // 2),
        (number_family(), files // 2),
    ]


def main() -> int:
    """Run all families and print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", type=int, default=100_000, help="specs, recipes and records")
    parser.add_argument("--files", type=int, default=10_000, help="images and files of numbers")
    parser.add_argument("--pages", type=float, default=0.1, help="share of records whose page is written")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default=None, help="one family")
    parser.add_argument("--keep", type=Path, default=Path("fuzz-failures"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    sys.dont_write_bytecode = True
    sys.addaudithook(WATCH)
    total = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary).resolve()
        made = families(folder, arguments.texts, arguments.files, arguments.pages)
        print("| inputs | cases | refused | failed | seconds |\n|---|---:|---:|---:|---:|")
        with limits():
            for family, cases in made:
                if arguments.only in (None, family.name):
                    start = time.perf_counter()
                    failed = fuzz(
                        family, cases, arguments.seed, folder / f"case-{family.name}", arguments.keep
                    )
                    total += failed
                    seconds = time.perf_counter() - start
                    share = TALLY["refused"] / max(1, TALLY.total())
                    TALLY.clear()
                    print(
                        f"| {family.name} | {cases:,} | {share:.0%} | {failed} | {seconds:.0f} |", flush=True
                    )
    return 1 if total else 0


if __name__ == "__main__":
    sys.exit(main())
