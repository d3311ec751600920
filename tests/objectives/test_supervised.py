"""SupCon against plain loops, SimCLR's loss and closed forms; cross-entropy against scikit-learn."""

import math

import pytest
import torch
from hypothesis import given, settings, strategies as st
from refusals import refuses
from sklearn.metrics import log_loss

from fullrank import CrossEntropyLoss, SupConLoss, objective
from fullrank.errors import UsageError
from fullrank.objectives.contrastive import nt_xent


def loop_sup_con(views, labels, temperature):
    """The formula, pair by pair, in Python's own floats; and how many anchors had no positive."""
    rows = [[x / math.hypot(*row) for x in row] for z in views for row in z.tolist()]
    image = list(range(len(labels))) * len(views)
    classes = [int(labels[i]) for i in image]
    scores = [[math.fsum(x * y for x, y in zip(a, b, strict=True)) / temperature for b in rows] for a in rows]
    terms = []
    for i, own in enumerate(scores):
        others = [j for j in range(len(rows)) if j != i]
        mates = [j for j in others if image[j] == image[i] or (classes[j] == classes[i] != -1)]
        total = math.fsum(math.exp(own[j]) for j in others)
        if mates:
            terms.append(-math.fsum(math.log(math.exp(own[p]) / total) for p in mates) / len(mates))
    return math.fsum(terms) / max(1, len(terms)), len(rows) - len(terms)


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.integers(-1, 3), min_size=2, max_size=8), st.sampled_from([1, 2]), st.sampled_from([0.1, 1.0])
)
def test_sup_con_against_a_loop(labels, count, temperature):
    generator = torch.Generator().manual_seed(len(labels))
    views = [torch.randn(len(labels), 3, generator=generator, dtype=torch.float64) for _ in range(count)]
    loss = SupConLoss(temperature)
    value = loss(views[0], views[1] if count == 2 else None, torch.tensor(labels))
    expected, alone = loop_sup_con(views, labels, temperature)
    assert float(value) == pytest.approx(expected, rel=1e-10, abs=1e-12)
    assert int(loss.without_positive) == alone


@pytest.mark.parametrize("labels", [torch.arange(6), torch.full((6,), -1)])
def test_without_two_of_a_class_sup_con_is_simclr(labels):
    z_a, z_b = torch.randn(2, 6, 4, dtype=torch.float64)
    torch.testing.assert_close(SupConLoss(0.5)(z_a, z_b, labels), nt_xent(z_a, z_b, 0.5))


def test_sup_con_where_classes_are_points():
    """C orthogonal points of m views each: m - 1 positives at 1 / T, the rest at 0."""
    classes, images, t = 3, 4, 0.2
    z, labels = torch.eye(classes).double().repeat(images, 1), torch.arange(classes).repeat(images)
    m = 2 * images
    expected = math.log((m - 1) * math.exp(1 / t) + (classes - 1) * m) - 1 / t
    assert float(SupConLoss(t)(z, z, labels)) == pytest.approx(expected)
    m = images
    expected = math.log((m - 1) * math.exp(1 / t) + (classes - 1) * m) - 1 / t
    assert float(SupConLoss(t)(z, None, labels)) == pytest.approx(expected)


def test_names_of_classes_and_lengths_do_not_matter():
    z_a, z_b = torch.randn(2, 6, 4, dtype=torch.float64)
    labels = torch.tensor([0, 1, 1, -1, 2, 0])
    renamed = torch.tensor([70, 3, 3, -1, 0, 70])
    loss = SupConLoss()
    torch.testing.assert_close(loss(3 * z_a, z_b / 7, renamed), loss(z_a, z_b, labels))


def test_one_view_without_any_positive_gives_zero_and_a_zero_gradient():
    z = torch.randn(3, 4, requires_grad=True)
    loss = SupConLoss()
    value = loss(z, None, torch.tensor([0, 1, -1]))
    value.backward()
    assert value.item() == 0 and int(loss.without_positive) == 3
    assert torch.equal(z.grad, torch.zeros(3, 4))


def test_large_similarities_do_not_overflow():
    z = torch.eye(4) * 1e15
    assert float(SupConLoss(1e-3)(z, z, torch.arange(4))) == 0.0


def test_cross_entropy_is_the_mean_over_the_labelled_views():
    torch.manual_seed(0)
    loss = CrossEntropyLoss(in_dim=5, num_classes=3).double()
    z_a, z_b = torch.randn(2, 7, 5, dtype=torch.float64)
    labels = torch.tensor([0, 1, -1, 2, 2, -1, 0])
    labelled = labels >= 0
    shares = [loss.classifier(z[labelled]).softmax(1).detach().numpy() for z in (z_a, z_b)]
    each = [log_loss(labels[labelled], share, labels=[0, 1, 2]) for share in shares]
    assert loss(z_a, z_b, labels).item() == pytest.approx(sum(each) / 2, rel=1e-12)
    assert loss(z_a, None, labels).item() == pytest.approx(each[0], rel=1e-12)


def test_smoothing_mixes_in_the_uniform_target():
    torch.manual_seed(0)
    smooth = objective("cross-entropy,label_smoothing=0.2", in_dim=5, num_classes=4).double()
    z, labels = torch.randn(6, 5, dtype=torch.float64), torch.tensor([0, 1, 2, 3, -1, 1])
    logs = smooth.classifier(z[labels >= 0]).log_softmax(1)
    hard = -logs[torch.arange(5), labels[labels >= 0]].mean()
    torch.testing.assert_close(smooth(z, None, labels), 0.8 * hard - 0.2 * logs.mean())


def test_without_labels_the_classifier_has_a_gradient_of_zero():
    loss = CrossEntropyLoss(in_dim=4, num_classes=3)
    z = torch.randn(2, 4, requires_grad=True)
    value = loss(z, z, torch.tensor([-1, -1]))
    value.backward()
    assert value.item() == 0
    for gradient in (z.grad, *(p.grad for p in loss.parameters())):
        assert torch.equal(gradient, torch.zeros_like(gradient))


def test_the_classifier_learns_what_can_be_separated():
    torch.manual_seed(0)
    loss = CrossEntropyLoss(in_dim=3, num_classes=3)
    z, labels = 4 * torch.eye(3), torch.arange(3)
    optimizer = torch.optim.SGD(loss.parameters(), lr=0.5)
    for _ in range(50):
        optimizer.zero_grad()
        loss(z, z, labels).backward()
        optimizer.step()
    assert loss(z, z, labels).item() < 0.05 < loss.chance(3)


@pytest.mark.parametrize(
    "labels",
    [torch.zeros(4, dtype=torch.int64), torch.zeros(3), torch.zeros(3, 2, dtype=torch.int64)],
)
def test_labels_of_another_shape_or_kind_are_refused(labels):
    z = torch.randn(3, 4)
    for loss in (SupConLoss(), CrossEntropyLoss(4, 2)):
        with refuses(UsageError, 3, -1, tuple(labels.shape), labels.dtype):
            loss(z, z, labels)


@pytest.mark.parametrize("labels", [[0, 2], [-2, 0]])
def test_a_label_outside_the_classes_is_refused(labels):
    with refuses(UsageError, -1, 1, "num_classes", *labels):
        CrossEntropyLoss(4, 2)(torch.randn(2, 4), None, torch.tensor(labels))


def test_what_a_classifier_cannot_be_is_refused():
    for sizes in ((0, 3), (4, 1)):
        with refuses(UsageError, 1, 2, f"in_dim={sizes[0]}", f"num_classes={sizes[1]}"):
            CrossEntropyLoss(*sizes)
    for smoothing in (-0.1, 1.0, math.nan):
        with refuses(UsageError, "label_smoothing", 0, 1, smoothing):
            CrossEntropyLoss(4, 3, smoothing)
    with refuses(UsageError, 4, 5, "in_dim"):
        CrossEntropyLoss(4, 3)(torch.randn(2, 5), None, torch.tensor([0, 1]))
    with refuses(UsageError, 2, 1, "batch"):
        SupConLoss()(torch.randn(1, 4), None, torch.tensor([0]))
    with refuses(UsageError, "temperature", 0, 0.0):
        SupConLoss(0.0)


@pytest.mark.parametrize("sizes", [{}, {"in_dim": 4}, {"num_classes": 3}])
def test_an_objective_with_weights_needs_its_sizes(sizes):
    with refuses(UsageError, "'cross-entropy'", "in_dim=...", "num_classes=..."):
        objective("cross-entropy", **sizes)
    assert objective("supcon", **sizes).temperature == 0.1  # sizes that are not needed are no mistake
