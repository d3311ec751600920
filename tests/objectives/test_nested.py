"""The mean of an objective over nested widths: by hand in float64, and what it says of itself."""

import math

import pytest
import torch
import torch.nn.functional as F
from refusals import refuses

from fullrank import JointEmbedding, encoder, head, objective, view_pipeline
from fullrank.errors import UsageError
from fullrank.heads import HEADS
from fullrank.objectives.agreement import check_agreement

NESTED, N, WIDTH, CLASSES = (1, 2, 5), 6, 5, 3
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])


def info_nce(a, b, loss):
    similarity = F.normalize(a) @ F.normalize(b).T / 0.2
    diagonal = torch.arange(N)
    return (F.cross_entropy(similarity, diagonal) + F.cross_entropy(similarity.T, diagonal)) / 2


def spectral(a, b, loss):
    """Unclipped: -2 mean of the pairs' products + mean of the squared products of different images."""
    products = a @ b.T
    others = products[~torch.eye(N, dtype=torch.bool)]
    return -2 * products.diagonal().mean() + others.square().mean()


def cross_entropy(a, b, loss):
    logits = torch.cat([a, b]) @ loss.classifier.weight.T + loss.classifier.bias
    return -logits.log_softmax(1)[torch.arange(2 * N), LABELS.repeat(2)].mean()


@pytest.mark.parametrize(
    ("spec", "by_hand"),
    [("infonce:0.2", info_nce), ("spectral,clip=false", spectral), ("cross-entropy", cross_entropy)],
)
def test_value_and_gradient_are_the_mean_over_the_widths(spec, by_hand):
    torch.manual_seed(0)
    loss = objective(spec, num_classes=CLASSES, nested=NESTED).double()
    z = torch.randn(2, N, WIDTH, dtype=torch.float64, requires_grad=True)
    keywords = {"labels": LABELS} if loss.needs else {}
    values = [by_hand(z[0, :, :k], z[1, :, :k], part) for k, part in zip(NESTED, loss.losses, strict=True)]
    expected = sum(values) / 3
    measured = loss(*z, **keywords)
    torch.testing.assert_close(measured, expected, rtol=1e-12, atol=0)
    weights = [z, *loss.parameters()]
    slopes = zip(*(torch.autograd.grad(value, weights) for value in (measured, expected)), strict=True)
    for slope, by_hands in slopes:
        torch.testing.assert_close(slope, by_hands, rtol=1e-9, atol=1e-12)


def test_each_width_has_a_classifier_of_its_own():
    loss = objective("cross-entropy", num_classes=CLASSES, nested=(2, 4))
    assert [part.classifier.in_features for part in loss.losses] == [2, 4]


def test_chance_and_collapse_are_means_over_the_widths():
    barlow = objective("barlow-twins", nested=(2, 4))
    assert barlow.chance(8) == 3
    assert barlow.collapsed(8, 4)["one line"] == pytest.approx((0.005 * 2 + 0.005 * 12) / 2)
    same = torch.ones(8, 4)
    nce = objective("infonce:0.2", nested=(2, 4))
    assert nce.chance(8) == pytest.approx(math.log(8)) == pytest.approx(nce(same, same).item())
    assert nce.temperature == pytest.approx(0.2)
    silent = objective(torch.nn.MSELoss, nested=(2, 4))
    assert silent.chance(8) is None and silent.temperature is None and silent.collapsed(8, 4) == {}


@pytest.mark.parametrize("nested", [(0, 2), (-1,)])
def test_a_width_below_one_is_refused(nested):
    with refuses(UsageError, nested[0]):
        objective("infonce", nested=nested)


def test_embeddings_narrower_than_a_width_are_refused():
    with refuses(UsageError, "2-4", 4, 3):
        objective("infonce", nested=(2, 4))(torch.randn(3, 3), torch.randn(3, 3))
    with refuses(UsageError, "2-4", 4, 3):
        check_agreement("infonce", width=3, nested=(2, 4))


@pytest.mark.parametrize("widths", ["8-4", "4-4", "0-4", "4-13", "13"])
def test_the_widths_of_a_head_ascend_up_to_the_width_of_h(widths):
    with refuses(UsageError, widths, 12):
        head(f"matryoshka:{widths}", in_dim=12)


@pytest.mark.parametrize("text", ["a", "4-", "4--8", "4.5"])
def test_widths_are_whole_numbers(text):
    with refuses(UsageError, f"matryoshka:{text}", "widths"):
        HEADS.parse(f"matryoshka:{text}")


def module(objective_for, head_spec):
    parts = encoder("tiny-resnet,width=4", image_size=8, in_chans=1), head(head_spec, in_dim=16)
    return JointEmbedding(*parts, objective_for, view_pipeline("weak", image_size=8, channels=1))


def test_a_module_refuses_an_objective_that_sees_all_of_z():
    assert module(objective("infonce", nested=(4, 8)), "matryoshka:4-8").objective.nested == (4, 8)
    for other in (objective("infonce"), objective("infonce", nested=(4,))):
        with refuses(UsageError, "4-8"):
            module(other, "matryoshka:4-8")
