import json

import numpy as np
import pytest

from fullrank.errors import DataError
from fullrank.record import Record, load_arrays, save_arrays, write_whole


def test_a_record_reads_back_as_it_was_written(quick_run, tmp_path):
    quick_run.record.save(tmp_path)
    assert Record.load(tmp_path) == quick_run.record


def test_the_keys_that_others_rely_on(quick_run):
    content = json.loads((quick_run.path / "record.json").read_text())
    assert content["kind"] == "run" and content["schema"] == 1
    entry = content["runs"][0]
    assert {"head", "seed", "seconds", "views_per_second", "probes", "scores", "spectrum"} <= entry.keys()
    assert set(entry["probes"]) == {"h", "head.1", "z"}
    assert 0 <= entry["probes"]["h"]["linear"] <= 1 and 0 <= entry["probes"]["z"]["nearest"] <= 1
    values = entry["spectrum"]["h"]["singular_values"]
    assert len(values) == 32 and values == sorted(values, reverse=True)
    assert content["recipe"]["head"] == "mlp:16"


@pytest.mark.parametrize("content", [b"{", b"{}", b'{"kind": "run", "schema": 1, "surprise": 2}'])
def test_a_damaged_record_is_one_sentence(tmp_path, content):
    (tmp_path / "record.json").write_bytes(content)
    with pytest.raises(DataError, match="is no record of schema 1") as error:
        Record.load(tmp_path)
    assert "\n" not in str(error.value)


def test_a_missing_record_or_array_file_raises(tmp_path):
    with pytest.raises(DataError, match=r"holds no record\.json"):
        Record.load(tmp_path)
    with pytest.raises(DataError, match=r"holds no arrays\.npz"):
        load_arrays(tmp_path)


def test_arrays_read_back_and_nothing_is_left_beside_them(tmp_path):
    save_arrays(tmp_path, {"a": np.arange(3)})
    assert load_arrays(tmp_path)["a"].tolist() == [0, 1, 2]
    write_whole(tmp_path / "x", b"1")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["arrays.npz", "x"]
