"""The solver against scikit-learn, autograd and its stated invariances; the probe against its protocol."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from refusals import refuses
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torch.nn.functional import cross_entropy

from fullrank.errors import DataError, UsageError
from fullrank.probes import (
    LinearProbe,
    among,
    descent as descent_module,
    design as design_module,
    linear as linear_module,
    solve_logistic,
)
from fullrank.probes.design import Design
from fullrank.probes.logistic import minimise


@pytest.fixture(scope="module")
def digits():
    images, labels = load_digits(return_X_y=True)
    return torch.tensor(images / 16), torch.tensor(labels)


def noisy(n=150, width=8, classes=3, seed=0):
    """Gaussian features whose labels a linear map gives, blurred by noise."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(n, width, generator=generator, dtype=torch.float64)
    scores = features[:, :classes] + 0.7 * torch.randn(n, classes, generator=generator, dtype=torch.float64)
    labels = scores.argmax(1)
    labels[:classes] = torch.arange(classes)
    return features, labels


def objective(features, labels, weight, bias, penalty):
    features = features.double()
    return cross_entropy(features @ weight.T + bias, labels) + penalty / 2 * weight.square().sum()


def steepest(features, labels, fit, penalty):
    """The largest gradient at the returned point, by autograd, for features from their mean in one unit."""
    mean, unit = features.double().mean(0), total_variance(features).sqrt()
    weight = fit.weight.clone().requires_grad_()
    bias = (fit.bias + fit.weight @ mean).requires_grad_()
    objective(features.double() - mean, labels, weight, bias, penalty).backward()
    return max((weight.grad / unit).abs().max().item(), bias.grad.abs().max().item())


def total_variance(features):
    features = features.double()
    return (features - features.mean(0)).square().sum(1).mean()


def test_same_optimum_as_scikit_learn_on_digits(digits):
    features, labels = digits[0][:300], digits[1][:300]
    penalty = 1e-3
    fit = solve_logistic(features, labels, 10, penalty, tol=1e-9)
    oracle = LogisticRegression(C=1 / (300 * penalty), tol=1e-9, max_iter=5000, solver="newton-cg")
    oracle.fit(features.numpy(), labels.numpy())
    assert fit.converged and fit.gradient <= 1e-9
    np.testing.assert_allclose(fit.weight, oracle.coef_, atol=1e-5)
    np.testing.assert_allclose(fit.bias, oracle.intercept_ - oracle.intercept_.mean(), atol=1e-5)
    odds = (features @ fit.weight.T + fit.bias).softmax(1)
    np.testing.assert_allclose(odds, oracle.predict_proba(features.numpy()), atol=1e-6)
    theirs = objective(
        features, labels, torch.tensor(oracle.coef_), torch.tensor(oracle.intercept_), penalty
    ).item()
    ours = objective(features, labels, fit.weight, fit.bias, penalty).item()
    assert theirs - 1e-6 < ours <= theirs + 1e-12


def test_same_optimum_as_scikit_learn_on_ill_conditioned_features():
    features, labels = noisy(n=300)
    mixing = torch.linalg.qr(
        torch.randn(8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    )
    features = features * torch.logspace(1, -3, 8, dtype=torch.float64) @ mixing[0] + 5
    fit = solve_logistic(features, labels, 3, 1e-4, tol=1e-9)
    oracle = LogisticRegression(C=1 / (300 * 1e-4), tol=1e-10, max_iter=5000, solver="newton-cholesky")
    oracle.fit(features.numpy(), labels.numpy())
    odds = (features @ fit.weight.T + fit.bias).softmax(1)
    np.testing.assert_allclose(odds, oracle.predict_proba(features.numpy()), atol=1e-6)


SHAPES = {
    "plain": lambda x: x,
    "constant column": lambda x: torch.cat([x, torch.full((len(x), 1), 0.1)], 1),
    "duplicate columns": lambda x: torch.cat([x, x, x], 1),
    "rank one": lambda x: x[:, :1] * torch.arange(1.0, 9.0),
    "one channel in 1e-6": lambda x: x * torch.tensor([1e-6] + [1.0] * 7),
    "channels over twelve decades": lambda x: x * torch.logspace(-6, 6, 8, dtype=torch.float64),
    "far from zero": lambda x: x + 1e4,
    "float32": lambda x: x.float(),
    "wide": lambda x: torch.cat([x, noisy(len(x), 300, seed=9)[0]], 1),
    "scale 1e-6": lambda x: x * 1e-6,
    "scale 1e6": lambda x: x * 1e6,
}


@pytest.mark.parametrize("penalty", [1e-1, 1e-4])
@pytest.mark.parametrize("change", SHAPES.values(), ids=SHAPES.keys())
def test_the_gradient_vanishes_at_the_solution(change, penalty):
    features, labels = noisy()
    features = change(features)
    penalty = penalty * total_variance(features).item()
    fit = solve_logistic(features, labels, 3, penalty, tol=1e-8)
    assert fit.converged
    assert steepest(features, labels, fit, penalty) < 1.2e-8
    assert abs(fit.bias.sum()) < 1e-8 * (1 + fit.bias.abs().max())


def test_the_reported_gradient_is_the_gradient_there(digits):
    features, labels = digits[0][:300], digits[1][:300]
    fit = solve_logistic(features, labels, 10, 1e-3, tol=1e-5)
    assert fit.gradient == pytest.approx(steepest(features, labels, fit, 1e-3), rel=1e-3)
    assert fit.gradient > 1e-8  # the tolerance is what ends the search


def test_separable_rows_and_a_small_penalty_converge():
    features = torch.tensor([[-2.0], [-1.0], [1.0], [2.0]], dtype=torch.float64)
    labels = torch.tensor([0, 0, 1, 1])
    fit = solve_logistic(features, labels, 2, 1e-8, tol=1e-10)
    assert fit.converged and fit.weight[1, 0] > 5
    # In one dimension and by symmetry the optimum solves one equation in the margin w = W_1 - W_0.
    w = (fit.weight[1, 0] - fit.weight[0, 0]).item()
    slope = 0.5 * (1 / (1 + np.exp(w)) + 2 / (1 + np.exp(2 * w))) - 1e-8 * w / 2
    assert abs(slope) < 1e-9 and abs(fit.bias[0]) < 1e-3


def test_a_start_changes_the_way_and_not_the_answer():
    for features, labels in [noisy(), noisy(n=40, width=60)]:
        cold = solve_logistic(features, labels, 3, 1e-2, tol=1e-8)
        near = solve_logistic(features, labels, 3, 2e-2, tol=1e-8)
        warm = solve_logistic(features, labels, 3, 1e-2, tol=1e-8, start=near)
        again = solve_logistic(features, labels, 3, 1e-2, tol=1e-7, start=cold)
        torch.testing.assert_close(warm.weight, cold.weight, atol=1e-5, rtol=0)
        assert again.iterations == 0
        torch.testing.assert_close(again.weight, cold.weight)


@settings(max_examples=5, deadline=None)
@given(exponent=st.floats(-3, 4), seed=st.integers(0, 1000))
def test_a_start_far_away_comes_to_the_same_optimum(exponent, seed):
    # There the loss is a cliff of straight walls, and a quasi-Newton step may be far too long or too short.
    features, labels = noisy(n=60, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    near = solve_logistic(features, labels, 3, 1e-3, tol=1e-10)
    noise = torch.randn(3, 8, generator=generator, dtype=torch.float64)
    far = replace(near, weight=10**exponent * noise, bias=10**exponent * noise[:, 0])
    again = solve_logistic(features, labels, 3, 1e-3, tol=1e-10, start=far)
    assert again.converged
    torch.testing.assert_close(again.weight, near.weight, atol=1e-5, rtol=0)


def test_the_number_of_iterations_hardly_depends_on_the_channels_scales():
    features, labels = noisy(n=300)
    counts = {}
    for decades in (0, 4):
        scaled = features * torch.logspace(0, -decades, 8, dtype=torch.float64)
        penalty = 1e-8 * total_variance(scaled).item()
        counts[decades] = solve_logistic(scaled, labels, 3, penalty).iterations
    # Plain gradient steps would need some 10 ** 8 times as many.
    assert 0 < counts[4] < 3 * counts[0] < 300


def test_the_bias_sums_to_zero_wherever_the_search_starts():
    features, labels = noisy()
    start = solve_logistic(features, labels, 3, 1e-2)
    lifted = replace(start, bias=start.bias + 5)
    assert abs(solve_logistic(features, labels, 3, 2e-2, start=lifted).bias.sum()) < 1e-9


def test_a_tolerance_out_of_reach_warns_and_says_so():
    features, labels = noisy(n=40)
    with pytest.warns(UserWarning, match="tol 1e-30") as caught:
        fit = solve_logistic(features, labels, 3, 1e-3, tol=1e-30)
    assert not fit.converged and fit.gradient < 1e-8
    assert caught[0].filename == __file__
    with pytest.warns(UserWarning, match="tol 1e-30") as caught:
        LinearProbe(tol=1e-30, penalties=[1e-2]).fit(features, labels)
    assert caught[0].filename == __file__ and len(caught) == 1


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf")])
def test_penalties_and_tolerances_must_be_positive(bad):
    features, labels = noisy()
    with refuses(UsageError, "penalty", bad):
        solve_logistic(features, labels, 3, bad)
    with refuses(UsageError, "tol", bad):
        solve_logistic(features, labels, 3, 1.0, tol=bad)
    with refuses(UsageError, "penalty", bad):
        LinearProbe(penalties=[1.0, bad])
    with refuses(UsageError, "tol", bad):
        LinearProbe(tol=bad)


def test_other_bad_arguments():
    features, labels = noisy()
    with refuses(UsageError, "raw", "l2", "standardised", "'whitened'"):
        LinearProbe(features="whitened")
    with refuses(UsageError, "penalties", 1):
        LinearProbe(penalties=[])
    with refuses(UsageError, "0 to 1", "0 to 2"):
        solve_logistic(features, labels, 2, 1.0)
    with refuses(UsageError, 150, "(149,)"):
        solve_logistic(features, labels[:-1], 3, 1.0)
    with refuses(DataError, "1 of 150"):
        solve_logistic(features.index_fill(0, torch.tensor([3]), torch.nan), labels, 3, 1.0)


def test_the_number_of_threads_comes_back():
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        solve_logistic(*noisy(), 3, 1e-2)
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


# The probe


def logits(probe, features):
    return features.double() @ probe.weight.T + probe.bias


@settings(max_examples=4, deadline=None)
@given(
    exponent=st.integers(-20, 20),
    shift=st.floats(-50, 50),
    dead=st.integers(0, 3),
    seed=st.integers(0, 1000),
)
def test_scale_shift_rotation_and_dead_channels_change_nothing(exponent, shift, dead, seed):
    features, labels = noisy(n=60, seed=seed)
    rotation = torch.linalg.qr(noisy(n=8, seed=seed + 1)[0])[0]
    changed = 10.0 ** (exponent / 3) * (features @ rotation + shift)
    changed = torch.cat([changed, changed.new_full((60, dead), changed[0, 0].item())], 1)
    grid = (1.0, 1e-2)
    one, other = (LinearProbe(grid, tol=1e-8).fit(x, labels) for x in (features, changed))
    assert one.held_out == other.held_out and one.penalty == other.penalty
    torch.testing.assert_close(logits(one, features), logits(other, changed), atol=1e-4, rtol=1e-4)


def test_standardising_undoes_a_diagonal_head_and_raw_does_not():
    features, labels = noisy()
    scaled = features * torch.logspace(0, -4, 8, dtype=torch.float64)
    grid, predictions = (1e-1, 1e-2), {}
    for treatment in ("raw", "standardised"):
        one, other = (
            LinearProbe(grid, tol=1e-8, features=treatment).fit(x, labels) for x in (features, scaled)
        )
        predictions[treatment] = logits(one, features), logits(other, scaled)
    torch.testing.assert_close(*predictions["standardised"], atol=1e-5, rtol=1e-5)
    assert (predictions["raw"][0] - predictions["raw"][1]).abs().max() > 0.5


def test_standardised_is_the_penalty_on_standardised_features():
    features, labels = noisy()
    features = torch.cat([features * torch.logspace(0, 2, 8) + 3, torch.full((150, 1), 0.1)], 1)
    probe = LinearProbe([1e-2], features="standardised", tol=1e-8).fit(features, labels)
    by_hand = (features[:, :8] - features[:, :8].mean(0)) / features[:, :8].std(0, correction=0)
    fit = solve_logistic(by_hand, labels, 3, 1e-2 * 8, tol=1e-8)
    expected = by_hand @ fit.weight.T + fit.bias
    torch.testing.assert_close(logits(probe, features), expected, atol=1e-5, rtol=1e-5)
    assert probe.weight[:, 8].abs().max() < 1e-6


def test_l2_sees_directions_only():
    features, labels = noisy()
    lengths = torch.logspace(-6, 6, 150, dtype=torch.float64)[:, None]
    one, other = (LinearProbe([1e-2], features="l2").fit(x, labels) for x in (features, features * lengths))
    torch.testing.assert_close(one.weight, other.weight, atol=1e-6, rtol=1e-6)
    assert torch.equal(one.predict(features), one.predict(features * 1e-3))


def test_the_penalty_is_chosen_by_held_out_accuracy_and_refitted_on_all(digits):
    features, labels = digits[0][:300], digits[1][:300]
    probe = LinearProbe([1.0, 1e-3], tol=1e-8).fit(features, labels)
    assert probe.penalty == 1e-3 and probe.held_out[1e-3] > probe.held_out[1.0]
    whole = solve_logistic(features, labels, 10, probe.penalty * total_variance(features).item(), tol=1e-8)
    torch.testing.assert_close(probe.weight, whole.weight, atol=1e-3, rtol=1e-3)


def test_the_default_grid_reads_digits(digits):
    probe = LinearProbe().fit(digits[0][:200], digits[1][:200])
    assert list(probe.held_out) == [10.0**-power for power in range(8)]
    assert probe.held_out[probe.penalty] == max(probe.held_out.values())
    assert probe.score(digits[0][500:], digits[1][500:]) > 0.8


def test_the_choice_never_rests_on_the_rows_it_learns_from():
    # Labels without any relation to 60 wide rows: every small penalty fits the rows it sees without a
    # mistake, so a choice made on these would report 1.
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(60, 100, generator=generator)
    probe = LinearProbe([1e-2, 1e-4]).fit(features, torch.arange(60) % 2)
    assert probe.score(features, torch.arange(60) % 2) > 0.95
    assert max(probe.held_out.values()) < 0.9


def test_equal_accuracies_go_to_the_lower_cross_entropy_then_to_the_larger_penalty():
    features = torch.cat([torch.linspace(1, 2, 40), torch.linspace(-2, -1, 40)])[:, None]
    labels = torch.arange(80) // 40
    probe = LinearProbe([1e-1, 1e-2, 1e-3]).fit(features, labels)
    assert set(probe.held_out.values()) == {1.0} and probe.penalty == 1e-3
    flat = LinearProbe([1e-2, 1e-1]).fit(torch.zeros(80, 2), labels)
    assert flat.penalty == 1e-1
    single = LinearProbe([1e-2, 1e-1]).fit(torch.eye(3), torch.arange(3))
    assert single.penalty == 1e-1 and single.held_out == {}


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=2, max_size=6), st.integers(0, 100))
def test_a_fifth_of_each_class_is_held_out(counts, seed):
    targets = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    held = linear_module._held_out_rows(targets, seed)
    assert len(set(held.tolist())) == len(held)
    taken = torch.bincount(targets[held], minlength=len(counts)).tolist()
    for count, number in zip(counts, taken, strict=True):
        assert number == 0 if count == 1 else 1 <= number < count and abs(number - count / 5) <= 0.8


def test_the_seed_draws_the_split():
    features, labels = noisy(n=40)
    held = [LinearProbe([1e-2], seed=seed).fit(features, labels).held_out[1e-2] for seed in range(6)]
    assert len(set(held)) > 1


def test_classes_that_are_nearly_apart_are_solved_at_the_smallest_penalty():
    # Here quasi-Newton steps crawl: three thousand of them did not reach the tolerance.
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(160) % 10
    features = torch.randn(10, 16, generator=generator)[labels] + 0.7 * torch.randn(
        160, 16, generator=generator
    )
    penalty = 1e-7 * total_variance(features).item()
    fit = solve_logistic(features, labels, 10, penalty)
    assert fit.converged and fit.iterations < 300


def test_a_path_of_penalties_has_the_solutions_of_each_alone():
    features, labels = noisy(n=200)
    design = Design.of(features)
    penalties = [1.0, 1e-2, 1e-4, 1e-6]
    for penalty, fit in zip(penalties, minimise(design, labels, 3, penalties, 1e-9), strict=True):
        (alone,) = minimise(design, labels, 3, [penalty], 1e-9)
        torch.testing.assert_close(fit.weight, alone.weight, atol=1e-5, rtol=1e-5)
        assert fit.converged


@pytest.mark.parametrize("logits", [1, 100, 10**6])
def test_a_pass_over_the_rows_may_be_cut_anywhere(logits, monkeypatch):
    features, labels = noisy(n=31)
    expected = solve_logistic(features, labels, 3, 1e-3, tol=1e-9)
    monkeypatch.setattr(descent_module, "_LOGITS", logits)
    found = solve_logistic(features, labels, 3, 1e-3, tol=1e-9)
    torch.testing.assert_close(found.weight, expected.weight, atol=1e-9, rtol=1e-9)


@pytest.fixture
def large(monkeypatch):
    """Every set counts as large: its channels are rounded, and descents begin in float32."""
    monkeypatch.setattr(design_module, "_LARGE", 1)


@pytest.mark.parametrize("tol", [1e-4, 1e-5, 1e-6, 1e-7])
@pytest.mark.parametrize(("scale", "offset"), [(1.0, 0.0), (1e-6, 0.0), (1e6, 0.0), (1.0, 1e5)])
def test_a_large_set_is_solved_to_the_gradient_that_is_asked(large, tol, scale, offset):
    features, labels = noisy(n=300)
    features = scale * features + offset
    penalty = 1e-3 * total_variance(features).item()
    fit = solve_logistic(features, labels, 3, penalty, tol)
    assert Design.of(features, tol=tol).channels.dtype == torch.float32
    assert fit.converged and steepest(features, labels, fit, penalty) <= 1.01 * tol


def test_a_large_set_has_the_optimum_of_a_small_one(monkeypatch):
    features, labels = noisy(n=300)
    features[:, 3], features[:, 4] = 2.0, features[:, 5]  # a constant, and one channel twice
    penalties = [1.0, 1e-3, 1e-6]
    small = minimise(Design.of(features, standardise=True), labels, 3, penalties, 1e-9)
    monkeypatch.setattr(design_module, "_LARGE", 1)
    large = minimise(Design.of(features, standardise=True, tol=1e-7), labels, 3, penalties, 1e-7)
    for one, other in zip(small, large, strict=True):
        torch.testing.assert_close(other.weight, one.weight, atol=1e-5, rtol=1e-4)


def test_a_large_set_is_left_as_it_was(large):
    features, labels = noisy(n=300)
    before = features.clone()
    solve_logistic(features, labels, 3, 1e-2)
    assert torch.equal(features, before)


def test_whitening_by_a_few_rows_changes_no_optimum(digits, monkeypatch):
    features, labels = digits[0][:900], digits[1][:900]
    every = solve_logistic(features, labels, 10, 1e-3, tol=1e-9)
    monkeypatch.setattr(descent_module, "_WHITENING_ROWS", 1)
    some = solve_logistic(features, labels, 10, 1e-3, tol=1e-9)
    torch.testing.assert_close(some.weight, every.weight, atol=1e-6, rtol=1e-6)
    assert some.iterations <= 2 * every.iterations and not torch.equal(some.weight, every.weight)


def test_channels_that_the_whitenings_rows_lack_do_not_slow_a_descent(monkeypatch):
    features, labels = noisy(n=3000, width=10)
    rare = torch.zeros(3000, 30, dtype=torch.float64)
    for channel in range(30):
        rare[10 * channel + 1 : 10 * channel + 6, channel] = 5.0
    features = torch.cat([features, rare], 1)
    monkeypatch.setattr(descent_module, "_WHITENING_ROWS", 3000)
    every = solve_logistic(features, labels, 3, 1e-5)
    monkeypatch.setattr(descent_module, "_WHITENING_ROWS", 320)
    assert solve_logistic(features, labels, 3, 1e-5).iterations <= 2 * every.iterations


def test_constants_in_many_rows_are_constants():
    values = torch.tensor([0.1, 1 / 3, 1e9 / 7], dtype=torch.float64)
    design = Design.of(values.expand(20_000, 3), standardise=True)
    assert torch.equal(design.unit, torch.ones(3, dtype=torch.float64))
    assert not design.channels[:-1].any()


# Among some classes


@pytest.fixture(scope="module")
def fitted():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(80) % 4 * 10
    features = torch.eye(4)[labels // 10] + 0.6 * torch.randn(80, 4, generator=generator)
    return LinearProbe([1e-3]).fit(features, labels), features, labels


def test_among_takes_the_largest_logit_of_these_classes(fitted):
    probe, features, _ = fitted
    of_two = logits(probe, features)[:, [1, 3]]
    expected = torch.tensor([10, 30])[of_two.argmax(1)]
    assert torch.equal(among(probe, {30, 10}).predict(features), expected)


def test_among_loses_no_row_of_these_classes_and_leaves_the_probe_as_it_was(fitted):
    probe, features, labels = fitted
    before = probe.predict(features)
    rows = (labels == 0) | (labels == 20)
    narrow = among(probe, frozenset({0, 20}))
    assert narrow.score(features[rows], labels[rows]) >= probe.score(features[rows], labels[rows])
    assert torch.equal(probe.predict(features), before) and len(probe.classes) == 4
    assert torch.equal(among(probe, {0, 10, 20, 30}).predict(features), before)


def test_among_refuses_classes_that_were_not_learnt(fitted):
    with refuses(UsageError, "1 of 2", "first is 7", "its 4"):
        among(fitted[0], {7, 10})
    with refuses(UsageError, "none", "its 4"):
        among(fitted[0], set())
