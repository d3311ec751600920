"""The sliced Epps-Pulley statistic against NumPy's trapezoid, quadrature and finite differences."""

import numpy as np
import pytest
import torch
from refusals import refuses
from scipy.integrate import quad

from fullrank import epps_pulley
from fullrank.epps_pulley import EppsPulley, random_slices, wave_sums
from fullrank.errors import UsageError


def rows(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def by_numpy(z: np.ndarray, slices: np.ndarray, grid: EppsPulley) -> float:
    """The mean over views and slices of the integral over [-r, r], knot by knot."""
    t = np.linspace(-grid.reach, grid.reach, 2 * grid.knots - 1)
    found = []
    for view in z:
        for direction in slices.T:
            characteristic = np.exp(1j * np.outer(t, view @ direction)).mean(1)
            distance = np.abs(characteristic - np.exp(-(t**2) / 2)) ** 2 * np.exp(-(t**2) / 2)
            found.append(np.trapezoid(distance, t))
    return float(np.mean(found))


@pytest.mark.parametrize(("knots", "reach"), [(2, 1.0), (3, 2.0), (4, 0.5), (17, 3.0), (18, 5.0), (41, 5.0)])
def test_the_statistic_is_numpys_integral_at_every_number_of_knots(monkeypatch, knots, reach):
    monkeypatch.setitem(epps_pulley._TILE, "cpu", 50)  # two slices a tile, and one left over
    grid, z = EppsPulley(knots, reach), 1.3 * rows(2, 23, 5) + 0.2
    slices = random_slices(5, 7, torch.Generator().manual_seed(2), z)
    found = grid.statistic(wave_sums(z, slices, grid.step, knots - 1), 23)
    assert float(found) == pytest.approx(by_numpy(z.numpy(), slices.numpy(), grid), abs=1e-12)


@pytest.mark.parametrize("knots", [2, 3, 6, 17])
def test_the_gradient_is_that_of_finite_differences(monkeypatch, knots):
    monkeypatch.setitem(epps_pulley._TILE, "cpu", 10)
    z, slices = rows(2, 3, 2).requires_grad_(), random_slices(2, 5, None, rows(1))
    slopes = rows(2, 5, 2, knots - 1)
    assert torch.autograd.gradcheck(lambda z: (slopes * wave_sums(z, slices, 0.7, knots - 1)).sum(), z)


def test_far_rows_keep_their_digits_in_float32():
    """A projection of 200 turns its wave a hundred times: the recurrence must not lose what torch keeps."""
    z, slices = 60 * rows(1, 40, 6), random_slices(6, 30, None, rows(1))
    exact = wave_sums(z, slices, 3 / 16, 16)
    single = wave_sums(z.float(), slices.float(), 3 / 16, 16)
    s = z.float()[0] @ slices.float()
    plain = torch.cos(s[..., None] * (3 / 16 * torch.arange(1, 17))).sum(0)
    worst = float((plain - exact[0, :, 0]).abs().max())
    assert float((single - exact).abs().max()) < 3 * worst < 1e-2


def test_the_floors_and_the_collapse_are_integrals_of_the_normal_law():
    grid = EppsPulley(2001, 9.0)

    def whole(function):
        return quad(lambda t: function(t, np.exp(-t * t / 2)) * np.exp(-t * t / 2), -9, 9)[0]

    assert grid.floor == pytest.approx(whole(lambda t, phi: 1 - phi**2), abs=1e-6)
    assert grid.centred_floor == pytest.approx(whole(lambda t, phi: 1 - (1 + t * t) * phi**2), abs=1e-6)
    assert grid.one_point == pytest.approx(whole(lambda t, phi: (1 - phi) ** 2), abs=1e-6)
    assert grid.floor == pytest.approx(np.sqrt(2 * np.pi) * (1 - 1 / np.sqrt(3)), abs=1e-6)


@pytest.mark.parametrize("centred", [False, True])
def test_normal_rows_are_at_the_floor(centred):
    grid, rounds, n = EppsPulley(), 1500, 40
    z = rows(1, n, rounds)
    if centred:
        z = z - z.mean(1, keepdim=True)
    # Each channel is a draw of its own.
    [sums] = wave_sums(z, torch.eye(rounds, dtype=z.dtype), grid.step, grid.knots - 1)
    each = torch.stack([n * grid.statistic(some, n) for some in sums.split(50)])
    expected = grid.centred_floor if centred else grid.floor
    error = float(each.std()) / len(each) ** 0.5
    # Centring leaves terms of order 1/N.
    assert float(each.mean()) == pytest.approx(expected, abs=4 * error + (0.02 if centred else 0))


def test_slices_are_unit_vectors_in_every_direction_and_the_same_in_every_precision():
    double, single = (
        random_slices(3, 4000, torch.Generator().manual_seed(0), torch.empty(0, dtype=dtype))
        for dtype in (torch.float64, torch.float32)
    )
    torch.testing.assert_close(double.norm(dim=0), torch.ones(4000, dtype=torch.float64))
    torch.testing.assert_close(double.float(), single)
    # The second moment of uniform directions is I / 3.
    torch.testing.assert_close(double @ double.T / 4000, torch.eye(3).double() / 3, atol=0.02, rtol=0)


@pytest.mark.parametrize(
    ("settings", "name", "value"),
    [((1, 3.0), "knots", 1), ((17, 0.0), "range", 0.0), ((17, -2.0), "range", -2.0)],
)
def test_a_grid_needs_two_knots_and_a_range(settings, name, value):
    with refuses(UsageError, name, value):
        EppsPulley(*settings)
