"""AugSelf: predict from h_a and h_b how the two views of an image differ."""

from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fullrank.errors import UsageError, unknown_name
from fullrank.objectives.contract import check_number, in_single
from fullrank.objectives.terms.contract import Auxiliary, check_width
from fullrank.objectives.terms.norms import SharedBatchNorm
from fullrank.processes import gather_rows
from fullrank.step import Step

# The operations with a target, in the order of the heads; `grey` and `drop` have none.
OPERATIONS = ("crop", "colour", "blur", "solarize", "flip")


class AugSelfTerm(Auxiliary):
    r"""Predict the differences between the parameters of two views from their representations.

    Each operation that is on has its own head g_t of three linear layers, with batch norm and ReLU after the
    first two. With the target d_t(a, b) of `ViewNumbers.differences`, the mean over the pairs (a, b) and
    (b, a) of all images is

    .. math:: L = \sum_t \lambda_t L_t, \quad L_t = \big\| \tanh g_t([h_a; h_b]) - d_t(a, b) \big\|^2 / k_t

    for `crop`, `colour`, `blur` and `solarize`, each of k_t numbers. For `flip` L_t is the binary
    cross-entropy of "both views have the same flip". The gradient reaches h. Shapes: h (2N, D) -> scalar.

    Args:
        weight: What the step multiplies the term by, 0 or more.
        in_dim: The width D of h.
        view_dims: Operation of the views -> how many numbers it has.
        hidden: The width of the two hidden layers of each head, 1 or more.
        only: The operations to predict, joined by `+`, each with its factor after `*` unless that is 1:
            `crop+colour*0.5`. Empty: every operation that is on, with factor 1.

    Raises:
        UsageError: No operation with a target is on, `only` names one that is not, or a number is outside its
            limits.

    >>> term = AugSelfTerm(in_dim=6, view_dims={"crop": 4, "grey": 1, "flip": 1}, hidden=8)
    >>> list(term.heads), term.needs
    (['crop', 'flip'], frozenset({'views'}))

    Source: Lee et al. 2021 (AugSelf, 2111.09613), with targets, heads and losses of the authors' code.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"views"})

    def __init__(
        self,
        weight: float = 1.0,
        *,
        in_dim: int,
        view_dims: Mapping[str, int],
        hidden: int = 512,
        only: str = "",
    ):
        super().__init__(weight)
        check_width("hidden", hidden)
        self.factors = _factors(only, [name for name in OPERATIONS if name in view_dims])
        self.heads = nn.ModuleDict(
            {name: _head(2 * in_dim, hidden, view_dims[name]) for name in self.factors}
        )

    def forward(self, step: Step) -> Tensor:
        """The sum over the operations of their losses."""
        if step.views is None:
            raise UsageError("augself needs the parameters of the views; give the step its `views`.")
        forth, back = step.views.differences(), step.views.swapped().differences()
        pairs = torch.cat([torch.cat([step.h_a, step.h_b], 1), torch.cat([step.h_b, step.h_a], 1)])
        losses = [
            factor * _loss(self.heads[name](pairs), torch.cat([forth[name], back[name]]), name)
            for name, factor in self.factors.items()
        ]
        return gather_rows(torch.stack(losses).sum()[None]).mean()  # the same value in every process


@in_single
def _loss(output: Tensor, target: Tensor, name: str) -> Tensor:
    """The loss of one operation for outputs and targets (2N, k)."""
    target = target.to(output)
    if name == "flip":
        return F.binary_cross_entropy_with_logits(output, target)
    return F.mse_loss(output.tanh(), target)


def _head(in_dim: int, hidden: int, out_dim: int) -> nn.Sequential:
    return nn.Sequential(
        *(nn.Linear(in_dim, hidden), SharedBatchNorm(hidden), nn.ReLU()),
        *(nn.Linear(hidden, hidden), SharedBatchNorm(hidden), nn.ReLU()),
        nn.Linear(hidden, out_dim),
    )


def _factors(only: str, on: list[str]) -> dict[str, float]:
    """Operation -> its factor, for the operations of `only`, or for all that are on."""
    if not on:
        raise UsageError(
            f"augself predicts {', '.join(OPERATIONS)}, but the views have none of them; choose other views, "
            "as with --views simclr, or leave augself out."
        )
    if not only:
        return dict.fromkeys(on, 1.0)
    factors: dict[str, float] = {}
    for part in only.split("+"):
        name, _, factor = (text.strip() for text in part.partition("*"))
        if name not in OPERATIONS:
            raise unknown_name("operation", name, OPERATIONS, f"augself predicts {', '.join(OPERATIONS)}")
        if name not in on:
            raise UsageError(
                f"augself cannot predict {name}, which these views do not have; they have {', '.join(on)}: "
                f"change only={only}, or the views."
            )
        if name in factors:
            raise UsageError(f"only={only} names {name} twice; keep one.")
        factors[name] = _factor(name, factor)
    return factors


def _factor(name: str, text: str) -> float:
    try:
        factor = float(text or 1)
    except ValueError:
        raise UsageError(
            f"The factor of {name} must be a number, but got '{text}'; write {name}*0.5, or {name} alone."
        ) from None
    return check_number(f"The factor of {name}", factor, least=0)
