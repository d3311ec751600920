"""What every registered objective promises; an objective joins by being registered."""

import pytest
import torch

from fullrank import objective
from fullrank.errors import UsageError
from fullrank.objectives import OBJECTIVES


@pytest.fixture(params=[entry.name for entry in OBJECTIVES])
def loss(request):
    return objective(request.param)


def test_scalar_finite_and_with_gradient_to_both_views(loss):
    a, b = (torch.randn(6, 4, requires_grad=True) for _ in range(2))
    value = loss(a, b)
    assert value.shape == () and torch.isfinite(value)
    value.backward()
    assert a.grad.abs().sum() > 0 and b.grad.abs().sum() > 0


def test_the_views_may_change_places(loss):
    a, b = torch.randn(6, 4), torch.randn(6, 4)
    torch.testing.assert_close(loss(a, b), loss(b, a))


def test_chance_is_the_value_where_nothing_is_told_apart(loss):
    same = torch.randn(1, 4).expand(7, 4)
    assert float(loss(same, same)) == pytest.approx(loss.chance(7), rel=1e-5)


def test_a_batch_of_one_and_unlike_shapes_raise(loss):
    with pytest.raises(UsageError, match="2 images or more"):
        loss(torch.randn(1, 4), torch.randn(1, 4))
    with pytest.raises(UsageError, match="of one shape"):
        loss(torch.randn(3, 4), torch.randn(3, 5))


def test_gradients_agree_with_finite_differences(loss):
    a, b = (torch.randn(5, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(loss, (a, b))
