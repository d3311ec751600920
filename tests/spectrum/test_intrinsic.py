"""Intrinsic dimension: known shapes, the density of the ratios, scikit-dimension's values, invariances."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from refusals import refuses
from scipy.optimize import minimize_scalar
from scipy.spatial import cKDTree
from scipy.stats import beta
from torch import Tensor

from fullrank.errors import DataError, UsageError
from fullrank.spectrum import IntrinsicDimension, gride, two_nn


def curved(rows: int, dimension: int, width: int = 12, seed: int = 0) -> np.ndarray:
    """A flat torus in the given width: it has no boundary, and twice as many directions as dimensions."""
    generator = np.random.default_rng(seed)
    angles = 2 * np.pi * generator.random((rows, dimension))
    turned = np.linalg.qr(generator.normal(size=(width, width)))[0][: 2 * dimension]
    return np.concatenate([np.cos(angles), np.sin(angles)], axis=1) @ turned


def ratios(x: np.ndarray, near: int, far: int) -> np.ndarray:
    distances = cKDTree(x).query(x, far + 1)[0]
    return distances[:, far] / distances[:, near]


@pytest.mark.parametrize("dimension", [1, 2, 5])
@pytest.mark.parametrize("shape", ["torus", "cube", "sphere"])
def test_shapes_of_a_known_dimension(shape: str, dimension: int) -> None:
    generator = np.random.default_rng(dimension)
    x = {
        "torus": curved(1000, dimension),
        "cube": generator.random((1000, dimension)) @ generator.normal(size=(dimension, 12)),
        "sphere": generator.normal(size=(1000, dimension + 1)),
    }[shape]
    if shape == "sphere":
        x /= np.linalg.norm(x, axis=1, keepdims=True)
    # The boundary of a cube takes neighbours away, more of them in more dimensions.
    tolerance = 0.05 if shape == "torus" and dimension < 5 else 0.16
    for found in (two_nn(torch.from_numpy(x)), gride(torch.from_numpy(x), 2, 4)):
        assert found.value == pytest.approx(dimension, rel=tolerance)
        assert found.interval[0] < found.value < found.interval[1]


def test_two_nn_is_the_reciprocal_of_the_mean_logarithm() -> None:
    x = curved(500, 3)
    assert two_nn(torch.from_numpy(x)).value == pytest.approx(499 / np.log(ratios(x, 1, 2)).sum(), rel=1e-9)


@pytest.mark.parametrize(("near", "far"), [(1, 2), (3, 6)])
def test_the_standard_error_is_the_spread_over_samples(near: int, far: int) -> None:
    every = [gride(torch.from_numpy(curved(150, 2, 4, seed)), near, far) for seed in range(50)]
    spread = np.std([each.value for each in every])
    assert np.mean([each.standard_error for each in every]) == pytest.approx(spread, rel=0.3)
    assert sum(each.interval[0] < 2 < each.interval[1] for each in every) >= 43


@pytest.mark.parametrize(("near", "far"), [(1, 2), (1, 5), (2, 4), (16, 32), (5, 20)])
def test_gride_maximises_the_likelihood_of_the_beta_distribution(near: int, far: int) -> None:
    # (r_near / r_far)^d has a Beta(near, far - near) distribution: balls hold Poisson numbers of rows.
    x = curved(300, 2)
    mu = ratios(x, near, far)

    def loss(log_d: float) -> float:
        d = np.exp(log_d)
        return -(beta.logpdf(mu**-d, near, far - near) + np.log(d) - (d + 1) * np.log(mu)).sum()

    best = minimize_scalar(loss, bracket=(-1, 2), tol=1e-11)
    found = gride(torch.from_numpy(x), near, far)
    assert found.value == pytest.approx(np.exp(best.x), rel=1e-6)
    assert (found.near, found.far, found.rows, found.equal) == (near, far, 300, 0)


# `skdim.id.TwoNN().fit_transform(x)` of scikit-dimension 0.5.0 for curved(1000, d, seed=d). It fits a line to
# the distribution of the smaller 90 % of the ratios instead.
@pytest.mark.parametrize(("dimension", "theirs"), [(1, 1.0293), (2, 2.0159), (3, 3.0648), (5, 5.3075)])
def test_two_nn_is_near_scikit_dimension(dimension: int, theirs: float) -> None:
    ours = two_nn(torch.from_numpy(curved(1000, dimension, seed=dimension)))
    assert abs(ours.value - theirs) < 3 * ours.standard_error


def test_noise_counts_at_small_scales_only() -> None:
    x = torch.from_numpy(curved(1000, 2, 20) + 1e-3 * np.random.default_rng(1).normal(size=(1000, 20)))
    clean = two_nn(torch.from_numpy(curved(1000, 2, 20))).value
    noisy = torch.from_numpy(curved(1000, 2, 20) + 0.03 * np.random.default_rng(1).normal(size=(1000, 20)))
    assert two_nn(x).value == pytest.approx(clean, rel=0.05)
    assert two_nn(noisy).value > 1.5 * gride(noisy, 32, 64).value


@given(seed=st.integers(0, 20), scale=st.sampled_from([1e-6, 1.0, 1e6]), shift=st.sampled_from([0.0, 100.0]))
@settings(max_examples=10, deadline=None)
def test_order_scale_shift_and_rotation_change_nothing(seed: int, scale: float, shift: float) -> None:
    x = torch.from_numpy(curved(60, 2, 6))
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(60, generator=generator)
    turned = torch.linalg.qr(torch.randn(6, 6, generator=generator, dtype=torch.float64)).Q
    other = (x[order] @ turned + shift) * scale
    for measure in (two_nn, lambda rows: gride(rows, 2, 5)):
        assert measure(other).value == pytest.approx(measure(x).value, rel=1e-5)


def test_equal_rows_are_left_out_and_counted() -> None:
    x = torch.from_numpy(curved(200, 2))
    zero = torch.zeros(1, 12, dtype=torch.float64)
    repeated = torch.cat([x, x[:50], zero, -zero])
    found, plain = two_nn(repeated), two_nn(torch.cat([x, zero]))
    assert (found.rows, found.equal) == (201, 51)
    assert found.value == pytest.approx(plain.value, rel=1e-9)


def test_more_channels_than_rows_and_a_sample() -> None:
    x = torch.from_numpy(curved(150, 2, 400))
    assert two_nn(x).value == pytest.approx(149 / np.log(ratios(x.numpy(), 1, 2)).sum(), rel=1e-6)
    assert two_nn(x, sample=100).rows == 100 and two_nn(x, sample=100, seed=1) != two_nn(x, sample=100)


def test_near_pairs_keep_their_digits_beside_far_rows() -> None:
    # Inner products of rows this far apart lose the distances within a pair.
    x = torch.from_numpy(np.concatenate([1e-5 * curved(100, 2), 1e-5 * curved(100, 2, seed=1) + 1]))
    both = np.log(np.r_[ratios(1e-5 * curved(100, 2), 1, 2), ratios(1e-5 * curved(100, 2, seed=1), 1, 2)])
    assert two_nn(x).value == pytest.approx(199 / both.sum(), rel=1e-4)


@pytest.mark.parametrize("measure", [two_nn, lambda x: gride(x, 1, 2)])
def test_fewer_rows_than_neighbours(measure: Callable[[Tensor], IntrinsicDimension]) -> None:
    x = torch.from_numpy(curved(40, 2))
    for rows in (x[:1], x[:2], x[[0, 1, 1, 0]]):
        with refuses(DataError, len(rows)):
            measure(rows)
    assert measure(x[:3]).rows == 3
    with refuses(DataError, 32, 80):
        gride(torch.cat([x[:32], x[:32], x[:16]]), 16, 32)


def test_bad_arguments_and_distances() -> None:
    x = torch.from_numpy(curved(50, 2))
    for near, far in ((0, 2), (2, 2), (3, 1)):
        with refuses(UsageError, near, far):
            gride(x, near, far)
    with refuses(UsageError, 1):
        two_nn(x, sample=1)
    with refuses(DataError, 1, 2):
        two_nn(torch.eye(5))
