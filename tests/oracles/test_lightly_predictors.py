"""SimSiam, BYOL, alignment and MMCR against lightly's losses and heads, with what they scale otherwise."""

import pytest
import torch
import torch.nn.functional as F

from fullrank import objective

lightly = pytest.importorskip("lightly.loss")
heads = pytest.importorskip("lightly.models.modules.heads")
N, WIDTH, HIDDEN = 16, 6, 10


def views_of(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, N, WIDTH, generator=generator, dtype=torch.float64)


def with_weights(head, loss):
    """Their predictor with our weights: the layers stand in the same order, and so do the weights."""
    ours = [weight for name, weight in loss.predictor.state_dict().items() if "running" not in name]
    theirs = [weight for name, weight in head.state_dict().items() if "running" not in name]
    for weight, own in zip(theirs, ours, strict=True):
        weight.copy_(own)
    return head


def value_and_gradients(function, *tensors):
    value = function(*tensors)
    return [value.detach(), *torch.autograd.grad(value, tensors)]


def measured(loss, z, **given):
    return value_and_gradients(lambda z: loss(z, **given), z.clone().requires_grad_())


@pytest.mark.parametrize("name", ["simsiam", "byol"])
def test_the_predictors_have_lightlys_loss_and_gradient(name):
    """Half the sum over both orders: SimSiam's own value; BYOL's is 2 + 2 of it."""
    torch.manual_seed(0)
    loss = objective(f"{name},hidden={HIDDEN}", in_dim=WIDTH).double()
    head = {"simsiam": heads.SimSiamPredictionHead, "byol": heads.BYOLPredictionHead}[name]
    predictor = with_weights(head(WIDTH, HIDDEN, WIDTH).double(), loss)
    criterion, z, teacher = lightly.NegativeCosineSimilarity(), views_of(2), views_of(2, seed=7)

    def theirs(z):
        targets = z.detach() if name == "simsiam" else teacher
        half = (criterion(predictor(z[0]), targets[1]) + criterion(predictor(z[1]), targets[0])) / 2
        return half if name == "simsiam" else 2 + 2 * half

    expected = value_and_gradients(theirs, z.clone().requires_grad_())
    given = {"global_views": 2} if name == "simsiam" else {"teacher": teacher}
    torch.testing.assert_close(measured(loss, z, **given), expected, rtol=1e-7, atol=1e-10)


def test_alignment_is_two_more_than_twice_lightlys_cosine():
    z = views_of(2)
    criterion = lightly.NegativeCosineSimilarity()
    expected = value_and_gradients(lambda z: 2 + 2 * criterion(z[0], z[1]), z.clone().requires_grad_())
    ours = value_and_gradients(lambda z: objective("align")(z[0], z[1]), z.clone().requires_grad_())
    torch.testing.assert_close(ours, expected, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("local", [0.0, 5e-3, 0.3])
def test_mmcr_is_lightlys_of_unit_rows(local):
    """Theirs takes the views as (N, V, K) in two halves, and leaves the lengths of the rows as they are."""
    z = views_of(4)

    def theirs(z):
        unit = F.normalize(z, dim=-1).transpose(0, 1)
        return lightly.MMCRLoss(lmda=local)(unit[:, :2], unit[:, 2:])

    expected = value_and_gradients(theirs, z.clone().requires_grad_())
    torch.testing.assert_close(measured(objective(f"mmcr,local={local}"), z), expected, rtol=1e-8, atol=1e-10)
