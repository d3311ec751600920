"""Accuracy by class against its oracle, which counts rows one by one."""

import numpy as np
import pytest
import torch
from oracles import classes as oracle

from fullrank.probes import ClassMeanProbe, agreement, per_class
from fullrank.statistics import correlation_interval, sampling_spread


def case(seed: int, classes: int = 7, count: int = 60) -> tuple[list[int], list[int]]:
    """Predictions and labels: some unknown, some classes never predicted, some without a row, many ties."""
    random = np.random.default_rng(seed)
    labels = random.integers(-1, classes, count) if seed % 3 else np.arange(count) % classes
    right = random.random(count) < random.random(classes).round(1)[labels]
    return np.where(right, labels, random.integers(0, classes + 2, count)).tolist(), labels.tolist()


def close(correlation: float | None) -> object:
    return None if correlation is None else pytest.approx(correlation, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("classes", [1, 2, 3, 5, 10, 57, 70])
def test_every_quantity_by_class_equals_the_oracle(classes):
    for seed in range(4):
        predicted, labels = case(seed, classes, 4 * classes + 7)
        found = per_class(predicted, labels)
        shares = oracle.accuracy(predicted, labels)
        assert found.accuracy == pytest.approx(shares, rel=1e-12)
        assert found.bias == pytest.approx(oracle.bias(predicted, labels), rel=1e-12)
        assert found.false_positives == oracle.false_positives(predicted, labels)
        assert found.errors == pytest.approx(oracle.errors(predicted, labels), rel=1e-9, abs=1e-15)
        assert [found.accuracy[c] for c in found.ranked] == pytest.approx(oracle.ranked(shares), rel=1e-12)
        assert found.extremes == oracle.extremes(len(shares))
        assert found.worst_group == pytest.approx(oracle.worst_group(shares), rel=1e-9, abs=1e-15)
        assert found.best_group == pytest.approx(oracle.best_group(shares), rel=1e-9, abs=1e-15)
        assert found.std == pytest.approx(oracle.spread(shares), rel=1e-9, abs=1e-15)
        correlation = oracle.pearson(list(oracle.bias(predicted, labels).values()), list(shares.values()))
        assert found.bias_correlation == close(correlation)


def test_classes_without_rows_are_named_and_left_out():
    predicted, labels = [0, 0, 3, 3, 2], [0, 0, 3, 2, -1]
    found = per_class(predicted, labels, num_classes=5)
    assert found.absent == (1, 4)
    assert found.accuracy == oracle.accuracy(predicted, labels) == {0: 1, 2: 0, 3: 1}
    assert found.std == pytest.approx(oracle.spread(found.accuracy), rel=1e-12)


@pytest.mark.parametrize("equal", [[0, 1, 2, 3] * 4, [0, 0, 1, 1, 2, 2, 3, 3]])
def test_correlations_over_constant_accuracies_are_none(equal):
    found = per_class(equal, equal)
    assert found.bias_correlation is None
    assert agreement(found, found) is None


def test_agreement_equals_the_rank_correlation_of_the_oracle():
    found = []
    for seed in range(40):
        one, other = case(seed, 3 + seed % 5), case(seed + 100, 8)
        expected = oracle.agreement(oracle.accuracy(*one), oracle.accuracy(*other))
        found.append(expected)
        assert agreement(per_class(*one), per_class(*other)) == close(expected)
    assert len(set(found) - {None}) > 20


@pytest.mark.parametrize("shift", [0.0, 1e7])
@pytest.mark.parametrize("width", [1, 3, 40])
def test_nearest_mean_equals_the_oracle(width, shift):
    random = np.random.default_rng(width)
    train, labels = random.normal(size=(25, width)) + shift, random.integers(-1, 4, 25)
    train[labels == 2] += 1
    test = random.normal(size=(40, width)) + shift
    found = ClassMeanProbe().fit(train, labels).predict(torch.from_numpy(test))
    assert found.tolist() == oracle.nearest_mean(train.tolist(), labels.tolist(), test.tolist())


def test_nearest_mean_of_equally_near_classes_is_the_smallest():
    train, labels = [[0.0], [2.0], [5.0], [9.0]], [3, 4, 6, 9]
    test = [[1.0], [3.5], [7.0], [0.9], [1.1]]
    found = ClassMeanProbe().fit(torch.tensor(train), torch.tensor(labels)).predict(torch.tensor(test))
    assert found.tolist() == oracle.nearest_mean(train, labels, test) == [3, 4, 6, 3, 4]


def test_sampling_spread_equals_the_oracle_and_holds_in_95_of_100_test_sets():
    shares, sizes = [0.7, 0.9, 0.8], [400, 100, 250]
    assert sampling_spread(shares, sizes) == pytest.approx(oracle.sampling_spread(shares, sizes), rel=1e-9)
    drawn = np.random.default_rng(0).binomial(500, 0.8, (1500, 7)) / 500
    below = [each.std() < sampling_spread(each.tolist(), [500] * 7) for each in drawn]
    assert 0.935 < np.mean(below) < 0.965


def test_correlation_interval_covers_a_rank_correlation_of_normal_variables():
    random, covered = np.random.default_rng(0), []
    truth = 6 / np.pi * np.arcsin(0.6 / 2)  # Spearman's correlation where Pearson's is 0.6
    for _ in range(200):
        one = random.normal(size=30)
        other = 0.6 * one + 0.8 * random.normal(size=30)
        low, high = correlation_interval(oracle.pearson(*map(oracle.average_ranks, (one, other))), 30)
        covered.append(low < truth < high)
    assert 0.92 < np.mean(covered) < 0.98
