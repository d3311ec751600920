import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from refusals import refuses
from scipy.linalg import expm

from fullrank.errors import UsageError
from fullrank.theory.common.flow import descend, integrate


def test_a_linear_flow_is_the_matrix_exponential():
    matrix = np.random.default_rng(0).normal(size=(4, 4))
    start = np.eye(4)
    path = integrate(lambda w: (w[0] @ matrix,), (start,), np.linspace(0, 1.5, 4))
    for time, weight in zip(path.times, path.weights[0], strict=True):
        np.testing.assert_allclose(weight, expm(matrix * time), rtol=1e-8, atol=1e-9)
    assert path.diverged_at is None


def test_layers_of_different_shapes_keep_theirs():
    start = (np.ones((3, 2)), np.full((1, 3), 2.0), np.zeros(5))
    path = integrate(lambda w: tuple(-layer for layer in w), start, [0, 1, 2])
    assert [layer.shape for layer in path.weights] == [(3, 3, 2), (3, 1, 3), (3, 5)]
    np.testing.assert_allclose(path.last[1], 2 * np.exp(-2), rtol=1e-9)


@pytest.mark.parametrize(("start", "power"), [(0.1, 2), (1.7, 3), (5.0, 5)])
def test_the_time_of_divergence_is_that_of_the_closed_form(start, power):
    # w' = w^p from w0 leaves every bound at w0^(1-p) / (p - 1).
    expected = start ** (1 - power) / (power - 1)
    path = integrate(
        lambda w: (w[0] ** power,), (np.array([start]),), [0, expected / 2, expected * 2, expected * 3]
    )
    assert path.diverged_at == pytest.approx(expected, rel=1e-6)
    assert len(path.times) == 2 and np.isfinite(path.weights[0]).all()


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 1000))
def test_descent_comes_to_the_flow_as_its_steps_shrink(seed):
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=(3, 3))
    target = matrix @ matrix.T / 3
    start = (rng.normal(size=(3, 3)) / 2, rng.normal(size=(3, 3)) / 2)

    def velocity(weights):
        rest = target - weights[1] @ weights[0]
        return weights[1].T @ rest, rest @ weights[0].T

    exact = integrate(velocity, start, [0, 1]).last
    errors = []
    for steps in (200, 400):
        near = descend(velocity, start, rate=1 / steps, steps=steps).last
        errors.append(max(np.abs(a - b).max() for a, b in zip(exact, near, strict=True)))
    assert errors[0] < 0.1
    assert errors[1] < 0.6 * errors[0] + 1e-9  # of first order: half the step, half the error


def test_descent_that_explodes_says_when_and_keeps_what_is_finite():
    path = descend(lambda w: (w[0] ** 3,), (np.array([2.0]),), rate=0.5, steps=100)
    assert path.diverged_at is not None and path.diverged_at <= 10
    assert np.isfinite(path.weights[0]).all() and len(path.times) == len(path.weights[0])


def test_the_last_step_is_always_kept():
    path = descend(lambda w: (-w[0],), (np.ones(1),), rate=0.1, steps=25, keep_every=10)
    np.testing.assert_allclose(path.times, [0, 1, 2, 2.5])


@pytest.mark.parametrize("times", [[0.0], [1.0, 2.0], [0, 2, 1], [0, np.inf], [[0, 1]]])
def test_times_that_do_not_ascend_from_zero_are_refused(times):
    with refuses(UsageError, "flow"):
        integrate(lambda w: w, (np.ones(1),), times)


@pytest.mark.parametrize("wrong", [{"rate": 0.0}, {"rate": float("nan")}, {"steps": 0}, {"keep_every": 0}])
def test_a_descent_that_cannot_go_is_refused(wrong):
    with refuses(UsageError, "rate", 0, "keep_every"):
        descend(lambda w: w, (np.ones(1),), **({"rate": 0.1, "steps": 3, "keep_every": 1} | wrong))
