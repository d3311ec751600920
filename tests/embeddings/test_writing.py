"""Features written in batches: whole or not at all, and after an interruption the same bytes."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from refusals import refuses
from safetensors import safe_open

from fullrank.embeddings import writing
from fullrank.embeddings.files import open_embeddings
from fullrank.embeddings.writing import Rows, part_files, write_rows
from fullrank.errors import DataError, InterruptedRunError, TerminatedRunError, UsageError

COUNT, WIDTH, STEP = 7, 3, 2
FEATURES = np.arange(COUNT * WIDTH, dtype=np.float32).reshape(COUNT, WIDTH) / 8
ENDINGS = [".npy", ".safetensors", ".parquet"]


def rows(**changes) -> Rows:
    settings = {
        "ids": tuple(f"{letter}/1.png" for letter in "fedcbag"),
        "labels": np.array([1, 0, -1, 1, 1, 0, 0]),
        "classes": ("cat", "dog"),
        "splits": np.array(["train"] * 4 + ["test"] * 3),
        "notes": {"place": "h", "data": "folder:pets"},
    }
    return Rows(**settings | changes)


def batches(start, features=FEATURES, until=None):
    """The features from a row on, and an interruption after the batch `until`."""
    for number, first in enumerate(range(start, len(features), STEP)):
        if number == until:
            raise KeyboardInterrupt
        yield features[first : first + STEP]


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("ending", ENDINGS)
def test_every_row_is_read_back_with_its_own_id_and_label(tmp_path, ending, dtype):
    written = write_rows(tmp_path / f"x{ending}", rows(), batches, step=STEP, dtype=dtype)
    assert (written.rows, written.width, written.dtype, written.place) == (COUNT, WIDTH, dtype, "h")
    assert {path.name for path in written.files} == set(contents(tmp_path))
    file = open_embeddings(written.files[0])
    assert file.dtype == dtype and file.labels.tolist() == [1, 0, -1, 1, 1, 0, 0]
    np.testing.assert_array_equal(next(file.chunks()), FEATURES)
    assert file.ids.tolist() == list(rows().ids)


def test_columns_and_notes_of_parquet(tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "GROUP", 2 * WIDTH)
    write_rows(tmp_path / "x.parquet", rows(), batches, step=STEP)
    table = pq.read_table(tmp_path / "x.parquet")
    assert table.column_names == ["id", "embedding", "label", "class", "split"]
    assert table.column("embedding").to_pylist() == FEATURES.tolist()
    assert table.column("class").to_pylist() == ["dog", "cat", None, "dog", "dog", "cat", "cat"]
    assert table.column("split").to_pylist() == ["train"] * 4 + ["test"] * 3
    assert table.schema.metadata[b"data"] == b"folder:pets"
    assert pq.ParquetFile(tmp_path / "x.parquet").num_row_groups == 4


def test_many_ids_stand_beside_safetensors(tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "LONGEST_IDS", 40)
    written = write_rows(tmp_path / "x.safetensors", rows(), batches, step=STEP)
    assert (tmp_path / "x.ids.txt").read_text().splitlines() == list(rows().ids)
    with safe_open(tmp_path / "x.safetensors", framework="np") as file:
        assert file.metadata() == rows().notes
    assert [path.name for path in written.files] == ["x.safetensors", "x.ids.txt"]


@pytest.mark.parametrize("ending", ENDINGS)
def test_an_interruption_at_any_batch_changes_no_byte(tmp_path, ending):
    (tmp_path / "whole").mkdir()
    write_rows(tmp_path / "whole" / f"x{ending}", rows(), batches, step=STEP, dtype="float16")
    for until in range(4):
        out = tmp_path / str(until) / f"x{ending}"
        out.parent.mkdir()
        with refuses(InterruptedRunError, STEP * until, COUNT):
            write_rows(out, rows(), lambda row, n=until: batches(row, until=n), step=STEP, dtype="float16")
        assert set(contents(out.parent)) == {path.name for path in part_files(out)[: 2 * (until > 0)]}
        begun = []
        resumed = (begun.append, batches)
        write_rows(
            out,
            rows(),
            lambda row, calls=resumed: [call(row) for call in calls][1],
            step=STEP,
            dtype="float16",
            resume=True,
        )
        assert begun == [STEP * until]
        assert contents(out.parent) == contents(tmp_path / "whole")


def interrupted(out, until=2, **changes):
    with pytest.raises(InterruptedRunError):
        write_rows(out, rows(**changes), lambda row: batches(row, until=until), step=STEP)


def test_half_a_row_that_a_kill_left_is_written_again(tmp_path):
    out = tmp_path / "x.npy"
    interrupted(out, 3)
    part = part_files(out)[0]
    part.write_bytes(part.read_bytes()[:-5])
    begun = []
    write_rows(out, rows(), lambda row: begun.append(row) or batches(row), step=STEP, resume=True)
    assert begun == [2 * STEP]  # a whole number of batches, so that every batch is the same as without it
    np.testing.assert_array_equal(np.load(out), FEATURES)


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_part_with_all_rows_is_completed_without_a_forward(tmp_path, ending, monkeypatch):
    out = tmp_path / f"x{ending}"
    with monkeypatch.context() as patch:
        patch.setattr(writing.Part, "finish", lambda part: (_ for _ in ()).throw(OSError("no room")))
        with pytest.raises(OSError, match="no room"):
            write_rows(out, rows(), batches, step=STEP)
    assert not out.exists()
    write_rows(out, rows(), lambda row: pytest.fail("nothing is left to compute"), step=STEP, resume=True)
    np.testing.assert_array_equal(next(open_embeddings(out).chunks()), FEATURES)


def test_an_error_between_keeps_the_part_and_says_where_it_is(tmp_path, capsys):
    def broken(start):
        yield FEATURES[:STEP]
        raise DataError("7.png cannot be decoded.")

    with refuses(DataError, "7.png"):
        write_rows(tmp_path / "x.npy", rows(), broken, step=STEP)
    said = capsys.readouterr().err
    assert "x.npy.part" in said and "2 rows" in said and "--resume" in said


def test_sigterm_stays_sigterm(tmp_path):
    def stopped(start):
        raise TerminatedRunError("any")
        yield

    with pytest.raises(TerminatedRunError):
        write_rows(tmp_path / "x.npy", rows(), stopped, step=STEP)
    assert not contents(tmp_path)


@pytest.mark.parametrize(
    ("changes", "dtype", "names"),
    [
        ({"notes": {"place": "stem", "data": "folder:pets"}}, "float32", ["place", "h", "stem"]),
        ({"notes": {"place": "h"}}, "float32", ["data", "folder:pets"]),
        ({}, "float16", ["dtype", "float32", "float16"]),
        ({"ids": tuple("abcdefg")}, "float32", ["ids_crc32"]),
        ({"labels": np.zeros(7, np.int64)}, "float32", ["labels_crc32"]),
        ({"ids": tuple("abcdef"), "labels": np.zeros(6, np.int64)}, "float32", ["rows", 7, 6]),
    ],
)
def test_other_settings_are_not_mixed_into_a_part(tmp_path, changes, dtype, names):
    out = tmp_path / "x.npy"
    interrupted(out)
    before = contents(tmp_path)
    with refuses(UsageError, "x.npy.part", *names):
        write_rows(out, rows(**changes), batches, step=STEP, dtype=dtype, resume=True)
    assert contents(tmp_path) == before


def test_a_part_is_not_overwritten(tmp_path):
    out = tmp_path / "x.npy"
    interrupted(out)
    with refuses(UsageError, "x.npy.part", "x.npy.part.json", "--resume"):
        write_rows(out, rows(), batches, step=STEP)
    settings = part_files(out)[1]
    settings.write_text("{")
    with refuses(DataError, settings):
        write_rows(out, rows(), batches, step=STEP, resume=True)
    settings.unlink()
    with refuses(UsageError, part_files(out)[0]):
        write_rows(out, rows(), batches, step=STEP, resume=True)


def test_without_a_part_resume_begins(tmp_path):
    write_rows(tmp_path / "x.npy", rows(), batches, step=STEP, resume=True)
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), FEATURES)


def test_a_number_beyond_float16_is_refused_and_leaves_nothing(tmp_path):
    features = FEATURES.copy()
    features[4, 1] = 70000
    with refuses(DataError, "h", "b/1.png", 70000, 65504, "float32"):
        write_rows(tmp_path / "x.npy", rows(), lambda row: batches(row, features), step=STEP, dtype="float16")
    assert not contents(tmp_path)
    features[4, 1] = np.inf
    write_rows(tmp_path / "x.npy", rows(), lambda row: batches(row, features), step=STEP, dtype="float16")
    assert np.isinf(np.load(tmp_path / "x.npy")).sum() == 1


@pytest.mark.parametrize("ending", ENDINGS)
def test_names_that_are_no_text_of_one_line(tmp_path, ending):
    names = ("caf\udce9.png", "two\nlines.png", "\u2028.png", "日本.png", "a,b.png", '"q".png', " .png")
    strange = rows(ids=names, classes=("caf\udce9", "dog"), notes={"data": "folder:caf\udce9"})
    write_rows(tmp_path / f"x{ending}", strange, batches, step=STEP)
    expected = [r"caf\xe9.png", r"two\nlines.png", r"\u2028.png", "日本.png", "a,b.png", '"q".png', " .png"]
    assert open_embeddings(tmp_path / f"x{ending}").ids.tolist() == expected
    if ending == ".safetensors":
        with safe_open(tmp_path / "x.safetensors", framework="np") as file:
            assert json.loads(file.metadata()["ids"]) == expected
