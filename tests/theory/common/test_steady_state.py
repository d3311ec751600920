import numpy as np
import pytest
from refusals import refuses

from fullrank.errors import UsageError
from fullrank.theory.common.flow import integrate
from fullrank.theory.common.steady_state import learning_time, remaining_gradient, settle
from fullrank.theory.weighting.augmentation_models import keep_or_resample
from fullrank.theory.weighting.spectral_model import balanced_start, measured_weights, spectral_velocity


def test_it_follows_the_same_path_as_the_explicit_solver():
    velocity = spectral_velocity(*keep_or_resample([2.0, 0.5], [1.0, 0.5]))
    start = balanced_start(2, 2)
    path = settle(velocity, start, horizon=5.0)
    exact = integrate(velocity, start, path.times)
    for ours, theirs in zip(path.weights, exact.weights, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_a_flow_stands_still_where_it_settled():
    velocity = spectral_velocity(*keep_or_resample([3.0, 0.05], [1.0, 0.5]))
    start = balanced_start(3, 2)
    assert remaining_gradient(velocity, start) > 0.1
    assert remaining_gradient(velocity, settle(velocity, start).last) < 1e-9


def test_a_flow_without_bounds_ends_with_its_time():
    path = settle(lambda w: (w[0] ** 2,), (np.ones(1),))
    assert path.diverged_at == pytest.approx(1.0, rel=1e-3)
    assert np.isfinite(path.weights[0]).all() and len(path.times) == len(path.weights[0])


@pytest.mark.parametrize(
    ("depth", "scale", "low", "high"),
    [
        (1, 0.01, 0.8, 1),
        (2, 0.6, 0.4, 1.1),
        (2, 0.05, 0.97, 1.03),
        (3, 0.1, 0.97, 1.03),
        (4, 0.2, 0.97, 1.03),
    ],
)
def test_a_weak_feature_passes_half_its_weight_about_when_it_is_said_to(depth, scale, low, high):
    strength, keep = 0.5, 1.0
    moments = keep_or_resample([strength], [keep])
    path = settle(spectral_velocity(*moments), (np.eye(1) * scale,) * depth, horizon=1e5)
    layers = zip(*path.weights, strict=True)
    end = [measured_weights(layer, [strength])[-1, 0] for layer in layers]
    passed = np.interp(keep / 2, end, path.times)
    assert low < passed / learning_time(*moments, depth, scale)[0] < high


def test_a_feature_that_views_never_share_is_never_learned_and_one_that_starts_above_is_at_once():
    times = learning_time(*keep_or_resample([1.0, 10.0], [0.0, 1.0]), 2, 0.6)
    assert times.tolist() == [np.inf, 0]


def test_wrong_horizons_and_scales_are_refused():
    with refuses(UsageError, "horizon", "above 0"):
        settle(lambda w: w, (np.ones(1),), horizon=0)
    with refuses(UsageError, "scale", "above 0", -1, 0.5):
        learning_time(np.eye(1), np.eye(1), 2, -1)
