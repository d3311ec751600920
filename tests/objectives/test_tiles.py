"""Tiles against the whole matrix in float64, at sizes that no tile divides; precision, range and memory."""

import pytest
import torch
import torch.nn.functional as F
from torch.autograd.graph import saved_tensors_hooks

from fullrank.objectives import tiles
from fullrank.objectives.contrastive import info_nce, nt_xent
from fullrank.objectives.spectral import spectral_contrastive
from fullrank.objectives.supervised import positive_sets, sup_con
from fullrank.objectives.tiles import log_sums_among, log_sums_between


def units(rows, seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(rows, 16, generator=generator, dtype=torch.float64), dim=1).to(dtype)


def whole_between(a, b, scale):
    products = scale * (a @ b.T)
    return products.logsumexp(1) - scale, products.logsumexp(0) - scale


def whole_among(u, scale):
    products = scale * (u @ u.T)
    return products.masked_fill(torch.eye(len(u), dtype=torch.bool), -torch.inf).logsumexp(1) - scale


def gradients(value, *inputs):
    """Of the values, weighted unequally so that no error cancels."""
    values = value if isinstance(value, tuple) else (value,)
    total = sum((part * torch.linspace(-1, 2, len(part), dtype=part.dtype)).sum() for part in values)
    return torch.autograd.grad(total, inputs)


@pytest.fixture
def small_tiles(monkeypatch):
    monkeypatch.setitem(tiles._SIDE, "cpu", 8)


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("scale", [2.0, 10.0, 300.0, 1000.0])
@pytest.mark.parametrize(("rows", "columns"), [(2, 3), (7, 9), (11, 19)])
def test_between_against_the_whole_matrix(rows, columns, scale):
    a, b = units(rows, 0).requires_grad_(), units(columns, 1).requires_grad_()
    computed, expected = log_sums_between(a, b, scale), whole_between(a, b, scale)
    torch.testing.assert_close(computed, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(
        gradients(computed, a, b), gradients(expected, a, b), rtol=1e-9, atol=1e-9 * scale
    )


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("scale", [2.0, 10.0, 300.0, 1000.0])
@pytest.mark.parametrize("rows", [2, 7, 8, 9, 20])
def test_among_against_the_whole_matrix(rows, scale):
    u = units(rows, 2).requires_grad_()
    computed, expected = log_sums_among(u, scale), whole_among(u, scale)
    torch.testing.assert_close(computed, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(gradients(computed, u), gradients(expected, u), rtol=1e-9, atol=1e-9 * scale)


def dense(kind, z, labels, temperature):
    """The three losses in float64, the matrix of pairs held."""
    u = F.normalize(z, dim=1)
    n = len(u) // 2
    if kind == "infonce":
        s = u[:n] @ u[n:].T / temperature
        return (F.cross_entropy(s, torch.arange(n)) + F.cross_entropy(s.T, torch.arange(n))) / 2
    itself = torch.eye(2 * n, dtype=torch.bool)
    log_odds = (u @ u.T / temperature).masked_fill(itself, -torch.inf).log_softmax(1)
    image = torch.arange(n).repeat(2)
    positive = image[:, None] == image
    if kind == "supcon":
        classes = labels.repeat(2)
        positive |= (classes[:, None] == classes) & (classes >= 0)
    positive &= ~itself
    return -(log_odds.masked_fill(~positive, 0).sum(1) / positive.sum(1)).mean()


def tiled(kind, z, labels, temperature):
    if kind == "infonce":
        return info_nce(*z.chunk(2), temperature)
    if kind == "ntxent":
        return nt_xent(*z.chunk(2), temperature)
    return sup_con(z, positive_sets(labels, views=2), temperature)


@pytest.mark.parametrize("temperature", [0.5, 0.1, 0.02])
@pytest.mark.parametrize("kind", ["infonce", "ntxent", "supcon"])
def test_gradients_in_float32_are_within_1e5_of_a_dense_form_in_float64(kind, temperature):
    generator = torch.Generator().manual_seed(3)
    z = torch.randn(1100, 64, generator=generator)
    z[550:] += 0.3 * z[:550]  # views of one image are alike, but not so much that the loss is nothing
    labels = torch.randint(-1, 10, (550,), generator=generator)
    exact, single = z.double().requires_grad_(), z.clone().requires_grad_()
    expected, computed = dense(kind, exact, labels, temperature), tiled(kind, single, labels, temperature)
    assert computed.item() == pytest.approx(expected.item(), rel=1e-5)
    (wanted,), (got,) = torch.autograd.grad(expected, exact), torch.autograd.grad(computed, single)
    assert float((got - wanted).norm() / wanted.norm()) < 1e-5


@pytest.mark.parametrize("kind", ["infonce", "ntxent", "supcon"])
def test_what_waits_for_the_backward_pass_grows_with_the_rows_and_not_with_their_square(kind):
    def saved(rows):
        sizes = []
        z = torch.randn(2 * rows, 16, requires_grad=True)
        with saved_tensors_hooks(lambda tensor: sizes.append(tensor.numel()), lambda _: None):
            tiled(kind, z, torch.arange(rows) % 7, 0.5)
        return sum(sizes)

    assert saved(1200) == pytest.approx(2 * saved(600), rel=0.01)


def test_rows_far_from_all_others_are_not_lost_where_float32_has_no_number_for_them():
    u = torch.eye(3)[[0, 0, 1]]  # the third is at exponent -scale from both, e^-200 in all
    assert log_sums_among(u, 200.0)[2].item() == pytest.approx(-200 + torch.tensor(2.0).log().item())
    assert log_sums_among(u, 200.0).dtype == torch.float32
    assert log_sums_between(u[2:], u[:2], 200.0)[0].item() == pytest.approx(-200 + 0.6931472)


LOSSES = {
    "infonce": lambda z, labels: info_nce(*z.chunk(2), 0.05),
    "ntxent": lambda z, labels: nt_xent(*z.chunk(2), 0.05),
    "supcon": lambda z, labels: sup_con(z, positive_sets(labels, views=2), 0.05),
    "spectral": lambda z, labels: spectral_contrastive(*z.chunk(2)),
}


@pytest.mark.parametrize("kind", LOSSES)
def test_sixteen_bits_and_autocast_lose_no_more_than_the_rounding_of_z(kind):
    generator = torch.Generator().manual_seed(4)
    labels = torch.zeros(600, dtype=torch.int64)  # one class of more members than bfloat16 can count
    z = torch.randn(1200, 16, generator=generator).bfloat16()
    exact = z.double().requires_grad_()
    expected = LOSSES[kind](exact, labels)
    (wanted,) = torch.autograd.grad(expected, exact)
    half, single = z.clone().requires_grad_(), z.float().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        values = [LOSSES[kind](half, labels), LOSSES[kind](single, labels)]
    computed = [torch.autograd.grad(value, x)[0] for value, x in zip(values, (half, single), strict=True)]
    for value, gradient, tolerance in zip(values, computed, (1e-2, 1e-5), strict=True):
        assert value.dtype == torch.float32 and value.item() == pytest.approx(expected.item(), rel=1e-5)
        assert float((gradient.double() - wanted).norm() / wanted.norm()) < tolerance


@pytest.mark.parametrize("kind", ["infonce", "ntxent", "supcon"])
def test_the_backward_pass_may_be_called_inside_autocast(kind):
    z = torch.randn(40, 16, requires_grad=True)
    labels = torch.arange(20) % 3
    (expected,) = torch.autograd.grad(tiled(kind, z, labels, 0.1), z)
    with torch.autocast("cpu", torch.bfloat16):
        (computed,) = torch.autograd.grad(tiled(kind, z, labels, 0.1), z)
    # What lies around the tiles, the lengths of z, is autograd's own and is rounded there.
    assert float((computed - expected).norm() / expected.norm()) < 1e-2


@pytest.mark.parametrize(("rows", "width"), [(5, 9), (9, 5)])
def test_the_spectral_loss_is_the_same_by_pairs_of_images_and_of_channels(rows, width):
    z_a, z_b = torch.randn(2, rows, width, dtype=torch.float64)
    products = z_a @ z_b.T
    others = products[~torch.eye(rows, dtype=torch.bool)]
    expected = others.square().mean() - 2 * products.diagonal().mean()
    torch.testing.assert_close(spectral_contrastive(z_a, z_b), expected)
