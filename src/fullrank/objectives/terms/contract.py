"""What an auxiliary objective is given, and what it says of itself."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from fullrank.errors import UsageError, explained
from fullrank.objectives.contract import check_number, view_pairs
from fullrank.specs import Spec
from fullrank.step import Step

# What a training step can give to a term beside h, z and the places that it names.
GIVEN = ("views", "labels", "generator")
# The widest layer of a term: a typing mistake beyond it is refused instead of filling the memory.
WIDEST = 2**15


@dataclass(frozen=True, eq=False)
class TrainingLabels:
    """The labels of the training images, from which a term says whether it can learn (`check_labels`).

    Attributes:
        data: The name of the images, for messages.
        label: The name of the labels that are the classes of the run.
        numbers: Name -> labels (N,) int64, -1 where there is none.
        class_names: Name -> the names of its classes.
        batch_size: The images in a batch, over all processes.
    """

    data: str
    label: str
    numbers: Mapping[str, np.ndarray]
    class_names: Mapping[str, tuple[str, ...]]
    batch_size: int

    def counts(self, cue: str) -> np.ndarray:
        """The number of images of each class and value of `cue`, (classes, values), where both are known."""
        table = np.zeros((len(self.class_names[self.label]), len(self.class_names[cue])), np.int64)
        known = (self.numbers[self.label] >= 0) & (self.numbers[cue] >= 0)
        np.add.at(table, (self.numbers[self.label][known], self.numbers[cue][known]), 1)
        return table


class Auxiliary(nn.Module, ABC):
    """A term of the loss that sees a whole step: h, places, z, the views' parameters, and labels.

    Args:
        weight: What the step multiplies the term by; its spec's value.

    Attributes:
        name: Its name in curves; that of its spec, or else of its class.
        places: The places of the encoder whose features the term reads.
        needs: What it takes of a step beside h, z and places, of views, labels and generator.
        detaches: Whether it holds a number that depends on its features constant in the gradient, such as the
            width of a kernel. Finite differences then cannot check the gradient.
        cues: The names of further labels that it reads, such as ("background",); the step's `cues` has them.
        takes_views: Whether it takes a step of any number of views. Otherwise it is given each pair of views
            as a step of two, and averaged.
        trains: The criteria of `fullrank choose` that it raises at its `place`, or at h if it has none.

    >>> import torch
    >>> class Short(Auxiliary):
    ...     def forward(self, step):
    ...         return step.h.square().mean()
    >>> Short(0.5)(Step(torch.ones(4, 3), torch.ones(4, 2)))
    tensor(1.)
    """

    places: tuple[str, ...] = ()
    needs: ClassVar[frozenset[str]] = frozenset()
    detaches: ClassVar[bool] = False
    cues: tuple[str, ...] = ()
    takes_views: ClassVar[bool] = False
    trains: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, weight: float = 1.0):
        super().__init__()
        self.weight, self.name = check_number("The weight of a term", weight, least=0), type(self).__name__

    @abstractmethod
    def forward(self, step: Step) -> Tensor:
        """The term, a scalar with a gradient; the step multiplies it by `weight`."""

    def check_labels(self, train: TrainingLabels) -> None:  # most terms accept any labels
        """Raise UsageError for labels of the training images from which the term cannot learn."""


def loss_of_term(term: nn.Module, step: Step) -> Tensor:
    """The term of a step; one that takes two views is averaged over the pairs of views (`view_pairs`)."""
    if getattr(term, "takes_views", False) or step.view_count == 2:
        value: Tensor = term(step)
        return value
    pairs = view_pairs(step.view_count, step.global_count)
    return torch.stack([term(step.pair(one, other)) for one, other in pairs]).mean()


def cues_of(terms: Iterable[nn.Module]) -> tuple[str, ...]:
    """The names of the labels that the terms read beside the classes, each once."""
    return tuple(dict.fromkeys(cue for term in terms for cue in getattr(term, "cues", ())))


def check_width(name: str, value: int, most: int = WIDEST) -> int:
    """`value` if it is between 1 and `most`; otherwise UsageError."""
    if not 1 <= value <= most:
        raise UsageError(f"{name} must lie in 1 to {most}, but got {value}; choose another.")
    return value


def checked_auxiliary(built: object, spec: Spec) -> Auxiliary:
    """`built` as an auxiliary objective, named as in its spec; UsageError names what is missing."""
    if not isinstance(built, nn.Module):
        raise UsageError(
            f"The auxiliary objective '{spec}' is a {type(built).__name__}; it must be an nn.Module."
        )
    weight = getattr(built, "weight", None)
    if not isinstance(weight, int | float):
        raise UsageError(
            f"The auxiliary objective '{spec}' has no number `weight`; derive it from Auxiliary and pass "
            "its weight on."
        )
    if unknown := sorted(set(getattr(built, "needs", ())) - set(GIVEN)):
        raise UsageError(
            f"The auxiliary objective '{spec}' needs {', '.join(unknown)}, but a step can give it "
            f"{', '.join(GIVEN)} only; leave the rest out of `needs`."
        )
    if isinstance(cues := getattr(built, "cues", ()), str):
        raise UsageError(f"The cues of '{spec}' must be a tuple of names; write cues = ({cues!r},).")
    term = cast(Auxiliary, built)
    term.name = spec.name
    return term


def try_auxiliary(term: nn.Module, name: str, step: Step) -> None:
    """Raise UsageError unless a copy of `term` takes a step to a scalar with a gradient."""
    with explained(f"The auxiliary objective {name!r} fails on a step of {len(step)} images"):
        value = loss_of_term(copy.deepcopy(term), step)
    if not isinstance(value, Tensor) or value.shape != () or not value.requires_grad:
        got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise UsageError(
            f"The auxiliary objective {name!r} must give a scalar with a gradient, but gave {got}; return a "
            "tensor that is computed from the step's features."
        )
