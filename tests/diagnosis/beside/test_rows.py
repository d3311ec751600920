"""Which rows of two files belong together: ids, order, rows left out, labels."""

from dataclasses import replace

import numpy as np
import pytest

from fullrank.diagnosis.beside.rows import match_rows, row_by_row, same_numbers, share_labels
from fullrank.embeddings.files import EmbeddingFile, open_embeddings
from fullrank.embeddings.matrices import ArrayMatrix
from fullrank.errors import DataError, UsageError
from tests.support.refusals import assert_names, refuses

RNG = np.random.default_rng(0)
FEATURES = RNG.normal(size=(12, 3)).astype(np.float32)
IDS = np.array([f"{row}.png" for row in range(12)])


def a_file(features, name="a.npy", ids=None, labels=None, classes=(), dropped=()):
    return EmbeddingFile(
        name,
        ArrayMatrix(features, name),
        np.array(dropped, np.int64),
        all_labels=labels,
        classes=classes,
        all_ids=ids,
    )


def rows_of(file):
    return np.concatenate([chunk.numpy() for chunk in file.chunks()])


def test_rows_with_ids_are_matched_in_any_order_without_those_that_one_file_lacks():
    order = np.array([7, 2, 9, 4, 0, 11])
    now = a_file(FEATURES[order], "now.npy", np.r_[IDS[order[:5]], ["new.png"]])
    before = a_file(FEATURES, "before.npy", IDS)
    matched = match_rows(now, before)
    assert (matched.how, matched.only_now, matched.only_before) == ("id", 1, 7)
    assert_names(" ".join(matched.notes), 5, "new.png", "now.npy", "before.npy", "1.png", 7)
    pair = row_by_row(matched, now, before)
    assert np.array_equal(rows_of(pair.now), FEATURES[order[:5]])
    assert np.array_equal(rows_of(pair.before), FEATURES[order[:5]])
    some = np.array([3, 1, 4])
    assert np.array_equal(pair.before.take(some).numpy(), FEATURES[order[some]])


def test_rows_of_one_id_are_matched_in_their_order_and_empty_ids_never():
    now = a_file(FEATURES[:6], "now.npy", np.array(["x", "", "y", "x", "x", "z"]))
    before = a_file(FEATURES[:7], "before.npy", np.array(["z", "x", "", "x", "y", "", "w"]))
    matched = match_rows(now, before)
    assert list(zip(matched.now.tolist(), matched.before.tolist(), strict=True)) == [
        (0, 1),
        (2, 4),
        (3, 3),
        (5, 0),
    ]
    assert (matched.only_now, matched.only_before) == (2, 3)


def test_files_without_a_common_id_are_refused_with_ids_of_both():
    with refuses(UsageError, "now.npy", "before.npy", "0.png", "else", "--baseline"):
        match_rows(a_file(FEATURES, "now.npy", IDS), a_file(FEATURES, "before.npy", np.full(12, "else")))


def test_unlike_numbers_of_rows_without_ids_are_refused_with_both_counts():
    with refuses(UsageError, "now.npy", 12, 11, "ids", "--baseline"):
        match_rows(a_file(FEATURES, "now.npy", IDS), a_file(FEATURES[:11], "before.npy"))


@pytest.mark.parametrize("ids", [(IDS, None), (None, IDS), (None, None)])
def test_without_ids_in_both_files_rows_are_matched_by_their_order(ids):
    matched = match_rows(a_file(FEATURES, "now.npy", ids[0]), a_file(FEATURES, "before.npy", ids[1]))
    assert matched.how == "order" and np.array_equal(matched.now, matched.before)
    assert_names(
        matched.notes[0],
        *(name for name, own in zip(("now.npy", "before.npy"), ids, strict=True) if own is None),
    )


def test_rows_that_are_dropped_in_either_file_are_left_out_of_both_and_counted():
    now, before = a_file(FEATURES, "now.npy", dropped=[1]), a_file(-FEATURES, "before.npy", dropped=[1, 5])
    pair = row_by_row(match_rows(now, before), now, before)
    assert np.array_equal(rows_of(pair.now), np.delete(FEATURES, [1, 5], 0))
    assert np.array_equal(rows_of(pair.before), -np.delete(FEATURES, [1, 5], 0))
    assert_names(pair.notes[0], 2)
    few = replace(now, dropped=np.arange(9))
    with refuses(DataError, "now.npy", "before.npy", 3, 12, 4):
        row_by_row(match_rows(few, before), few, before)


def test_labels_in_words_have_the_same_numbers_in_both_files():
    now = a_file(FEATURES, "now.npy", labels=np.r_[[-1, 0], np.ones(10, np.int64)], classes=("cat", "dog"))
    before = a_file(
        FEATURES, "before.npy", labels=np.r_[[2, 0], np.ones(10, np.int64)], classes=("ant", "dog", "cat")
    )
    now, before, notes = same_numbers(now, before)
    assert not notes
    assert now.classes == before.classes == ("cat", "dog", "ant")
    assert before.all_labels[:3].tolist() == [0, 2, 1]


def test_labels_that_contradict_each_other_in_more_than_a_few_rows_are_said():
    labels = np.arange(12) % 3
    other = labels.copy()
    other[0] = 1
    for changed, said in ((other, False), (labels[::-1].copy(), True)):
        now, before = (
            a_file(FEATURES, "now.npy", labels=labels),
            a_file(FEATURES, "before.npy", labels=changed),
        )
        pair = row_by_row(match_rows(now, before), now, before)
        assert bool(pair.notes) is said
        assert np.array_equal(pair.before.labels, labels)
    assert_names(pair.notes[0], "now.npy", "before.npy", int((labels != labels[::-1]).sum()), 12)


def test_labels_of_one_file_are_used_for_both():
    labels = np.arange(12) % 3
    now, before = (
        a_file(FEATURES, "now.npy", IDS),
        a_file(FEATURES[::-1].copy(), "before.npy", IDS[::-1], labels),
    )
    matched = match_rows(now, before)
    shared, _, notes = share_labels(matched, now, before)
    assert np.array_equal(shared.labels, labels[::-1])
    assert_names(notes[0], "before.npy")
    pair = row_by_row(matched, now, before)
    assert np.array_equal(pair.now.labels, labels[::-1]) and np.array_equal(pair.before.labels, labels[::-1])


def test_words_and_numbers_are_not_compared():
    now = a_file(FEATURES, "now.npy", labels=np.zeros(12, np.int64), classes=("cat",))
    _, before, notes = same_numbers(now, a_file(FEATURES, "before.npy", labels=np.zeros(12, np.int64)))
    assert before.all_labels is None
    assert_names(notes[0], "now.npy", "before.npy")


def test_a_parquet_file_in_another_order_is_written_once_to_a_temporary_file(tmp_path, monkeypatch):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    order = np.random.default_rng(1).permutation(12)
    files = []
    for name, rows in (("now", order), ("before", np.arange(12))):
        pq.write_table(
            pa.table({"embedding": list(FEATURES[rows]), "id": IDS[rows]}), tmp_path / f"{name}.parquet"
        )
        files.append(open_embeddings(tmp_path / f"{name}.parquet"))
    pair = row_by_row(match_rows(*files), *files)
    assert np.array_equal(rows_of(pair.now), FEATURES[order])
    assert np.array_equal(rows_of(pair.before), FEATURES[order])
    assert pair.before.matrix.by_row
    # It has no name, so nothing is left of it, however the process ends.
    assert sorted(path.name for path in tmp_path.iterdir()) == ["before.parquet", "now.parquet"]
