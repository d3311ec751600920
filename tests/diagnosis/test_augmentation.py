"""P1's weighted covariances against finite differences and autograd, and the shares of operations by hand."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from refusals import refuses

from fullrank.diagnosis import PlaceEvidence, augmentation_ratio, operation_shares
from fullrank.errors import DataError, UsageError
from fullrank.objectives.contrastive import info_nce


def scatter(weights, x):
    return (x * weights[:, None]).T @ x


def cosine_covariances(x, x_prime, z, z_prime, temperature=0.1):
    """Sigma0, Sigma1 and the radial part of symmetrised InfoNCE on cosines, where z = W x (P1 Lemma 2).

    The gradient in W is -W (Sigma0 - Sigma1 - radial), which finite differences confirm below.
    """
    x, x_prime = x / z.norm(dim=1, keepdim=True), x_prime / z_prime.norm(dim=1, keepdim=True)
    similarity = F.normalize(z, dim=1) @ F.normalize(z_prime, dim=1).T / temperature
    weights = (similarity.softmax(1) + similarity.softmax(0)) / (2 * len(x))
    pull = torch.eye(len(x), dtype=weights.dtype) / len(x) - weights
    apart = weights - torch.diag(weights.diagonal())
    mixed = x.T @ apart @ x_prime
    sigma0 = scatter(apart.sum(1), x) + scatter(apart.sum(0), x_prime) - mixed - mixed.T
    first = (pull * similarity).sum(1) - pull.sum(1) / temperature
    second = (pull * similarity).sum(0) - pull.sum(0) / temperature
    sigma1 = scatter(pull.diagonal(), x - x_prime)
    return sigma0 / temperature, sigma1 / temperature, scatter(first, x) + scatter(second, x_prime)


def random_views(seed, n=9, d=5, k=4):
    generator = torch.Generator().manual_seed(seed)
    x, x_prime, w = (
        torch.randn(*s, generator=generator, dtype=torch.float64) for s in ((n, d), (n, d), (k, d))
    )
    return x, x + 0.5 * x_prime, w


def differences(loss, w, step=1e-5):
    """The gradient of a loss by central differences."""
    gradient = torch.zeros_like(w)
    for i in range(w.shape[0]):
        for j in range(w.shape[1]):
            shift = torch.zeros_like(w)
            shift[i, j] = step
            gradient[i, j] = (loss(w + shift) - loss(w - shift)) / (2 * step)
    return gradient


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 999), temperature=st.sampled_from([0.1, 0.5, 2.0]), n=st.integers(2, 12))
def test_the_cosine_form_is_the_gradient_of_info_nce(seed, temperature, n):
    x, x_prime, w = random_views(seed, n=n)
    sigma0, sigma1, radial = cosine_covariances(x, x_prime, x @ w.T, x_prime @ w.T, temperature)
    gradient = differences(lambda v: info_nce(x @ v.T, x_prime @ v.T, temperature), w)
    torch.testing.assert_close(gradient, -w @ (sigma0 - sigma1 - radial), rtol=1e-5, atol=1e-7)


def two_places(noise, kept=(1.0, 1.0, 0.01, 0.01), n=400, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 4, generator=generator)
    views = tuple(x + torch.tensor(noise) * torch.randn(n, 4, generator=generator) for _ in range(2))
    return PlaceEvidence("h", x, views), PlaceEvidence("z", x * torch.tensor(kept))


def test_the_ratio_is_that_of_the_traces_of_the_two_covariances():
    source, target = two_places((0.1, 0.1, 2.0, 2.0))
    found = augmentation_ratio(source, target, 2)
    # Independently: whiten with a Cholesky factor, weigh with z = the whitened features, take two channels.
    x = source.features.double()
    cholesky = torch.linalg.inv(torch.linalg.cholesky(torch.cov(x.T, correction=0)))
    white = [(side.double() - x.mean(0)) @ cholesky.T for side in (x, *source.views)]
    sigma0, sigma1, _ = cosine_covariances(white[1], white[2], white[1], white[2], 0.1)
    outcome = target.features.double() - target.features.double().mean(0)
    map_ = torch.linalg.lstsq(white[0], outcome).solution.T
    lost = torch.linalg.svd(map_).Vh[2:]
    expected = float((lost @ sigma1 @ lost.T).trace() / (lost @ sigma0 @ lost.T).trace())
    assert found.lost == pytest.approx(expected, rel=1e-6)
    assert found.low < found.lost < found.high and found.kept < 1
    assert (found.lost_directions, found.components) == (2, 4)


def test_the_ratio_does_not_depend_on_scale_or_rotation_of_the_features():
    source, target = two_places((0.1, 0.1, 2.0, 2.0))
    rotation = 7 * torch.linalg.qr(torch.randn(4, 4)).Q
    turned = PlaceEvidence("h", source.features @ rotation, tuple(side @ rotation for side in source.views))
    plain, other = augmentation_ratio(source, target, 2), augmentation_ratio(turned, target, 2)
    assert other.lost == pytest.approx(plain.lost, rel=1e-3)


def test_the_interval_narrows_with_more_images():
    narrow, wide = (augmentation_ratio(*two_places((0.1, 0.1, 2.0, 2.0), n=n), 2) for n in (1000, 60))
    assert narrow.high - narrow.low < wide.high - wide.low


def test_nothing_is_said_without_views_or_without_a_loss():
    source, target = two_places((0.1, 0.1, 2.0, 2.0))
    assert augmentation_ratio(target, target, 2) is None
    assert augmentation_ratio(source, target, 4) is None


def test_shares_by_hand_and_with_weights():
    x = torch.zeros(2, 2)
    one, two = torch.tensor([[1.0, 0.0], [0.0, 0.0]]), torch.tensor([[0.0, 0.0], [3.0, 0.0]])
    place = PlaceEvidence("h", x, (x, one + two), {"blur": (x, one), "crop": (x, two)})
    shares = {share.operation: share.share for share in operation_shares(place)}
    assert shares == pytest.approx({"crop": 0.9, "blur": 0.1})
    # Embeddings: image 0's views agree, image 1's are opposite, so image 1 carries nearly all the weight.
    z = torch.eye(2)
    weighted = operation_shares(place, (z, torch.tensor([[1.0, 0.0], [0.0, -1.0]])), 0.1)
    assert weighted[0].operation == "crop" and weighted[0].share > 0.99
    assert sum(share.share for share in weighted) == pytest.approx(1)


def test_shares_where_nothing_moves_or_nothing_is_known():
    x = torch.ones(3, 2)
    assert [s.share for s in operation_shares(PlaceEvidence("h", x, (x, x), {"flip": (x, x)}))] == [0.0]
    assert operation_shares(PlaceEvidence("h", x)) == []


def test_wrong_shapes_and_numbers_are_refused():
    x = torch.ones(4, 3)
    with refuses(UsageError, "h", "4 images", "z of 3"):
        augmentation_ratio(PlaceEvidence("h", x, (x, x)), PlaceEvidence("z", x[:3]), 1)
    with refuses(UsageError, "4 images", "h", "(2, 3)"):
        operation_shares(PlaceEvidence("h", x, (x, x), {"flip": (x, x)}), (x[:2], x[:2]))


@pytest.mark.parametrize(
    ("arguments", "error", "parts"),
    [
        ({"features": torch.ones(4)}, UsageError, ["h", "(N, D)", 2, "(4,)"]),
        ({"features": torch.ones(1, 4)}, UsageError, ["(N, D)", 2, "(1, 4)"]),
        ({"features": torch.full((5, 2), math.nan)}, DataError, ["h", "5 of 5", "row 0"]),
        ({"views": (torch.ones(3, 2), torch.ones(3, 4))}, UsageError, ["views", "h", "(n, 4)", "(3, 2)"]),
        ({"views": (torch.ones(1, 4), torch.ones(1, 4))}, UsageError, ["views", "h", 2, "(1, 4)"]),
        ({"operations": {"flip": (torch.ones(3, 4),) * 2}}, UsageError, ["h", "1 single"]),
        ({"imposed_rank": 9}, UsageError, ["imposed_rank", "h", "1 to 4", 9]),
    ],
)
def test_evidence_that_does_not_fit_is_refused(arguments, error, parts):
    with refuses(error, *parts):
        PlaceEvidence(**({"place": "h", "features": torch.ones(5, 4)} | arguments))
