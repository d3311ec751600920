import re

import numpy as np
import pytest
import torch
from refusals import refuses

from fullrank.errors import DivergedError, UsageError
from fullrank.theory.collapse.linear_stack import linear, rectified, relative_imbalance
from fullrank.theory.collapse.toy_training import Schedule, stacked_layers, strong_augmentation


def test_case_1_shrinks_the_augmented_directions():
    run = strong_augmentation(1.0, Schedule(learning_rate=4e-3, steps=750, snapshots=4))
    end = run.singular_values[0][-1]
    clean, augmented = end[:8], end[8:]
    # Middle of the measured ranges: 0.38 to 0.41 and 0.16 to 0.17.
    assert clean.mean() / augmented.mean() == pytest.approx(0.395 / 0.165, rel=0.15)
    assert clean.min() > 2 * augmented.max()
    columns = np.linalg.norm(run.weights[0][-1], axis=0)
    assert columns[:8].min() > 1.5 * columns[8:].max()
    assert run.losses[-1] < run.losses[0]


def test_case_2_collapses_some_dimensions_and_balances_its_layers():
    run = stacked_layers(2, Schedule(learning_rate=4e-2, steps=750, snapshots=4))
    collapsed = run.collapsed()
    assert collapsed[0] > 10 and 3 <= collapsed[-1] <= 7
    balance = relative_imbalance(run.weights)[:, 0]
    assert balance[-1] < 0.7 * balance[0]


def test_each_layer_more_collapses_more_and_one_layer_nothing():
    schedule = Schedule(learning_rate=2e-2, steps=250, snapshots=1)
    counts = [stacked_layers(depth, schedule).collapsed()[-1] for depth in (1, 2, 3, 4)]
    assert counts[0] == 0
    assert (np.diff(counts) > 0).all()


def test_relu_between_two_layers_collapses_less():
    schedule = Schedule(learning_rate=2e-2, steps=300, snapshots=1)
    plain, nonlinear = (
        stacked_layers(2, schedule, network=net).collapsed()[-1] for net in (linear, rectified)
    )
    assert nonlinear < plain


@pytest.mark.parametrize("network", [linear, rectified])
def test_a_step_is_that_of_torchs_sgd(network):
    # Views without noise and a batch of all samples leave one step without chance.
    schedule = Schedule(learning_rate=0.05, steps=3, batch=32, samples=32, snapshots=3)
    run = stacked_layers(3, schedule, network=network, width=5, noise=0.0)
    rng = np.random.default_rng(0)
    for _ in range(3):
        rng.uniform(size=(5, 5))
    x = torch.tensor(rng.standard_normal((32, 5)))
    model = torch.nn.ModuleList(torch.nn.Linear(5, 5, bias=False, dtype=torch.float64) for _ in range(3))
    for layer, start in zip(model, run.weights, strict=True):
        layer.weight.data = torch.tensor(start[0])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for step in range(1, 4):
        h = x
        for index, layer in enumerate(model):
            h = layer(h)
            h = h.relu() if network is rectified and index < 2 else h
        loss = torch.nn.functional.cross_entropy(h @ h.T / 0.1, torch.arange(32))
        assert run.losses[step - 1] == pytest.approx(loss.item(), rel=1e-9)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        for layer, weights in zip(model, run.weights, strict=True):
            np.testing.assert_allclose(weights[step], layer.weight.detach(), atol=1e-9)


def test_the_bias_of_case_1_is_trained_as_torchs():
    schedule = Schedule(learning_rate=0.05, steps=2, batch=40, samples=40, snapshots=2)
    run = strong_augmentation(0.0, schedule, width=5, augmented=2)
    rng = np.random.default_rng(0)
    rng.uniform(size=(5, 6))
    x = torch.tensor(rng.standard_normal((40, 5)))
    layer = torch.nn.Linear(5, 5, dtype=torch.float64)
    layer.weight.data, layer.bias.data = torch.tensor(run.weights[0][0]), torch.tensor(run.biases[0])
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.05)
    for step in (1, 2):
        optimizer.zero_grad()
        z = layer(x)
        torch.nn.functional.cross_entropy(z @ z.T / 0.1, torch.arange(40)).backward()
        optimizer.step()
        np.testing.assert_allclose(run.weights[0][step], layer.weight.detach(), atol=1e-9)
        np.testing.assert_allclose(run.biases[step], layer.bias.detach(), atol=1e-9)


def test_starts_are_as_published():
    short = Schedule(learning_rate=1e-3, steps=1, snapshots=1)
    case_1 = strong_augmentation(0.5, short)
    for part in (case_1.weights[0][0], case_1.biases[0]):
        assert np.abs(part).max() <= 0.25 and np.abs(part).max() > 0.15
    case_2 = stacked_layers(3, short)
    for values in case_2.singular_values:
        np.testing.assert_allclose(values[0], np.exp(-0.35 * np.arange(16)), rtol=1e-9)
    assert not case_2.biases.any()


def test_the_spectrum_is_that_of_fresh_gaussian_inputs():
    run = stacked_layers(1, Schedule(learning_rate=1e-2, steps=1, snapshots=1))
    # On 1000 inputs the eigenvalues of W W' come out to within sampling error.
    np.testing.assert_allclose(run.spectra[0], run.singular_values[0][0] ** 2, rtol=0.3)


def test_a_seed_repeats_a_run_and_progress_counts_its_steps():
    steps = []
    runs = [
        strong_augmentation(
            1.0, Schedule(learning_rate=1e-3, steps=5, seed=seed, snapshots=2), on_step=steps.append
        )
        for seed in (3, 3, 4)
    ]
    np.testing.assert_array_equal(runs[0].weights[0], runs[1].weights[0])
    assert not np.array_equal(runs[0].weights[0], runs[2].weights[0])
    assert steps == [1, 2, 3, 4, 5] * 3
    assert runs[0].steps.tolist() == [0, 2, 5]


@pytest.mark.parametrize(
    ("call", "parts"),
    [
        (lambda: Schedule(learning_rate=0), ["learning_rate", "above 0"]),
        (lambda: Schedule(learning_rate=1, steps=-1), ["steps", "above 0", -1]),
        (lambda: Schedule(learning_rate=1, samples=100), [128, 100, "smaller"]),
        (lambda: strong_augmentation(-1.0), ["noise", 0, -1.0]),
        (lambda: strong_augmentation(1.0, width=4), ["8 augmented", "width 4"]),
        (lambda: stacked_layers(0), ["depth", 1, 0]),
        (lambda: stacked_layers(2, decay=-0.1), ["decay", 0, -0.1]),
        (lambda: stacked_layers(2, noise=-0.1), ["noise", 0, -0.1]),
    ],
)
def test_wrong_input_is_named(call, parts):
    with refuses(UsageError, *parts):
        call()


@pytest.mark.filterwarnings("error")
def test_divergence_is_reported_with_its_step_and_not_as_nan():
    with refuses(DivergedError, "1e+06", 1000, "smaller") as raised:
        stacked_layers(3, Schedule(learning_rate=1e3, steps=50))
    assert 0 < int(re.search(r"(\d+) steps", str(raised.value))[1]) < 50
