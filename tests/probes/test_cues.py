"""UrbanCars' gaps: a hand-made table, the authors' numbers for it, and what no cue can do."""

import itertools

import numpy as np
import pytest
from refusals import refuses

from fullrank.errors import DataError, UsageError
from fullrank.probes import cue_gaps, group_accuracy, partners

BOTH = "background and object"
# Hits of ten test rows in each group of label, background and object: shortcuts help class 1 more.
HITS = {
    (0, 0, 0): 10,
    (0, 0, 1): 8,
    (0, 1, 0): 6,
    (0, 1, 1): 1,
    (1, 1, 1): 9,
    (1, 1, 0): 7,
    (1, 0, 1): 3,
    (1, 0, 0): 0,
}


def rows(counts):
    """Label, background and object, one column each, of so many rows a group."""
    return np.array([group for group, count in counts.items() for _ in range(count)]).T


def predictions(hits, count=10):
    return np.array(
        [group[0] if row < right else 1 - group[0] for group, right in hits.items() for row in range(count)]
    )


def training(ratio_background, ratio_object, images=4000):
    """So many images a label, each cue its partner with its ratio, independently: as UrbanCars' training."""
    counts = {}
    for label, background, thing in itertools.product((0, 1), repeat=3):
        share = (ratio_background if background == label else 1 - ratio_background) * (
            ratio_object if thing == label else 1 - ratio_object
        )
        counts[label, background, thing] = round(images * share)
    return rows(counts)


def gaps_of(hits, train, test=None):
    test = rows(dict.fromkeys(hits, 10)) if test is None else test
    names = ("background", "object")
    return cue_gaps(
        predictions(hits),
        test[0],
        dict(zip(names, test[1:], strict=True)),
        train[0],
        dict(zip(names, train[1:], strict=True)),
    )


@pytest.mark.parametrize("ratios", [(0.95, 0.95), (0.9, 0.8)])
def test_the_authors_numbers(ratios):
    found = gaps_of(HITS, training(*ratios))
    # By hand from the table: mean accuracy over the two labels of each cell, by (background, object) common.
    cells = {(True, True): 0.95, (True, False): 0.75, (False, True): 0.45, (False, False): 0.05}
    inside = sum(
        accuracy * (ratios[0] if background else 1 - ratios[0]) * (ratios[1] if thing else 1 - ratios[1])
        for (background, thing), accuracy in cells.items()
    )
    assert found.in_distribution == pytest.approx(inside)
    assert found.gaps == pytest.approx(
        {
            "background": 0.45 - inside,
            "object": 0.75 - inside,
            BOTH: 0.05 - inside,
        }
    )
    assert list(found.gaps) == ["background", "object", BOTH] and found.unpaired == ()


def test_in_distribution_is_accuracy_weighted_by_training_groups():
    train, test = training(0.95, 0.95), rows(dict.fromkeys(HITS, 10))
    number = np.array([4, 2, 1])
    by_group = group_accuracy(predictions(HITS), test[0], number @ test)
    found = gaps_of(HITS, train)
    assert found.in_distribution == pytest.approx(by_group.weighted(number @ train))


def test_labels_of_unlike_frequency_alone_make_no_gap():
    # Each label has one accuracy whatever the cues show, so no cue matters.
    hits = {group: 10 if group[0] == 0 else 5 for group in HITS}
    train = training(0.95, 0.95)
    rare = np.concatenate([train[:, train[0] == 0], train[:, train[0] == 1][:, ::9]], 1)
    found = gaps_of(hits, rare)
    assert found.in_distribution > 0.9
    assert found.gaps == pytest.approx(dict.fromkeys(found.gaps, 0.0), abs=0.01) and len(found.gaps) == 3


def test_a_cue_that_training_balances_has_no_gap():
    found = gaps_of(HITS, training(0.95, 0.5))
    assert found.unpaired == ("object",) and list(found.gaps) == ["background"]
    # The object's two values count as training has them: half each.
    inside = 0.95 * (0.95 + 0.75) / 2 + 0.05 * (0.45 + 0.05) / 2
    assert found.in_distribution == pytest.approx(inside)
    assert found.gaps["background"] == pytest.approx((0.45 + 0.05) / 2 - inside)


def test_a_cell_without_test_rows_has_no_gap_and_counts_nowhere():
    hits = {group: right for group, right in HITS.items() if group not in ((0, 1, 1), (1, 0, 0), (1, 0, 1))}
    found = gaps_of(hits, training(0.95, 0.95))
    assert list(found.gaps) == ["background", "object"]
    weights = {(0, 0, 0): 3610, (0, 0, 1): 190, (0, 1, 0): 190, (1, 1, 1): 3610, (1, 1, 0): 190}
    inside = sum(weights[group] * hits[group] / 10 for group in hits) / sum(weights.values())
    assert found.in_distribution == pytest.approx(inside)
    assert found.gaps["background"] == pytest.approx(0.6 - inside)


def test_rows_without_label_or_cue_are_left_out():
    train, test = training(0.95, 0.95), rows(dict.fromkeys(HITS, 10))
    spoiled = np.concatenate([test, [[-1, 0], [0, -1], [0, 0]]], 1)
    cues = {"background": spoiled[1], "object": spoiled[2]}
    train_cues = {"background": train[1], "object": train[2]}
    guess = np.concatenate([predictions(HITS), [1, 1]])
    assert cue_gaps(guess, spoiled[0], cues, train[0], train_cues) == gaps_of(HITS, train)


def test_cues_of_many_values_have_many_uncommon_groups():
    labels, cue = np.repeat([0, 1, 2], 9), np.tile(np.repeat([0, 1, 2], 3), 3)
    guess = np.where(labels == cue, labels, np.where(np.arange(27) % 3 == 0, labels, 9))
    train = np.repeat([0, 1, 2], 30)
    train_cue = np.where(np.arange(90) % 10 == 0, (train + 1) % 3, train)
    found = cue_gaps(guess, labels, {"scene": cue}, train, {"scene": train_cue})
    assert found.in_distribution == pytest.approx(0.9 + 0.1 / 3)
    assert found.gaps == pytest.approx({"scene": 1 / 3 - found.in_distribution})


def test_partners_follow_the_most_frequent_value():
    assert partners([3, 3, 3, 3, 8, 8], [0, 1, 1, 1, 0, 0]) == {3: 1, 8: 0}
    assert partners([3, 3, 3, 8, 8], [0, 1, 1, 0, 0]) is None  # one row more is what balance leaves
    assert partners([3, 3, 8], [5, 5, 6]) == {3: 5, 8: 6}


def test_errors():
    label, cue = [0, 1], {"scene": [0, 1]}
    with refuses(UsageError, "1 cue", "none"):
        cue_gaps(label, label, {}, label, {})
    with refuses(UsageError, "scene", "object"):
        cue_gaps(label, label, cue, label, {"object": [0, 1]})
    with refuses(UsageError, "training", "3 and 2"):
        cue_gaps(label, label, cue, [0, 1, 1], cue)
    with refuses(UsageError, "Predictions", "labels", "1 and 2"):
        cue_gaps([0], label, cue, label, cue)
    with refuses(DataError, "test", 1):
        cue_gaps(label, [-1, 1], {"scene": [0, -1]}, label, cue)
    with refuses(DataError, "training", 1):
        cue_gaps(label, label, cue, [-1, -1], cue)
    with refuses(DataError, "2 groups"):
        cue_gaps(label, label, cue, [5, 5], {"scene": [7, 7]})
