"""Diagnoses of files and models whose rows are zero, equal or leaked, against those of the clean rows."""

import csv

import numpy as np
import pytest
import torch
from refusals import assert_names
from torch import nn

from fullrank import diagnose, source
from fullrank.cli.commands import app
from fullrank.diagnosis import layers, of_model, rows as rows_module
from fullrank.record import Record


@pytest.fixture(autouse=True)
def short_probes(monkeypatch):
    monkeypatch.setattr(of_model, "LEARNT_FROM", 100)
    monkeypatch.setattr(layers, "DRAWS", 1)


@pytest.fixture
def rows():
    """Features of two classes that overlap, and their labels."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 240)
    return (labels[:, None] + rng.normal(size=(240, 2))).astype(np.float32), labels


def entry_of(path, arrays, **options):
    np.savez(path.with_suffix(".npz"), **arrays)
    return diagnose(path.with_suffix(".npz"), out=path, **options).entry


def table_of(folder):
    with (folder / "rows.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def split_arrays(x, y, train, test):
    return {"x_train": x[train], "y_train": y[train], "x_test": x[test], "y_test": y[test]}


def test_a_file_with_zero_rows_is_measured_as_without_them(tmp_path, rows):
    x, y = rows
    zero = np.arange(0, 360, 3)
    place = np.setdiff1d(np.arange(360), zero)
    mixed, labels = np.zeros((360, 2), np.float32), np.zeros(360, int)
    mixed[place], labels[place] = x, y
    clean = entry_of(tmp_path / "clean", {"x": x, "label": y})
    found = entry_of(tmp_path / "zeros", {"x": mixed, "label": labels, "id": np.arange(360).astype(str)})
    assert clean.findings == [] and not (tmp_path / "clean" / "rows.csv").exists()
    (finding,) = found.findings
    assert (finding.cause, finding.value, finding.rows) == ("zero-rows", 1 / 3, zero.tolist())
    assert finding.ids == [str(row) for row in zero] and finding.row_count == 120
    same = ("rows", "measures", "spectrum", "layers", "dimensions", "images", "collapsed", "not_seen")
    assert all(getattr(found, name) == getattr(clean, name) for name in same)


def test_leaked_rows_of_a_file_and_the_accuracy_without_them(tmp_path, rows):
    x, y = rows
    train, test = np.arange(120), np.r_[np.arange(120, 200), np.arange(34)]
    found = entry_of(tmp_path / "leak", split_arrays(x, y, train, test))
    clean = entry_of(tmp_path / "clean", split_arrays(x, y, train, test[:80]))
    (finding,), (again,) = found.findings, found.probed_again
    assert (finding.cause, finding.value, finding.level) == ("leakage", 34 / 114, "note")
    assert finding.rows == list(range(200, 234)) and finding.same_as == list(range(34))
    assert (again.linear, again.tested) == (clean.layers[0].linear, 80)
    assert again.before == found.layers[0].linear != again.linear
    assert_names(finding.evidence, "34 of 114", f"{100 * again.linear:.1f}", f"{100 * again.before:.1f}")
    assert [(row["row"], row["same_as"], row["id"]) for row in table_of(tmp_path / "leak")] == [
        (str(200 + number), str(number), "") for number in range(34)
    ]


def test_each_group_of_equal_rows_kept_once(tmp_path, rows):
    x, y = rows
    train, test = np.arange(120), np.arange(120, 240)
    found = entry_of(tmp_path / "a", split_arrays(x, y, np.repeat(train, 2), np.r_[test, test[:30]]))
    clean = entry_of(tmp_path / "b", split_arrays(x, y, train, test))
    (finding,), (again,) = found.findings, found.probed_again
    assert (finding.cause, finding.value, finding.row_count) == ("duplicate-rows", 300 / 390, 150)
    assert (again.linear, again.tested, again.before) == (clean.layers[0].linear, 120, found.layers[0].linear)
    # Of two halves that are drawn here, neither leaks: equal rows may lie in both.
    halves = entry_of(tmp_path / "c", {"x": np.r_[x, x], "label": np.r_[y, y]})
    assert [one.cause for one in halves.findings] == ["duplicate-rows"]
    assert [one.change for one in halves.probed_again] == [rows_module.WITHOUT_EQUAL]


def test_the_record_keeps_1000_rows_and_the_table_all(tmp_path, monkeypatch):
    from typer.testing import CliRunner

    x = np.random.default_rng(0).normal(size=(2500, 3)).astype(np.float32)
    x[:1200] = 0
    np.savez(tmp_path / "x.npz", x=x, id=np.r_[["twice", "twice", ""], np.arange(2497).astype(str)])
    monkeypatch.setenv("COLUMNS", "80")
    printed = CliRunner().invoke(app, ["diagnose", str(tmp_path / "x.npz"), "--out", str(tmp_path / "d")])
    assert_names(printed.output, "1,200", "rows.csv")
    (finding,) = Record.load(tmp_path / "d").diagnosis.findings
    assert finding.row_count == 1200 and finding.rows == list(range(1000))
    assert finding.ids[:4] == ["twice (row 0)", "twice (row 1)", "(row 2)", "0"]
    table = table_of(tmp_path / "d")
    assert [int(row["row"]) for row in table] == list(range(1200)) and table[1199]["id"] == "1196"
    assert {(row["cause"], row["place"], row["same_as"]) for row in table} == {("zero-rows", "embedding", "")}


def test_rows_that_are_zero_in_the_second_view_are_left_out_too(tmp_path, rows):
    x, other = rows[0], rows[0] + np.float32(0.1)
    x[0], other[1] = 0, 0
    for name, array in (("x", x), ("y", other), ("x2", x[2:]), ("y2", other[2:])):
        np.save(tmp_path / f"{name}.npy", array)
    found, clean = (
        diagnose(tmp_path / f"{a}.npy", positives=tmp_path / f"{b}.npy", out=tmp_path / a).entry
        for a, b in (("x", "y"), ("x2", "y2"))
    )
    assert found.measures == clean.measures and found.findings[0].rows == [0]
    assert len(found.not_seen) == len(clean.not_seen) + 1


class BlindToDark(nn.Module):
    """Projected pixels, and zero for images that are darker than most."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(64, 6)

    def forward(self, images):
        pixels = images.flatten(1)
        return self.linear(pixels) * (pixels.mean(1, keepdim=True) > 0.28)


@pytest.fixture
def digits():
    """Training and test images of two classes, and the numbers of the images among all of both."""
    sets = [source("digits").load(split).of_classes(["0", "1"]) for split in ("train", "test")]
    return [[(one.images[i, ..., 0], one.labels["label"][i]) for i in range(len(one))] for one in sets]


def test_leaked_images_of_a_model_and_the_accuracy_without_them(digits, tmp_path):
    torch.manual_seed(0)
    model, (train, test) = nn.Sequential(nn.Flatten(), nn.Linear(64, 2)), digits
    leaked = test[:40] + train[5:15]
    entry = diagnose(model, data=(train, leaked), out=tmp_path / "d").entry
    finding = next(one for one in entry.findings if one.cause == "leakage")
    assert (finding.place, finding.value) == ("images", 0.2) and finding.same_as == list(range(5, 15))
    assert finding.rows == list(range(len(train) + 40, len(train) + 50))
    assert finding.ids[0] == "test/40" and finding.same_as_ids[0] == "train/5"
    assert table_of(tmp_path / "d")[0]["same_as_id"] == "train/5"
    clean = diagnose(model, data=(train, test[:40]), out=tmp_path / "e").entry
    again = next(one for one in entry.probed_again if one.change == rows_module.WITHOUT_LEAKED)
    assert (again.place, again.linear, again.tested) == ("h", clean.layers[0].linear, 40)
    frame = diagnose(model, data=(train, leaked), out=tmp_path / "f").to_frame()
    assert "leakage" in frame["notes"][0]


def test_images_without_features_are_left_out_of_measures_but_not_of_accuracies(digits, tmp_path):
    torch.manual_seed(0)
    model, (train, test) = BlindToDark(), digits
    dark = [i for i, (image, _) in enumerate(test) if image.mean() / 255 <= 0.28]
    assert 0 < len(dark) < len(test) / 2
    entry = diagnose(model, data=(train, test), out=tmp_path / "d").entry
    finding = next(one for one in entry.findings if one.cause == "zero-rows")
    assert finding.place == "h" and finding.rows == [len(train) + i for i in dark]
    assert finding.ids == [f"test/{i}" for i in dark]
    bright = [image for i, image in enumerate(test) if i not in dark]
    clean = diagnose(model, data=(train, bright), out=tmp_path / "e").entry
    values = clean.spectrum["h"].singular_values
    np.testing.assert_allclose(entry.spectrum["h"].singular_values, values, rtol=1e-5)
    assert entry.images.test == len(test) and entry.rows == len(test)
