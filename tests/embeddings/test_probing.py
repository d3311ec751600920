"""Which rows of a file a probe learns from and is scored on."""

import numpy as np
import pytest

from fullrank.embeddings.files import open_embeddings
from fullrank.embeddings.probing import affordable_rows, probe_rows


def file_of(folder, labels, **arrays):
    rows = np.random.default_rng(0).standard_normal((len(labels), 3)).astype(np.float32)
    np.savez(folder / "x.npz", x=rows, labels=labels, **arrays)
    return open_embeddings(folder / "x.npz")


@pytest.mark.parametrize("labels", [np.arange(40), np.r_[np.arange(30), 100, 100, 101, 101, 102, 102]])
def test_labels_that_occur_once_are_names_and_not_probed(tmp_path, labels):
    rows = probe_rows(file_of(tmp_path, labels), 50, 50)
    assert not rows and len(rows.notes) == 1
    assert str((np.unique(labels, return_counts=True)[1] == 1).sum()) in rows.notes[0]


@pytest.mark.parametrize("labels", [np.full(40, 7), np.r_[np.full(39, -1), 5], np.full(40, -1)])
def test_too_few_labels_give_no_probe(tmp_path, labels):
    assert not probe_rows(file_of(tmp_path, labels), 50, 50)


def test_many_classes_are_probed_by_a_few_with_all_their_rows(tmp_path):
    labels = np.arange(600) % 200
    rows = probe_rows(file_of(tmp_path, labels), 500, 500, classes=20, seed=1)
    both = np.r_[rows.train, rows.test]
    assert len(np.unique(labels[both])) == 20 and sorted(labels[both]) == sorted(
        [*np.unique(labels[both])] * 3
    )
    assert any("20 of 200" in note for note in rows.notes)
    assert np.array_equal(labels[rows.train], rows.labels[0])
    other = probe_rows(file_of(tmp_path, labels), 500, 500, classes=20, seed=2)
    assert set(labels[both]) != set(labels[np.r_[other.train, other.test]])
    assert len(probe_rows(file_of(tmp_path, labels), 500, 500, classes=None).train) == 300


def test_few_classes_are_rows_of_two_halves_of_the_file(tmp_path):
    file = file_of(tmp_path, np.arange(300) % 4)
    rows = probe_rows(file, 50, 50, seed=3)
    assert len(rows.train) == len(rows.test) == 50
    assert len({*rows.train, *rows.test}) == 100
    assert any("100 of 300" in note for note in rows.notes)
    assert probe_rows(file, 150, 150).notes == ()


def test_the_split_of_the_file_is_kept(tmp_path):
    file = file_of(tmp_path, np.arange(90) // 3 % 2, split=np.array(["train", "test", "extra"] * 30))
    rows = probe_rows(file, 100, 100)
    assert set(rows.train) == set(range(0, 90, 3)) and set(rows.test) == set(range(1, 90, 3))


def test_more_rows_to_learn_from_are_of_the_same_half(tmp_path):
    file = file_of(tmp_path, np.r_[np.arange(300) % 4, np.full(60, -1)])
    few, many = probe_rows(file, 40, 30, seed=1), probe_rows(file, 150, 30, seed=1)
    assert set(few.train) < set(many.train) and (few.test == many.test).all()
    assert (len(many.train), len(many.test)) == (150, 30) and max(many.train) < 300
    assert any("180 of 300" in note for note in many.notes)


def test_rows_times_channels_times_classes_are_bounded():
    for width, classes in [(256, 10), (64, 100), (512, 20)]:
        rows = affordable_rows(width, classes)
        assert rows * width * classes <= 2**26 < (rows + 1) * width * classes
    assert affordable_rows(4096, 1000) == 2048 and affordable_rows(4, 2) == affordable_rows(4, 3) == 32768
