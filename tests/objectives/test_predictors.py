"""SimSiam and BYOL against loops over pairs in NumPy, finite differences, and two processes."""

import copy
import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from gloo_group import in_processes
from refusals import refuses

from fullrank import BYOLLoss, SimSiamLoss, objective
from fullrank.errors import UsageError
from fullrank.objectives.contract import needs_of, unguarded_of

WIDTH, HIDDEN, IMAGES = 3, 5, 8
# The number of views and of those that are global.
VIEWS = [(2, 2), (3, 1), (3, 2), (5, 2), (4, 4)]


def views_of(count, images=IMAGES, width=WIDTH, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, images, width, generator=generator, dtype=torch.float64)


def built(spec, width=WIDTH):
    torch.manual_seed(1)
    loss = objective(spec, in_dim=width).double()
    with torch.no_grad():
        for weight in loss.parameters():  # also the scales and shifts of batch norm
            weight.add_(0.3 * torch.randn(weight.shape, dtype=torch.float64))
    return loss


def numpys_prediction(loss, view):
    """One view (N, K) through the predictor, from its weights."""
    arrays = {name: weight.detach().numpy() for name, weight in loss.predictor.named_parameters()}
    if not arrays:
        return view
    hidden = view @ arrays["0.weight"].T
    hidden = (hidden - hidden.mean(0)) / np.sqrt(hidden.var(0) + 1e-5)
    hidden = np.maximum(0, hidden * arrays["1.weight"] + arrays["1.bias"])
    return hidden @ arrays["3.weight"].T + arrays["3.bias"]


def numpys_mean_cosine(loss, z, targets):
    cosines = []
    for v, view in enumerate(z):
        for w, target in enumerate(targets):
            if v != w:
                for p, t in zip(numpys_prediction(loss, view), target, strict=True):
                    cosines.append(p @ t / math.sqrt((p @ p) * (t @ t)))
    return np.mean(cosines)


def differences(function, z, step=1e-6):
    """The gradient of a function of an array, by central differences."""
    slopes = np.zeros_like(z)
    for place in np.ndindex(z.shape):
        ends = []
        for sign in (1, -1):
            moved = z.copy()
            moved[place] += sign * step
            ends.append(function(moved))
        slopes[place] = (ends[0] - ends[1]) / (2 * step)
    return slopes


@pytest.mark.parametrize(("views", "global_views"), VIEWS)
def test_simsiam_is_a_mean_over_pairs_and_targets_do_not_move(views, global_views):
    loss, z = built(f"simsiam,hidden={HIDDEN}"), views_of(views).requires_grad_()
    value = loss(z, global_views=global_views)
    value.backward()
    still = z.detach().numpy()
    targets = still[:global_views]
    assert value.item() == pytest.approx(-numpys_mean_cosine(loss, still, targets), rel=1e-12)
    expected = differences(lambda moved: -numpys_mean_cosine(loss, moved, targets), still)
    np.testing.assert_allclose(z.grad.numpy(), expected, rtol=1e-6, atol=1e-9)


def test_without_the_stop_gradient_targets_move_too():
    loss, z = built(f"simsiam,hidden={HIDDEN},stop_gradient=false"), views_of(3)
    assert torch.autograd.gradcheck(lambda z: loss(z, global_views=2), (z.requires_grad_(),))
    guarded = built(f"simsiam,hidden={HIDDEN}")
    assert guarded(z, global_views=2).item() == pytest.approx(loss(z, global_views=2).item(), rel=1e-12)


@pytest.mark.parametrize("predictor", ["mlp", "none"])
@pytest.mark.parametrize(("views", "global_views"), VIEWS)
def test_byol_is_a_mean_over_pairs_with_the_teachers_views(views, global_views, predictor):
    loss = built(f"byol,hidden={HIDDEN},predictor={predictor}")
    z, teacher = views_of(views).requires_grad_(), views_of(global_views, seed=7).requires_grad_()
    value = loss(z, teacher=teacher)
    value.backward()
    still, targets = z.detach().numpy(), teacher.detach().numpy()
    assert value.item() == pytest.approx(2 - 2 * numpys_mean_cosine(loss, still, targets), rel=1e-12)
    expected = differences(lambda moved: 2 - 2 * numpys_mean_cosine(loss, moved, targets), still)
    np.testing.assert_allclose(z.grad.numpy(), expected, rtol=1e-6, atol=1e-9)
    assert teacher.grad is None


def test_all_views_are_global_where_nothing_is_said():
    loss, z = built(f"simsiam,hidden={HIDDEN}"), views_of(3)
    assert torch.equal(loss(z), loss(z, global_views=3))


def shared(rank, processes=2):
    """Loss and gradients of one process's share of the images, for both objectives."""
    rows = slice(rank * IMAGES // processes, (rank + 1) * IMAGES // processes)
    measured = []
    for spec in (f"simsiam,hidden={HIDDEN}", f"byol,hidden={HIDDEN}"):
        loss, z = built(spec), views_of(4)[:, rows].clone().requires_grad_()
        given = {"teacher": views_of(2, seed=7)[:, rows], "global_views": 2}
        value = loss(z, **{name: given[name] for name in needs_of(loss)})
        value.backward()
        weights = [weight.grad for weight in loss.parameters()]
        measured.append([value.detach(), z.grad, *weights, *loss.buffers()])
    return measured


def test_two_processes_have_loss_gradient_and_statistics_of_one(tmp_path):
    for one, first, second in zip(shared(0, 1), *in_processes(shared, 2, tmp_path), strict=True):
        rows = torch.cat([first[1], second[1]], dim=1) / 2  # averaged, as DistributedDataParallel does
        torch.testing.assert_close(rows, one[1], rtol=1e-10, atol=1e-14)
        for part in (first, second):
            torch.testing.assert_close([part[0], *part[2:]], [one[0], *one[2:]], rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("spec", [f"simsiam,hidden={HIDDEN}", f"byol,hidden={HIDDEN}"])
def test_one_point_that_is_predicted_has_the_value_of_chance(spec):
    loss = built(spec)
    with torch.no_grad():
        loss.predictor[3].weight.zero_()
        loss.predictor[3].bias.copy_(torch.tensor([1.0, -2.0, 0.5]))
    z = loss.predictor[3].bias.detach().expand(4, 6, WIDTH)
    value = loss(z, **({"teacher": 3 * z[:2]} if "teacher" in needs_of(loss) else {"global_views": 2}))
    levels = loss.chance(6, WIDTH, 2, 2), loss.collapsed(6, WIDTH, 2, 2)["one point"]
    assert value.item() == pytest.approx(levels[0], abs=1e-12) == levels[1]


@pytest.mark.parametrize("spec", ["simsiam", "byol"])
def test_the_state_is_that_of_batch_norm_and_changes_in_training_only(spec):
    loss, twin = built(f"{spec},hidden={HIDDEN}"), built(f"{spec},hidden={HIDDEN}")
    given = {"teacher": views_of(2, seed=7)} if spec == "byol" else {"global_views": 2}
    for seed in range(3):
        loss(views_of(3, seed=seed), **given)
    assert int(loss.predictor[1].num_batches_tracked) == 9  # view by view
    twin.load_state_dict(loss.state_dict())
    saved = {name: value.clone() for name, value in loss.state_dict().items()}
    loss.eval(), twin.eval()
    assert torch.equal(loss(views_of(3), **given), twin(views_of(3), **given))
    assert all(torch.equal(value, saved[name]) for name, value in loss.state_dict().items())


@pytest.mark.parametrize("momentum", [0.0, 0.9, 0.996, 1.0])
def test_the_teacher_is_kept_ever_more_until_it_stands(momentum):
    loss = objective(f"byol,hidden=4,momentum={momentum}", in_dim=WIDTH)
    shares = [loss.momentum_at(share) for share in np.linspace(0, 1, 11)]
    assert shares[0] == pytest.approx(momentum) and shares[-1] == 1
    assert all(later >= earlier for earlier, later in itertools.pairwise(shares))
    # A cosine is symmetric about its middle, and at a third it has come a quarter of the way.
    assert loss.momentum_at(0.5) == pytest.approx((1 + momentum) / 2)
    assert loss.momentum_at(1 / 3) == pytest.approx(momentum + (1 - momentum) / 4)


def test_what_keeps_from_collapse_is_named_where_it_is_off():
    for healthy in ("simsiam", "byol", "byol,momentum=0"):
        assert unguarded_of(objective(healthy, in_dim=WIDTH)) == ()
    (missing,) = unguarded_of(objective("simsiam,stop_gradient=false", in_dim=WIDTH))
    assert "gradient" in missing.name and "stop_gradient" in missing.remedy
    (missing,) = unguarded_of(objective("byol,predictor=none", in_dim=WIDTH))
    assert "predictor" in missing.name and "predictor" in missing.remedy


def spread_after_training(spec, steps=100):
    """The standard deviation of unit embeddings, times the root of K: 0 at a point, 1 on the sphere."""
    torch.manual_seed(0)
    width = 8
    hidden = torch.nn.Linear(12, 32), torch.nn.BatchNorm1d(32), torch.nn.ReLU()
    encoder = torch.nn.Sequential(*hidden, torch.nn.Linear(32, width))
    teacher = copy.deepcopy(encoder)
    loss = objective(spec, in_dim=width)
    optimizer = torch.optim.SGD([*encoder.parameters(), *loss.parameters()], lr=0.3, momentum=0.9)
    for step in range(steps):
        x = torch.randn(64, 12)
        views = [x + 0.3 * torch.randn_like(x) for _ in range(2)]
        z, t = (torch.stack([net(view) for view in views]) for net in (encoder, teacher))
        optimizer.zero_grad()
        loss(z, **({"teacher": t} if "teacher" in needs_of(loss) else {})).backward()
        optimizer.step()
        if "teacher" in needs_of(loss):
            with torch.no_grad():
                for slow, fast in zip(teacher.parameters(), encoder.parameters(), strict=True):
                    slow.lerp_(fast, 1 - loss.momentum_at(step / steps))
    return float(F.normalize(z[0].detach(), dim=1).std(0).mean()) * width**0.5


@pytest.mark.parametrize(
    ("healthy", "broken"),
    [
        ("simsiam,hidden=16", "simsiam,hidden=16,stop_gradient=false"),
        ("byol,hidden=16,momentum=0.5", "byol,hidden=16,momentum=0.5,predictor=none"),
    ],
)
def test_training_collapses_where_the_guard_is_off(healthy, broken):
    assert spread_after_training(healthy) > 0.7
    assert spread_after_training(broken) < 0.3


@pytest.mark.parametrize("value", [-0.1, 1.5, math.nan])
def test_a_momentum_that_is_no_share_is_refused(value):
    with refuses(UsageError, "momentum", value, 0, 1):
        BYOLLoss(WIDTH, momentum=value)


def test_settings_and_shapes_outside_their_limits_are_refused():
    for loss in (SimSiamLoss, BYOLLoss):
        with refuses(UsageError, "hidden", 0, 1):
            loss(WIDTH, hidden=0)
    with refuses(UsageError, "predictor", "linear", "none"):
        BYOLLoss(WIDTH, predictor="linear")
    simsiam, byol = built("simsiam,hidden=4"), built("byol,hidden=4")
    with refuses(UsageError, 2, 1):
        simsiam(views_of(1))
    with refuses(UsageError, (0, IMAGES, WIDTH)):
        simsiam(views_of(2), global_views=0)
    for teacher in (views_of(3), views_of(2, images=4), views_of(2, width=4)):
        with refuses(UsageError, tuple(teacher.shape), (2, IMAGES, WIDTH)):
            byol(views_of(2), teacher=teacher)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_keeps_the_digits_of_the_loss(dtype):
    z, teacher = views_of(3).to(dtype), views_of(2, seed=7).to(dtype)
    z[0, 0] = 0
    loss = objective("byol,predictor=none", in_dim=WIDTH)
    value = loss(z.requires_grad_(), teacher=teacher)
    value.backward()
    double = 2 - 2 * loss_cosine(z.detach().double(), teacher.double())
    assert value.item() == pytest.approx(double, rel=1e-5) and z.grad.isfinite().all()


def loss_cosine(z, teacher):
    """The mean over pairs, where a row of zeros has cosine 0."""
    pairs = [(v, w) for v in range(len(z)) for w in range(len(teacher)) if v != w]
    cosine = F.cosine_similarity
    return float(torch.stack([cosine(z[v], teacher[w]).mean() for v, w in pairs]).mean())
