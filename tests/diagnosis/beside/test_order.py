"""Whether rows that were matched by their order belong together."""

import numpy as np
import pytest
import torch

from fullrank.diagnosis.beside.order import belonging, labels_say, related, runs_of
from fullrank.diagnosis.beside.rows import match_rows
from tests.diagnosis.beside.test_rows import a_file


def clusters(count, seed, width=12, classes=4):
    """Rows of four classes, in random order, with their labels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    centres = np.random.default_rng(99).normal(size=(classes, width)) * 3
    return (centres[labels] + rng.normal(size=(count, width))).astype(np.float32), labels


def how(first, second, labels=(None, None)):
    now = a_file(first, "now.npy", labels=labels[0])
    before = a_file(second, "before.npy", labels=labels[1])
    return related(match_rows(now, before), now, before).how


def noisy(x, rng):
    return x + 2 * rng.normal(size=x.shape).astype(np.float32)


def turned(x, rng):
    return (x @ np.linalg.qr(rng.normal(size=(x.shape[1], x.shape[1])))[0]).astype(np.float32)


def with_a_loud_channel(x, rng):
    return np.hstack([x, 100 * rng.normal(size=(len(x), 1)).astype(np.float32)])


def rectified(x, rng):
    return np.maximum(x @ rng.normal(size=(x.shape[1], 30)).astype(np.float32), 0)


@pytest.mark.parametrize("change", [noisy, turned, with_a_loud_channel, rectified])
@pytest.mark.parametrize("is_sorted", [False, True])
def test_rows_of_a_changed_set_belong_together(change, is_sorted):
    x, labels = clusters(400, 0)
    x = x[np.argsort(labels, kind="stable")] if is_sorted else x
    assert how(x, change(x, np.random.default_rng(1))) == "order"


@pytest.mark.parametrize("is_sorted", [False, True])
def test_two_halves_of_a_set_do_not_belong_together_in_19_of_20_draws(is_sorted):
    # Halves that are sorted by class have a large CKA, because row i of both is of one class.
    results = []
    for seed in range(20):
        x, labels = clusters(400, seed)
        x = x[np.argsort(labels, kind="stable")] if is_sorted else x
        results.append(how(x[::2].copy(), x[1::2].copy()))
    assert results.count("none") >= 19


def test_a_shuffled_file_does_not_belong_to_the_original():
    x, _ = clusters(300, 3)
    assert how(x, x[np.random.default_rng(0).permutation(300)]) == "none"


def test_smooth_sequences_belong_together():
    steps = np.cumsum(np.random.default_rng(0).normal(size=(400, 8)), 0).astype(np.float32)
    assert how(steps, 3 * steps[:, ::-1].copy()) == "order"


def test_too_few_rows_or_rows_that_do_not_vary_are_taken_as_they_are():
    x, _ = clusters(40, 0)
    assert how(x, x[::-1].copy()) == "order"
    wide, _ = clusters(200, 0)
    assert how(np.ones_like(wide), wide) == "order"


def test_labels_alone_decide_where_they_agree_and_are_not_sorted():
    labels = np.random.default_rng(0).integers(0, 4, 200)
    noise = [np.random.default_rng(seed).normal(size=(200, 6)).astype(np.float32) for seed in (1, 2)]
    assert how(*noise) == "none"
    assert how(*noise, (labels, labels)) == "order"
    x, _ = clusters(200, 0)
    assert how(x, x, (labels, np.random.default_rng(5).permutation(labels))) == "none"


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        (np.arange(60) % 3, np.arange(60) % 3, True),
        (np.arange(60) // 20, np.arange(60) // 20, None),  # sorted: halves of a sorted set agree too
        (np.arange(60) % 3, np.arange(60) // 20, False),
        (np.zeros(60, int), np.zeros(60, int), None),  # one class
        (np.full(60, -1), np.arange(60) % 3, None),
    ],
)
def test_labels_say_whether_rows_are_the_same(first, second, said):
    assert labels_say(first, second) is said


def test_partners_are_found_at_their_own_place_only():
    x = torch.randn(8, 16, 5, generator=torch.Generator().manual_seed(0))
    assert belonging(x, x).share == 1.0
    later = belonging(x, x.roll(1, 1))
    assert later.share < 0.1 and not later.shown
    assert belonging(x, x).rows == 4 * 10


def test_runs_are_consecutive_rows_within_the_set():
    assert runs_of(15).shape == (0, 16)
    for count in (64, 1000, 10**6):
        runs = runs_of(count)
        assert (np.diff(runs, axis=1) == 1).all() and runs.min() == 0 and runs.max() == count - 1
        assert (np.diff(runs[:, 0]) >= 16).all()
