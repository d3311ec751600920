"""Auxiliary objectives: do they keep their contract?"""

import copy
import pickle
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from fullrank.objectives import (
    AUXILIARIES,
    auxiliary as build_auxiliary,
)
from fullrank.objectives.terms.contract import cues_of
from fullrank.objectives.terms.samples import PLACES, VIEW_DIMS, alternating_cues, random_numbers
from fullrank.specs import Spec
from fullrank.step import Step
from fullrank.testing.contract import ROWS, Contract, Part, check_processes, close, hold


def check_auxiliary(
    part: Part, *, in_dim: int = 6, out_dim: int = 4, num_classes: int = 3, processes: int = 1
) -> None:
    """Check an auxiliary objective: its weight, its value, its gradient, and what it depends on.

    It is called on a step whose features are noise. The step has the places of a tiny-resnet, every
    operation of the views, and every label that its `cues` name.

    The gradient is compared with finite differences, unless the term says that it `detaches` something.

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
    contract, dims = Contract(spec, "an auxiliary objective"), {p: 3 + n for n, p in enumerate(PLACES)}
    sizes: dict[str, Any] = {"in_dim": in_dim, "out_dim": out_dim, "num_classes": num_classes}
    sizes |= {"place_dims": dims, "view_dims": VIEW_DIMS}
    term = build_auxiliary(spec, **sizes)
    with contract.clause("its value is its weight, the first parameter"):
        other = build_auxiliary(Spec(spec.name, 0.25, spec.options, spec.family), **sizes)
        hold(other.weight == 0.25, f"with the value 0.25 its weight is {other.weight}")
    with contract.clause("its `places` are places of the encoder"):
        unknown = sorted(set(getattr(term, "places", ())) - set(dims))
        hold(not unknown, f"{', '.join(unknown)} is none of {', '.join(dims)}")
    step = _noise_step({"h": in_dim, "z": out_dim} | {p: dims[p] for p in getattr(term, "places", ())})
    step = replace(step, cues=alternating_cues(cues_of([term]), ROWS))
    reached = _check_gradient(contract, term, step)
    _check_term_state(contract, term, step, lambda: build_auxiliary(spec, **sizes))
    if not getattr(term, "detaches", False):
        _check_slope(contract, term, step, reached)
    if processes > 1:
        check_processes(contract, f"infonce:0.2 + {spec}", processes)


def _check_slope(contract: Contract, term: nn.Module, step: Step, reached: Sequence[str]) -> None:
    with contract.clause("its gradient agrees with finite differences"):
        double, noise = copy.deepcopy(term).double(), _doubled(step)
        inputs = {name: rows for name, rows in _inputs(noise).items() if name in reached}
        agrees = torch.autograd.gradcheck(
            lambda *rows: _term_value(double, _with(noise, dict(zip(inputs, rows, strict=True)))),
            tuple(inputs.values()),
            fast_mode=True,
            raise_exception=False,
        )
        hold(agrees, "it does not")


def _check_gradient(contract: Contract, term: nn.Module, step: Step) -> list[str]:
    """Which of h, z and the places the gradient of a term reaches."""
    with contract.clause("it gives a finite scalar, also at the start and the end of the training"):
        for progress in (0.0, 1.0, step.progress):
            value = _term_value(term, replace(step, progress=progress))
            hold(value.shape == () and bool(value.isfinite()), f"it gave {tuple(value.shape)}")
    with contract.clause("a gradient reaches h, z or a place that it names, and each of its own weights"):
        value.backward()  # type: ignore[no-untyped-call]
        grads = {name: rows.grad for name, rows in _inputs(step).items()}
        reached = [name for name, grad in grads.items() if grad is not None and bool(grad.any())]
        hold(bool(reached), "it is zero everywhere")
        dead = [
            name for name, weight in term.named_parameters() if weight.requires_grad and weight.grad is None
        ]
        hold(not dead, f"none reaches {', '.join(dead)}, so several processes could not train together")
    return reached


def _check_term_state(
    contract: Contract, term: nn.Module, step: Step, rebuilt: Callable[[], nn.Module]
) -> None:
    with torch.no_grad():
        with contract.clause("equal draws give equal losses"):
            first, second = (_term_value(term, step) for _ in range(2))
            hold(torch.equal(first, second), f"{first.item():.6g} and then {second.item():.6g}")
        with contract.clause("a deep copy and a pickled one give the same loss"):
            pickled = pickle.loads(pickle.dumps(term))  # noqa: S301  # nobody else's bytes
            for twin in (copy.deepcopy(term), pickled):
                hold(close(_term_value(twin, step), second), "they do not")
        with contract.clause("its state_dict holds all that the loss depends on"):
            with torch.random.fork_rng(devices=()):
                torch.manual_seed(1)
                twin = rebuilt()
            twin.load_state_dict(term.state_dict())
            hold(close(_term_value(twin, step), second), "a new term with its state_dict gives another loss")


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
