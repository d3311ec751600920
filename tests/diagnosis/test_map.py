"""Coordinates, clusters and drawn rows of a map, and the arrays that a diagnosis leaves of it."""

import sys

import numpy as np
import pytest
from refusals import refuses

from fullrank import diagnose
from fullrank.cli.commands import app
from fullrank.diagnosis.map import (
    check_method,
    check_rows,
    cluster_count,
    clusters_of,
    coordinates,
    drawn_rows,
    leading_components,
    most_rows,
)
from fullrank.diagnosis.map_rows import MOST_SHOWN, MapRows, causes_of, draw_map, thumbnails
from fullrank.embeddings.texts import texts_at
from fullrank.errors import UsageError
from fullrank.files import load_arrays
from fullrank.record import Finding, Record


def features(rows=200, width=12, seed=0):
    """Rows whose components have clearly different variances, far from zero."""
    generator = np.random.default_rng(seed)
    rotation, _ = np.linalg.qr(generator.normal(size=(width, width)))
    scales = 2.0 ** -np.arange(width)
    return (generator.normal(size=(rows, width)) * scales @ rotation + 100).astype(np.float32)


def groups(rows=60):
    """Three far groups of 30, 20 and 10 of 60 rows, in mixed order, and the group of each row."""
    generator = np.random.default_rng(1)
    group = generator.permutation(np.repeat([0, 1, 2], [rows // 2, rows // 3, rows // 6]))
    return (10 * np.eye(3)[group] + 0.1 * generator.normal(size=(rows, 3))).astype(np.float32), group


def finding(cause, rows):
    texts = {"place": "embedding", "level": "note", "measure": "share", "evidence": "", "remedy": ""}
    return Finding(cause=cause, value=0.5, threshold=0.0, rows=rows, row_count=len(rows), **texts)


@pytest.mark.parametrize("shape", [(200, 12), (40, 1500)])
def test_leading_components_are_those_of_the_singular_value_decomposition(shape):
    x = np.random.default_rng(0).normal(size=shape) * 1.5 ** -np.arange(shape[1], dtype=np.float64)
    x = (x + 3).astype(np.float32)
    centred = x - x.mean(0, dtype=np.float64)
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    found = leading_components(x, most=4)
    expected = left[:, :4] * values[:4]
    signs = np.sign((expected * found.scores).sum(0))
    np.testing.assert_allclose(found.scores * signs, expected, atol=2e-4 * values[0])
    np.testing.assert_allclose(found.shares, values[:4] ** 2 / (values**2).sum(), rtol=1e-3)


def test_the_order_of_rows_changes_no_coordinate_and_no_cluster():
    x, order = features(), np.random.default_rng(3).permutation(200)
    first, second = (leading_components(rows, most=6).scores for rows in (x, x[order]))
    np.testing.assert_allclose(second, first[order], atol=1e-4)
    near, _ = groups()
    order = np.random.default_rng(4).permutation(len(near))
    assert (clusters_of(near[order], 3) == clusters_of(near, 3)[order]).all()


@pytest.mark.parametrize("scale", [1e-35, 1.0, 1e36])
def test_coordinates_grow_with_the_features(scale):
    plain, scaled = (leading_components(x) for x in (features(), features() * np.float32(scale)))
    assert np.isfinite(scaled.scores).all()
    np.testing.assert_allclose(scaled.scores[:, 0] / scale, plain.scores[:, 0], atol=1e-3)
    np.testing.assert_allclose(scaled.shares[:3], plain.shares[:3], rtol=1e-3)


@pytest.mark.parametrize(
    "x", [np.full((5, 3), 0.1), np.arange(5.0)[:, None], np.eye(2), np.full((2, 1), 1e38)]
)
def test_few_rows_few_channels_or_no_variance_have_coordinates(x):
    drawn = draw_map(MapRows("h", x.astype(np.float32), np.arange(len(x)), len(x)))
    xy = drawn.arrays["map/xy"]
    assert xy.shape == (len(x), 2) and np.isfinite(xy).all()
    varies = np.ptp(x, axis=0).any()
    assert sum(drawn.entry.variance) == pytest.approx(1.0 if varies else 0.0) and xy.any() == varies
    assert drawn.entry.clusters == (len(x) if varies else 1)


def test_clusters_find_far_groups_and_are_numbered_by_size():
    x, group = groups()
    assert (clusters_of(x, 3) == group).all()
    # Fewer clusters where fewer rows differ.
    assert set(clusters_of(np.repeat([[0.0], [1.0]], [3, 2], axis=0), 10)) == {0, 1}


def test_clusters_are_as_many_as_classes_where_these_are_few():
    assert cluster_count(np.array([0, 1, 2, 2, -1])) == 3
    assert cluster_count(np.arange(500)) == cluster_count(None) == cluster_count(np.array([4, 4])) == 10


def test_tsne_is_the_same_for_one_seed_and_keeps_groups_together():
    x, group = groups(36)
    scores = leading_components(x).scores
    first, second = (coordinates("tsne", scores, seed=1) for _ in range(2))
    assert (first == second).all() and first.shape == (36, 2)
    apart = np.linalg.norm(first[:, None] - first[None], axis=-1) + 1e9 * np.eye(36)
    assert (group[apart.argmin(1)] == group).mean() > 0.9
    assert not coordinates("tsne", np.zeros((12, 3), np.float32)).any()


def test_drawn_rows_are_all_or_as_many_as_may_be_with_those_that_are_named():
    assert drawn_rows(5, np.array([3]), 5, 0).tolist() == [0, 1, 2, 3, 4]
    some = drawn_rows(1000, np.array([3, 999]), 50, seed=2)
    assert len(some) == len(set(some)) == 50 and {3, 999} <= {*some} and (np.diff(some) > 0).all()
    assert (some == drawn_rows(1000, np.array([3, 999]), 50, seed=2)).all()
    assert len(drawn_rows(1000, np.arange(400), 50, seed=0)) == 50
    assert len(set(drawn_rows(60, np.arange(20), 50, seed=0))) == 50
    assert most_rows("tsne", 64) < most_rows("pca", 2**12) < most_rows("pca", 64) == 50_000


def test_causes_of_rows_and_of_rows_that_several_findings_name():
    found, names = causes_of([finding("zero-rows", [7]), finding("leakage", [7, 9])], np.array([5, 7, 9]))
    assert [names[i] if i >= 0 else None for i in found] == [None, "zero-rows, leakage", "leakage"]
    found, names = causes_of([finding("dead-channels", [])], np.arange(3))
    assert not names and (found == -1).all()


def test_unknown_maps_few_rows_and_a_missing_library_are_refused(monkeypatch, tmp_path):
    assert check_method("none") is None and check_method("pca") == "pca"
    with refuses(UsageError, "pcs", "pca", "tsne", "umap", "none"):
        diagnose(tmp_path / "x.npy", map="pcs")
    with refuses(UsageError, "tsne", 10, 4, "pca"):
        check_rows("tsne", 4)
    check_rows("pca", 2)
    monkeypatch.setattr(sys, "meta_path", [])  # nothing can be found
    monkeypatch.setattr(sys, "path_importer_cache", {})
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.delitem(sys.modules, "umap", raising=False)
    with refuses(UsageError, "umap", "fullrank[map]"):
        check_method("umap")


def saved_texts(folder):
    """A file with a zero row, two equal rows, one that is not finite, and a text for each row."""
    x = features(40, 6)
    x[5], x[7], x[30] = np.nan, 0, x[20]
    texts = [f"text {row} {'é<b>' * (row % 3)}" for row in range(39)] + ["z" * 400]
    np.savez(folder / "x.npz", features=x, text=texts, labels=np.array(["one", "two"] * 20), id=texts)
    return folder / "x.npz", x, texts


def test_a_file_leaves_its_map_with_rows_labels_findings_and_texts(tmp_path):
    path, x, texts = saved_texts(tmp_path)
    diagnosis = diagnose(path, out=tmp_path / "d", seed=3, skip_bad=True)
    arrays, entry = load_arrays(diagnosis.path), diagnosis.entry.map
    finite = np.delete(np.arange(40), 5)
    assert (entry.method, entry.place, entry.rows, entry.total, entry.seed) == ("pca", "embedding", 39, 39, 3)
    np.testing.assert_allclose(arrays["map/xy"], leading_components(x[finite]).scores[:, :2], atol=1e-4)
    assert arrays["map/rows"].tolist() == finite.tolist()
    assert arrays["map/classes"][arrays["map/labels"]].tolist() == [("one", "two")[row % 2] for row in finite]
    causes = dict(zip(finite, arrays["map/findings"], strict=True))
    assert arrays["map/causes"][causes[7]] == "zero-rows"
    assert entry.named_drawn == (arrays["map/findings"] >= 0).sum() >= 1
    assert (entry.shown, entry.shown_as) == (39, "texts")
    assert arrays["map/texts"][:38].tolist() == [texts[row] for row in finite[:38]]
    assert 200 < len(arrays["map/texts"][38]) <= 300
    assert Record.load(diagnosis.path) == diagnosis.record


def test_without_a_map_nothing_of_it_is_left(tmp_path, capsys):
    path, _, _ = saved_texts(tmp_path)
    out = tmp_path / "d"
    options = ["--map", "none", "--no-report", "--skip-bad", "--out", str(out)]
    app(["diagnose", str(path), *options], standalone_mode=False)
    assert Record.load(out).diagnosis.map is None and {p.name for p in out.iterdir()} <= {
        "record.json",
        "rows.csv",
    }


def test_rows_that_findings_name_are_drawn_before_others_and_get_what_is_shown():
    x = np.random.default_rng(0).normal(size=(6000, 2)).astype(np.float32)
    pictures = np.arange(6000, dtype=np.uint16)
    rows = MapRows("h", x, np.arange(6000) + 100, 9000, show=lambda some: pictures[some].astype(str))
    drawn = draw_map(rows, [finding("leakage", [5, 6099, 3000])], "pca")
    shown, texts = drawn.arrays["map/shown"], drawn.arrays["map/texts"]
    assert len(shown) == MOST_SHOWN and {2900, 5999} <= {*shown}
    assert texts.tolist() == [str(row) for row in shown]
    assert (drawn.entry.named, drawn.entry.named_drawn, drawn.entry.total) == (3, 2, 9000)


def test_some_rows_keep_their_labels_ids_and_what_is_shown():
    x, words = features(6), np.array(list("abcdef"))
    labels = np.array([-1, 7, 3, 3, 7, -1])
    rows = MapRows("h", x, np.arange(6) + 10, 6, labels, ids=words, show=lambda some: words[some])
    some = rows.subset(np.array([0, 3, 4]))
    assert (some.features == x[[0, 3, 4]]).all() and some.numbers.tolist() == [10, 13, 14]
    assert (some.labels.tolist(), some.ids.tolist()) == ([-1, 3, 7], ["a", "d", "e"])
    assert some.show(np.array([0, 2])).tolist() == ["a", "e"]
    arrays = draw_map(some).arrays
    assert (arrays["map/labels"].tolist(), arrays["map/classes"].tolist()) == ([-1, 0, 1], ["3", "7"])


def test_thumbnails_are_the_images_or_smaller(digits_pictures):
    assert (thumbnails(digits_pictures) == digits_pictures.images).all()
    large = digits_pictures.resized(120)
    small = thumbnails(large)
    assert small.shape[1:] == (48, 48, 1)
    means = [pixels.reshape(len(small), -1).mean(1) for pixels in (large.images, small)]
    np.testing.assert_allclose(*means, atol=2)


@pytest.fixture(scope="module")
def digits_pictures():
    from fullrank.data import source

    return source("digits").load("test").limited(5, 0)


def test_texts_of_parquet_of_lines_and_of_a_folder(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    words = np.array([f"w{i}" for i in range(6)])
    for part in (0, 1):
        table = pa.table({"Sentence": words[3 * part : 3 * part + 3], "emb": [[1.0, 2.0]] * 3})
        pq.write_table(table, tmp_path / f"{part}.parquet")
    assert texts_at(tmp_path, np.array([1, 3, 5]), 6) == ["w1", "w3", "w5"]
    assert texts_at(tmp_path / "0.parquet", np.array([2]), 3) == ["w2"]
    (tmp_path / "a.texts.txt").write_text("one\ntwo\n")
    assert texts_at(tmp_path / "a.npy", np.array([1]), 2) == ["two"]
    assert texts_at(tmp_path / "a.npy", np.array([1]), 3) is None
    assert texts_at(tmp_path / "b.npy", np.array([1]), 3) is None
