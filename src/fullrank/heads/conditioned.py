"""Heads that are also given the parameters of the views (CASSLE)."""

from collections.abc import Mapping
from typing import ClassVar, cast, final

import torch
from torch import Tensor, nn

from fullrank.errors import UsageError
from fullrank.heads import EMBEDDED
from fullrank.heads.contract import NormedHead, check_positive
from fullrank.specs import Spec
from fullrank.view_numbers import neutral_numbers


@final
class ConditionedHead(NormedHead):
    r"""A head that is also given the parameters of each view: z = g([h ; e(omega)]), e trained.

    omega (P,) are the numbers of a view (`fullrank.view_numbers`), and e is Linear, ReLU, Linear of width E.
    So h may keep what the views change and z still be equal for both views. Without parameters, as in probes,
    omega is that of a view to which nothing was applied. The paper's exact sizes are not known to us.

    Shapes: (N, D) and (N, P) -> (N, K).

    Args:
        module: g, a head that takes D + E inputs.
        view_dims: Operation of the views -> how many numbers it has (`Views.number_dims`).
        embedded: The width E.

    Raises:
        UsageError: No operation is known, a width is below 1, or `module` has no input left for h.

    >>> from fullrank import LinearHead
    >>> part = ConditionedHead(LinearHead(8, 3, extra_dim=4), {"crop": 4, "flip": 1}, embedded=4)
    >>> h, untouched = torch.randn(2, 8), torch.tensor([[0.5, 0.5, 1.0, 1.0, 0.0]]).expand(2, -1)
    >>> part.in_dim, torch.equal(part(h), part(h, views=untouched))
    (8, True)

    Source: Przewiezlikowski et al. 2024 (CASSLE, 2306.06082), after the abstract.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"views"})
    neutral: Tensor

    def __init__(self, module: nn.Module, view_dims: Mapping[str, int], embedded: int = 64):
        super().__init__(module, "none")
        if not view_dims:
            raise UsageError("No operation of the views is known, but a conditioned head needs 1 or more.")
        self.in_dim -= check_positive("embedded", embedded, most=self.in_dim - 1)
        self.view_dims = dict(view_dims)
        self.register_buffer("neutral", neutral_numbers(view_dims))
        count = len(self.neutral)
        self.embed = nn.Sequential(nn.Linear(count, embedded), nn.ReLU(), nn.Linear(embedded, embedded))

    def forward(self, h: Tensor, views: Tensor | None = None) -> Tensor:
        """h (N, in_dim), and the numbers of each row's view (N, P) -> z (N, out_dim)."""
        numbers = self.neutral[None].expand(self.checked(h).shape[0], -1)
        if views is not None:
            if views.shape != numbers.shape:
                raise UsageError(
                    f"This head takes parameters {tuple(numbers.shape)} of the views, but got "
                    f"{tuple(views.shape)}; build it with the view_dims of these views."
                )
            numbers = views.to(numbers.dtype)
        given = torch.cat([self.input_dropout(h), self.embed(numbers).to(h.dtype)], dim=1)
        z: Tensor = self.norm(self.module(given))
        return z

    @property
    def linear_rank(self) -> int:
        """That of the head inside, and at most the width of h: the parameters are the same in every row."""
        return int(min(self.in_dim, getattr(self.module, "linear_rank", self.out_dim)))

    def steps(self) -> list[nn.Module]:
        """The head itself as one step, because the layers alone do not show that it has further inputs."""
        return [self]


def embedded_width(spec: Spec, view_dims: Mapping[str, int] | None) -> int:
    """The width E that a spec asks for; UsageError if there is nothing to embed."""
    options = dict(spec.options)
    embedded = check_positive("embedded", cast(int, options.get("embedded", EMBEDDED.default)))
    if "conditioned" not in options:
        raise UsageError(
            f"The head '{spec}' has embedded={embedded}, which only conditioned=views uses; add that, or "
            "leave embedded out."
        )
    if not view_dims:
        known = "none are known here" if view_dims is None else "these views have no operation"
        raise UsageError(
            f"The head '{spec}' needs 1 or more parameters of the views, but {known}; give views with an "
            "operation (view_dims=views.number_dims in Python), or leave conditioned=views out."
        )
    return embedded
