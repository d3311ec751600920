"""The gradient's share on objects: known shares; gradients against a linear net and finite differences."""

import pytest
import torch
from refusals import refuses
from torch import nn

from fullrank.encoders import encoder
from fullrank.errors import UsageError
from fullrank.segmentation import foreground_area, foreground_share, gradient_draws

GENERATOR = torch.Generator().manual_seed(0)
MASKS = torch.randint(0, 3, (4, 6, 5), generator=GENERATOR)
MASKS[1, :2], MASKS[2] = 255, 0
GRADIENTS = torch.randn(3, 4, 2, 6, 5, generator=GENERATOR)


def test_a_gradient_of_the_same_size_everywhere_has_the_share_of_the_area():
    signs = GRADIENTS.sign()
    share, area = foreground_share(signs, MASKS), foreground_area(MASKS)
    assert share[2].isnan() and area[2].isnan()  # without an object
    rest = [0, 1, 3]
    torch.testing.assert_close(share[rest], area[rest], rtol=0, atol=1e-12)
    assert area[1] == (MASKS[1, 2:] > 0).double().mean()


def test_a_gradient_on_objects_alone_has_a_share_of_one_and_its_scale_does_not_matter():
    kept = foreground_share(GRADIENTS * ((MASKS == 1) | (MASKS == 2))[:, None], MASKS)
    assert kept[[0, 1, 3]].eq(1).all()
    torch.testing.assert_close(
        foreground_share(GRADIENTS * 1e3, MASKS), foreground_share(GRADIENTS, MASKS), equal_nan=True
    )
    assert foreground_share(GRADIENTS * 0, MASKS).isnan().all()


def test_several_gradients_are_averaged_by_their_squares():
    same = foreground_share(GRADIENTS[:1].repeat(3, 1, 1, 1, 1), MASKS)
    torch.testing.assert_close(same, foreground_share(GRADIENTS[0], MASKS), equal_nan=True)
    stacked = GRADIENTS.transpose(0, 1).flatten(1, 2)  # more channels are more squares
    torch.testing.assert_close(
        foreground_share(GRADIENTS, MASKS), foreground_share(stacked, MASKS), equal_nan=True
    )


def test_the_gradients_of_a_linear_net_are_its_signed_rows():
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 5, dtype=torch.float64))
    grads = gradient_draws(net, torch.rand(3, 3, 2, 2, generator=GENERATOR).double(), draws=40)
    assert grads.shape == (40, 3, 3, 2, 2) and torch.equal(grads[:, 0], grads[:, 2])
    signs = torch.linalg.lstsq(net[1].weight.T, grads[:, 0].flatten(1).T).solution
    torch.testing.assert_close(signs.abs(), torch.ones_like(signs))
    assert 60 < signs.gt(0).sum() < 140


def test_gradients_are_those_of_finite_differences_and_leave_the_net_as_it_was():
    net = encoder("tiny-resnet,width=2", image_size=8).double()
    net(torch.rand(16, 3, 8, 8, generator=GENERATOR).double())
    before = {name: each.clone() for name, each in net.state_dict().items()}
    images = torch.rand(3, 3, 8, 8, generator=GENERATOR).double()
    with torch.no_grad():
        grads = gradient_draws(net, images, draws=2, seed=3)
    assert net.training and all(p.grad is None for p in net.parameters()) and not images.requires_grad
    assert all(torch.equal(each, before[name]) for name, each in net.state_dict().items())
    signs = 2 * torch.randint(2, (2, 8), generator=torch.Generator().manual_seed(3)).double() - 1
    step, direction = 1e-6, torch.randn(images.shape, generator=GENERATOR).double()
    net.eval()
    with torch.no_grad():
        moved = (net(images + step * direction) - net(images - step * direction)) / (2 * step)
    expected = signs @ moved.T
    torch.testing.assert_close((grads * direction).sum((2, 3, 4)), expected, rtol=1e-5, atol=1e-7)
    # Images do not meet.
    torch.testing.assert_close(gradient_draws(net, images[1:2], draws=2, seed=3)[:, 0], grads[:, 1])


class Blind(nn.Module):
    """A net whose output no gradient reaches."""

    def forward(self, x):
        return x.flatten(1).detach()


@pytest.mark.parametrize(
    ("call", "parts"),
    [
        (lambda: foreground_share(GRADIENTS, MASKS[:, :4]), ["(3, 4, 2, 6, 5)", "(4, 4, 5)"]),
        (lambda: foreground_share(GRADIENTS[0, 0], MASKS), ["(2, 6, 5)"]),
        (lambda: gradient_draws(nn.Flatten(), torch.rand(1, 1, 2, 2), draws=0), ["draws", 0, 1]),
        (lambda: gradient_draws(Blind(), torch.rand(1, 1, 2, 2)), ["gradient"]),
    ],
)
def test_what_cannot_be_measured_is_refused(call, parts):
    with refuses(UsageError, *parts):
        call()
