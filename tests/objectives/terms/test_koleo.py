"""The term koleo against plain loops in float64, and its level for uniform points against closed forms."""

import math

import pytest
import torch
from refusals import refuses

from fullrank.errors import UsageError
from fullrank.objectives import auxiliary
from fullrank.objectives.terms.contract import loss_of_term
from fullrank.objectives.terms.koleo import KoLeoTerm, koleo, uniform_koleo
from fullrank.step import Step


def loop(rows):
    """The mean of -log of the distance of each unit row to the nearest other one."""
    units = [[x / math.sqrt(sum(y * y for y in row)) for x in row] for row in rows.double().tolist()]
    nearest = [
        min(math.dist(one, other) for j, other in enumerate(units) if j != i) for i, one in enumerate(units)
    ]
    return sum(-math.log(distance + 1e-8) for distance in nearest) / len(units)


def drawn(images=8, width=5, views=2):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(views * images, width, generator=generator, dtype=torch.float64)


def test_the_term_is_the_sum_over_the_views_and_never_compares_the_views_of_an_image():
    rows = drawn()
    expected = sum(loop(view) for view in rows.chunk(2))
    for place in ("h", "z", "stage1.1"):
        term = auxiliary(f"koleo:0.1,place={place}", in_dim=5, out_dim=5, place_dims={"stage1.1": 5})
        other = torch.ones(16, 5, dtype=torch.float64)
        parts = {"h": other, "z": other, "stage1.1": other} | {place: rows}
        step = Step(parts["h"], parts["z"], {"stage1.1": parts["stage1.1"]})
        assert term(step).item() == pytest.approx(expected, rel=1e-12)
        assert term.places == (("stage1.1",) if place == "stage1.1" else ())
    twice = rows[:8].repeat(2, 1)  # both views alike: no distance of 0 is seen
    assert KoLeoTerm()(Step(twice, twice)).item() == pytest.approx(2 * loop(rows[:8]), rel=1e-12)


def test_local_crops_are_left_out():
    rows = drawn(views=5)
    step = Step(rows, rows, view_count=5, global_count=3)
    expected = sum(loop(view) for view in rows.chunk(5)[:3])
    assert loss_of_term(KoLeoTerm(), step).item() == pytest.approx(expected, rel=1e-12)
    assert KoLeoTerm().chance(8, 5, 3) == pytest.approx(3 * uniform_koleo(8, 5))


def test_its_gradient_agrees_with_finite_differences():
    assert torch.autograd.gradcheck(koleo, (drawn(6, 4, 1).requires_grad_(),))


def test_two_opposite_rows_are_neighbours_of_each_other_and_not_of_themselves():
    axis = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    assert koleo(axis).item() == pytest.approx(-math.log(2), abs=1e-7)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_equal_rows_and_zero_rows_have_a_finite_loss_and_gradient(dtype):
    rows = drawn(6, 4, 1).to(dtype)
    rows[1], rows[2] = rows[0], 0
    rows.requires_grad_()
    value = koleo(rows)
    value.backward()
    assert value.isfinite() and value.dtype == torch.float32 and rows.grad.isfinite().all()


def test_rows_of_any_length_have_the_same_value_and_a_step_along_the_gradient_spreads_them():
    rows = drawn(12, 3, 1)
    start = koleo(rows).item()
    assert koleo(rows * torch.arange(1, 13)[:, None]).item() == pytest.approx(start, rel=1e-12)
    for _ in range(200):
        rows = rows.detach().requires_grad_()
        koleo(rows).backward()
        rows = rows - 0.1 * rows.grad
    # Neighbours are then half as far again from each other, or more.
    assert koleo(rows).item() < start - math.log(1.5)


@pytest.mark.parametrize("n", [2, 3, 50, 4096])
def test_the_level_of_uniform_points_has_its_closed_form_on_the_sphere_in_three_dimensions(n):
    """There a quarter of the squared distance is uniform, so the mean of its log is a harmonic number."""
    expected = sum(1 / k for k in range(1, n)) / 2 - math.log(2)
    assert uniform_koleo(n, 3) == pytest.approx(expected, abs=1e-4)


def test_the_level_of_two_points_on_a_circle_is_zero():
    assert uniform_koleo(2, 2) == pytest.approx(0, abs=1e-6)  # the mean of ln|2 sin x|


@pytest.mark.parametrize(("n", "width"), [(16, 2), (64, 8), (256, 64)])
def test_the_level_of_uniform_points_is_what_draws_give(n, width):
    generator = torch.Generator().manual_seed(0)
    draws = torch.stack([koleo(torch.randn(n, width, generator=generator)) for _ in range(200)])
    error = (draws.std() / math.sqrt(len(draws))).item()
    assert abs(draws.mean().item() - uniform_koleo(n, width)) < 4 * error
    assert KoLeoTerm().chance(n, width) == pytest.approx(2 * uniform_koleo(n, width))


def test_what_cannot_be_computed_is_refused():
    with refuses(UsageError, "stage9", "h", "z", "stage1.1"):
        KoLeoTerm(place_dims={"stage1.1": 4}, place="stage9")
    with refuses(UsageError, 2, 1):
        koleo(torch.ones(1, 3))
    for n, width in ((1, 3), (3, 1)):
        with refuses(UsageError, 2, (n, width)):
            uniform_koleo(n, width)
        assert KoLeoTerm().chance(n, width) is None
