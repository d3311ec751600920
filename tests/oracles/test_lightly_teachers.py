"""DINO, InfoNCE with a queue, and KoLeo against lightly at the same setting, where it is installed."""

import pytest
import torch
import torch.nn.functional as F

from fullrank import DINOLoss, QueueInfoNCELoss
from fullrank.objectives.terms.koleo import KoLeoTerm
from fullrank.step import Step

lightly = pytest.importorskip("lightly.loss")
IMAGES, WIDTH = 16, 8
CLOSE = {"rtol": 1e-5, "atol": 1e-6}


def drawn(views, seed):
    return torch.randn(views, IMAGES, WIDTH, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("local", [0, 3])
def test_dino_and_its_centre(local):
    """lightly takes the outputs of the prototypes, and changes the temperature once an epoch."""
    torch.manual_seed(0)
    own = DINOLoss(in_dim=WIDTH, prototypes=32, warmup=0, teacher_temperature=0.04)
    theirs = lightly.DINOLoss(32, teacher_temp=0.04)
    for seed in range(4):
        z = drawn(2 + local, seed).requires_grad_()
        inputs = [z, own.prototypes.weight]
        teacher = own.prototypes(drawn(2, 10 + seed).flatten(0, 1)).detach().unflatten(0, (2, IMAGES))
        directions = F.normalize(own.prototypes.weight, dim=1)
        expected = theirs([*teacher], [*(F.normalize(z, dim=2) @ directions.T)])
        value = own(z, teacher=teacher, progress=0.5, global_views=2)
        torch.testing.assert_close(value, expected, **CLOSE)
        slopes = zip(torch.autograd.grad(value, inputs), torch.autograd.grad(expected, inputs), strict=True)
        for slope, their_slope in slopes:
            torch.testing.assert_close(slope, their_slope, **CLOSE)
        torch.testing.assert_close(own.centre, theirs.center.flatten(), **CLOSE)


def test_the_queue():
    """lightly has one direction a call, and cuts off keys that do not fit before its bank's end."""
    own = QueueInfoNCELoss(0.2, in_dim=WIDTH, queue=3 * IMAGES)
    theirs = lightly.NTXentLoss(temperature=0.2, memory_bank_size=(3 * IMAGES, WIDTH))
    theirs.memory_bank.bank.copy_(own.queue)
    for seed in range(5):
        z, keys = drawn(2, seed).requires_grad_(), drawn(1, 10 + seed)
        expected = theirs(z[1], keys[0])
        value = own(z, teacher=keys, global_views=1)
        torch.testing.assert_close(value, expected, **CLOSE)
        slopes = [torch.autograd.grad(each, z)[0] for each in (value, expected)]
        torch.testing.assert_close(*slopes, **CLOSE)
        torch.testing.assert_close(own.queue, theirs.memory_bank.bank, **CLOSE)


def test_koleo():
    """lightly takes one view, and adds 1e-8 to each channel of a difference as well."""
    rows = drawn(2, 0).flatten(0, 1).requires_grad_()
    expected = sum(map(lightly.KoLeoLoss(), rows.chunk(2)))
    value = KoLeoTerm()(Step(rows, rows))
    torch.testing.assert_close(value, expected, **CLOSE)
    slopes = [torch.autograd.grad(each, rows)[0] for each in (value, expected)]
    torch.testing.assert_close(*slopes, **CLOSE)
