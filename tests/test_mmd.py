"""The squared MMD between the values of a label within each class: closed forms and invariances."""

from itertools import combinations

import pytest
import torch

from fullrank.mmd import within_class_mmd


@pytest.fixture
def rows():
    """Features, classes and values of 60 rows, some of them without a class or a value."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 4, generator=generator, dtype=torch.float64)
    labels, values = (torch.randint(-1, 3, (60,), generator=generator) for _ in range(2))
    return x, labels, values


def kernel(distance, median):
    return sum(torch.exp(-(distance**2) / (2 * (s * median) ** 2)) for s in (1, 2, 4, 8)) / 4


def test_two_rows_of_two_values_have_the_closed_form():
    x = torch.tensor([[0.0], [1.0], [3.0], [7.0]], dtype=torch.float64)
    zeros = torch.zeros(4, dtype=torch.int64)
    median = (3 + 4) / 2  # of the distances 1, 2, 3, 4, 6, 7
    k = {d: kernel(torch.tensor(float(d)), median) for d in (1, 2, 3, 4, 6, 7)}
    expected = k[1] + k[4] - 2 * (k[3] + k[7] + k[2] + k[6]) / 4
    assert within_class_mmd(x, zeros, torch.tensor([5, 5, 2, 2])).item() == pytest.approx(float(expected))


def test_the_mean_over_all_splits_of_equal_rows_is_zero():
    """Unbiased: if the value says nothing of the row, the estimate is 0 on average, here exactly."""
    x = torch.randn(7, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    zeros = torch.zeros(7, dtype=torch.int64)
    estimates = []
    for chosen in combinations(range(7), 3):
        values = zeros.clone()
        values[list(chosen)] = 1
        estimates.append(within_class_mmd(x, zeros, values))
    assert torch.stack(estimates).mean().abs() < 1e-15 and torch.stack(estimates).std() > 0.01


def test_equal_distributions_give_zero_within_three_standard_errors_and_shifted_ones_do_not():
    torch.manual_seed(0)
    labels, values = torch.arange(48) % 2, torch.arange(48) // 2 % 2
    draws = [torch.randn(48, 3) + 5 * labels[:, None] for _ in range(150)]
    equal = torch.stack([within_class_mmd(x, labels, values) for x in draws])
    shifted = torch.stack([within_class_mmd(x + values[:, None], labels, values) for x in draws])
    assert equal.mean().abs() < 3 * equal.std() / 150**0.5
    assert shifted.mean() > 10 * shifted.std() / 150**0.5


def test_every_class_and_pair_of_values_counts_equally(rows):
    x, labels, values = rows
    known = (labels >= 0) & (values >= 0)
    single = []
    for label in range(3):
        for pair in combinations(range(3), 2):
            chosen = (labels == label) & ((values == pair[0]) | (values == pair[1]))
            # A class of its own for each other row: it counts for the median distance alone.
            alone = torch.where(chosen, 0, 1 + torch.arange(60))
            single.append(within_class_mmd(x, torch.where(known, alone, -1), values))
    torch.testing.assert_close(within_class_mmd(x, labels, values), torch.stack(single).mean())


CHANGES = {
    "row order": lambda x, labels, values, order: (x[order], labels[order], values[order]),
    "names of classes": lambda x, labels, values, order: (x, torch.tensor([7, 2, 4, -1])[labels], values),
    "names of values": lambda x, labels, values, order: (x, labels, torch.tensor([9, 1, 3, -1])[values]),
    "translation": lambda x, labels, values, order: (x + 1e4, labels, values),
    "scale": lambda x, labels, values, order: (1e-3 * x, labels, values),
    "rotation": lambda x, labels, values, order: (x @ torch.linalg.qr(x[:4])[0], labels, values),
    "rows without a class": lambda x, labels, values, order: (
        torch.where((labels < 0)[:, None], 1e9, x),
        labels,
        values,
    ),
    "rows without a value": lambda x, labels, values, order: (
        x[values >= 0],
        labels[values >= 0],
        values[values >= 0],
    ),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_it_does_not_depend_on(rows, change):
    order = torch.randperm(60, generator=torch.Generator().manual_seed(2))
    expected = within_class_mmd(*rows)
    assert within_class_mmd(*change(*rows, order)).item() == pytest.approx(expected.item(), rel=1e-9)


def test_the_gradient_agrees_with_finite_differences_where_the_median_is_fixed():
    """Most pairs are of 60 rows that stand still at three points 3 apart, so the median is 3."""
    corners = torch.tensor([[0.0, 0.0], [3.0, 0.0], [1.5, 1.5 * 3**0.5]], dtype=torch.float64)
    still = corners.repeat(20, 1)
    labels = torch.cat([torch.arange(8) % 2, torch.full((60,), 2)])
    values = torch.cat([torch.arange(8) // 2 % 2, torch.zeros(60, dtype=torch.int64)])
    generator = torch.Generator().manual_seed(0)
    moved = torch.randn(8, 2, generator=generator, dtype=torch.float64)
    moved[4] = moved[0]  # two equal rows
    torch.autograd.gradcheck(
        lambda x: within_class_mmd(torch.cat([x, still]), labels, values), moved.requires_grad_()
    )


def test_float32_keeps_its_digits_far_from_the_origin(rows):
    x, labels, values = rows
    far = (x.float() + 100).double() - 100  # rounded once, at the input
    exact = within_class_mmd(far, labels, values).item()
    assert within_class_mmd(x.float() + 100, labels, values).item() == pytest.approx(exact, rel=1e-5)


@pytest.mark.parametrize(
    ("labels", "values"),
    [
        ([0, 0, 1, 1], [0, 1, 0, 1]),  # one row of each value
        ([0, 0, 1, 1], [0, 0, 1, 1]),  # one value in each class
        ([-1] * 4, [0, 0, 1, 1]),
        ([0] * 4, [-1] * 4),
    ],
)
def test_without_a_comparison_it_is_zero_with_a_zero_gradient(labels, values):
    x = torch.randn(4, 2, requires_grad=True)
    value = within_class_mmd(x, torch.tensor(labels), torch.tensor(values))
    value.backward()
    assert value == 0 and torch.equal(x.grad, torch.zeros(4, 2))


def test_equal_rows_are_zero_with_a_finite_gradient():
    x = torch.ones(4, 2, requires_grad=True)
    value = within_class_mmd(x, torch.zeros(4, dtype=torch.int64), torch.tensor([0, 0, 1, 1]))
    value.backward()
    assert value == 0 and torch.equal(x.grad, torch.zeros(4, 2))
