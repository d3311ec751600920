"""Similarity of two sets of the same rows, by definitions with N x N matrices and explicit scores."""

import itertools
import math
from fractions import Fraction
from functools import cache

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch
from hypothesis import given, settings, strategies as st
from refusals import refuses
from sklearn.datasets import load_digits

from fullrank.errors import DataError, UsageError
from fullrank.spectrum import JointMoments, joint_moments, linear_cka, neighbour_overlap

CLOSE = 1e-9
# Rows of a block: of one whole block the sums are about 0, and terms with them could be wrong unseen.
SHORT = 3


def centred(x):
    x = np.asarray(x, dtype=np.float64)
    return x - x.mean(0)


def hsic(k, ell):
    """Song et al. 2012, Equation 5."""
    n = len(k)
    k, ell = k - np.diag(np.diag(k)), ell - np.diag(np.diag(ell))
    ones = np.ones(n)
    between = (ones @ k @ ones) * (ones @ ell @ ones) / ((n - 1) * (n - 2))
    trace = (k * ell.T).sum()
    return (trace + between - 2 / (n - 2) * (ones @ k @ (ell @ ones))) / (n * (n - 3))


def cka(x, y):
    k, ell = (centred(side) @ centred(side).T for side in (x, y))
    return hsic(k, ell) / math.sqrt(hsic(k, k) * hsic(ell, ell))


def scores(x, variance=1.0):
    """The scores of the rows on the leading principal components, which hold `variance` of the variance."""
    left, values, _ = np.linalg.svd(centred(x), full_matrices=False)
    held = np.cumsum(values**2) / np.sum(values**2)
    count = (values > 1e-6 * values[0]).sum() if variance == 1 else (held < variance).sum() + 1
    return (left * values)[:, :count]


def angles(x, y, variance):
    return np.sort(scipy.linalg.subspace_angles(scores(x, variance), scores(y, variance)))


def distance(x, y):
    x, y = (np.asarray(side, dtype=np.float64) for side in (x, y))
    return np.linalg.norm(y - x) / np.linalg.norm(centred(x))


def rotated_distance(x, y):
    width = max(x.shape[1], y.shape[1])
    x, y = (np.pad(centred(side), ((0, 0), (0, width - side.shape[1]))) for side in (x, y))
    x, y = x / np.linalg.norm(x), y / np.linalg.norm(y)
    rotation, scale = scipy.linalg.orthogonal_procrustes(y, x)
    return np.linalg.norm(x - scale * y @ rotation)


def explained(x, by):
    """Adjusted R^2 of a regression, with an intercept, of each component of `x` that varies, and of all."""
    n, wanted = len(x), scores(x)
    rank = scores(by).shape[1]
    columns = np.column_stack([np.ones(n), centred(by)])
    errors = ((wanted - columns @ np.linalg.lstsq(columns, wanted, rcond=1e-9)[0]) ** 2).sum(0)
    squares = (wanted**2).sum(0)
    inflation = (n - 1) / (n - rank - 1) if n > rank + 1 else math.nan
    return 1 - errors / squares * inflation, 1 - errors.sum() / squares.sum() * inflation


def nearest(x, k):
    """Which rows are as near as the k-th nearest by cosine; the margin is for rounding alone."""
    x = np.asarray(x, dtype=np.float64)
    norms = np.linalg.norm(x, axis=1, keepdims=True)
    units = x / np.where(norms > 0, norms, 1)
    cosines = units @ units.T
    np.fill_diagonal(cosines, -np.inf)
    return cosines >= np.sort(cosines, axis=1)[:, [-k]] - 1e-12


def overlap(near, others):
    return (near & others).sum(1) / np.maximum(near.sum(1), others.sum(1))


def tensors(*arrays):
    return [torch.from_numpy(np.array(array)) for array in arrays]


def moments(x, y, block=None) -> JointMoments:
    x, y = tensors(x, y)
    return joint_moments(zip(x.split(block or len(x)), y.split(block or len(y)), strict=True))


def normal(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).normal(size=shape)


def rotation(width, seed=0):
    return np.linalg.qr(normal(width, width, seed=seed + 50))[0]


def made() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    x = normal(90, 9)
    y = x @ normal(9, 6) + normal(90, 6)
    far = np.array([1.0, -2, 3, 1, 1, -1])
    steep = normal(150, 32) / np.arange(1, 33) ** 2 @ rotation(32)
    constant = x.copy()
    constant[:, [2, 4]] = 7, 0
    digits = load_digits().data[:200].astype(np.float32)
    return {
        "unlike widths": (x, y),
        "large mean": (x + 1e3, y + 1e3 * far),
        "float16": (x.astype(np.float16), y.astype(np.float16)),
        "float32": (x.astype(np.float32), y.astype(np.float32)),
        "float32 with a large mean": ((x + 1e3).astype(np.float32), (y + 1e3 * far).astype(np.float32)),
        "integers": (np.round(3 * x).astype(np.int64), np.round(40 * y).astype(np.int16)),
        "steep spectra": (steep, steep + 0.3 * normal(150, 32) / np.arange(1, 33) ** 2),
        "more channels than rows": (normal(20, 50), normal(20, 30)),
        "one side with more channels than rows": (x[:20], x[:20] @ normal(9, 40)),
        "duplicates": (np.repeat(x[:30], 3, axis=0), np.repeat(y[:30], 3, axis=0)),
        "translated": (x, x - 4),
        "scaled": (x, 0.01 * x),
        "rotated, scaled and translated": (x, 3 * x @ rotation(9) + 5),
        "channels permuted": (x, x[:, ::-1]),
        "rows permuted": (x, np.roll(x, 1, axis=0)),
        "a linear map of full rank": (x, x @ normal(9, 9)),
        "almost the same": (x, x + 3e-3 * normal(90, 9, seed=1)),
        "low rank": (x[:, :3] @ normal(3, 9), x[:, 1:5] @ normal(4, 6)),
        "constant features": (constant, y),
        "4 rows": (normal(4, 3), normal(4, 2)),
        "4 rows of one channel": (normal(4, 1), normal(4, 1, seed=1)),
        "unrelated": (normal(90, 5), normal(90, 7)),
        "digits in a float32 rotation": (digits, digits @ rotation(64).astype(np.float32)),
        "digits and noise": (digits, (digits + normal(200, 64)).astype(np.float32) @ rotation(64)[:, :40]),
    }


PAIRS = made()


@cache
def in_short_blocks(name) -> JointMoments:
    return moments(*PAIRS[name], SHORT)


each_pair = pytest.mark.parametrize("name", PAIRS)


def test_unbiased_hsic_is_the_mean_over_four_rows_that_all_differ():
    """The definition that Equation 5 of Song et al. 2012 is a closed form of (their Equation 4)."""
    x, y = normal(6, 3), normal(6, 2)
    k, ell = x @ x.T, y @ y.T
    terms = [
        k[i, j] * (ell[i, j] + ell[q, r] - 2 * ell[i, q])
        for i, j, q, r in itertools.permutations(range(6), 4)
    ]
    assert hsic(k, ell) == pytest.approx(np.mean(terms), abs=1e-12)


@each_pair
def test_cka_is_that_of_the_kernels_of_all_pairs_of_rows(name):
    x, y = PAIRS[name]
    expected = cka(x, y)
    assert in_short_blocks(name).cka == pytest.approx(expected, abs=CLOSE)
    assert linear_cka(*tensors(x, y)) == pytest.approx(expected, abs=CLOSE)
    assert linear_cka(*tensors(y, x)) == pytest.approx(expected, abs=CLOSE)


@each_pair
def test_distances_are_those_of_the_rows_before_and_after_the_best_rotation(name):
    x, y = PAIRS[name]
    found = in_short_blocks(name)
    if x.shape == y.shape:
        assert found.distance == pytest.approx(distance(x, y), abs=CLOSE)
    else:
        assert found.distance is None
    # A distance near 0 is the root of a difference of numbers near 1.
    assert found.rotated_distance**2 == pytest.approx(rotated_distance(x, y) ** 2, abs=1e-13)
    if rotated_distance(x, y) > 1e-6:
        assert found.rotated_distance == pytest.approx(rotated_distance(x, y), abs=CLOSE)


@each_pair
def test_angles_are_those_between_the_scores_on_leading_components(name):
    x, y = PAIRS[name]
    for variance in (0.5, 0.9, 0.99, 1.0):
        found, expected = in_short_blocks(name).angles(variance).numpy(), angles(x, y, variance)
        assert found.shape == expected.shape
        wide = expected > 1e-4
        assert np.abs(found - expected)[wide].max(initial=0) < CLOSE
        assert np.abs(np.cos(found) - np.cos(expected)).max() < CLOSE
        assert found[~wide].max(initial=0) < (1e-6 if variance < 1 else 3e-4)


@each_pair
def test_what_a_linear_map_explains_is_the_adjusted_share_of_a_regression(name):
    x, y = PAIRS[name]
    found = in_short_blocks(name)
    for part, sides in ((found.kept, (x, y)), (found.added, (y, x))):
        shares, total = explained(*sides)
        live = len(shares)
        assert len(part.shares) == len(part.variances) == sides[0].shape[1]
        assert part.total == pytest.approx(total, abs=CLOSE, nan_ok=True)
        assert part.shares[:live].numpy() == pytest.approx(shares, abs=CLOSE, nan_ok=True)
        assert part.variances[:live].numpy() == pytest.approx((scores(sides[0]) ** 2).mean(0), rel=1e-7)
        assert part.shares[live:].isnan().all()


@each_pair
def test_the_overlap_is_that_of_all_cosines(name):
    x, y = PAIRS[name]
    for k in (1, 3):
        expected = overlap(nearest(x, k), nearest(y, k))
        found = neighbour_overlap(*tensors(x, y), neighbours=k)
        assert found.shares.numpy() == pytest.approx(expected, abs=CLOSE)
        assert found.mean == pytest.approx(expected.mean(), abs=CLOSE)
        assert (found.neighbours, found.by_chance) == (k, k / (len(x) - 1))


def exactly_nearest(x, k):
    """`nearest` of whole numbers, in fractions: the signed squares of cosines."""
    products = x.astype(object) @ x.T.astype(object)
    near = np.zeros(products.shape, dtype=bool)
    for i, row in enumerate(products):
        squares = [Fraction(p * abs(p), (row[i] * products[j, j]) or 1) for j, p in enumerate(row)]
        limit = sorted(squares[:i] + squares[i + 1 :])[-k]
        near[i] = [j != i and square >= limit for j, square in enumerate(squares)]
    return near


@settings(max_examples=8, deadline=None)
@given(
    seed=st.integers(0, 99), width=st.integers(1, 4), largest=st.integers(1, 5), k=st.integers(1, 9),
    kind=st.sampled_from([np.float16, np.float32, np.float64, np.int64]),
)  # fmt: skip
def test_ties_are_those_of_exact_fractions(seed, width, largest, k, kind):
    """Small whole numbers make rows that are zero, parallel or equally near."""
    generator = np.random.default_rng(seed)
    x, y = (generator.integers(-largest, largest + 1, size=(24, each)) for each in (width, 3))
    expected = overlap(exactly_nearest(x, k), exactly_nearest(y, k))
    found = neighbour_overlap(*tensors(x.astype(kind), y.astype(kind)), neighbours=k)
    assert found.shares.numpy() == pytest.approx(expected, abs=CLOSE)


@pytest.mark.parametrize("k", [1, 4])
def test_changes_of_the_overlap_are_those_without_each_row(k):
    x, y = normal(40, 3), normal(40, 5) + normal(40, 3)[:, [0, 1, 2, 0, 1]]
    found = neighbour_overlap(*tensors(x, y), neighbours=k)
    without = []
    for row in range(40):
        others = [nearest(np.delete(side, row, axis=0), k) for side in (x, y)]
        without.append(overlap(*others).sum() - np.delete(found.shares.numpy(), row).sum())
    assert found.changes.numpy() == pytest.approx(without, abs=CLOSE)
    assert found.error == pytest.approx(scipy.stats.sem(found.shares - found.changes / 2), abs=CLOSE)


@pytest.mark.parametrize(("noise", "k"), [(0.5, 2), (0.5, 10), (2.0, 3)])
def test_the_interval_of_the_overlap_holds_on_fresh_rows(noise, k):
    """Over 200 draws the mean lies in nearly all intervals, and these are not wide."""
    generator = np.random.default_rng(0)
    draws = []
    for _ in range(200):
        x = generator.normal(size=(120, 3))
        draws.append(neighbour_overlap(*tensors(x, x + noise * generator.normal(size=x.shape)), neighbours=k))
    means, errors = (np.array([getattr(each, name) for each in draws]) for name in ("mean", "error"))
    covered = np.abs(means - means.mean()) <= 1.96 * errors
    assert covered.mean() > 0.89  # 95 % less three standard errors over the draws, and half a point
    assert 0.85 * means.std() < errors.mean() < 1.5 * means.std()


def test_overlap_of_more_rows_than_are_compared_at_once():
    x, y = normal(1100, 4), normal(1100, 3) + normal(1100, 4)[:, :3]
    expected = overlap(nearest(x, 11), nearest(y, 11))
    found = neighbour_overlap(*tensors(x, y))
    assert found.neighbours == 11
    assert found.shares.numpy() == pytest.approx(expected, abs=CLOSE)
    # A sample compares the same rows of both sets, and only those.
    sampled = neighbour_overlap(*tensors(x, 2 * x), sample=200, seed=3)
    assert (sampled.mean, sampled.neighbours, len(sampled.shares)) == (1.0, 2, 200)


def values(found: JointMoments) -> np.ndarray:
    numbers = [found.cka, found.rotated_distance, found.kept.total, found.added.total]
    parts = [found.kept.shares, found.added.shares, found.angles(0.9).cos()]
    return np.concatenate([numbers, *(part.numpy() for part in parts)])


@pytest.mark.parametrize("name", ["large mean", "float16", "low rank", "constant features"])
def test_streams_may_be_cut_at_any_place(name):
    x, y = PAIRS[name]
    whole = values(moments(x, y))
    for block in (1, 7, 1000):
        assert values(moments(x, y, block)) == pytest.approx(whole, abs=CLOSE, nan_ok=True)
    cuts = [0, 0, 3, 3, 70, len(x), len(x)]
    blocks = [tensors(x[a:b], y[a:b]) for a, b in itertools.pairwise(cuts)]
    assert values(joint_moments(blocks)) == pytest.approx(whole, abs=CLOSE, nan_ok=True)


def test_rows_in_order_of_their_mean_lose_no_digits():
    """The first block is far from the mean of all, as where rows are sorted by label."""
    x, y = normal(300, 4), normal(300, 3) + normal(300, 4)[:, :3]
    x[20:] += 30
    y[40:] -= 50
    assert moments(x, y, 10).cka == pytest.approx(cka(x, y), abs=CLOSE)


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 99), shift=st.floats(-100, 100), scale=st.floats(0.01, 100), turned=st.booleans())
def test_what_changes_nothing(seed, shift, scale, turned):
    x, y = normal(40, 5, seed=seed), normal(40, 3, seed=seed) + normal(40, 5, seed=seed)[:, :3]
    order = np.random.default_rng(seed).permutation(40)
    turn = rotation(3, seed) if turned else np.eye(3)[[2, 0, 1]]
    found, other = moments(x, y), moments(x[order], scale * y[order] @ turn + shift)
    assert values(other) == pytest.approx(values(found), abs=1e-8)
    assert other.added.variances.numpy() == pytest.approx(scale**2 * found.added.variances.numpy(), rel=1e-7)
    swapped = moments(y, x)
    assert swapped.cka == pytest.approx(found.cka, abs=1e-12)
    assert swapped.rotated_distance == pytest.approx(found.rotated_distance, abs=1e-12)
    assert swapped.kept.shares.numpy() == pytest.approx(found.added.shares.numpy(), abs=CLOSE)
    near, others = (
        neighbour_overlap(*tensors(*pair), neighbours=3) for pair in ((x, y), (x[order], y[order]))
    )
    assert others.shares.numpy() == pytest.approx(near.shares.numpy()[order], abs=CLOSE)
    resized = neighbour_overlap(*tensors(x, scale * y @ turn), neighbours=3)
    assert resized.shares.numpy() == pytest.approx(near.shares.numpy(), abs=CLOSE)


def test_unrelated_sets_have_means_of_zero():
    """The plain estimates would be many standard errors above it."""
    found = [moments(normal(20, 4, seed=s), normal(20, 6, seed=s)) for s in range(80)]
    for measured in (
        [each.cka for each in found],
        [each.kept.total for each in found],
        [each.added.total for each in found],
        [float(each.kept.shares[0]) for each in found],
        [float(each.added.shares[-1]) for each in found],
    ):
        assert abs(np.mean(measured)) < 3 * np.std(measured) / math.sqrt(80)
    plain = [1 - (1 - each.kept.total) * (20 - 6 - 1) / 19 for each in found]
    assert np.mean(plain) == pytest.approx(6 / 19, abs=0.02)


def test_a_mean_of_a_hundred_spreads_costs_no_digits_of_cka():
    """Whole numbers, so that the kernels are exact."""
    generator = np.random.default_rng(0)
    x = generator.integers(-3, 4, size=(600, 16))
    y = x[:, :9] + generator.integers(-2, 3, size=(600, 9))
    k, ell = (side @ side.T for side in (x.astype(float), y.astype(float)))
    expected = hsic(k, ell) / math.sqrt(hsic(k, k) * hsic(ell, ell))
    found = moments((x + 200).astype(np.float16), (y - 1900).astype(np.float32), 64)
    assert found.cka == pytest.approx(expected, rel=1e-12)


def test_nothing_is_said_of_directions_that_only_rounding_moves():
    """The set has rank 2 of 6, and the other one explains none of it."""
    found = moments(normal(60, 2) @ normal(2, 6), normal(60, 3)).kept
    assert found.shares.isnan().tolist() == [False, False, True, True, True, True]
    assert found.total == pytest.approx(
        float((found.shares * found.variances).nansum() / found.variances.sum())
    )


def test_the_rank_of_the_other_set_counts_and_not_its_width():
    x, y = normal(12, 3), normal(12, 2)
    wide = y @ normal(2, 9)
    assert moments(x, wide).kept.total == pytest.approx(moments(x, y).kept.total, abs=CLOSE)
    # r + 2 rows are the fewest.
    assert math.isfinite(moments(normal(5, 2), normal(5, 3)).kept.total)
    assert math.isnan(moments(normal(4, 2), normal(4, 3)).kept.total)
    assert moments(normal(4, 2), normal(4, 3)).kept.shares.isnan().all()


@pytest.mark.parametrize("seed", range(6))
def test_a_set_that_does_not_vary(seed):
    x, constant = normal(300, 4, seed=seed), np.broadcast_to(normal(4, seed=seed), (300, 4))
    for found in (moments(constant, x, 70), moments(x, constant, 70)):
        assert math.isnan(found.cka) and math.isnan(found.rotated_distance) and not len(found.angles())
    constant_first, constant_second = moments(constant, x, 70), moments(x, constant, 70)
    assert math.isnan(constant_first.distance) and math.isfinite(constant_second.distance)
    assert math.isnan(constant_first.kept.total) and constant_first.kept.shares.isnan().all()
    # A constant explains nothing of what varies.
    assert constant_second.kept.total == 0 and constant_second.kept.shares.tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["corners of a simplex", "one row that is not like the others"])
def test_kernels_that_leave_nothing_without_their_diagonal_have_no_cka(kind, seed):
    """HSIC_1 of such a set with itself is 0, and a rotation and a shift make rounding of it."""
    n = 12
    if kind == "corners of a simplex":
        x = np.eye(n) @ rotation(n, seed) + normal(n, seed=seed)
    else:
        x = np.zeros((n, 3)) + normal(3, seed=seed)
        x[seed] += normal(3, seed=seed + 9)
    for other in (normal(n, 3), x, 3 * x + 1):
        assert math.isnan(moments(x, other).cka)
        assert math.isnan(moments(other, x).cka)


@pytest.mark.parametrize("seed", range(3))
def test_cka_is_at_most_one(seed):
    x = normal(50, 6, seed=seed)
    found = moments(x, 7 * x @ rotation(6, seed) + 3)
    assert 1 - 1e-12 < found.cka <= 1
    assert found.kept.total <= 1 and found.kept.shares.max() <= 1


def test_what_does_not_fit_raises():
    x, y = tensors(normal(6, 3), normal(6, 2))
    for measure in (linear_cka, neighbour_overlap, lambda a, b: joint_moments([(a, b)])):
        with refuses(UsageError, 6, 5):
            measure(x, y[:5])
        for flat in (x[:, 0], x[:, :0], x[None]):
            with refuses(UsageError, "(N, D)"):
                measure(flat, y[: len(flat)])
            with refuses(UsageError, "(N, D)"):
                measure(y[: len(flat)], flat)
        broken = x.clone()
        broken[4, 1] = math.nan
        with refuses(DataError, "1 of 6", "NaN"):
            measure(y, broken)
        with pytest.raises(DataError):
            measure(x[:0], y[:0])
    with refuses(DataError, 4, 3):
        linear_cka(x[:3], y[:3])
    with refuses(DataError, 2, 1):
        neighbour_overlap(x[:1], y[:1])
    with refuses(UsageError, 3, 2):
        joint_moments([(x, y), (x[:, :2], y)])
    with pytest.raises(DataError):
        joint_moments([])
    for k in (0, 6):
        with refuses(UsageError, 1, 5, 6, k):
            neighbour_overlap(x, y, neighbours=k)
    with refuses(UsageError, 2, 1):
        neighbour_overlap(x, y, sample=1)
    for variance in (0, 1.5):
        with refuses(UsageError, 0, 1, variance):
            joint_moments([(x, y)]).angles(variance)
