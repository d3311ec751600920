"""Corrections of frozen features against their oracle: two derivations of LEACE, loops over groups."""

import numpy as np
import pytest
import torch
from oracles import corrections as oracle

from fullrank.probes.correction_effect import correction_effect
from fullrank.probes.corrections import correct, leace, mean_difference

SHAPES = {"plain": (60, 5, 0), "fewer rows than channels": (20, 30, 0), "constant channels": (40, 6, 2)}


def case(shape: str) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Rows, classes and two cues with unknown values; the first cue goes with the class in most rows."""
    count, width, constant = SHAPES[shape]
    random = np.random.default_rng(count)
    labels = random.integers(0, 3, count)
    leading = np.where(random.random(count) < 0.6, labels, random.integers(0, 3, count))
    cues = [2 * leading, random.integers(0, 2, count)]
    features = random.normal(size=(count, width)) @ random.normal(size=(width, width)) + 5
    features += labels[:, None] * random.normal(size=width) + cues[0][:, None] * random.normal(size=width)
    features[:, :constant] = 3
    labels[::11], cues[0][::13], cues[1][4] = -1, -1, -1
    return features, labels, cues


@pytest.mark.parametrize("within", [False, True])
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("shape", SHAPES)
def test_leace_equals_both_derivations_of_the_oracle(shape, count, within):
    features, labels, cues = case(shape)
    classes, named = labels if within else None, dict(zip("ab", cues[:count], strict=False))
    erasure = leace(features, named, within=classes)
    other = np.random.default_rng(0).normal(size=(7, features.shape[1]))
    for rows in (features, other):
        found = erasure.apply(rows).numpy()
        for derivation in (oracle.leace, oracle.leace_by_lagrange):
            expected = oracle.corrected_by(derivation(features, cues[:count], classes), rows)
            np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9 * np.abs(rows).max())
        np.testing.assert_allclose(
            erasure.vectors(rows).numpy(), found - rows, atol=1e-12 * np.abs(rows).max()
        )
    _, _, cross = oracle.moments(erasure.apply(features).numpy(), cues[:count], classes)
    assert np.abs(cross).max() < 1e-12 * np.abs(features).max()


@pytest.mark.parametrize("shape", SHAPES)
def test_mean_difference_equals_the_oracle(shape):
    features, labels, cues = case(shape)
    for cue in cues:
        found = mean_difference(features, labels, cue)
        shifts = oracle.mean_differences(features, labels, cue)
        known = cue != -1
        expected = features[known] - np.array([shifts[v] for v in cue[known].tolist()])
        np.testing.assert_allclose(found.apply(features[known], cue[known]).numpy(), expected, rtol=1e-9)


def test_correction_vectors_equal_the_oracle_in_the_units_of_the_features():
    features, labels, cues = case("constant channels")
    found = correct(features, labels, {"cue": cues[1]}, hidden=4, steps=3)
    weights = [each.numpy() for each in (found.inner, found.inner_bias, found.outer, found.outer_bias)]
    expected = oracle.correction_vectors(features, *weights)
    assert np.abs(expected[:, 2:]).max() > 0
    np.testing.assert_allclose(found.vectors(features).numpy(), expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found.apply(features).numpy(), features + expected, rtol=1e-9)


def test_correction_vectors_have_the_units_of_the_features():
    features, labels, cues = case("constant channels")
    plain, moved = (
        correct(rows, labels, {"cue": cues[1]}, hidden=4, steps=3).vectors(rows).numpy()
        for rows in (features, 8 * features - 100)
    )
    np.testing.assert_allclose(moved, 8 * plain, rtol=1e-3, atol=1e-4 * np.abs(moved).max())


def test_mmd_of_a_correction_is_that_of_standardised_rows_of_all_groups():
    features, labels, cues = case("constant channels")
    known = (labels != -1) & (cues[0] != -1) & (cues[1] != -1)
    found = correct(features, labels, {"one": cues[0], "other": cues[1]}, hidden=4, steps=3)
    mean, spread = features[known].mean(0), features[known].std(0)
    spread[:2] = np.inf  # constant channels
    for rows, value in zip((features, found.apply(features).numpy()), found.mmd, strict=True):
        expected = [
            oracle.within_class_mmd(((rows - mean) / spread)[known], labels[known], cue[known])
            for cue in cues
        ]
        assert value == pytest.approx(sum(expected) / 2, rel=1e-4)


def test_correction_effect_equals_the_oracle():
    random = np.random.default_rng(0)
    vectors, groups = (
        np.array([0, 1, 5, 0]) + random.normal(size=(30, 4)),
        random.choice([-1, 0, 3, 3, 4], 30),
    )
    vectors[groups == 4] *= 3
    found = correction_effect(torch.from_numpy(vectors), torch.from_numpy(groups))
    means, sizes, common, between = oracle.effect(vectors, groups)
    assert found.groups.tolist() == list(means) == [0, 3, 4]
    assert found.counts.tolist() == [int((groups == g).sum()) for g in means]
    np.testing.assert_allclose(found.mean.numpy(), list(means.values()), rtol=1e-9)
    np.testing.assert_allclose(found.size.numpy(), list(sizes.values()), rtol=1e-9)
    assert (found.common, found.between) == pytest.approx((common, between), rel=1e-9)
