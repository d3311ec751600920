import json
import os
import resource
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import numpy as np
import pytest
from refusals import refuses

from fullrank.errors import DataError, disk_is_full
from fullrank.files import load_arrays, parts_in, save_arrays, write_whole
from fullrank.record import Record


def test_a_record_reads_back_as_it_was_written(quick_run, tmp_path):
    quick_run.record.save(tmp_path)
    assert Record.load(tmp_path) == quick_run.record


def test_the_keys_that_others_rely_on(quick_run):
    content = json.loads((quick_run.path / "record.json").read_text())
    assert content["kind"] == "run" and content["schema"] == 2
    entry = content["runs"][0]
    assert {"head", "seed", "seconds", "views_per_second", "probes", "scores", "spectrum"} <= entry.keys()
    assert set(entry["probes"]) == {"h", "head.1", "z"}
    assert 0 <= entry["probes"]["h"]["linear"] <= 1 and 0 <= entry["probes"]["z"]["nearest"] <= 1
    values = entry["spectrum"]["h"]["singular_values"]
    assert len(values) == 32 and values == sorted(values, reverse=True)
    assert content["recipe"]["head"] == "mlp:16"


@pytest.mark.parametrize("content", [b"{", b"{}", b'{"kind": "run", "schema": 2, "surprise": 2}'])
def test_a_damaged_record_is_one_sentence(tmp_path, content):
    (tmp_path / "record.json").write_bytes(content)
    with refuses(DataError, tmp_path / "record.json", "schema 2"):
        Record.load(tmp_path)


def test_a_missing_record_or_array_file_raises(tmp_path):
    with refuses(DataError, tmp_path, "record.json"):
        Record.load(tmp_path)
    with refuses(DataError, tmp_path, "arrays.npz"):
        load_arrays(tmp_path)


def test_arrays_read_back_and_nothing_is_left_beside_them(tmp_path):
    save_arrays(tmp_path, {"a": np.arange(3)})
    assert load_arrays(tmp_path)["a"].tolist() == [0, 1, 2]
    write_whole(tmp_path / "x", b"1")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["arrays.npz", "x"]


@contextmanager
def files_no_longer_than(size):
    """The system refuses longer files meanwhile, as it does on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_write_without_room_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    write_whole(tmp_path / "x", b"old")
    with files_no_longer_than(1000), pytest.raises(OSError) as error:
        write_whole(tmp_path / "x", b"new" * 1000)
    assert error.value.filename == str(tmp_path / "x") and disk_is_full(error.value)
    assert [p.name for p in tmp_path.iterdir()] == ["x"] and (tmp_path / "x").read_bytes() == b"old"


def test_a_write_into_no_folder_names_the_file(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        write_whole(tmp_path / "nowhere" / "x", b"1")
    assert error.value.filename == str(tmp_path / "nowhere" / "x") and not disk_is_full(error.value)


def whole(content):
    assert len(content) == 3_000_000 and content.count(content[:1]) == len(content)


def test_a_reader_and_a_kill_find_a_whole_file_at_any_moment(tmp_path):
    """A process that only writes, read while it does and then killed: each time one content, whole."""
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from fullrank.files import write_whole\n"
        "print(flush=True)\n"
        "while True:\n"
        "    for letter in b'abc':\n"
        "        write_whole(Path(sys.argv[1]), bytes([letter]) * 3_000_000)\n"
    )
    for number in range(4):
        path = tmp_path / str(number) / "x"
        path.parent.mkdir()
        writer = subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE)
        writer.stdout.readline()
        while not path.is_file():
            time.sleep(0.001)
        for _ in range(50):
            whole(path.read_bytes())
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait()
        whole(path.read_bytes())
        assert {p.name for p in path.parent.iterdir()} - {"x"} == {p.name for p in parts_in(path.parent)}
