"""Does a part of yours, a spec or a class, keep its contract? A broken clause raises ContractError."""

import copy
import math
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fullrank.data import SOURCES, ImageSet, source as build_source
from fullrank.diagnosis import Evidence, find_causes
from fullrank.diagnosis.causes import CAUSES
from fullrank.diagnosis.causes.search import checked_cause
from fullrank.diagnosis.imposed import exact_rank
from fullrank.encoders import ENCODERS, encoder as build_encoder
from fullrank.errors import ContractError, FullrankError
from fullrank.evaluation.evaluate import scaled_alike
from fullrank.heads import HEADS, Head, head as build_head
from fullrank.objectives import (
    AUXILIARIES,
    OBJECTIVES,
    auxiliary as build_auxiliary,
    loss_of,
    needs_of,
    objective as build_objective,
)
from fullrank.objectives.agreement import check_agreement
from fullrank.objectives.contract import GIVEN
from fullrank.objectives.terms.samples import PLACES, VIEW_DIMS, random_numbers
from fullrank.places import head_places, read_head
from fullrank.specs import Spec
from fullrank.step import Step
from fullrank.view_numbers import neutral_numbers

Part = str | Callable[..., Any]
ROWS = 8


@dataclass(frozen=True)
class _Contract:
    """What a part of some kind must keep, clause by clause."""

    part: str
    kind: str

    @contextmanager
    def clause(self, clause: str) -> Iterator[None]:
        """What goes wrong meanwhile is a ContractError that names the clause; draws are always the same."""
        broken = f"'{self.part}' breaks the contract of {self.kind} ({clause})"
        try:
            with torch.random.fork_rng(devices=()):
                torch.manual_seed(0)
                yield
        except _BrokenError as error:
            raise ContractError(f"{broken}: {error}.") from None
        except FullrankError as error:
            raise ContractError(f"{broken}: {error}") from error
        except (RuntimeError, TypeError, ValueError, AttributeError, LookupError) as error:
            raise ContractError(f"{broken}: {type(error).__name__}: {error}.") from error


class _BrokenError(Exception):
    """A clause that does not hold, and what was seen instead."""


def _hold(holds: bool, instead: str) -> None:
    if not holds:
        raise _BrokenError(instead)


def check_head(part: Part, *, in_dim: int = 12) -> None:
    """Check a head: shapes, gradient, eval mode, and what it says about itself.

    Args:
        part: A spec, or a class of yours.
        in_dim: The width of the representations that it is built for.

    Raises:
        ContractError: The part breaks a clause; the first one is named.
        UsageError: The part cannot be built.

    >>> check_head("mlp:5")
    """
    name = HEADS.parse(part)
    head, contract = _built_head(name, in_dim), _Contract(name, "a head")
    h = torch.randn(ROWS, in_dim, requires_grad=True)
    with contract.clause("it maps h (N, in_dim) to z (N, out_dim) in training, one row for each row"):
        z = head.train()(h)
        _hold(z.shape == (ROWS, head.out_dim), f"z is {tuple(z.shape)}, out_dim is {head.out_dim}")
    with contract.clause("z is finite"):
        _hold(bool(z.isfinite().all()), "some of it is NaN or infinite")
    with contract.clause("`layers`, where there is one that holds modules, is an nn.ModuleList"):
        layers = getattr(head, "layers", None)
        plain = isinstance(layers, list | tuple) and any(isinstance(each, nn.Module) for each in layers)
        _hold(not plain, f"it is a {type(layers).__name__}, so its weights are neither trained nor saved")
    with contract.clause("a gradient reaches h"):
        z.square().sum().backward()
        _hold(h.grad is not None and bool(h.grad.any()), "it is zero everywhere")
    with contract.clause("in eval mode each row of z depends on its own row of h alone"), torch.no_grad():
        rows = torch.randn(ROWS, in_dim)
        whole = head.eval()(rows)
        _hold(_close(whole[2:4], head(rows[2:4])), "two rows give another z alone than among eight")
        _hold(torch.equal(whole, head(rows)), "the same h gives another z the second time")
    with contract.clause("its state_dict holds all that z depends on"), torch.no_grad():
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(1)
            twin = _built_head(name, in_dim).eval()
        twin.load_state_dict(head.state_dict())
        _hold(_close(twin(rows), whole), "a new head with its state_dict gives another z")
    with contract.clause("features of another width raise"):
        _hold(_refuses(head, torch.randn(ROWS, in_dim + 1)), f"(N, {in_dim + 1}) was taken")
    if "views" in getattr(head, "needs", ()):
        _check_views(contract, head.eval(), twin, rows)
    _check_words(contract, head, in_dim)


def _built_head(part: Part, in_dim: int) -> Head:
    return build_head(part, in_dim=in_dim, view_dims=VIEW_DIMS)


@torch.no_grad()
def _check_views(contract: _Contract, head: nn.Module, twin: nn.Module, h: Tensor) -> None:
    """Whether a head takes the numbers of each row's view; `twin` has its weights."""
    neutral = neutral_numbers(VIEW_DIMS)
    views = torch.rand(len(h), len(neutral))
    with contract.clause("needs={'views'}: it takes `views`, the numbers (N, P) of each row's view"):
        z = head(h, views=views)
        _hold(not _close(z, head(h, views=views.flip(0))), "other views of the same h give the same z")
        _hold(
            _close(z[2:4], head(h[2:4], views=views[2:4])), "two rows give another z alone than among eight"
        )
        _hold(_close(z, twin(h, views=views)), "a new head with its state_dict gives another z")
    with contract.clause("without `views` it takes those of a view to which nothing was applied"):
        _hold(_close(head(h), head(h, views=neutral.expand(len(h), -1))), "z is another one")


def _check_words(contract: _Contract, head: nn.Module, in_dim: int) -> None:
    """Whether what a head says of itself is so."""
    places = [*head_places(head)[:-1], "z"]
    # A reweighting says how many channels count, not how many are above rounding; a draw, how many are drawn.
    draws = getattr(head, "eval_dim", head.out_dim) != head.out_dim
    soft = draws or getattr(head, "channel_ratio", None) is not None
    if (says := getattr(head, "imposed_rank", None)) is not None:
        with contract.clause("imposed_rank(place) is a rank that z cannot exceed, or None"):
            for place in places:
                fresh = _built_head(contract.part, in_dim)
                rank, said = exact_rank(fresh, place), says(place)
                _hold(said is None or (type(said) is int and said >= 1), f"at {place} it says {said!r}")
                _hold(said is None or said >= rank or soft, f"at {place} it says {said}, and {rank} was seen")
                with torch.no_grad():
                    h = torch.zeros(2, in_dim, dtype=torch.float64)
                    full = rank == read_head(fresh.eval(), h)[place].shape[1]
                _hold(full or said is not None, f"at {place} it says None, and {rank} was seen")
    if getattr(head, "scales_channels", False):
        with contract.clause("scales_channels: z is h with its channels scaled one by one"), torch.no_grad():
            rows = torch.randn(4 * ROWS, in_dim)
            _hold(scaled_alike(rows, head.eval()(rows)), "z mixes channels of h")
    if (shares := getattr(head, "depth_shares", None)) is not None:
        with contract.clause("depth_shares() gives shares above 0 and up to 1 of places that there are"):
            for place, share in shares().items():
                exists = place.partition("[")[0] in ("h", "z", *head_places(head))
                _hold(exists and 0 < share <= 1, f"it says {share} of {place}")


def check_objective(
    part: Part, *, width: int = 4, num_classes: int = 3, processes: int = 1, head: Part = "none"
) -> None:
    """Check an objective: its value, its gradient, what it needs, and what it says about itself.

    An objective that draws at random is called with a generator, or torch's own is seeded before each call.

    Args:
        part: A spec, or a class or function of yours.
        width: The width of the embeddings.
        num_classes: The number of classes of the labels.
        processes: With 2 or more, loss and gradient are compared with those of one process (seconds).
        head: The head under which one step is trained.

    Raises:
        ContractError: The part breaks a clause; the first one is named.
        UsageError: The part cannot be built.

    >>> check_objective("infonce:0.2,groups=2")
    """
    name = OBJECTIVES.parse(part)
    loss = build_objective(name, in_dim=width, num_classes=num_classes)
    needs, contract = needs_of(loss), _Contract(name, "an objective")
    with contract.clause(f"`needs` names what forward takes beside z_a and z_b, of {', '.join(GIVEN)}"):
        _hold(needs == needs_of(type(loss)) or isinstance(needs, frozenset), f"it says {sorted(needs)}")
        _hold(needs <= set(GIVEN), f"it says {sorted(needs)}")
    a, b = (torch.randn(ROWS, width, requires_grad=True) for _ in range(2))
    with contract.clause("it gives a finite scalar with a gradient to both views"):
        value = _called(loss, a, b, num_classes)
        _hold(value.shape == () and bool(value.isfinite()), f"it gave {tuple(value.shape)}")
        value.backward()  # type: ignore[no-untyped-call]
        for view, z in (("z_a", a), ("z_b", b)):
            _hold(z.grad is not None and bool(z.grad.any()), f"the gradient to {view} is zero")
    with contract.clause("equal draws give equal losses, also without a generator"), torch.no_grad():
        first, second = (_called(loss, a, b, num_classes) for _ in range(2))
        _hold(torch.equal(first, second), f"{first.item():.6g} and then {second.item():.6g}")
        if "generator" in needs:
            _called(loss, a, b, num_classes, generator=False)
    with contract.clause("its gradient agrees with finite differences"):
        double = copy.deepcopy(loss).double()
        x, y = (torch.randn(5, width, dtype=torch.float64, requires_grad=True) for _ in range(2))
        agrees = torch.autograd.gradcheck(
            lambda x, y: _called(double, x, y, num_classes), (x, y), raise_exception=False
        )
        _hold(agrees, "it does not")
    _check_levels(contract, loss, width)
    with contract.clause(f"it trains the head {HEADS.parse(head)}: a gradient reaches h"):
        top = _built_head(head, width)
        above = build_objective(name, in_dim=top.out_dim, num_classes=num_classes)
        h = torch.randn(2 * ROWS, width, requires_grad=True)
        z_a, z_b = top(h).chunk(2)
        _called(above, z_a, z_b, num_classes).backward()  # type: ignore[no-untyped-call]
        _hold(h.grad is not None and bool(h.grad.isfinite().all() and h.grad.any()), "it does not")
    if processes > 1:
        _check_processes(contract, name, processes)


def _check_processes(contract: _Contract, name: str, processes: int) -> None:
    with contract.clause(f"loss and gradient are those of one process in {processes}"):
        agreement = check_agreement(name, processes)
        apart = f"{agreement.loss_apart:.1e} and {agreement.gradient_apart:.1e} (relative)"
        _hold(agreement.agrees, f"apart by {apart}")


def _check_levels(contract: _Contract, loss: nn.Module, width: int) -> None:
    if (chance := getattr(loss, "chance", None)) is not None:
        with contract.clause("chance(n, width) is a finite number or None"):
            level = chance(ROWS, width)
            _hold(level is None or math.isfinite(level), f"it is {level}")
    if (collapsed := getattr(loss, "collapsed", None)) is not None:
        with contract.clause("collapsed(n, width) names kinds of collapse with a finite loss each"):
            levels = collapsed(ROWS, width)
            finite = all(isinstance(key, str) and math.isfinite(value) for key, value in levels.items())
            _hold(isinstance(levels, dict) and finite, f"it is {levels}")


def check_auxiliary(
    part: Part, *, in_dim: int = 6, out_dim: int = 4, num_classes: int = 3, processes: int = 1
) -> None:
    """Check an auxiliary objective: its weight, its value, its gradient, and what it depends on.

    It is called on a step whose features are noise. The step has the places of a tiny-resnet and every
    operation of the views.

    Args:
        part: A spec, or a class of yours.
        in_dim: The width of h.
        out_dim: The width of z.
        num_classes: The number of classes of the labels.
        processes: With 2 or more, loss and gradient are compared with those of one process (seconds).

    Raises:
        ContractError: The part breaks a clause; the first one is named.
        UsageError: The part cannot be built.

    >>> check_auxiliary("augself:1,hidden=4,only=crop")
    """
    spec = AUXILIARIES.parse(part)
    contract, dims = _Contract(spec, "an auxiliary objective"), {p: 3 + n for n, p in enumerate(PLACES)}
    sizes: dict[str, Any] = {"in_dim": in_dim, "out_dim": out_dim, "num_classes": num_classes}
    sizes |= {"place_dims": dims, "view_dims": VIEW_DIMS}
    term = build_auxiliary(spec, **sizes)
    with contract.clause("its value is its weight, the first parameter"):
        other = build_auxiliary(Spec(spec.name, 0.25, spec.options, spec.family), **sizes)
        _hold(other.weight == 0.25, f"with the value 0.25 its weight is {other.weight}")
    with contract.clause("its `places` are places of the encoder"):
        unknown = sorted(set(getattr(term, "places", ())) - set(dims))
        _hold(not unknown, f"{', '.join(unknown)} is none of {', '.join(dims)}")
    step = _noise_step({"h": in_dim, "z": out_dim} | {p: dims[p] for p in getattr(term, "places", ())})
    reached = _check_gradient(contract, term, step)
    _check_term_state(contract, term, step, lambda: build_auxiliary(spec, **sizes))
    with contract.clause("its gradient agrees with finite differences"):
        double, noise = copy.deepcopy(term).double(), _doubled(step)
        inputs = {name: rows for name, rows in _inputs(noise).items() if name in reached}
        agrees = torch.autograd.gradcheck(
            lambda *rows: _term_value(double, _with(noise, dict(zip(inputs, rows, strict=True)))),
            tuple(inputs.values()),
            fast_mode=True,
            raise_exception=False,
        )
        _hold(agrees, "it does not")
    if processes > 1:
        _check_processes(contract, f"infonce:0.2 + {spec}", processes)


def _check_gradient(contract: _Contract, term: nn.Module, step: Step) -> list[str]:
    """Which of h, z and the places the gradient of a term reaches."""
    with contract.clause("it gives a finite scalar, also at the start and the end of the training"):
        for progress in (0.0, 1.0, step.progress):
            value = _term_value(term, replace(step, progress=progress))
            _hold(value.shape == () and bool(value.isfinite()), f"it gave {tuple(value.shape)}")
    with contract.clause("a gradient reaches h, z or a place that it names, and each of its own weights"):
        value.backward()  # type: ignore[no-untyped-call]
        grads = {name: rows.grad for name, rows in _inputs(step).items()}
        reached = [name for name, grad in grads.items() if grad is not None and bool(grad.any())]
        _hold(bool(reached), "it is zero everywhere")
        dead = [
            name for name, weight in term.named_parameters() if weight.requires_grad and weight.grad is None
        ]
        _hold(not dead, f"none reaches {', '.join(dead)}, so several processes could not train together")
    return reached


def _check_term_state(
    contract: _Contract, term: nn.Module, step: Step, rebuilt: Callable[[], nn.Module]
) -> None:
    with torch.no_grad():
        with contract.clause("equal draws give equal losses"):
            first, second = (_term_value(term, step) for _ in range(2))
            _hold(torch.equal(first, second), f"{first.item():.6g} and then {second.item():.6g}")
        with contract.clause("a deep copy and a pickled one give the same loss"):
            pickled = pickle.loads(pickle.dumps(term))  # noqa: S301  # nobody else's bytes
            for twin in (copy.deepcopy(term), pickled):
                _hold(_close(_term_value(twin, step), second), "they do not")
        with contract.clause("its state_dict holds all that the loss depends on"):
            with torch.random.fork_rng(devices=()):
                torch.manual_seed(1)
                twin = rebuilt()
            twin.load_state_dict(term.state_dict())
            _hold(
                _close(_term_value(twin, step), second), "a new term with its state_dict gives another loss"
            )


def _noise_step(widths: dict[str, int]) -> Step:
    """A step of eight images whose features are noise; the last image has no label."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        rows = {name: torch.randn(2 * ROWS, width, requires_grad=True) for name, width in widths.items()}
        views = random_numbers(ROWS)
    labels = torch.arange(ROWS) % 2
    labels[-1] = -1
    return Step(rows.pop("h"), rows.pop("z"), rows, views, labels, progress=0.7)


def _inputs(step: Step) -> dict[str, Tensor]:
    return {"h": step.h, "z": step.z, **step.features}


def _with(step: Step, rows: dict[str, Tensor]) -> Step:
    """The step with other features of these names."""
    features = {name: rows.get(name, each) for name, each in step.features.items()}
    return replace(step, h=rows.get("h", step.h), z=rows.get("z", step.z), features=features)


def _doubled(step: Step) -> Step:
    """The step in float64, with new leaves."""
    return _with(step, {name: x.detach().double().requires_grad_() for name, x in _inputs(step).items()})


def _term_value(term: nn.Module, step: Step) -> Tensor:
    """The term of a step, with the same draws in each call."""
    torch.manual_seed(0)
    value: Tensor = term(replace(step, generator=torch.Generator().manual_seed(0)))
    return value


def check_encoder(part: Part, *, image_size: int = 8, in_chans: int = 1) -> None:
    """Check an encoder: h, its places, eval mode, and its weights.

    Args:
        part: A spec, or a class of yours.
        image_size: The side of the images in pixels.
        in_chans: The number of channels of the images.

    Raises:
        ContractError: The part breaks a clause; the first one is named.
        UsageError: The part cannot be built.

    >>> check_encoder("tiny-resnet,width=4")
    """
    name = ENCODERS.parse(part)
    net = build_encoder(name, image_size=image_size, in_chans=in_chans).eval()
    contract = _Contract(name, "an encoder")
    images = torch.rand(4, in_chans, image_size, image_size)
    with torch.no_grad():
        with contract.clause("it maps images (N, C, H, W) in 0 to 1 to h (N, feature_dim)"):
            h = net(images)
            _hold(h.shape == (4, net.feature_dim), f"h is {tuple(h.shape)}, feature_dim {net.feature_dim}")
        with contract.clause("features(x, places) agrees with the plain forward"):
            features = net.features(images, ["h", *net.places])
            _hold(torch.equal(features["h"], h), "h is another one")
            rows = all(each.ndim == 2 and len(each) == 4 for each in features.values())
            _hold(rows and list(features) == ["h", *net.places], "each place must give (N, D)")
        with contract.clause("in eval mode each row of h depends on its own image alone"):
            _hold(_close(net(images[1:3]), h[1:3], 1e-4), "two images give another h alone than among four")
        with contract.clause("its state_dict holds all that h depends on"):
            with torch.random.fork_rng(devices=()):
                torch.manual_seed(1)
                twin = build_encoder(name, image_size=image_size, in_chans=in_chans).eval()
            twin.load_state_dict(net.state_dict())
            _hold(_close(twin(images), h, 1e-4), "a new encoder with its state_dict gives another h")
    with contract.clause("a gradient reaches its weights"):
        net.train()(images).square().sum().backward()
        grads = [p.grad for p in net.parameters() if p.grad is not None]
        _hold(any(bool(grad.any()) for grad in grads), "all are zero")


def check_source(part: Part, *, image_size: int = 8) -> None:
    """Check a source: its splits, that it gives the same images twice, and that they can be resized.

    Args:
        part: A spec, or a class of yours.
        image_size: The side to which the images are resized.

    Raises:
        ContractError: The part breaks a clause; the first one is named.
        FullrankError: The images cannot be read.

    >>> check_source("digits")
    """
    name = SOURCES.parse(part)
    data, contract = build_source(name), _Contract(name, "a source")
    for split in data.splits:
        with contract.clause(f"load({split!r}) gives an ImageSet of {split} images with labels 'label'"):
            images = data.load(split)
            _hold(isinstance(images, ImageSet) and "label" in images.labels, f"it is {type(images).__name__}")
            _hold(images.split == split, f"its split is {images.split!r}")
        with contract.clause("the same split gives the same images in the same order"):
            again = build_source(name).load(split)
            rows = np.arange(min(len(images), ROWS))
            _hold(len(again) == len(images), f"{len(images)} and then {len(again)} images")
            _hold(torch.equal(images.subset(rows).tensor(), again.subset(rows).tensor()), "images differ")
            same = all(np.array_equal(images.labels[key], again.labels[key]) for key in images.labels)
            _hold(same, "labels differ")
        with contract.clause("load(split, image_size) brings images to that size"):
            sized = data.load(split, image_size)
            _hold(sized.image_shape[:2] == (image_size, image_size), f"they are {sized.image_shape}")
    with contract.clause("train and test have the same channels and classes"):
        if set(data.splits) == {"train", "test"}:
            train, test = data.load("train"), data.load("test")
            _hold(train.channels == test.channels, f"{train.channels} and {test.channels} channels")
            _hold(train.class_names["label"] == test.class_names["label"], "classes are named differently")


def check_cause(part: Part, found: Evidence, healthy: Evidence) -> None:
    """Check a cause on evidence in which it must be found, and on healthy evidence.

    Args:
        part: The name of a cause, or a class of yours.
        found: Evidence in which the cause must be found.
        healthy: Evidence in which it must not be found.

    Raises:
        ContractError: The part breaks a clause; the first one is named.
        UsageError: The part is not a cause.

    >>> from fullrank.diagnosis import PlaceEvidence
    >>> point, cloud = torch.ones(50, 4), torch.randn(50, 4)
    >>> check_cause("complete-collapse", *(Evidence((PlaceEvidence("h", x),)) for x in (point, cloud)))
    """
    built = part() if isinstance(part, type) else CAUSES.build(part)
    name = str(getattr(built, "name", type(built).__name__))
    cause, contract = checked_cause(built, name), _Contract(name, "a cause")
    with contract.clause("each of its rules has a measure, a finite threshold and a remedy of one sentence"):
        for rule in cause.rules:
            _hold(bool(rule.measure) and math.isfinite(rule.threshold), f"{rule}")
            _hold(rule.remedy.endswith(".") and ". " not in rule.remedy, f"its remedy is {rule.remedy!r}")
    with contract.clause("it is found where it is"):
        findings = find_causes(found, [cause])
        _hold(bool(findings), "nothing was found")
        places = {place.place for place in found.places}
        for finding in findings:
            _hold(finding.place in places and finding.evidence.endswith("."), f"it says {finding}")
            _hold(finding.value != finding.threshold, "its value is its threshold")
    with contract.clause("it is not found where features are healthy"):
        wrong = find_causes(healthy, [cause])
        _hold(not wrong, f"it was found at {', '.join(each.place for each in wrong)}")


def _called(loss: nn.Module, a: Tensor, b: Tensor, num_classes: int, generator: bool = True) -> Tensor:
    """The loss of two views, with labels of which the last is missing, and the same draws in each call."""
    labels = torch.arange(len(a)) % num_classes
    labels[-1:] = -1
    torch.manual_seed(0)
    return loss_of(loss, a, b, labels, torch.Generator().manual_seed(0) if generator else None)


def _refuses(head: nn.Module, h: Tensor) -> bool:
    """Whether a head raises for features."""
    try:
        head(h)
    except (FullrankError, RuntimeError, ValueError, TypeError, LookupError, AssertionError):
        return True
    return False


def _close(one: Tensor, other: Tensor, tolerance: float = 1e-5) -> bool:
    return one.shape == other.shape and torch.allclose(one, other, rtol=tolerance, atol=tolerance)
