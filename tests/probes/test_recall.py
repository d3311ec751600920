"""Retrieval against scikit-learn, a loop over rows, and what can be worked out by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from refusals import refuses
from sklearn.metrics import average_precision_score
from sklearn.metrics.pairwise import cosine_similarity

from fullrank.errors import DataError, UsageError
from fullrank.probes import recall as recall_module, retrieval


def labelled(n, width, classes, seed):
    """Random rows leaning towards a direction of their class, each class with two rows or more."""
    generator = torch.Generator().manual_seed(seed)
    more = torch.randint(classes, (n - 2 * classes,), generator=generator)
    labels = torch.cat([torch.arange(classes).repeat(2), more])
    features = torch.randn(n, width, generator=generator, dtype=torch.float64)
    return features + torch.eye(width, dtype=torch.float64)[labels % width], labels


def tied(n, classes, seed):
    """Rows of -1, 0 and 1 whose length is 1 or 2: similarities are quarters, exact, and many are equal."""
    _, labels = labelled(n, 4, classes, seed)
    generator = torch.Generator().manual_seed(seed)
    signs = 2 * torch.randint(2, (n, 4), generator=generator) - 1
    single = torch.eye(4, dtype=torch.int64)[torch.randint(4, (n,), generator=generator)]
    return torch.where(torch.arange(n)[:, None] % 2 == 0, signs, signs * single), labels


def loop(features, labels, gallery, gallery_labels, ks, leave_self):
    """Ranks by Python's sort, others before equals of the query's own label; similarities are quarters."""
    similarities = cosine_similarity(features.numpy(), gallery.numpy())
    hits, precisions = {k: [] for k in ks}, []
    for q, row in enumerate(similarities):
        others = [i for i in range(len(gallery)) if not (leave_self and i == q)]
        others.sort(key=lambda i: (-round(4 * row[i]), gallery_labels[i] == labels[q]))
        right = [bool(gallery_labels[i] == labels[q]) for i in others]
        if not any(right):
            continue
        for k in ks:
            hits[k].append(any(right[:k]))
        at = [np.mean(right[: r + 1]) for r, good in enumerate(right) if good]
        precisions.append(np.mean(at))
    return {k: np.mean(found) for k, found in hits.items()}, np.mean(precisions), len(precisions)


@settings(max_examples=10, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    classes=st.integers(2, 6),
    tile=st.sampled_from([1, 100, 10**6]),
    own_gallery=st.booleans(),
)
def test_agrees_with_a_loop(seed, classes, tile, own_gallery):
    (features, labels), (gallery, gallery_labels) = tied(24, classes, seed), tied(17, classes, seed + 1)
    extra = {"gallery": gallery, "gallery_labels": gallery_labels} if own_gallery else {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recall_module, "_TILE", tile)
        found = retrieval(features, labels, ks=(1, 3, 50), **extra)
    against = (gallery, gallery_labels) if own_gallery else (features, labels)
    expected, precision, queries = loop(features, labels, *against, (1, 3, 50), not own_gallery)
    assert found.recall == pytest.approx(expected)
    assert found.mean_average_precision == pytest.approx(precision)
    assert (found.queries, found.left_out) == (queries, 24 - queries)


def test_average_precision_is_scikit_learns_where_nothing_ties():
    features, labels = labelled(40, 5, 4, seed=4)
    similarities = cosine_similarity(features.numpy())
    ranked = np.sort(similarities, 1)[:, :-1]
    assert np.diff(ranked, axis=1).min() > 2**-19  # no ties, also for float32
    expected = [
        average_precision_score(np.delete((labels == labels[q]).numpy(), q), np.delete(similarities[q], q))
        for q in range(40)
    ]
    assert retrieval(features, labels).mean_average_precision == pytest.approx(np.mean(expected))


def test_a_perfect_and_a_hopeless_order():
    directions = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
    perfect = retrieval(directions, torch.tensor([4, 4, 9, 9]), ks=(1,))
    assert perfect.recall == {1: 1.0} and perfect.mean_average_precision == 1.0
    # Each row's one fellow points the other way and comes last of three.
    opposed = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.9, 0.1], [-0.9, -0.1]])
    hopeless = retrieval(opposed, torch.tensor([0, 0, 1, 1]), ks=(1, 2, 3))
    assert hopeless.recall == {1: 0.0, 2: 0.0, 3: 1.0}
    assert hopeless.mean_average_precision == pytest.approx(1 / 3)


@pytest.mark.parametrize("jitter", [0.0, 1e-8])
def test_features_collapsed_to_a_point_find_nothing(jitter):
    generator = torch.Generator().manual_seed(0)
    features = 0.3 + jitter * torch.randn(40, 37, generator=generator)
    for order in (torch.arange(40) % 4, torch.arange(40) // 10):
        found = retrieval(features, order, ks=(10, 30, 31))
        assert found.recall == {10: 0.0, 30: 0.0, 31: 1.0}
        # Nine rows behind the thirty of other labels.
        assert found.mean_average_precision == pytest.approx(np.mean([i / (30 + i) for i in range(1, 10)]))


def test_rows_without_a_fellow_are_left_out_and_stay_in_the_gallery():
    features = torch.tensor([[1.0, 0.0], [0.8, 0.6], [1.0, 0.1], [9.0, 9.0]])
    found = retrieval(features, torch.tensor([0, 0, 1, -1]), ks=(1, 2))
    assert (found.queries, found.left_out) == (2, 1)
    assert found.recall == {1: 0.0, 2: 1.0}  # the row of label 1 is the nearest of both others


def test_a_query_finds_itself_in_a_gallery_that_holds_it():
    features, labels = labelled(20, 4, 3, seed=0)
    found = retrieval(features, labels, ks=(1,), gallery=features, gallery_labels=labels)
    assert found.recall == {1: 1.0} and found.left_out == 0


def test_unlabelled_rows_are_neither_queries_nor_found_and_may_be_broken():
    features, labels = labelled(30, 4, 3, seed=0)
    hidden = torch.arange(30) % 5 == 4
    wild = torch.where(hidden[:, None], torch.nan, features)
    assert retrieval(wild, torch.where(hidden, -1, labels)) == retrieval(features[~hidden], labels[~hidden])


def test_lengths_and_number_types_do_not_matter():
    features, labels = labelled(30, 4, 3, seed=0)
    scaled = features * torch.logspace(-9, 9, 30, dtype=torch.float64)[:, None]
    assert retrieval(scaled, labels) == retrieval(features, labels)
    assert retrieval(features.numpy(), labels.tolist()) == retrieval(features, labels)


@pytest.mark.parametrize("ks", [(), (0,), (5, -1)])
def test_k_must_be_one_or_more(ks):
    with refuses(UsageError, 1, list(ks), "1, 5, 10"):
        retrieval(torch.eye(2), [0, 0], ks=ks)


def test_errors_of_a_gallery():
    x, y = torch.eye(3), torch.tensor([0, 0, 1])
    with refuses(UsageError, "got gallery", "no gallery_labels"):
        retrieval(x, y, gallery=x)
    with refuses(UsageError, "got gallery_labels", "no gallery"):
        retrieval(x, y, gallery_labels=y)
    with refuses(UsageError, "width 3", "gallery width 2"):
        retrieval(x, y, gallery=x[:, :2], gallery_labels=y)
    with refuses(UsageError, "3 rows", "2 labels"):
        retrieval(x, y, gallery=x, gallery_labels=y[:2])


@pytest.mark.parametrize(
    ("labels", "gallery", "parts"),
    [
        ([0, 1, 2], {}, ["None of 3", "among 3"]),
        ([-1, -1, -1], {}, ["None of 0", "among 0"]),
        ([0, 1, 1], {"gallery": torch.eye(3), "gallery_labels": [5, 5, -1]}, ["None of 3", "among 2"]),
        (
            [0, 1, 1],
            {"gallery": torch.eye(3)[:0], "gallery_labels": torch.arange(0)},
            ["None of 3", "among 0"],
        ),
    ],
)
def test_nothing_to_find_is_an_error(labels, gallery, parts):
    with refuses(DataError, *parts):
        retrieval(torch.eye(3), labels, **gallery)


def test_words_are_found_as_their_numbers_are():
    features, labels = labelled(30, 6, 3, seed=0)
    words = [("ant", "bee", "cow")[label] for label in labels]
    assert retrieval(features, words) == retrieval(features, labels)
    gallery = {"gallery": features[9:], "gallery_labels": words[9:]}
    numbers = gallery | {"gallery_labels": labels[9:]}
    assert retrieval(features[:9], words[:9], **gallery) == retrieval(features[:9], labels[:9], **numbers)
