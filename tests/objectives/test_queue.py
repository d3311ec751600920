"""InfoNCE with a queue, against plain loops in float64 with a list as the queue."""

import copy
import math
from functools import partial

import pytest
import torch
from gloo_group import in_processes
from refusals import refuses

from fullrank import InfoNCELoss, QueueInfoNCELoss, objective
from fullrank.errors import UsageError
from fullrank.objectives import OBJECTIVES
from fullrank.objectives.contract import needs_of

IMAGES, WIDTH = 4, 3


def loss_with(queue=9, temperature=0.2, **options):
    return QueueInfoNCELoss(temperature, in_dim=WIDTH, queue=queue, **options).double()


def drawn(views=2, global_views=2, images=IMAGES, seed=1):
    """z (V, N, K) and the teacher's z (G, N, K)."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(views, images, WIDTH, generator=generator, dtype=torch.float64)
    return z, torch.randn(global_views, images, WIDTH, generator=generator, dtype=torch.float64)


def unit(row):
    length = math.sqrt(sum(x * x for x in row))
    return [x / length for x in row]


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def loop(z, teacher, rows, temperature):
    """The loss, one pair of views and image after the other, with `rows` as negatives."""
    terms = []
    for v, queries in enumerate(z.tolist()):
        for w, keys in enumerate(teacher.tolist()):
            for query, key in zip(queries, keys, strict=True):
                u = unit(query)
                scores = [dot(u, other) / temperature for other in (unit(key), *rows)]
                top = max(scores)
                if v != w:
                    terms.append(top + math.log(sum(math.exp(s - top) for s in scores)) - scores[0])
    return sum(terms) / len(terms)


# A queue that the keys fill, one that they do not divide, and one that is smaller than the keys of a step.
@pytest.mark.parametrize("queue", [1, 5, 8, 9, 30])
@pytest.mark.parametrize(("views", "global_views"), [(2, 2), (4, 2), (3, 1)])
def test_loss_and_queue_follow_a_loop_over_several_steps(queue, views, global_views):
    loss = loss_with(queue)
    rows = loss.queue.tolist()  # from the oldest to the newest
    for step in range(6):
        z, teacher = drawn(views, global_views, seed=step)
        value = loss(z, teacher=teacher, global_views=global_views)
        assert value.item() == pytest.approx(loop(z, teacher, rows, 0.2), rel=1e-10)
        rows = (rows + [unit(row) for view in teacher.tolist() for row in view])[-queue:]
        in_order = loss.queue.roll(-int(loss.oldest), 0)
        torch.testing.assert_close(in_order, torch.tensor(rows, dtype=torch.float64))


@pytest.mark.parametrize("temperature", [0.002, 0.05, 1.0])
def test_any_temperature_agrees_with_the_loop(temperature):
    loss, (z, teacher) = loss_with(temperature=temperature), drawn()
    expected = loop(z, teacher, loss.queue.tolist(), temperature)
    assert loss(z, teacher=teacher).item() == pytest.approx(expected, rel=1e-9)


def test_its_gradient_agrees_with_finite_differences_and_none_reaches_the_teacher():
    loss, (z, teacher) = loss_with().eval(), drawn(views=3)
    assert torch.autograd.gradcheck(lambda z: loss(z, teacher=teacher, global_views=2), (z.requires_grad_(),))
    teacher.requires_grad_()
    expected = torch.autograd.grad(loss(z, teacher=teacher, global_views=2), z)[0]
    loss.train()(z, teacher=teacher, global_views=2).backward()  # the queue moves before this gradient
    assert teacher.grad is None and torch.equal(z.grad, expected)


def test_the_queue_moves_in_training_mode_only():
    loss, (z, teacher) = loss_with().eval(), drawn()
    before = loss.queue.clone()
    loss(z, teacher=teacher)
    assert torch.equal(loss.queue, before) and loss.oldest == 0


def test_it_starts_with_unit_rows_that_are_always_the_same_and_takes_no_draws():
    torch.manual_seed(3)
    first, after = loss_with(), torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(torch.rand(1), after)
    assert torch.equal(loss_with().queue, first.queue)
    torch.testing.assert_close(first.queue.norm(dim=1), torch.ones(9, dtype=torch.float64))


def test_training_continues_bit_for_bit_from_a_state_dict():
    first, second = loss_with(), loss_with()
    for seed in range(3):
        z, teacher = drawn(seed=seed)
        first(z, teacher=teacher)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for seed in range(3, 6):
        z, teacher = drawn(seed=seed)
        assert torch.equal(first(z, teacher=teacher), second(z, teacher=teacher))
    assert torch.equal(first.queue, second.queue) and torch.equal(first.oldest, second.oldest)


@pytest.mark.parametrize("queue", [16, 40])
def test_levels_are_the_values_of_equal_rows_and_of_rows_on_a_line(queue):
    loss = loss_with(queue, temperature=2.0).eval()
    axis = torch.eye(WIDTH, dtype=torch.float64)[0]
    rows = axis.expand(2, 4, WIDTH)
    sign = torch.tensor([1.0, -1.0], dtype=torch.float64)[:, None]
    for name, half in {"one point": axis.expand(2, WIDTH), "one line": sign * axis}.items():
        loss.queue.copy_(half.repeat(queue // 2, 1))
        z = rows if name == "one point" else rows * sign.repeat(2, 1)
        assert loss(z, teacher=z).item() == pytest.approx(loss.collapsed(4, WIDTH)[name], rel=1e-12)
    assert (
        loss.chance(4, WIDTH) == loss.collapsed(4, WIDTH)["one point"] == pytest.approx(math.log(1 + queue))
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_zero_row_has_a_finite_gradient(dtype):
    loss, (z, teacher) = loss_with().to(dtype), drawn()
    z[0, 0], teacher[1, 0] = 0, 0
    z = z.to(dtype).requires_grad_()
    value = loss(z, teacher=teacher.to(dtype))
    value.backward()
    assert z.grad.isfinite().all() and z.grad.any() and value.dtype == torch.float32


def measured(processes, rank):
    """Three steps on a share of the images: loss, gradient, and the queue after each."""
    loss, own = loss_with(), torch.arange(IMAGES).chunk(processes)[rank]
    found = []
    for seed in range(3):
        z, teacher = drawn(3, seed=seed)
        rows = z[:, own].requires_grad_()
        value = loss(rows, teacher=teacher[:, own], global_views=2)
        found.append(
            [value.detach(), *torch.autograd.grad(value, rows), loss.queue.clone(), loss.oldest.clone()]
        )
    return found


def test_several_processes_have_the_loss_the_gradient_and_the_queue_of_one(tmp_path):
    shares = in_processes(partial(measured, 2), 2, tmp_path)
    for step, (value, slope, queue, oldest) in enumerate(measured(1, 0)):
        values, slopes, queues, oldests = zip(*(share[step] for share in shares), strict=True)
        assert torch.equal(*values)
        torch.testing.assert_close(values[0], value, rtol=1e-12, atol=0)
        torch.testing.assert_close(torch.cat(slopes, 1) / 2, slope, rtol=1e-9, atol=1e-14)
        for each, place in zip(queues, oldests, strict=True):
            assert torch.equal(each, queue) and place == oldest


def test_infonce_is_one_class_without_a_queue_and_another_with_one():
    assert type(objective("infonce:0.2,groups=3", in_dim=WIDTH)) is InfoNCELoss
    loss = objective("infonce:0.2,queue=64,momentum=0.99", in_dim=WIDTH)
    assert type(loss) is QueueInfoNCELoss and needs_of(loss) == {"teacher", "global_views"}
    assert (loss.temperature, loss.queue.shape, loss.momentum_at(0.3)) == (0.2, (64, WIDTH), 0.99)
    assert OBJECTIVES.parse(InfoNCELoss) == "infonce:0.1"


@pytest.mark.parametrize(
    ("spec", "in_dim", "parts"),
    [
        ("infonce:0.2,queue=64", None, ["queue", 64, "in_dim"]),
        ("infonce:0.2,queue=64,groups=2", WIDTH, ["groups", "queue"]),
        ("infonce:0.2,momentum=0.9", WIDTH, ["momentum", "queue"]),
        ("infonce:0.2,queue=-1", WIDTH, ["queue", 1]),
        ("infonce:0.2,queue=64,momentum=1.5", WIDTH, ["momentum", 1.5, 0, 1]),
        ("infonce:0,queue=64", WIDTH, ["temperature", 0]),
    ],
)
def test_settings_that_do_not_go_together_are_refused(spec, in_dim, parts):
    with refuses(UsageError, *parts):
        objective(spec, in_dim=in_dim)


def test_tensors_of_other_shapes_are_refused():
    loss, (z, teacher) = loss_with(), drawn(views=3)
    with refuses(UsageError, (3, IMAGES, WIDTH), (2, IMAGES, WIDTH)):
        loss(z, teacher=teacher)
    with refuses(UsageError, WIDTH, WIDTH - 1):
        loss(z[..., 1:], teacher=teacher[..., 1:], global_views=2)
    with refuses(UsageError, 2, 1):
        loss(z[:1], teacher=teacher[:1])
