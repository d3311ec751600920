"""Corrections of frozen features: what LEACE and the mean difference leave, and what vectors learn."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from refusals import refuses

from fullrank.errors import DataError, UsageError
from fullrank.probes import LinearProbe, correct, group_accuracy, leace, mean_difference
from fullrank.probes.logistic import solve_logistic

QUICK = {"hidden": 8, "steps": 12, "rate": 0.03}


def cued(rows=400, agree=0.9, width=6, seed=0):
    """Correlated features (N, D) that show a class weakly and a cue strongly, with both."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(rows) % 2
    differs = (torch.arange(rows) // 2 % round(1 / (1 - agree))) == 0
    cue = torch.where(differs, 1 - labels, labels)
    directions = torch.randn(2, width, generator=generator, dtype=torch.float64)
    shown = torch.stack([labels, 3 * cue], 1).double() @ directions
    noise = torch.randn(rows, width, generator=generator, dtype=torch.float64)
    mixed = noise @ (torch.eye(width) + 0.5 * torch.randn(width, width, generator=generator)).double()
    return shown + mixed + 5, labels, cue


def columns(values):
    return torch.nn.functional.one_hot(values).double()


def covariance(features, shown):
    return (features - features.mean(0)).T @ (shown - shown.mean(0)) / len(features)


def within(part, labels):
    """Each row less the mean of its class."""
    means = torch.stack([part[labels == label].mean(0) for label in labels.unique()])
    return part - means[labels.unique(return_inverse=True)[1]]


# LEACE


@given(width=st.integers(1, 8), values=st.integers(2, 4), seed=st.integers(0, 100))
@settings(max_examples=15, deadline=None)
def test_leace_leaves_no_covariance_with_the_cue_on_the_training_rows(width, values, seed):
    features, _, _ = cued(60, width=width, seed=seed)
    cue = (features[:, 0].argsort().argsort() + torch.arange(60) % 3) * values // 63
    corrected = leace(features, cue).apply(features)
    assert covariance(corrected, columns(cue)).abs().max() < 1e-12
    assert torch.allclose(corrected.mean(0), features.mean(0))


def test_after_leace_a_linear_probe_learns_nothing_of_the_cue():
    features, _, cue = cued()
    before, after = (
        solve_logistic(each, cue, 2, penalty=1e-6).weight.abs().max()
        for each in (features, leace(features, cue).apply(features))
    )
    assert after < 1e-6 < 0.1 < before


def test_leace_applied_twice_is_leace_applied_once():
    features, labels, cue = cued()
    for erasure in (leace(features, cue), leace(features, cue, within=labels)):
        once = erasure.apply(features)
        assert torch.allclose(erasure.apply(once), once, atol=1e-10)
        assert torch.allclose(erasure.inward @ erasure.outward, torch.eye(len(erasure.inward)).double())


def test_leace_moves_points_less_than_other_maps_that_erase_the_cue():
    features, _, cue = cued()
    centred = features - features.mean(0)
    erased = covariance(features, columns(cue))
    keeps = torch.eye(6).double() - erased @ torch.linalg.pinv(erased)  # erases any multiple of its input
    least = leace(features, cue).vectors(features).square().sum()
    assert (centred @ keeps.T - centred).square().sum() > least
    own = torch.linalg.lstsq(centred, centred + leace(features, cue).vectors(features)).solution.T
    for seed in range(10):
        change = torch.randn(6, 6, generator=torch.Generator().manual_seed(seed)).double() @ keeps
        for size in (1e-3, 1.0):
            other = centred @ (own + size * change).T
            assert covariance(other, columns(cue)).abs().max() < 1e-10
            assert (other - centred).square().sum() > least


def test_leace_follows_any_invertible_map_of_the_features_and_ignores_their_order():
    features, labels, cue = cued()
    generator = torch.Generator().manual_seed(1)
    mixing = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    order = torch.randperm(400, generator=generator)
    for classes in (None, labels):
        corrected = leace(features, cue, within=classes).apply(features)
        mixed = leace(features @ mixing + 7, cue, within=classes).apply(features @ mixing + 7)
        assert torch.allclose(mixed, corrected @ mixing + 7, atol=1e-8)
        shuffled = leace(features[order], cue[order], within=None if classes is None else classes[order])
        assert torch.allclose(shuffled.apply(features), corrected, atol=1e-9)


def test_leace_within_classes_erases_there_and_keeps_the_class():
    features, labels, cue = cued(agree=0.9)
    corrected = leace(features, cue, within=labels).apply(features)
    shown = within(columns(cue), labels)
    assert (within(corrected, labels).T @ shown).abs().max() < 1e-9
    accuracy = {
        name: LinearProbe().fit(each, labels).score(each, labels)
        for name, each in (("within", corrected), ("all", leace(features, cue).apply(features)))
    }
    assert accuracy["within"] > accuracy["all"] + 0.1


def test_leace_erases_several_cues_together_and_leaves_out_unknown_rows():
    features, labels, cue = cued()
    other = torch.arange(400) % 3
    both = leace(features, {"cue": cue, "other": other}).apply(features)
    for values in (cue, other):
        assert covariance(both, columns(values)).abs().max() < 1e-12
    unknown = torch.where(torch.arange(400) < 100, -1, cue)
    assert torch.allclose(
        leace(features, unknown, within=labels).apply(features),
        leace(features[100:], cue[100:], within=labels[100:]).apply(features),
    )


def test_leace_of_more_channels_than_rows_of_constant_ones_and_of_an_unrelated_cue():
    features, _, cue = cued(rows=20, width=50)
    corrected = leace(features, cue).apply(features)
    assert covariance(corrected, columns(cue)).abs().max() < 1e-10
    constant = torch.ones(20, 3)
    assert torch.equal(leace(constant, cue).apply(constant), constant.double())
    x = torch.tensor([[0.0], [1.0], [0.0], [1.0]])
    unrelated = leace(x, [0, 0, 1, 1])
    assert torch.equal(unrelated.apply(x), x.double()) and len(unrelated.inward) == 0


# Mean difference


def test_mean_difference_removes_an_additive_cue_exactly():
    labels, cue = torch.tensor([0, 0, 0, 1, 1, 1, 1]), torch.tensor([0, 1, 2, 0, 1, 2, 2])
    of_class, of_cue = torch.tensor([[1.0, 0], [0, 4]]), torch.tensor([[0.0, 0], [3, 0], [0, 6]])
    features = of_class[labels] + of_cue[cue]
    shifts = mean_difference(features, labels, cue)
    assert torch.allclose(shifts.shifts, (of_cue - of_cue.mean(0)).double())
    assert torch.allclose(shifts.apply(features, cue), (of_class[labels] + of_cue.mean(0)).double())
    assert torch.equal(shifts.vectors(features, cue), -shifts.shifts[cue])


def test_mean_difference_gives_every_class_the_same_weight_and_leaves_out_incomplete_ones():
    labels, cue = torch.tensor([0, 0, 1, 1, 1, 2]), torch.tensor([4, 7, 4, 7, 7, 4])
    features = torch.tensor([[0.0], [2.0], [0.0], [8.0], [4.0], [100.0]])
    # Differences of 2 in class 0 and of 6 in class 1; class 2 has one value only.
    assert mean_difference(features, labels, cue).shifts.tolist() == [[-2.0], [2.0]]


def test_mean_difference_refuses_values_that_training_lacks():
    features, labels, cue = cued(40)
    shifts = mean_difference(features, labels, cue)
    with refuses(DataError, 2, 3):
        shifts.apply(features[:4], [0, 2, 2, 5])
    with refuses(UsageError, 4, 3):
        shifts.apply(features[:4], [0, 1, 1])
    with refuses(DataError, 3):
        mean_difference(torch.eye(4), [0, 0, 1, 1], [0, 1, 1, 2])


# Correction vectors


def test_corrections_raise_the_worst_group():
    features, labels, cue = cued(600, agree=0.9)
    test, test_labels, test_cue = cued(2000, agree=0.5)
    groups = 2 * test_labels + test_cue
    plain = group_accuracy(LinearProbe().fit(features, labels).predict(test), test_labels, groups)
    vectors = correct(features, labels, {"cue": cue}, seed=1, steps=50, rate=6e-3)
    probe = LinearProbe().fit(vectors.apply(features), labels)
    corrected = group_accuracy(probe.predict(vectors.apply(test)), test_labels, groups)
    assert corrected.worst > plain.worst + 0.05 and corrected.mean > plain.mean - 0.04
    assert vectors.mmd[1] < 0.2 * vectors.mmd[0]


def test_vectors_start_at_zero_and_gamma_is_what_brings_values_closer():
    features, labels, cue = cued(120)
    still = correct(features, labels, {"cue": cue}, rate=1e-12, steps=1, hidden=4)
    assert still.vectors(features).abs().max() < 1e-8 and still.mmd[0] == pytest.approx(still.mmd[1])
    alone, matched = (correct(features, labels, {"cue": cue}, gamma=g, **QUICK) for g in (0.0, 100.0))
    assert matched.mmd[1] < 0.5 * alone.mmd[1]


def test_vectors_are_what_apply_adds_by_seed_and_without_torch_seeds():
    features, labels, cue = cued(120)
    state = torch.get_rng_state()
    one, again, other = (correct(features, labels, {"cue": cue}, seed=seed, **QUICK) for seed in (3, 3, 4))
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(one.vectors(features), again.vectors(features))
    assert not torch.allclose(one.vectors(features), other.vectors(features))
    assert torch.equal(one.apply(features), features + one.vectors(features))


def test_vectors_have_the_units_of_each_channel_and_leave_constant_ones():
    features, labels, cue = cued(120)
    padded = torch.cat([features, torch.full((120, 1), 3.3)], 1)
    scale, shift = torch.tensor([1e3, 1e-3, 1, 1, 1, 1, 1]).double(), torch.arange(7)
    plain = correct(padded, labels, {"cue": cue}, **QUICK).vectors(padded)
    scaled = padded * scale + shift
    assert torch.allclose(
        correct(scaled, labels, {"cue": cue}, **QUICK).vectors(scaled) / scale, plain, rtol=1e-2, atol=1e-3
    )
    assert torch.equal(plain[:, 6], torch.zeros(120).double()) and plain[:, :6].abs().max() > 0.1


def test_rows_without_a_class_or_a_cue_teach_nothing():
    features, labels, cue = cued(120)
    unknown = torch.arange(120) < 40
    hidden = torch.where(unknown & (cue == 0), -1, labels), torch.where(unknown & (cue == 1), -1, cue)
    found = correct(features, hidden[0], {"cue": hidden[1]}, **QUICK).vectors(features)
    expected = correct(features[40:], labels[40:], {"cue": cue[40:]}, **QUICK).vectors(features)
    assert torch.equal(found, expected)


# What all refuse


def test_a_cue_that_contains_the_class_is_refused_by_name():
    features, labels, cue = cued(40)
    for values in (labels, 2 * labels + cue):
        with refuses(UsageError, "'scene'", "class"):
            correct(features, labels, {"scene": values})
        with refuses(UsageError, "class"):
            mean_difference(features, labels, values)
        with refuses(UsageError, "class"):
            leace(features, values, within=labels)


def test_one_value_one_class_and_rare_groups_are_refused():
    features, labels, cue = cued(40)
    one = torch.zeros(40, dtype=torch.int64)
    for call in (
        lambda: leace(features, {"scene": one}),
        lambda: mean_difference(features, labels, {"scene": one}),
        lambda: correct(features, labels, {"scene": one}),
    ):
        with refuses(DataError, "'scene'", 0, 40):
            call()
    for call in (mean_difference, lambda x, y, cue: correct(x, y, {"cue": cue})):
        with refuses(DataError, "2 classes", 1):
            call(features, one, cue)
    single = torch.tensor([0, 1, 1, 1, 0, 0, 0, 0])
    with refuses(DataError, "'cue'", 2):
        correct(features[:8], [0, 0, 0, 0, 1, 1, 1, 1], {"cue": single})
    with refuses(DataError, "row"):
        leace(features, -torch.ones(40).long())


def test_settings_and_shapes_are_checked():
    features, labels, cue = cued(40)
    for name, value, shown in (
        ("gamma", -1.0, -1),
        ("gamma", float("nan"), "nan"),
        ("hidden", 0, 0),
        ("steps", 0, 0),
        ("rate", 0.0, 0),
    ):
        with refuses(UsageError, name, shown):
            correct(features, labels, {"cue": cue}, **{name: value})
    with refuses(UsageError, 1):
        correct(features, labels, {})
    with refuses(UsageError, 40, 39):
        leace(features, cue[1:], within=labels)
    with refuses(DataError, "NaN"):
        leace(np.where(np.arange(240).reshape(40, 6) == 7, np.nan, 1.0), cue)
    vectors = correct(features, labels, {"cue": cue}, hidden=4, steps=1)
    for call in (
        vectors.apply,
        leace(features, cue).vectors,
        lambda x: mean_difference(features, labels, cue).apply(x, cue),
    ):
        with refuses(UsageError, 6, 5):
            call(features[:, :5])
