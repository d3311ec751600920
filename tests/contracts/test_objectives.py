"""What every registered objective promises; an objective joins by being registered."""

import inspect

import pytest
import torch
import torch.nn.functional as F

from fullrank import head, objective
from fullrank.errors import UsageError
from fullrank.heads import HEADS
from fullrank.objectives import OBJECTIVES, loss_of, needs_of

WIDTH, CLASSES = 4, 3


@pytest.fixture(params=[entry.name for entry in OBJECTIVES])
def loss(request):
    torch.manual_seed(0)
    return objective(request.param, in_dim=WIDTH, num_classes=CLASSES)


def called(loss, a, b):
    """The loss, with labels where it needs them; the last image has none."""
    labels = torch.arange(len(a)) % CLASSES
    labels[-1:] = -1
    return loss_of(loss, a, b, labels)


def test_scalar_finite_and_with_gradient_to_both_views(loss):
    a, b = (torch.randn(6, WIDTH, requires_grad=True) for _ in range(2))
    value = called(loss, a, b)
    assert value.shape == () and torch.isfinite(value)
    value.backward()
    assert a.grad.abs().sum() > 0 and b.grad.abs().sum() > 0


def test_the_views_may_change_places(loss):
    a, b = torch.randn(6, WIDTH), torch.randn(6, WIDTH)
    torch.testing.assert_close(called(loss, a, b), called(loss, b, a))


def test_chance_is_the_value_where_nothing_is_told_apart(loss):
    same = F.normalize(torch.randn(1, WIDTH), dim=1).expand(7, WIDTH)
    for weights in loss.parameters():
        weights.detach().zero_()
    level = loss.chance(7)
    if level is None:  # it depends on the width
        assert called(loss, same, same).item() == pytest.approx(WIDTH)
    else:
        assert called(loss, same, same).item() == pytest.approx(level, rel=1e-5)


def test_a_batch_too_small_and_unlike_shapes_raise(loss):
    least = 1 if list(loss.parameters()) else 2  # a classifier needs no second image
    with pytest.raises(UsageError, match=f"{least} images or more.*but got {least - 1}"):
        called(loss, *torch.randn(2, 2, WIDTH)[:, 2 - least + 1 :])
    with pytest.raises(UsageError, match="of one shape"):
        called(loss, torch.randn(3, WIDTH), torch.randn(3, WIDTH + 1))


def test_gradients_agree_with_finite_differences(loss):
    a, b = (torch.randn(5, WIDTH, dtype=torch.float64, requires_grad=True) for _ in range(2))
    loss.double()
    assert torch.autograd.gradcheck(lambda a, b: called(loss, a, b), (a, b))


def test_autocast_takes_no_digits_from_the_loss(loss):
    # A classifier's own products are a layer's, and autocast's business.
    if list(loss.parameters()):
        return
    a, b = torch.randn(2, 64, WIDTH) @ (5 * torch.randn(WIDTH, WIDTH))  # channels that go together
    expected = called(loss, a, b)
    with torch.autocast("cpu", torch.bfloat16):
        assert called(loss, a, b).item() == pytest.approx(expected.item(), rel=1e-5)


def test_labels_are_asked_for_exactly_where_the_class_says_so(loss):
    asked = {"labels", "generator"} & set(inspect.signature(loss.forward).parameters)
    assert needs_of(loss) == needs_of(type(loss)) == asked


@pytest.mark.parametrize(
    "spec",
    ["none,norm=batch", *(e.name + ":3" * (e.value is not None and e.value.kind is int) for e in HEADS)],
)
def test_it_trains_any_head(loss, spec):
    """One loss above every head: a gradient reaches h."""
    torch.manual_seed(0)
    top = head(spec, in_dim=WIDTH)
    if top.out_dim != WIDTH and list(loss.parameters()):
        loss = objective("cross-entropy", in_dim=top.out_dim, num_classes=CLASSES)
    h = torch.randn(12, WIDTH, requires_grad=True)
    called(loss, *top(h).chunk(2)).backward()
    assert h.grad.isfinite().all() and h.grad.abs().sum() > 0
