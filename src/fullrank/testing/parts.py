"""Heads, objectives, encoders, sources and causes: do they keep their contracts?"""

import copy
import math
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from fullrank.data import SOURCES, ImageSet, source as build_source
from fullrank.diagnosis import Evidence, find_causes
from fullrank.diagnosis.causes import CAUSES
from fullrank.diagnosis.causes.search import checked_cause
from fullrank.diagnosis.imposed import exact_rank
from fullrank.encoders import ENCODERS, encoder as build_encoder
from fullrank.errors import FullrankError
from fullrank.evaluation.evaluate import scaled_alike
from fullrank.heads import HEADS, Head, head as build_head
from fullrank.heads.contract import nested_widths
from fullrank.objectives import (
    OBJECTIVES,
    needs_of,
    objective as build_objective,
)
from fullrank.objectives.contract import GIVEN, loss_of_views
from fullrank.objectives.terms.samples import VIEW_DIMS
from fullrank.objectives.trial import trial_of
from fullrank.places import head_places, read_head
from fullrank.testing.contract import ROWS, Contract, Part, check_processes, close, hold
from fullrank.view_numbers import neutral_numbers


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
    head, contract = _built_head(name, in_dim), Contract(name, "a head")
    count = max(ROWS, getattr(head, "least_rows", 1))
    h = torch.randn(count, in_dim, requires_grad=True)
    with contract.clause("it maps h (N, in_dim) to z (N, out_dim) in training, one row for each row"):
        z = head.train()(h)
        hold(z.shape == (count, head.out_dim), f"z is {tuple(z.shape)}, out_dim is {head.out_dim}")
    with contract.clause("z is finite"):
        hold(bool(z.isfinite().all()), "some of it is NaN or infinite")
    with contract.clause("`layers`, where there is one that holds modules, is an nn.ModuleList"):
        layers = getattr(head, "layers", None)
        plain = isinstance(layers, list | tuple) and any(isinstance(each, nn.Module) for each in layers)
        hold(not plain, f"it is a {type(layers).__name__}, so its weights are neither trained nor saved")
    with contract.clause("a gradient reaches h"):
        z.square().sum().backward()
        hold(h.grad is not None and bool(h.grad.any()), "it is zero everywhere")
    with contract.clause("in eval mode each row of z depends on its own row of h alone"), torch.no_grad():
        rows = torch.randn(ROWS, in_dim)
        whole = head.eval()(rows)
        hold(close(whole[2:4], head(rows[2:4])), "two rows give another z alone than among eight")
        hold(torch.equal(whole, head(rows)), "the same h gives another z the second time")
    with contract.clause("its state_dict holds all that z depends on"), torch.no_grad():
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(1)
            twin = _built_head(name, in_dim).eval()
        twin.load_state_dict(head.state_dict())
        hold(close(twin(rows), whole), "a new head with its state_dict gives another z")
    with contract.clause("features of another width raise"):
        hold(_refuses(head, torch.randn(ROWS, in_dim + 1)), f"(N, {in_dim + 1}) was taken")
    if "views" in getattr(head, "needs", ()):
        _check_views(contract, head.eval(), twin, rows)
    _check_words(contract, head, in_dim)


def _built_head(part: Part, in_dim: int) -> Head:
    return build_head(part, in_dim=in_dim, view_dims=VIEW_DIMS)


@torch.no_grad()
def _check_views(contract: Contract, head: nn.Module, twin: nn.Module, h: Tensor) -> None:
    """Whether a head takes the numbers of each row's view; `twin` has its weights."""
    neutral = neutral_numbers(VIEW_DIMS)
    views = torch.rand(len(h), len(neutral))
    with contract.clause("needs={'views'}: it takes `views`, the numbers (N, P) of each row's view"):
        z = head(h, views=views)
        hold(not close(z, head(h, views=views.flip(0))), "other views of the same h give the same z")
        hold(close(z[2:4], head(h[2:4], views=views[2:4])), "two rows give another z alone than among eight")
        hold(close(z, twin(h, views=views)), "a new head with its state_dict gives another z")
    with contract.clause("without `views` it takes those of a view to which nothing was applied"):
        hold(close(head(h), head(h, views=neutral.expand(len(h), -1))), "z is another one")


def _check_words(contract: Contract, head: nn.Module, in_dim: int) -> None:
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
                hold(said is None or (type(said) is int and said >= 1), f"at {place} it says {said!r}")
                hold(said is None or said >= rank or soft, f"at {place} it says {said}, and {rank} was seen")
                with torch.no_grad():
                    h = torch.zeros(2, in_dim, dtype=torch.float64)
                    full = rank == read_head(fresh.eval(), h)[place].shape[1]
                hold(full or said is not None, f"at {place} it says None, and {rank} was seen")
    with contract.clause("`nested`, if there is one, names widths from 1 to out_dim"):
        nested = nested_widths(head)
        hold(all(1 <= width <= cast(int, head.out_dim) for width in nested), f"it says {nested}")
    if getattr(head, "scales_channels", False):
        with contract.clause("scales_channels: z is h with its channels scaled one by one"), torch.no_grad():
            rows = torch.randn(4 * ROWS, in_dim)
            hold(scaled_alike(rows, head.eval()(rows)), "z mixes channels of h")
    if (shares := getattr(head, "depth_shares", None)) is not None:
        with contract.clause("depth_shares() gives shares above 0 and up to 1 of places that there are"):
            for place, share in shares().items():
                exists = place.partition("[")[0] in ("h", "z", *head_places(head))
                hold(exists and 0 < share <= 1, f"it says {share} of {place}")


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
    needs, contract = needs_of(loss), Contract(name, "an objective")
    with contract.clause(f"`needs` names what forward takes beside the embeddings, of {', '.join(GIVEN)}"):
        hold(needs == needs_of(type(loss)) or isinstance(needs, frozenset), f"it says {sorted(needs)}")
        hold(needs <= set(GIVEN), f"it says {sorted(needs)}")
    a, b = (torch.randn(ROWS, width, requires_grad=True) for _ in range(2))
    with contract.clause("it gives a finite scalar with a gradient to both views"):
        value = _called(copy.deepcopy(loss), a, b, num_classes)  # a call may change its state
        hold(value.shape == () and bool(value.isfinite()), f"it gave {tuple(value.shape)}")
        value.backward()  # type: ignore[no-untyped-call]
        for view, z in (("z_a", a), ("z_b", b)):
            hold(z.grad is not None and bool(z.grad.any()), f"the gradient to {view} is zero")
    with contract.clause("equal draws give equal losses in eval mode"), torch.no_grad():
        settled = copy.deepcopy(loss).eval()
        first, second = (_called(settled, a, b, num_classes) for _ in range(2))
        hold(torch.equal(first, second), f"{first.item():.6g} and then {second.item():.6g}")
        if "generator" in needs:
            _called(settled, a, b, num_classes, generator=False)
    with contract.clause("its gradient agrees with finite differences, unless it holds a part constant"):
        double = copy.deepcopy(loss).double()
        x, y = (torch.randn(5, width, dtype=torch.float64, requires_grad=True) for _ in range(2))
        agrees = getattr(loss, "detaches", False) or torch.autograd.gradcheck(
            lambda x, y: _called(copy.deepcopy(double), x, y, num_classes), (x, y), raise_exception=False
        )
        hold(agrees, "it does not")
    if "teacher" in needs:
        _check_teaching(contract, loss)
    _check_levels(contract, loss, width)
    with contract.clause(f"it trains the head {HEADS.parse(head)}: a gradient reaches h"):
        top = _built_head(head, width)
        sizes = {"in_dim": top.out_dim, "num_classes": num_classes}
        above = build_objective(name, **sizes, nested=nested_widths(top))
        h = torch.randn(2 * max(ROWS, getattr(top, "least_rows", 1)), width, requires_grad=True)
        z_a, z_b = top(h).chunk(2)
        _called(above, z_a, z_b, num_classes).backward()  # type: ignore[no-untyped-call]
        hold(h.grad is not None and bool(h.grad.isfinite().all() and h.grad.any()), "it does not")
    if processes > 1:
        check_processes(contract, name, processes)


def _check_teaching(contract: Contract, loss: nn.Module) -> None:
    with contract.clause("momentum_at(progress) lies in 0 to 1, and does not fall"):
        momenta = [loss.momentum_at(share) for share in (0.0, 0.5, 1.0)]  # type: ignore[operator]
        hold(all(0 <= each <= 1 for each in momenta), f"it gives {momenta}")
        hold(momenta == sorted(momenta), f"it gives {momenta}")
    with contract.clause("`averaged` names its own modules"):
        modules = dict(loss.named_modules())
        names = getattr(loss, "averaged", ())
        hold(all(name in modules for name in names), f"it names {names}")


def _check_levels(contract: Contract, loss: nn.Module, width: int) -> None:
    if (chance := getattr(loss, "chance", None)) is not None:
        with contract.clause("chance(n, width) is a finite number or None"):
            level = chance(ROWS, width)
            hold(level is None or math.isfinite(level), f"it is {level}")
    if (collapsed := getattr(loss, "collapsed", None)) is not None:
        with contract.clause("collapsed(n, width) names kinds of collapse with a finite loss each"):
            levels = collapsed(ROWS, width)
            finite = all(isinstance(key, str) and math.isfinite(value) for key, value in levels.items())
            hold(isinstance(levels, dict) and finite, f"it is {levels}")


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
    contract = Contract(name, "an encoder")
    images = torch.rand(4, in_chans, image_size, image_size)
    with torch.no_grad():
        with contract.clause("it maps images (N, C, H, W) in 0 to 1 to h (N, feature_dim)"):
            h = net(images)
            hold(h.shape == (4, net.feature_dim), f"h is {tuple(h.shape)}, feature_dim {net.feature_dim}")
        with contract.clause("features(x, places) agrees with the plain forward"):
            features = net.features(images, ["h", *net.places])
            hold(torch.equal(features["h"], h), "h is another one")
            rows = all(each.ndim == 2 and len(each) == 4 for each in features.values())
            hold(rows and list(features) == ["h", *net.places], "each place must give (N, D)")
        with contract.clause("in eval mode each row of h depends on its own image alone"):
            hold(close(net(images[1:3]), h[1:3], 1e-4), "two images give another h alone than among four")
        with contract.clause("its state_dict holds all that h depends on"):
            with torch.random.fork_rng(devices=()):
                torch.manual_seed(1)
                twin = build_encoder(name, image_size=image_size, in_chans=in_chans).eval()
            twin.load_state_dict(net.state_dict())
            hold(close(twin(images), h, 1e-4), "a new encoder with its state_dict gives another h")
    with contract.clause("a gradient reaches its weights"):
        net.train()(images).square().sum().backward()
        grads = [p.grad for p in net.parameters() if p.grad is not None]
        hold(any(bool(grad.any()) for grad in grads), "all are zero")


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
    data, contract = build_source(name), Contract(name, "a source")
    for split in data.splits:
        with contract.clause(f"load({split!r}) gives an ImageSet of {split} images with labels 'label'"):
            images = data.load(split)
            hold(isinstance(images, ImageSet) and "label" in images.labels, f"it is {type(images).__name__}")
            hold(images.split == split, f"its split is {images.split!r}")
        with contract.clause("the same split gives the same images in the same order"):
            again = build_source(name).load(split)
            rows = np.arange(min(len(images), ROWS))
            hold(len(again) == len(images), f"{len(images)} and then {len(again)} images")
            hold(torch.equal(images.subset(rows).tensor(), again.subset(rows).tensor()), "images differ")
            same = all(np.array_equal(images.labels[key], again.labels[key]) for key in images.labels)
            hold(same, "labels differ")
        with contract.clause("load(split, image_size) brings images to that size"):
            sized = data.load(split, image_size)
            hold(sized.image_shape[:2] == (image_size, image_size), f"they are {sized.image_shape}")
    with contract.clause("train and test have the same channels and classes"):
        if set(data.splits) == {"train", "test"}:
            train, test = data.load("train"), data.load("test")
            hold(train.channels == test.channels, f"{train.channels} and {test.channels} channels")
            hold(train.class_names["label"] == test.class_names["label"], "classes are named differently")


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
    cause, contract = checked_cause(built, name), Contract(name, "a cause")
    with contract.clause("each of its rules has a measure, a finite threshold and a remedy of one sentence"):
        for rule in cause.rules:
            hold(bool(rule.measure) and math.isfinite(rule.threshold), f"{rule}")
            hold(rule.remedy.endswith(".") and ". " not in rule.remedy, f"its remedy is {rule.remedy!r}")
    with contract.clause("it is found where it is"):
        findings = find_causes(found, [cause])
        hold(bool(findings), "nothing was found")
        places = {place.place for place in found.places}
        for finding in findings:
            hold(finding.place in places and finding.evidence.endswith("."), f"it says {finding}")
            hold(finding.value != finding.threshold, "its value is its threshold")
    with contract.clause("it is not found where features are healthy"):
        wrong = find_causes(healthy, [cause])
        hold(not wrong, f"it was found at {', '.join(each.place for each in wrong)}")


def _called(loss: nn.Module, a: Tensor, b: Tensor, num_classes: int, generator: bool = True) -> Tensor:
    """The loss of two views, with labels of which the last is missing, and the same draws in each call."""
    labels = torch.arange(len(a)) % num_classes
    labels[-1:] = -1
    z = torch.stack([a, b])
    fixed = torch.randn(z.shape, dtype=z.dtype, generator=torch.Generator().manual_seed(1))
    given = trial_of(loss, fixed, labels)
    if not generator:
        given["generator"] = None
    torch.manual_seed(0)
    return loss_of_views(loss, z, **given)


def _refuses(head: nn.Module, h: Tensor) -> bool:
    """Whether a head raises for features."""
    try:
        head(h)
    except (FullrankError, RuntimeError, ValueError, TypeError, LookupError, AssertionError):
        return True
    return False
