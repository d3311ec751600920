"""AugSelf and SDSSL against an oracle that never saw the code: losses, slopes, and several processes."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
import related_oracle as oracle
import torch
from gloo_group import in_processes
from torch import Tensor, nn

from fullrank import view_pipeline
from fullrank.objectives import auxiliary, tiles
from fullrank.step import Step
from fullrank.view_numbers import ViewNumbers
from fullrank.views import step_generator

IMAGES, DIM, WIDTH, SIDE = 8, 5, 4, 12
PLACES = {"stem": 3, "stage1": 6, "stage2": 4, "last-conv-input": DIM}
INNER = "stage1+stage2"
RAMP = 0.3
# Views whose pipelines differ, views without a flip, views with few colours, and images of one channel.
VIEWS = [
    ("directclr", 3),
    ("simclr,flip=0,blur=1", 3),
    ("simclr,contrast=0,hue=0,scale=1", 3),
    ("simclr,jitter=0.5", 1),
    ("weak", 1),
]


def random_rows(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def numbers_of(spec: str, channels: int) -> ViewNumbers:
    views = view_pipeline(spec, image_size=SIDE, channels=channels)
    return views.sample(IMAGES, step_generator(seed=1, epoch=0, step=0)).numbers()


def step_of(views: ViewNumbers | None = None, progress: float = RAMP) -> Step:
    """A step of unlike features in float64, whose tensors are leaves with a gradient."""
    h, z = random_rows(2 * IMAGES, DIM, seed=1), random_rows(2 * IMAGES, WIDTH, seed=2)
    features = {name: random_rows(2 * IMAGES, PLACES[name], seed=3 + at) for at, name in enumerate(PLACES)}
    for rows in (h, z, *features.values()):
        rows.requires_grad_()
    return Step(h, z, features, views, progress=progress)


def roughened(term: nn.Module) -> nn.Module:
    """The term in float64, with scales and shifts of its norms that are not 1 and 0."""
    term = term.double()
    with torch.no_grad():
        for number, weight in enumerate(term.parameters()):
            weight += 0.3 * random_rows(*weight.shape, seed=100 + number)
    return term


def augself(spec: str, channels: int) -> nn.Module:
    torch.manual_seed(0)
    return roughened(
        auxiliary(
            "augself:1,hidden=7",
            in_dim=DIM,
            out_dim=WIDTH,
            view_dims=view_pipeline(spec, image_size=SIDE, channels=channels).number_dims,
        )
    )


def sdssl(temperature: float = 0.3) -> nn.Module:
    torch.manual_seed(0)
    spec = f"sdssl:1,places={INNER},hidden=7,temperature={temperature}"
    return roughened(auxiliary(spec, in_dim=DIM, out_dim=WIDTH, place_dims=PLACES))


def layers_of(head: nn.Sequential) -> list[oracle.Layer]:
    """The weights of a head, whatever its modules are called."""
    layers: list[oracle.Layer] = []
    for part in head:
        arrays = [
            None if each is None else each.detach().numpy().copy()
            for each in (getattr(part, "weight", None), getattr(part, "bias", None))
        ]
        if isinstance(part, nn.Linear):
            layers.append(oracle.Layer(*arrays))
        elif arrays[0] is not None:
            layers[-1] = replace(layers[-1], scale=arrays[0], shift=arrays[1])
    return layers


def both_orders(views: ViewNumbers) -> dict[str, np.ndarray]:
    forth, back = views.differences(), views.swapped().differences()
    return {name: torch.cat([forth[name], back[name]]).double().numpy() for name in forth}


def augself_by_oracle(term: nn.Module, step: Step) -> float:
    heads = {name: layers_of(head) for name, head in term.heads.items()}
    h_a, h_b = step.h.detach().numpy()[:IMAGES], step.h.detach().numpy()[IMAGES:]
    return oracle.augself_loss(heads, h_a, h_b, both_orders(step.views))


def sdssl_by_oracle(term: nn.Module, step: Step) -> float:
    inner = [
        oracle.sdssl_projector(layers_of(projector), step.features[place].detach().numpy())
        for place, projector in zip(INNER.split("+"), term.projectors, strict=True)
    ]
    ramp = oracle.sdssl_ramp(step.progress, ratio=1.0)
    return ramp * oracle.sdssl_loss(inner, step.z.detach().numpy(), term.temperature)


@pytest.mark.parametrize(("spec", "channels"), VIEWS)
def test_augself_equals_the_oracle_and_has_a_head_for_each_operation_that_is_on(spec, channels):
    term, step = augself(spec, channels), step_of(numbers_of(spec, channels))
    assert sorted(term.heads) == sorted(both_orders(step.views))
    assert term(step).item() == pytest.approx(augself_by_oracle(term, step), rel=1e-10)


@pytest.fixture(autouse=True)
def _small_tiles(monkeypatch):
    monkeypatch.setitem(tiles._SIDE, "cpu", 3)


# A temperature of 0.002 is beyond the range of the tiles.
@pytest.mark.parametrize(("progress", "temperature"), [(0.0, 0.3), (RAMP, 0.3), (1.0, 0.2), (1.0, 0.002)])
def test_sdssl_equals_the_oracle_along_its_ramp(progress, temperature):
    term, step = sdssl(temperature), step_of(progress=progress)
    assert term(step).item() == pytest.approx(sdssl_by_oracle(term, step), rel=1e-10, abs=1e-14)


def test_sdssl_of_one_place_has_the_value_of_its_closed_form():
    """Each last embedding is an axis of space. An inner row is the axis of the other view, or of its own."""
    axes = torch.eye(2 * IMAGES, dtype=torch.float64)
    other = axes.roll(IMAGES, 0)
    term = auxiliary("sdssl:1,places=stage1,ramp=false", in_dim=DIM, out_dim=2 * IMAGES, place_dims=PLACES)
    term.projectors[0] = nn.Identity()
    rest = 2 * IMAGES - 2
    for inner, expected in [
        (other, math.log(math.exp(5) + rest) - 5),
        (axes, math.log(1 + rest)),  # the candidate of the same view does not count
    ]:
        step = Step(axes[:, :DIM], axes, {"stage1": inner})
        assert term(step).item() == pytest.approx(expected, rel=1e-12)


def slope_along(loss: Callable[[], float], rows: Tensor, way: Tensor, length: float = 1e-5) -> float:
    """The central difference of `loss` where `rows` move along `way`."""
    ends = []
    with torch.no_grad():
        for sign in (1, -1):
            rows += sign * length * way
            ends.append(loss())
            rows -= sign * length * way
    return (ends[0] - ends[1]) / (2 * length)


def check_slopes(term: nn.Module, step: Step, rows: dict[str, Tensor], by_oracle: Callable) -> None:
    """Each gradient of the term, along a random direction, is the finite difference of the oracle."""
    term(step).backward()
    for number, (name, each) in enumerate([*rows.items(), *term.named_parameters()]):
        way = random_rows(*each.shape, seed=50 + number)
        expected = slope_along(lambda: by_oracle(term, step), each, way)
        found = float((each.grad * way).sum())
        assert found == pytest.approx(expected, rel=1e-5, abs=1e-8), name


def test_slopes_of_augself_are_finite_differences_of_the_oracle():
    step = step_of(numbers_of("directclr", 3))
    check_slopes(augself("directclr", 3), step, {"h": step.h}, augself_by_oracle)
    assert float(step.h.grad[:IMAGES].norm()) > 0 and float(step.h.grad[IMAGES:].norm()) > 0


def test_slopes_of_sdssl_are_finite_differences_of_the_oracle_and_none_reaches_z():
    step = step_of()
    inner = {name: step.features[name] for name in INNER.split("+")}
    check_slopes(sdssl(), step, inner, sdssl_by_oracle)
    assert step.z.grad is None or not step.z.grad.any()


def share_of_step(step: Step, rank: int, count: int) -> Step:
    """What one of several processes has of a step: its images, in both views."""
    own = torch.arange(IMAGES).chunk(count)[rank]
    rows = torch.cat([own, own + IMAGES])
    views = step.views and ViewNumbers(
        *({k: v[own] for k, v in view.items()} for view in (step.views.first, step.views.second))
    )
    h, z = (each.detach()[rows].requires_grad_() for each in (step.h, step.z))
    features = {k: v.detach()[rows].requires_grad_() for k, v in step.features.items()}
    return Step(h, z, features, views, progress=step.progress)


TERMS = {
    "augself": lambda: (augself("directclr", 3), step_of(numbers_of("directclr", 3))),
    "sdssl": lambda: (sdssl(), step_of()),
    "sdssl beyond the tiles": lambda: (sdssl(0.002), step_of()),
}


def measured(name: str, rank: int, count: int) -> list[Tensor]:
    """A share's loss, and its slopes in the features and in the term's own weights."""
    term, whole = TERMS[name]()
    step = share_of_step(whole, rank, count)
    value = term(step)
    value.backward()
    rows = [step.h, *step.features.values()]
    slopes = [torch.zeros_like(each) if each.grad is None else each.grad for each in rows]
    return [value.detach(), *slopes, *(weight.grad for weight in term.parameters())]


@pytest.fixture(scope="module", params=[2, 4])
def shares(request, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[dict[str, list[Tensor]]]]:
    """What each of 2 or 4 processes measures."""
    count = request.param
    return in_processes(
        lambda rank: {name: measured(name, rank, count) for name in TERMS},
        count,
        tmp_path_factory.mktemp("shares"),
    )


@pytest.mark.parametrize("name", TERMS)
def test_several_processes_have_the_loss_and_slopes_of_one(shares, name):
    count = len(shares)
    value, *slopes = measured(name, 0, 1)
    parts = [share[name] for share in shares]
    torch.testing.assert_close(sum(part[0] for part in parts) / count, value, rtol=1e-10, atol=0)
    for number, slope in enumerate(slopes, start=1):
        each = [part[number] for part in parts]
        if number <= 1 + len(PLACES):  # rows: the first views of all processes, then the second views
            halves = [rows.chunk(2) for rows in each]
            average = torch.cat([half[view] for view in (0, 1) for half in halves]) / count
        else:
            average = sum(each) / count
        torch.testing.assert_close(average, slope, rtol=1e-9, atol=1e-12)
