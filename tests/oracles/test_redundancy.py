"""Redundancy against its oracle, with a rule that both can follow exactly: the nearest class mean."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from oracles import redundancy as oracle

from fullrank.probes import LinearProbe, least_dimensions, redundancy
from fullrank.probes.diffused import redundancy_of
from fullrank.probes.directions import CHANNELS, RANDOM, ProbedRows
from fullrank.probes.logistic import LogisticFit

DRAWS = 5


class NearestMeanRule(LinearProbe):
    """A linear probe whose weights are those of the nearest class mean: m_c x - |m_c|^2 / 2."""

    def _learn(self, features, targets, num_classes):
        self._solve(features, targets, num_classes)

    def _solve(self, features, targets, num_classes, start=None):
        means = torch.stack([features[targets == c].double().mean(0) for c in range(num_classes)])
        self.weight, self.bias = means, -means.square().sum(1) / 2
        return LogisticFit(self.weight, self.bias, 0.0, 0, True)


def case(seed: int, count: int, width: int) -> tuple[np.ndarray, ...]:
    """Training and test rows of four classes with unknown labels; the last class has no test row."""
    random = np.random.default_rng(seed)
    sizes = random.exponential(size=width) + 0.1
    means = random.normal(size=(4, width)) * random.exponential(size=width)
    labels, test_labels = np.arange(count) % 4, random.integers(0, 3, 30)
    train, test = (means[y] + random.normal(size=(len(y), width)) * sizes for y in (labels, test_labels))
    labels[random.random(count) < 0.1] = -1
    test_labels[::7] = -1
    return train + 3, np.where(labels < 0, -1, labels), test + 3, test_labels


def with_constant_channels(rows: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
    train, labels, test, test_labels = rows
    train[:, ::3], test[:, ::3] = 2, 2
    return train, labels, test, test_labels


def bases_of(kind: str, train: np.ndarray, seed: int) -> list[np.ndarray]:
    """The directions (D, D) of each draw; those that are drawn are read off what is done to unit vectors."""
    width = train.shape[1]
    if kind in ("principal", "least"):
        return [oracle.basis_of(train, kind, width)]
    generator = torch.Generator().manual_seed(seed)
    directions = CHANNELS if kind == "channels" else RANDOM
    drawn = [directions.projection(torch.from_numpy(train), width, generator) for _ in range(DRAWS)]
    return [project(torch.eye(width, dtype=torch.float64), width).numpy() for project in drawn]


CASES = {
    "more rows than channels": case(0, 60, 6),
    "a power of two": case(1, 60, 8),
    "one channel": case(2, 40, 1),
    "constant channels": with_constant_channels(case(3, 60, 7)),
    "fewer rows than channels": case(4, 12, 20),
    "more channels than all rows": case(5, 12, 50),
}


# In the last case random directions are drawn among those of the rows, which is tested elsewhere.
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (name, kind)
        for name in CASES
        for kind in ("channels", "principal", "least", "random")
        if (name, kind) != ("more channels than all rows", "random")
    ],
)
def test_curves_and_diffused_redundancy_equal_the_oracle(name, kind):
    train, labels, test, test_labels = CASES[name]
    rule = NearestMeanRule().fit(train, labels)
    found = redundancy(train, labels, test, test_labels, draws=DRAWS, probe=rule, seed=5)
    width, known = train.shape[1], train[labels != -1]
    sizes, curve = oracle.grid(width), []
    full = oracle.accuracies(oracle.nearest_mean(train, labels, test), test_labels)
    assert (found.width, found.full, found.full_worst_class) == pytest.approx((width, *map(float, full)))
    assert [each.dimensions for each in found.curves[kind]] == sizes
    for k, reduced in zip(sizes, found.curves[kind], strict=True):
        draws = []
        for basis in bases_of(kind, known, seed=5):
            rows = [(each - known.mean(0)) @ basis[:, :k] for each in (train, test)]
            draws.append(oracle.accuracies(oracle.nearest_mean(rows[0], labels, rows[1]), test_labels))
        if k == width:
            draws = [full] * len(draws)
        curve.append([share for share, _ in draws])
        assert reduced.accuracies == pytest.approx([float(share) for share, _ in draws], rel=1e-12)
        assert reduced.mean == pytest.approx(float(sum(curve[-1]) / len(draws)), rel=1e-12)
        assert reduced.worst_class == pytest.approx(float(sum(w for _, w in draws) / len(draws)), rel=1e-12)
        if len(draws) > 1:
            ends = reduced.interval.low, reduced.interval.high
            assert ends == pytest.approx(oracle.interval(reduced.accuracies), rel=1e-9)
    for delta in ("0.5", "0.8", "0.9", "0.95", "1"):
        least = oracle.least_k(sizes, curve, full[0], Fraction(delta), width)
        assert found.least_dimensions(float(delta), kind) == least
        assert found.diffused(float(delta), kind) == pytest.approx(oracle.diffused(least, width), abs=1e-15)


def test_drawn_directions_are_channels_and_orthonormal_and_differ_between_draws():
    train = case(0, 60, 6)[0]
    channels, turned = bases_of("channels", train, 0), bases_of("random", train, 0)
    for basis in channels + turned:
        np.testing.assert_allclose(basis.T @ basis, np.eye(6), atol=1e-12)
    for basis in channels:
        assert sorted(basis.argmax(0)) == list(range(6))
    assert len({basis.tobytes() for basis in channels + turned}) == 2 * DRAWS


@pytest.mark.parametrize("seed", range(8))
def test_least_dimensions_decides_ties_as_fractions_do(seed):
    random = np.random.default_rng(seed)
    sizes = oracle.grid(24)
    for _ in range(50):
        # Of 20 test rows, with shares that often equal 0.8, 0.9 or 0.95 of the full accuracy in the mean.
        draws = [[Fraction(int(value), 20) for value in random.integers(12, 21, 3)] for _ in sizes]
        draws[-1] = [Fraction(1)] * 3
        means = [float(np.mean([float(share) for share in each])) for each in draws]
        for delta in ("0.8", "0.85", "0.9"):
            expected = oracle.least_k(sizes, draws, Fraction(1), Fraction(delta), 24)
            assert least_dimensions(sizes, means, float(delta)) == expected


def test_least_dimensions_of_a_probe_that_is_always_wrong_is_the_first_of_the_grid():
    nothing = [[Fraction(0)]] * 4
    assert oracle.least_k([1, 2, 4, 6], nothing, Fraction(0), Fraction(9, 10), 6) == 1
    assert least_dimensions([1, 2, 4, 6], [0.0] * 4) == 1


@pytest.mark.parametrize("name", ["more rows than channels", "a power of two"])
def test_a_curve_that_is_cut_short_has_the_same_diffused_redundancy(name):
    rows = CASES[name]
    rule = NearestMeanRule().fit(*rows[:2])
    probed = ProbedRows.of(*rows, rule)
    below = oracle.grid(probed.width)[:-1]
    kinds = ("channels", "principal", "least", "random")
    whole, short = (redundancy_of(probed, below, DRAWS, 5, brief=brief) for brief in ((), kinds))
    for kind in kinds:
        assert short.diffused(kind=kind) == whole.diffused(kind=kind)
        assert set(short.curves[kind]) <= set(whole.curves[kind])
