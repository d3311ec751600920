"""Objectives of several views against their oracles: value, gradient to z, gradient to their own weights."""

import numpy as np
import objective_oracles as oracle
import pytest
import torch
from objective_oracles import Predictor

from fullrank.heads.whitening import Whitening
from fullrank.objectives import auxiliary, objective
from fullrank.objectives.contract import loss_of_views
from fullrank.step import Step

IMAGES, WIDTH, SLICES = 6, 4, 8
GLOBAL = 2
VIEWS = pytest.mark.parametrize("views", [2, 5], ids=["two views", "two global and three local views"])


def rows(views: int, width: int = WIDTH, seed: int = 0) -> np.ndarray:
    """Views (V, N, K) of the same images that differ, far from each other and from a mean of 0."""
    random = np.random.default_rng(seed)
    return random.normal(size=(IMAGES, width)) + 0.7 * random.normal(size=(views, IMAGES, width)) + 0.3


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def directions(width: int, count: int) -> np.ndarray:
    """What a step's generator gives first, (K, M)."""
    return torch.randn(width, count, generator=generator()).double().numpy()


def parameters_of(loss: torch.nn.Module) -> list[np.ndarray]:
    return [parameter.detach().numpy().copy() for _, parameter in loss.named_parameters()]


def built(spec: str, width: int = WIDTH) -> torch.nn.Module:
    """In float64, in training mode, with weights that are nowhere 0 or 1."""
    loss = objective(spec, in_dim=width).double().train()
    random = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in loss.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=random, dtype=torch.float64))
    return loss


def loss_and_slopes(loss, z, **given):
    """The loss, and its gradients to z and to each of its weights."""
    leaf = torch.from_numpy(z).requires_grad_()
    if "teacher" in given:
        given["teacher"] = torch.from_numpy(given["teacher"])
    value = loss_of_views(loss, leaf, generator=generator(), global_views=GLOBAL, **given)
    slopes = torch.autograd.grad(value, [leaf, *loss.parameters()])
    return value.item(), [slope.numpy() for slope in slopes]


def assert_agrees(value, slopes, expected, at):
    """`expected` takes what the slopes are to, z first, and `at` is where it is asked."""
    assert value == pytest.approx(expected(*at), rel=1e-9)
    for place, (slope, point) in enumerate(zip(slopes, at, strict=True)):

        def moved(x, place=place):
            return expected(*at[:place], x, *at[place + 1 :])

        numeric = oracle.slope(moved, point)
        assert np.abs(slope - numeric).max() <= 1e-6 * max(np.abs(numeric).max(), 1e-3), place


@VIEWS
@pytest.mark.parametrize(
    ("spec", "share", "last", "knots"),
    [
        (f"sigreg:0.05,slices={SLICES}", 0.05, 3.0, 17),
        (f"sigreg:0.4,slices={SLICES},knots=9,range=5", 0.4, 5.0, 9),
    ],
)
def test_sigreg(spec, share, last, knots, views):
    z, drawn = rows(views), directions(WIDTH, SLICES)
    value, slopes = loss_and_slopes(objective(spec, in_dim=WIDTH), z)
    assert_agrees(value, slopes, lambda x: oracle.sigreg(x, drawn, share, GLOBAL, last, knots), [z])


@VIEWS
def test_weak_sigreg_without_a_sketch(views):
    z = rows(views)
    value, slopes = loss_and_slopes(objective("weak-sigreg:0.05", in_dim=WIDTH), z)
    assert_agrees(value, slopes, lambda x: oracle.weak_sigreg(x, np.eye(WIDTH), 0.05, GLOBAL), [z])


def test_weak_sigreg_with_a_sketch():
    z, wide = rows(2, width=7), 7
    sketch = directions(3, wide) / np.sqrt(wide)
    value, slopes = loss_and_slopes(objective("weak-sigreg:0.3,sketch=3", in_dim=wide), z)
    assert_agrees(value, slopes, lambda x: oracle.weak_sigreg(x, sketch, 0.3, GLOBAL), [z])


@VIEWS
def test_visreg(views):
    z, drawn = rows(views), directions(WIDTH, SLICES)
    value, slopes = loss_and_slopes(objective(f"visreg,slices={SLICES}", in_dim=WIDTH), z)
    assert_agrees(value, slopes, lambda x: oracle.visreg(x, drawn, 0.9, GLOBAL, scales_of=z), [z])


@VIEWS
def test_simsiam_and_its_predictor(views):
    loss, z = built("simsiam,hidden=5"), rows(views)
    value, slopes = loss_and_slopes(loss, z)
    assert_agrees(
        value,
        slopes,
        lambda x, *weights: oracle.simsiam(x, Predictor.of(weights), z, GLOBAL),
        [z, *parameters_of(loss)],
    )


def test_simsiam_without_stop_gradient_moves_its_targets_too():
    loss, z = built("simsiam,hidden=5,stop_gradient=false"), rows(2)
    value, slopes = loss_and_slopes(loss, z)
    assert_agrees(
        value,
        slopes,
        lambda x, *weights: oracle.simsiam(x, Predictor.of(weights), x, GLOBAL),
        [z, *parameters_of(loss)],
    )


@VIEWS
def test_byol_and_its_predictor(views):
    loss, z, teacher = built("byol,hidden=5"), rows(views), rows(GLOBAL, seed=1)
    value, slopes = loss_and_slopes(loss, z, teacher=teacher, progress=0.2)
    assert_agrees(
        value,
        slopes,
        lambda x, *weights: oracle.byol(x, Predictor.of(weights), teacher, GLOBAL),
        [z, *parameters_of(loss)],
    )


@pytest.mark.parametrize("spec", ["byol", "byol,momentum=0.9", "dino,prototypes=3"])
@pytest.mark.parametrize("progress", [0.0, 0.25, 0.5, 1.0])
def test_momentum_of_the_teacher(spec, progress):
    start = 0.9 if "momentum" in spec else 0.996
    momentum = objective(spec, in_dim=WIDTH).momentum_at(progress)
    assert momentum == pytest.approx(oracle.cosine_momentum(start, progress), rel=1e-12)


@VIEWS
def test_dino_its_prototypes_and_its_centre(views):
    prototypes = 7
    loss, z = built(f"dino,prototypes={prototypes}"), rows(views)
    centre, weights = np.zeros(prototypes), parameters_of(loss)
    assert [weight.shape for weight in weights] == [(prototypes, WIDTH)]
    for step, progress in enumerate((0.1, 0.25, 1.0)):
        teacher = rows(GLOBAL, width=prototypes, seed=step) / 5
        temperature = oracle.warmed_temperature(progress, 0.04, 0.07, 0.3)
        value, slopes = loss_and_slopes(loss, z, teacher=teacher, progress=progress)

        def expected(x, matrix, teacher=teacher, centre=centre, temperature=temperature):
            return oracle.dino(x, matrix, teacher, centre, temperature, GLOBAL)

        if progress == 1.0:
            assert_agrees(value, slopes, expected, [z, *weights])
        assert value == pytest.approx(expected(z, *weights), rel=1e-9)
        centre = oracle.moved_centre(centre, teacher)
    loss.eval()
    seen = [loss_and_slopes(loss, z, teacher=teacher, progress=1.0)[0] for _ in range(2)]
    assert seen == pytest.approx([oracle.dino(z, *weights, teacher, centre, 0.07, GLOBAL)] * 2, rel=1e-9)


@VIEWS
@pytest.mark.parametrize(("spec", "local"), [("mmcr", 0.0), ("mmcr,local=0.3", 0.3)])
def test_mmcr(spec, local, views):
    z = rows(views)
    value, slopes = loss_and_slopes(objective(spec, in_dim=WIDTH), z)
    assert_agrees(value, slopes, lambda x: oracle.mmcr(x, local), [z])


@VIEWS
def test_align(views):
    z = rows(views)
    value, slopes = loss_and_slopes(objective("align", in_dim=WIDTH), z)
    assert_agrees(value, slopes, lambda x: oracle.align(x, GLOBAL), [z])


@VIEWS
def test_infonce_with_a_queue_over_several_steps(views):
    size = 20  # no multiple of the keys of a step, so that it wraps
    loss, oldest = built(f"infonce:0.2,queue={size}"), 0
    [queue] = [each.numpy().copy() for each in loss.buffers() if each.shape == (size, WIDTH)]
    np.testing.assert_allclose((queue**2).sum(1), 1, rtol=1e-6)
    for step in range(4):
        z, teacher = rows(views, seed=step), rows(GLOBAL, seed=10 + step)
        value, slopes = loss_and_slopes(loss, z, teacher=teacher, progress=0.5)

        def expected(x, teacher=teacher, queue=queue):
            return oracle.queue_infonce(x, teacher, queue, 0.2, GLOBAL)

        if step == 3:
            assert_agrees(value, slopes, expected, [z])
        assert value == pytest.approx(expected(z), rel=1e-9)
        queue, oldest = oracle.enqueued(queue, oldest, np.concatenate(list(teacher)))


@VIEWS
def test_koleo(views):
    h = rows(views)
    term = auxiliary("koleo:0.1,place=h", in_dim=WIDTH, out_dim=WIDTH)
    leaf = torch.from_numpy(h).requires_grad_()
    flat = leaf.reshape(-1, WIDTH)
    value = term(Step(flat, flat, view_count=views, global_count=GLOBAL))
    [slope] = torch.autograd.grad(value, leaf)
    assert_agrees(value.item(), [slope.numpy()], lambda x: oracle.koleo(x, GLOBAL), [h])


def far_from_round(count: int, width: int) -> np.ndarray:
    """Rows (N, K) whose channels are correlated and differ in size."""
    random = np.random.default_rng(7)
    return random.normal(size=(count, width)) @ random.normal(size=(width, width)) + 2


def round_rows(count: int, width: int) -> np.ndarray:
    """Rows (N, K) whose covariance is a multiple of the identity, so that all its eigenvalues are equal."""
    return 3 * np.linalg.qr(far_from_round(count, width) - far_from_round(count, width).mean(0))[0]


@pytest.mark.parametrize(("width", "group"), [(4, 128), (5, 3), (6, 2)])
@pytest.mark.parametrize("make", [far_from_round, round_rows])
def test_whitening_over_the_batch(make, width, group):
    x, out = make(12, width), np.random.default_rng(8).normal(size=(12, width))
    leaf = torch.from_numpy(x).requires_grad_()
    white = Whitening(width, group).double().train()(leaf)
    np.testing.assert_allclose(white.detach().numpy(), oracle.whitened(x, group), rtol=1e-9, atol=1e-9)
    [slope] = torch.autograd.grad((white * torch.from_numpy(out)).sum(), leaf)
    numeric = oracle.slope(lambda moved: float((out * oracle.whitened(moved, group)).sum()), x)
    assert np.abs(slope.numpy() - numeric).max() <= 1e-6 * np.abs(numeric).max()


# What the objectives say of themselves, against the oracles


@pytest.mark.parametrize(
    ("spec", "value"),
    [
        ("sigreg:0.3,slices=8", lambda z: oracle.sigreg(z, directions(WIDTH, 8), 0.3, GLOBAL)),
        ("weak-sigreg:0.3", lambda z: oracle.weak_sigreg(z, np.eye(WIDTH), 0.3, GLOBAL)),
        ("visreg", lambda z: oracle.visreg(z, directions(WIDTH, 8), 0.9, GLOBAL)),
        ("mmcr,local=0.3", lambda z: oracle.mmcr(z + 1, 0.3)),
        ("align", lambda z: oracle.align(z + 1, GLOBAL)),
        (
            "infonce:0.2,queue=20",
            lambda z: oracle.queue_infonce(z + 1, z[:GLOBAL] + 1, np.ones((20, WIDTH)) / 2, 0.2, GLOBAL),
        ),
    ],
)
def test_collapsed_says_what_one_point_costs(spec, value):
    loss, local = objective(spec, in_dim=WIDTH), 3
    views = (GLOBAL, local) if getattr(loss, "takes_views", False) else ()
    expected = value(np.zeros((GLOBAL + local, IMAGES, WIDTH)))
    # The oracle's nuclear norm has half the digits.
    assert loss.collapsed(IMAGES, WIDTH, *views)["one point"] == pytest.approx(expected, rel=1e-6, abs=1e-12)


@VIEWS
@pytest.mark.parametrize(
    ("spec", "within", "value"),
    [
        ("sigreg:0.3", 0, lambda z, drawn: oracle.sigreg(z, drawn, 0.3, GLOBAL)),
        # The root of a mean square is a little above the mean of roots.
        ("weak-sigreg:0.3", 0.01, lambda z, drawn: oracle.weak_sigreg(z, np.eye(WIDTH), 0.3, GLOBAL)),
        ("visreg", 0, lambda z, drawn: oracle.visreg(z, drawn, 0.9, GLOBAL)),
    ],
)
def test_chance_says_what_independent_normal_views_cost(spec, within, value, views):
    random, images = np.random.default_rng(0), 32
    losses = [
        value(random.normal(size=(views, images, WIDTH)), random.normal(size=(WIDTH, 4))) for _ in range(150)
    ]
    chance = objective(spec, in_dim=WIDTH).chance(images, WIDTH, GLOBAL, views - GLOBAL)
    margin = 4 * np.std(losses) / np.sqrt(len(losses)) + within * abs(chance)
    assert chance == pytest.approx(np.mean(losses), abs=margin)


# The oracles themselves, against numbers that follow without them


def test_sigreg_oracle_has_the_closed_forms_of_a_normal_sample_and_of_a_point():
    knots, weights = oracle.knots_of(3.0, 17)
    phi = np.exp(-(knots**2) / 2)
    assert weights @ (1 - phi**2) == pytest.approx(1.0525, abs=5e-5)
    assert oracle.epps_pulley(np.zeros((256, 1)))[0] == pytest.approx(256 * 0.4020, abs=0.02)
    random = np.random.default_rng(0)
    statistics = oracle.epps_pulley(random.normal(size=(40, 4000)))
    assert statistics.mean() == pytest.approx(1.0525, abs=5 * statistics.std() / np.sqrt(4000))


def test_oracles_at_one_point_and_at_orthogonal_rows():
    point, basis = np.ones((3, 4, 6)), np.stack([np.eye(6)[:4]] * 3)
    # A Gram matrix has half the digits of its zero eigenvalues.
    assert oracle.mmcr(point, 0.0) == pytest.approx(-2, rel=1e-6)  # -sqrt(N)
    assert oracle.mmcr(basis, 1.0) == pytest.approx(-4 + np.sqrt(3), rel=1e-6)
    assert oracle.align(point, GLOBAL) == pytest.approx(0, abs=1e-12)
    assert oracle.align(np.stack([np.eye(4), -np.eye(4)]), GLOBAL) == pytest.approx(4)
    assert oracle.koleo(basis, 1) == pytest.approx(-np.log(np.sqrt(2)), rel=1e-7)
    assert oracle.queue_infonce(basis, basis, np.eye(6)[4:], 1.0, GLOBAL) == pytest.approx(
        np.log(1 + 2 / np.e), rel=1e-12
    )
    teacher = np.zeros((GLOBAL, 4, 5))
    assert oracle.dino(point, np.eye(5, 6), teacher, np.zeros(5), 0.04, GLOBAL) == pytest.approx(np.log(5))
    assert oracle.weak_sigreg(point, np.eye(6), 1.0, GLOBAL) == pytest.approx(np.sqrt(6), rel=1e-12)


def test_slope_of_a_known_function():
    at = np.array([[0.3, -1.2], [2.0, 0.5]])
    np.testing.assert_allclose(oracle.slope(lambda x: float(np.sin(x).sum()), at), np.cos(at), rtol=1e-9)
