"""What every registered objective promises; an objective joins by being registered."""

import copy
import inspect

import pytest
import torch
import torch.nn.functional as F
from refusals import refuses

from fullrank import objective
from fullrank.errors import UsageError
from fullrank.heads import HEADS
from fullrank.objectives import OBJECTIVES, loss_of, needs_of
from fullrank.objectives.contract import GIVEN
from fullrank.objectives.trial import trial_of
from fullrank.testing import check_objective

WIDTH, CLASSES = 4, 3
# Objectives whose published sizes take seconds, at small ones.
SMALL_SIZES = {
    "dino": "dino,prototypes=32",
    "byol": "byol,hidden=16",
    "simsiam": "simsiam,hidden=8",
    "sigreg": "sigreg:0.05,slices=32",
    "visreg": "visreg,slices=32",
}
SPECS = [SMALL_SIZES.get(entry.name, entry.name) for entry in OBJECTIVES]


@pytest.fixture(params=SPECS)
def loss(request):
    torch.manual_seed(0)
    return objective(request.param, in_dim=WIDTH, num_classes=CLASSES)


def called(loss, a, b):
    """The loss, with what it needs; the last image has no label, and a teacher sees the views as they are."""
    labels = torch.arange(len(a)) % CLASSES
    labels[-1:] = -1
    if not getattr(loss, "takes_views", False):
        return loss_of(loss, a, b, labels)
    given = trial_of(loss, torch.stack([a, b]).detach(), labels) if a.shape == b.shape else {}
    return loss_of(copy.deepcopy(loss), a, b, **given)  # a call may change its state


SMALL = {int: ":3", tuple: ":1-3"}
BELOW = ["none,norm=batch", *(e.name + SMALL.get(e.value.kind if e.value else None, "") for e in HEADS)]


# Every objective above heads of each kind, and every head below one objective.
@pytest.mark.parametrize(
    ("name", "below"),
    [(spec, below) for spec in (*SPECS, "infonce:0.2,queue=5") for below in ("none,norm=batch", "mlp:3")]
    + [("infonce", below) for below in BELOW if below not in ("none,norm=batch", "mlp:3")],
)
def test_every_registered_objective_keeps_the_contract_above_every_head(name, below):
    check_objective(name, width=WIDTH, num_classes=CLASSES, head=below)


def test_the_views_may_change_places(loss):
    a, b = torch.randn(6, WIDTH), torch.randn(6, WIDTH)
    torch.testing.assert_close(called(loss, a, b), called(loss, b, a))


def test_chance_is_the_value_where_nothing_is_told_apart(loss):
    if getattr(loss, "takes_views", False):
        return  # these say their levels for any number of views, and each has a test of its own
    same = F.normalize(torch.randn(1, WIDTH), dim=1).expand(7, WIDTH)
    for weights in loss.parameters():
        weights.detach().zero_()
    assert called(loss, same, same).item() == pytest.approx(loss.chance(7, WIDTH), rel=1e-5)
    assert loss.collapsed(7, WIDTH)["one point"] == pytest.approx(loss.chance(7, WIDTH))


# At a temperature of 2 the opposite half counts; VICReg's covariance is over N - 1, Barlow Twins adds 1e-5.
@pytest.mark.parametrize(
    ("spec", "rel"),
    [
        ("infonce:2", 1e-6),
        ("infonce:2,groups=4", 1e-6),
        ("ntxent:2", 1e-6),
        ("spectral", 1e-6),
        ("vicreg", 0.006),
        ("barlow-twins", 1e-4),
    ],
)
def test_the_value_on_one_line_is_that_of_rows_along_a_vector_and_against_it(spec, rel):
    loss = objective(spec)
    sign = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(200)[:, None]
    line = sign * torch.ones(1, WIDTH) / (WIDTH**0.5 if spec == "spectral" else 1)
    assert loss(line, line).item() == pytest.approx(loss.collapsed(400, WIDTH)["one line"], rel=rel)


def test_a_batch_too_small_and_unlike_shapes_raise(loss):
    classifies = list(loss.parameters()) and not getattr(loss, "takes_views", False)
    least = 1 if classifies else 2  # a classifier needs no second image
    with refuses(UsageError, least, least - 1):
        called(loss, *torch.randn(2, 2, WIDTH)[:, 2 - least + 1 :])
    with refuses(UsageError, (3, WIDTH), (3, WIDTH + 1)):
        called(loss, torch.randn(3, WIDTH), torch.randn(3, WIDTH + 1))


def test_autocast_takes_no_digits_from_the_loss(loss):
    # A classifier's own products are a layer's, and autocast's business.
    if list(loss.parameters()):
        return
    a, b = torch.randn(2, 64, WIDTH) @ (5 * torch.randn(WIDTH, WIDTH))  # channels that go together
    expected = called(loss, a, b)
    with torch.autocast("cpu", torch.bfloat16):
        assert called(loss, a, b).item() == pytest.approx(expected.item(), rel=1e-5)


def test_labels_are_asked_for_exactly_where_the_class_says_so(loss):
    asked = set(GIVEN) & set(inspect.signature(loss.forward).parameters)
    assert needs_of(loss) == needs_of(type(loss)) == asked


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("length", [0.0, 1e-7])
def test_a_zero_or_tiny_row_has_a_finite_gradient(loss, dtype, length):
    loss = loss.to(dtype)
    z = torch.randn(2, 6, WIDTH)
    z[0, 0] = length
    z = z.to(dtype).requires_grad_()
    called(loss, *z).backward()
    assert z.grad.isfinite().all() and z.grad.any()
