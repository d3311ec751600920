"""The quick form of benchmarks/fuzz.py, and every input that it found to be read wrongly."""

import importlib.util
import io
import json
import os
import random
import re
import struct
import sys
import zipfile
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from refusals import refuses

from fullrank.data import class_list, source
from fullrank.data.decoding import centre
from fullrank.embeddings.files import open_embeddings
from fullrank.encoders.weights import read_weights
from fullrank.errors import DataError, FullrankError, UsageError, one_line
from fullrank.files import load_arrays
from fullrank.heads import head
from fullrank.record import Record
from fullrank.reports.page import write_page
from fullrank.runs.folders import slug
from fullrank.runs.recipe import Recipe

FILE = Path(__file__).parents[2] / "benchmarks" / "fuzz.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("fuzz", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules["fuzz"] = module  # its dataclasses look their module up
    spec.loader.exec_module(module)
    sys.addaudithook(module.WATCH)  # a hook stays; without a folder it looks at nothing
    yield module
    module.WATCH.folder = None
    del sys.modules["fuzz"]


@pytest.fixture(scope="module")
def cases(script, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz").resolve()
    return folder, script.families(folder, texts=480, files=180, pages=0.05)


@pytest.mark.parametrize("number", range(5))
def test_hundreds_of_cases_are_read_or_refused_in_one_line(script, cases, number, monkeypatch):
    folder, families = cases
    family, count = families[number]
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    script.TALLY.clear()
    with script.limits():
        assert script.fuzz(family, count, 11, folder / f"case-{family.name}", folder / "failures") == 0
    assert script.TALLY["refused"] > count // 10 and script.TALLY["read"] > count // 20


@pytest.mark.parametrize(
    ("read", "why"),
    [
        (lambda folder: 1 / 0, "ZeroDivisionError"),
        (lambda folder: (folder.parent / "outside.txt").write_text("x"), "outside.txt"),
        (lambda folder: (folder.parent / "link").symlink_to("x"), "link"),
        (lambda folder: os.system("true"), "os.system"),
        (lambda folder: bytearray(2**40), "MemoryError"),
    ],
)
def test_what_must_not_happen_is_seen(script, tmp_path, read, why):
    family = script.Family("wrong", lambda rng: b"", lambda content, folder: read(folder))
    with script.limits():
        assert why in script.failure(family, b"", (tmp_path / "case").resolve())
        fine = script.Family("fine", lambda rng: b"", lambda content, folder: (folder / "x").write_text("x"))
        assert script.failure(fine, b"", (tmp_path / "case").resolve()) is None


def test_a_message_that_no_terminal_should_print_is_seen(script):
    class RawError(FullrankError):
        def __str__(self):
            return "two\nlines"

    with refuses(AssertionError, 9), script.refused():
        raise RawError("x")


def test_the_same_seed_makes_the_same_cases(script):
    family = script.image_family()
    assert family.make(random.Random("a")) == family.make(random.Random("a"))
    kinds = Counter(family.make(random.Random(f"{n}"))[:4] for n in range(60))
    assert len(kinds) >= 6


# ------------------------------------------------------------------------------- what it found, case by case


def test_messages_are_one_printable_line_of_bounded_length():
    said = str(UsageError("a\n\x1b[31mb\udcff" + "x" * 9000 + "end"))
    assert (
        said.isprintable()
        and len(said) < 1600
        and said.startswith(r"a\n\x1b[31mb\udcff")
        and said.endswith("end")
    )
    assert one_line("é 𝒳 fine") == "é 𝒳 fine"


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("a: &a [x]\ndata: *a\n", "alias"),
        ("[" * 3000, "nests"),
        (f"seed: {'9' * 5000}", "YAML"),
        ("seed: 2001-99-99", "YAML"),
        ("seed: !!int ''", "YAML"),
        ("seed: !!python/object/apply:os.system ['true']", "YAML"),
    ],
)
def test_yaml_that_is_no_recipe_is_a_sentence(tmp_path, text, word):
    (tmp_path / "x.yaml").write_text(text)
    with refuses(UsageError, tmp_path / "x.yaml", word):
        Recipe.resolve(tmp_path / "x.yaml")


def test_text_that_can_be_no_path_is_no_file():
    for text in ("a" * 300, "a\0b"):
        with refuses(UsageError, "classes", "file"):
            class_list(text)
        with refuses(UsageError, "Unknown recipe"):
            Recipe.resolve(text)
    with refuses(UsageError, "~nobody-has-this-name/x", "home"):
        source("folder:~nobody-has-this-name/x")


@pytest.mark.parametrize("folder", ["/etc", "../x", "a/../../x", "../runs/../x", "a\0b"])
def test_a_record_names_no_folder_outside_its_own(quick_run, tmp_path, folder):
    content = json.loads((quick_run.path / "record.json").read_text())
    content["runs"][0]["folder"] = folder
    (tmp_path / "record.json").write_text(json.dumps(content))
    with refuses(DataError, "runs.0.folder", "../runs", 250):
        Record.load(tmp_path)


@pytest.mark.parametrize("folder", [".", "none-seed0", "../runs/digits-none-seed0"])
def test_the_folders_that_studies_write_are_named(quick_run, tmp_path, folder):
    content = json.loads((quick_run.path / "record.json").read_text())
    content["runs"][0]["folder"] = folder
    (tmp_path / "record.json").write_text(json.dumps(content))
    assert Record.load(tmp_path).runs[0].folder == folder


@pytest.fixture
def theory(tmp_path):
    from fullrank.theory.run import run_theorem

    return run_theorem("feature-weighting", strengths=(1, 2), keep=(1, 0.5), out=tmp_path / "theory").path


@pytest.mark.parametrize("change", [lambda r: r["simulated"].pop(), lambda r: r.update(predicted=None)])
def test_a_theory_record_without_its_numbers_is_no_record(theory, change):
    content = json.loads((theory / "record.json").read_text())
    change(content)
    (theory / "record.json").write_text(json.dumps(content))
    with refuses(DataError, theory / "record.json", "predicted", "simulated"):
        write_page(theory)


def test_a_table_record_of_another_shape_is_no_record(script, cases):
    folder, _ = cases
    content = json.loads((folder / "table" / "record.json").read_text())
    content["table"]["units"].append("points")
    other = folder / "other-table"
    other.mkdir(exist_ok=True)
    (other / "record.json").write_text(json.dumps(content))
    with refuses(DataError, other / "record.json", "table", "column"):
        Record.load(other)


@pytest.mark.parametrize("word", ["[/b]", "[bold red]x", "[link=x]y"])
def test_words_of_a_record_are_no_markup_of_the_terminal(script, cases, word, capsys):
    folder, _ = cases
    content = json.loads((folder / "diagnosis" / "record.json").read_text())
    content["diagnosis"]["verdict"] = content["diagnosis"]["places"][0] = word
    content["diagnosis"]["spectrum"] = {}
    other = folder / "other-diagnosis"
    other.mkdir(exist_ok=True)
    (other / "record.json").write_text(json.dumps(content))
    script._print(Record.load(other))
    assert capsys.readouterr().out.count(word) == 2


@pytest.mark.parametrize(
    ("text", "name"), [("..", "-"), ("../x", "x"), (".ssh", "ssh"), ("a/../b", "a-..-b")]
)
def test_a_spec_as_a_folder_name_stays_below(text, name):
    assert slug(text) == name and (Path("runs") / slug(text)).resolve().parent == Path("runs").resolve()


def test_damaged_arrays_are_a_sentence_and_a_page_without_them(quick_run, tmp_path):
    (tmp_path / "record.json").write_bytes((quick_run.path / "record.json").read_bytes())
    header = (
        b"\x93NUMPY\x01\x00v\x00"
        + f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({10**30},), }}".encode()
    )
    for content in (b"no archive", zipped("loss.npy", header.ljust(127) + b"\n")):
        (tmp_path / "arrays.npz").write_bytes(content)
        with refuses(DataError, "arrays.npz"):
            load_arrays(tmp_path)
        assert "this run (arrays.npz" in " ".join(write_page(tmp_path).read_text().split())


def zipped(name: str, content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(name, content)
    return file.getvalue()


def test_an_array_of_images_of_a_size_beyond_counting_is_refused(tmp_path):
    header = (
        f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({10**30}, 4, 4), }}".encode().ljust(117) + b"\n"
    )
    (tmp_path / "x.npz").write_bytes(zipped("images.npy", b"\x93NUMPY\x01\x00v\x00" + header))
    with refuses(DataError, tmp_path / "x.npz", "images"):
        source(f"npz:{tmp_path / 'x.npz'}").load("train")


def test_an_archive_whose_entry_lies_before_its_beginning_is_damaged(tmp_path):
    file = io.BytesIO()
    np.savez(file, features=np.ones((4, 2), np.float32))
    content = bytearray(file.getvalue())
    end = content.rfind(b"PK\x05\x06")
    content[end + 16 : end + 20] = struct.pack("<I", 2**30)  # the directory says it lies a GiB further on
    (tmp_path / "x.npz").write_bytes(content)
    with refuses(DataError, tmp_path / "x.npz"):
        open_embeddings(tmp_path / "x.npz")


@pytest.mark.parametrize(
    "content", [b"\x80\x02X\xff\xff\xff\x7fab", b"\x80\x02X\x01", b"\x80\x02X\xff\xff\xff\xffab"]
)
def test_old_files_of_torch_with_wrong_lengths_are_damaged(tmp_path, content):
    (tmp_path / "x.pth").write_bytes(content)
    with refuses(DataError, tmp_path / "x.pth", "weights"):
        read_weights(tmp_path / "x.pth")


def test_a_width_beyond_all_memory_is_refused():
    for spec, word, value in (
        ("linear:" + "9" * 30, "out_dim", "9" * 30),
        ("mlp:8,hidden=" + "9" * 30, "hidden", "9" * 30),
        ("mlp:8,layers=101", "layers", 101),
    ):
        with refuses(UsageError, word, 1, value):
            head(spec, in_dim=8)


def test_an_old_file_of_torch_that_lists_other_storages_is_damaged(tmp_path):
    torch.save({"a": torch.ones(2)}, tmp_path / "x.pth", _use_new_zipfile_serialization=False)
    content = (tmp_path / "x.pth").read_bytes()
    key = max(re.findall(rb"\d{6,}", content), key=content.count)
    first, _, last = content.rpartition(key)
    (tmp_path / "x.pth").write_bytes(first + bytes(reversed(key)) + last)
    with refuses(DataError, tmp_path / "x.pth", "weights"):
        read_weights(tmp_path / "x.pth")


def test_a_home_with_a_null_byte_is_no_home():
    with refuses(UsageError, "path"):
        class_list("~a\0b")


def test_labels_beyond_the_last_letter_are_no_text(tmp_path):
    np.save(tmp_path / "x.npy", np.ones((2, 2), np.float32))
    np.save(tmp_path / "x.labels.npy", np.array([0x110000, 65], np.uint32).view("U1"))
    with refuses(DataError, "labels of x.npy", "text"):
        open_embeddings(tmp_path / "x.npy")


def test_a_parquet_column_whose_name_is_no_text_is_damaged(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"features": [[1.0, 2.0]] * 3}), tmp_path / "x.parquet", store_schema=False)
    content = (tmp_path / "x.parquet").read_bytes()
    assert b"features" in content
    (tmp_path / "x.parquet").write_bytes(content.replace(b"features", b"\x99eatures"))
    with refuses(DataError, tmp_path / "x.parquet"):
        open_embeddings(tmp_path / "x.parquet")


@pytest.mark.parametrize("shape", [(1, 60000), (60000, 1)])
def test_a_line_of_pixels_does_not_become_a_plane(shape):
    line = Image.fromarray(np.linspace(0, 255, 60000).astype(np.uint8).reshape(shape))
    found = centre(line, 64, channels=1)
    assert found.shape == (64, 64, 1) and np.abs(found.astype(int) - 127).max() <= 1


def test_the_centre_of_what_is_long_is_that_of_the_whole():
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (9, 60 * 9, 3), np.uint8))
    long = Image.fromarray(np.concatenate([np.asarray(image)] * 2, 1)[:, : 66 * 9])
    for kept in (image, long):  # 60 and 66 times as long as high
        whole = kept.resize((int(37 * kept.width / 9), 37), Image.Resampling.BILINEAR)
        left = round((whole.width - 32) / 2)
        expected = np.asarray(whole.crop((left, 2, left + 32, 34)))
        assert np.abs(centre(kept, 32, channels=3).astype(int) - expected).max() <= 1


def test_a_file_too_small_for_its_pixels_is_not_decoded(tmp_path, image_file):
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        (tmp_path / split / "x.png").write_bytes(image_file(13000, 13000))
    for options, size in (("", 8), (",canvas=8", 8)):
        with refuses(DataError, "13000 x 13000", "x.png"):
            source(f"folder:{tmp_path}{options}").load("train", image_size=size).tensor()


@pytest.fixture
def image_file():
    def write(width: int, height: int) -> bytes:
        """A PNG that says it is of that size, and holds 4 x 4 pixels."""
        file = io.BytesIO()
        Image.new("RGB", (4, 4)).save(file, "PNG")
        content = bytearray(file.getvalue())
        content[16:24] = struct.pack(">II", width, height)
        content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
        return bytes(content)

    return write
