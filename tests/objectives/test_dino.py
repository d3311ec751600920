"""DINO against plain loops in float64: its loss over several steps, its centre, schedules and levels."""

import copy
import math
from functools import partial

import pytest
import torch
from gloo_group import in_processes
from refusals import refuses

from fullrank import DINOLoss, objective
from fullrank.errors import UsageError
from fullrank.objectives.contract import loss_of_views, needs_of, unguarded_of
from fullrank.objectives.dino import Prototypes

IMAGES, WIDTH, PROTOTYPES = 6, 4, 5


def loss_with(**options):
    torch.manual_seed(0)
    return DINOLoss(in_dim=WIDTH, prototypes=PROTOTYPES, **options).double()


def drawn(views=4, global_views=2, images=IMAGES, seed=1):
    """z (V, N, K) and a teacher's outputs (G, N, P)."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(views, images, WIDTH, generator=generator, dtype=torch.float64)
    teacher = torch.rand(global_views, images, PROTOTYPES, generator=generator, dtype=torch.float64)
    return z, 2 * teacher - 1


def softmax(scores):
    exponentials = [math.exp(score) for score in scores]
    return [each / sum(exponentials) for each in exponentials]


def unit(row):
    length = math.sqrt(sum(x * x for x in row))
    return [x / length for x in row]


def loop(z, teacher, weight, centre, sharp, soft=0.1):
    """The loss, one pair of views, image and prototype after the other; `sharp` is the teacher's divisor."""
    directions = [unit(row) for row in weight.tolist()]
    terms = []
    for w, targets in enumerate(teacher.tolist()):
        for v, rows in enumerate(z.tolist()):
            for t, row in zip(targets, rows, strict=True):
                q = softmax([(one - m) / sharp for one, m in zip(t, centre, strict=True)])
                u = unit(row)
                p = softmax([sum(a * b for a, b in zip(u, c, strict=True)) / soft for c in directions])
                if v != w:
                    terms.append(-sum(a * math.log(b) for a, b in zip(q, p, strict=True)))
    return sum(terms) / len(terms)


@pytest.mark.parametrize(("views", "global_views"), [(2, 2), (4, 2), (3, 1), (5, 3)])
def test_loss_and_centre_follow_a_loop_over_several_steps(views, global_views):
    loss, centre = loss_with(warmup=0.5), [0.0] * PROTOTYPES
    for step, sharp in enumerate([0.04, 0.055, 0.07, 0.07]):
        z, teacher = drawn(views, global_views, seed=step)
        value = loss(z, teacher=teacher, progress=step / 4, global_views=global_views)
        expected = loop(z, teacher, loss.prototypes.weight, centre, sharp)
        assert value.item() == pytest.approx(expected, rel=1e-12)
        for k in range(PROTOTYPES):
            rows = [t[k] for view in teacher.tolist() for t in view]
            centre[k] = 0.9 * centre[k] + 0.1 * sum(rows) / len(rows)
        assert loss.centre.tolist() == pytest.approx(centre, rel=1e-12)


def test_its_gradient_agrees_with_finite_differences_and_none_reaches_the_teacher():
    loss = loss_with().eval()
    z, teacher = drawn()
    loss.centre.copy_(teacher.mean((0, 1)))
    weight = loss.prototypes.weight.detach().clone().requires_grad_()

    def value(z, weight):
        arguments = {"teacher": teacher, "progress": 0.5, "global_views": 2}
        return torch.func.functional_call(loss, {"prototypes.weight": weight}, (z,), arguments)

    assert torch.autograd.gradcheck(value, (z.requires_grad_(), weight))
    teacher.requires_grad_()
    loss(z, teacher=teacher, progress=0.5, global_views=2).backward()
    assert teacher.grad is None


def test_the_step_gives_it_what_it_needs():
    loss = loss_with().eval()
    z, teacher = drawn()
    given = {"labels": torch.zeros(IMAGES), "progress": 0.0, "global_views": 2, "teacher": teacher}
    expected = loop(z, teacher, loss.prototypes.weight, [0.0] * PROTOTYPES, 0.04)
    assert loss_of_views(loss, z, **given).item() == pytest.approx(expected, rel=1e-12)
    assert needs_of(loss) == needs_of(DINOLoss) == {"teacher", "progress", "global_views"}


def test_the_centre_moves_in_training_mode_only_and_not_without_centring():
    z, teacher = drawn()
    for loss in (loss_with().eval(), loss_with(centring=False)):
        loss(z, teacher=teacher, global_views=2)
        assert not loss.centre.any()


def test_training_continues_bit_for_bit_from_a_state_dict():
    first = loss_with()
    for seed in range(3):
        first(*drawn(seed=seed)[:1], teacher=drawn(seed=seed)[1], global_views=2)
    torch.manual_seed(5)
    second = DINOLoss(in_dim=WIDTH, prototypes=PROTOTYPES).double()
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    z, teacher = drawn(seed=7)
    for _ in range(2):
        values = [loss(z, teacher=teacher, global_views=2) for loss in (first, second)]
        assert torch.equal(*values) and torch.equal(first.centre, second.centre)


def test_frozen_prototypes_have_a_gradient_of_zero_and_z_has_the_same_one():
    z, teacher = drawn()
    slopes = {}
    for progress in (0.0, 0.05, 0.1):
        loss = loss_with(freeze=0.1, warmup=0)
        rows = z.clone().requires_grad_()
        loss(rows, teacher=teacher, progress=progress, global_views=2).backward()
        slopes[progress] = rows.grad, loss.prototypes.weight.grad
    assert all(not slopes[progress][1].any() for progress in (0.0, 0.05)) and slopes[0.1][1].all()
    for progress in (0.0, 0.05):
        assert torch.equal(slopes[progress][0], slopes[0.1][0])


def test_momentum_rises_to_one_as_half_a_cosine():
    loss = loss_with(momentum=0.99)
    rates = [loss.momentum_at(progress) for progress in (0, 1 / 3, 0.5, 1)]
    assert rates == pytest.approx([0.99, 1 - 0.01 * 0.75, 1 - 0.01 * 0.5, 1], abs=1e-15)


def test_prototypes_are_cosines_of_rows_and_directions_of_any_length():
    torch.manual_seed(0)
    part, rows = Prototypes(WIDTH, PROTOTYPES).double(), torch.randn(7, WIDTH, dtype=torch.float64)
    scores = part(rows)
    expected = torch.cosine_similarity(rows[:, None], part.weight[None], dim=2)
    torch.testing.assert_close(scores, expected)
    with torch.no_grad():
        part.weight.mul_(torch.arange(1, PROTOTYPES + 1)[:, None])
    torch.testing.assert_close(part(rows * 3), scores)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(part(rows), scores)


def test_the_parts_that_a_teacher_averages_are_modules_from_z_to_its_own_outputs():
    loss = loss_with()
    z, _ = drawn()
    for name in loss.averaged:
        rows = loss.get_submodule(name)(z[0])
    assert rows.shape == (IMAGES, PROTOTYPES)


def test_chance_is_the_loss_of_a_student_without_preference():
    loss = loss_with()
    with torch.no_grad():
        loss.prototypes.weight.copy_(loss.prototypes.weight[:1].expand(PROTOTYPES, WIDTH).clone())
    z, teacher = drawn()
    assert loss(z, teacher=teacher, global_views=2).item() == pytest.approx(math.log(PROTOTYPES))
    assert loss.chance(IMAGES, WIDTH) == loss.collapsed(IMAGES, WIDTH)["one point"] == math.log(PROTOTYPES)


@pytest.mark.parametrize(("temperature", "teacher_temperature"), [(0.1, 0.07), (0.5, 0.3)])
def test_without_centring_the_loss_of_one_prototype_is_as_stated(temperature, teacher_temperature):
    options = {"temperature": temperature, "teacher_temperature": teacher_temperature}
    loss = loss_with(centring=False, **options)
    axis = torch.eye(WIDTH, dtype=torch.float64)[0]
    with torch.no_grad():
        loss.prototypes.weight.copy_(-axis.expand(PROTOTYPES, WIDTH))
        loss.prototypes.weight[0] = axis
    z = axis.expand(3, IMAGES, WIDTH)
    teacher = torch.stack([loss.prototypes(view) for view in z[:2]]).detach()
    expected = loss.collapsed(IMAGES, WIDTH)["one prototype"]
    assert loss(z, teacher=teacher, global_views=2).item() == pytest.approx(expected, rel=1e-9)
    assert "one prototype" not in loss_with(**options).collapsed(IMAGES, WIDTH)
    # With a centre that has caught up, equal outputs have uniform targets: far above chance.
    centred = loss_with(**options)
    centred.load_state_dict(loss.state_dict() | {"centre": teacher[0, 0]})
    value = centred(z, teacher=teacher, global_views=2).item()
    assert value == pytest.approx(2 / temperature * (1 - 1 / PROTOTYPES), rel=0.1) and value > loss.chance(2)


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({}, set()),
        ({"centring": False}, {"no centring"}),
        ({"teacher_temperature": 0.1}, {"no sharpening"}),
        ({"momentum": 0.0, "centring": False}, {"no averaged teacher", "no centring"}),
    ],
)
def test_what_keeps_it_from_collapse_is_named_where_it_is_off(options, names):
    assert {part.name for part in unguarded_of(loss_with(**options))} == names


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("length", [0.0, 1e-7])
def test_a_zero_or_tiny_row_has_a_finite_gradient(dtype, length):
    loss = loss_with().to(dtype)
    z, teacher = drawn()
    z[0, 0] = length
    z = z.to(dtype).requires_grad_()
    value = loss(z, teacher=teacher.to(dtype), progress=0.5, global_views=2)
    value.backward()
    assert z.grad.isfinite().all() and z.grad.any() and value.dtype == torch.float32


def measured(processes, rank):
    """Two steps on a share of the images: loss, gradients in z and in the prototypes, and the centre."""
    loss, own = loss_with(), torch.arange(IMAGES).chunk(processes)[rank]
    found = []
    for seed in range(2):
        z, teacher = drawn(seed=seed)
        rows = z[:, own].requires_grad_()
        value = loss(rows, teacher=teacher[:, own], progress=0.2, global_views=2)
        slopes = torch.autograd.grad(value, [rows, loss.prototypes.weight])
        found.append([value.detach(), *slopes, loss.centre.clone()])
    return found


def test_several_processes_have_the_loss_the_gradient_and_the_centre_of_one(tmp_path):
    shares = in_processes(partial(measured, 2), 2, tmp_path)
    for step, (value, z_slope, slope, centre) in enumerate(measured(1, 0)):
        values, z_slopes, slopes, centres = zip(*(share[step] for share in shares), strict=True)
        assert torch.equal(*values) and torch.equal(*centres)
        torch.testing.assert_close(values[0], value, rtol=1e-12, atol=0)
        torch.testing.assert_close(centres[0], centre, rtol=1e-12, atol=1e-15)
        torch.testing.assert_close(torch.cat(z_slopes, 1) / 2, z_slope, rtol=1e-9, atol=1e-14)
        torch.testing.assert_close(sum(slopes) / 2, slope, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"prototypes": 1}, ["prototypes", 2, 1]),
        ({"in_dim": 0}, ["in_dim", 1, 0]),
        ({"temperature": 0.0}, ["temperature", 0]),
        ({"teacher_temperature": math.nan}, ["teacher_temperature", "nan"]),
        ({"warmup_temperature": -1.0}, ["warmup_temperature", -1.0]),
        ({"warmup": 1.5}, ["warmup", 1.5, 0, 1]),
        ({"momentum": -0.1}, ["momentum", -0.1, 0, 1]),
        ({"centre_momentum": 1.0}, ["centre_momentum", 1.0, "centring"]),
        ({"freeze": 2.0}, ["freeze", 2.0, 0, 1]),
    ],
)
def test_settings_outside_their_limits_are_refused(options, parts):
    with refuses(UsageError, *parts):
        DINOLoss(**{"in_dim": WIDTH, "prototypes": PROTOTYPES} | options)


def test_tensors_of_other_shapes_are_refused():
    loss = loss_with()
    z, teacher = drawn()
    with refuses(UsageError, (2, IMAGES, PROTOTYPES), (2, IMAGES, PROTOTYPES - 1)):
        loss(z, teacher=teacher[..., 1:], global_views=2)
    with refuses(UsageError, (4, IMAGES, PROTOTYPES), (2, IMAGES, PROTOTYPES)):
        loss(z, teacher=teacher)
    with refuses(UsageError, WIDTH, WIDTH - 1):
        loss(z[..., 1:], teacher=teacher, global_views=2)
    with refuses(UsageError, 2, 1):
        loss(z[:1], teacher=teacher, global_views=2)


def test_its_spec_sets_every_option():
    spec = "dino:0.2,prototypes=8,teacher_temperature=0.05,warmup=0,centring=false,freeze=0,momentum=0.9"
    loss = objective(spec, in_dim=WIDTH)
    assert (loss.temperature, loss.teacher_temperature_at(0.0), loss.centring) == (0.2, 0.05, False)
    assert (loss.prototypes.weight.shape, loss.momentum_at(0.0)) == ((8, WIDTH), pytest.approx(0.9))
