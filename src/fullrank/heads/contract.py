"""The contract of a head, and what a head says of itself."""

from abc import ABC, abstractmethod
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from fullrank.errors import UsageError, explained
from fullrank.heads import GROUP
from fullrank.heads.dropout import Dropout
from fullrank.heads.norms import BatchCentre, BatchScale, Norm, norm_of
from fullrank.heads.whitening import Whitening
from fullrank.places import evaluating
from fullrank.view_numbers import ViewNumbers

# A square matrix of this side takes 4 GiB: beyond, a number is a typing error.
WIDEST = 2**15
# Steps after which features have the rank that they had before.
_RANK_KEEPING = nn.Identity | nn.BatchNorm1d | BatchCentre | BatchScale | Whitening


class Head(nn.Module, ABC):
    """A map from h (N, in_dim) to z (N, out_dim), called once on both views stacked.

    `layers` holds the layers of the head in order. `head.1` to `head.L` are then places where features can be
    read. `norm` standardises z over the batch (`set_norm`), and `input_dropout` zeroes coordinates of h in
    training (`set_dropout`); `head(spec)` sets both, and a `forward` of your own must apply both.

    A head describes itself through the class attributes and methods below, and every head may override them.
    If a head does not say which rank it imposes (it has no method `imposed_rank`), that rank is measured.
    Where views are made, a head with `needs = {"views"}` is called as `head(h, views=numbers)`, with the
    numbers (2N, P) of the views, and otherwise as `head(h)`.

    Args:
        in_dim: The width D of h.
        out_dim: The width K of z.

    >>> class Halved(Head):
    ...     def __init__(self, in_dim: int):
    ...         super().__init__(in_dim, in_dim // 2)
    ...     def project(self, h):
    ...         return h[:, : self.out_dim]
    >>> import torch
    >>> Halved(6)(torch.ones(2, 6)).shape
    torch.Size([2, 3])
    """

    layers: nn.ModuleList
    norm: nn.Module
    input_dropout: nn.Module
    #: What it takes beside h; "views" or nothing.
    needs: ClassVar[frozenset[str]] = frozenset()
    #: z is h itself, up to the norm.
    passes_h = False
    #: Widths k: the loss is the mean of the objective over the first k coordinates of z. Empty: all of z.
    nested: tuple[int, ...] = ()

    def __init__(self, in_dim: int, out_dim: int):
        super().__init__()
        self.in_dim, self.out_dim = in_dim, out_dim
        self.layers = nn.ModuleList()
        self.set_norm("none")
        self.set_dropout(0.0)

    @abstractmethod
    def project(self, h: Tensor) -> Tensor:
        """h (N, in_dim) -> z before the norm (N, out_dim)."""

    def forward(self, h: Tensor) -> Tensor:
        """h (N, in_dim) -> z (N, out_dim); raises UsageError for features of another shape."""
        z: Tensor = self.norm(self.project(self.input_dropout(self.checked(h))))
        return z

    def set_norm(self, norm: Norm, group: int = GROUP) -> None:
        """Standardise or whiten z over the batch from now on, without any trained parameter.

        Args:
            norm: "batch" uses mean and deviation of each channel, "centre" the mean alone, "scale" the
                deviation alone, "whiten" the mean and the covariance, and "none" nothing. In training they
                are those of the rows of one call, in eval mode running statistics.
            group: The most channels that "whiten" whitens together.
        """
        self.norm_name = norm
        self.norm = norm_of(self.normed_width, norm, group)

    def set_dropout(self, share: float) -> None:
        """Zero each coordinate of h with this probability in training; 0 never does.

        Args:
            share: The probability, 0 or more and below 1.
        """
        self.dropout_share = share
        self.input_dropout = Dropout(share) if share else nn.Identity()

    @property
    def normed_width(self) -> int:
        """The width of the features that the norm is applied to."""
        return self.out_dim

    @property
    def eval_dim(self) -> int:
        """The width of z in eval mode, if it differs from the width in training."""
        return self.out_dim

    @property
    def least_rows(self) -> int:
        """The rows that one call in training needs over all processes; whitening needs twice its channels."""
        return self.norm.least_rows if isinstance(self.norm, Whitening) else 1

    @property
    def scales_channels(self) -> bool:
        """Whether z is h with each channel scaled and shifted, which standardising undoes."""
        return False

    @property
    def whitens(self) -> bool:
        """Whether the channels of z are uncorrelated and of variance 1 in every batch, whatever h is."""
        return self.norm_name == "whiten"

    @property
    def linear_rank(self) -> int:
        """The largest rank of the head as a linear net: the width of its narrowest map."""
        return min(self.in_dim, self.out_dim)

    @property
    def channel_ratio(self) -> float | None:
        """The ratio of the fixed weights of neighbouring channels; None for other heads."""
        return None

    def depth_shares(self) -> dict[str, float]:
        """The share of the depth of a linear net at which each place lies; unknown places are left out.

        The encoder counts as one map from the pixels, and each trained layer of the head as one more. ReLU
        and batch norms are ignored. Nothing is known if z is standardised.
        """
        return {}

    def steps(self) -> list[nn.Module]:
        """The steps of the head in order; by default the head itself is one step."""
        return [*self.layers, self.norm] if len(self.layers) else [self]

    def checked(self, h: Tensor) -> Tensor:
        """`h` if it is (N, in_dim); otherwise UsageError, since slicing would take a part silently."""
        if h.ndim != 2 or h.shape[1] != self.in_dim:
            raise UsageError(
                f"This head takes features (N, {self.in_dim}), but got {tuple(h.shape)}; build it with "
                "in_dim as wide as the encoder's output."
            )
        return h


class NormedHead(Head):
    """Any module with `in_dim` and `out_dim`, after a dropout and followed by a norm."""

    def __init__(self, module: nn.Module, norm: Norm):
        super().__init__(cast(int, module.in_dim), cast(int, module.out_dim))
        self.module, self.nested = module, nested_widths(module)
        self.set_norm(norm)

    @property
    def layers(self) -> nn.ModuleList:
        """The layers of the module. Only the module holds them, so that weights are saved once."""
        layers = getattr(self.module, "layers", None)
        return layers if isinstance(layers, nn.ModuleList) else nn.ModuleList()

    @layers.setter
    def layers(self, layers: nn.ModuleList) -> None:
        """Nothing: a head of this kind has none of its own."""

    def project(self, h: Tensor) -> Tensor:
        """Return the module's output for h."""
        z: Tensor = self.module(h)
        return z


def check_width(name: str, value: int, in_dim: int) -> int:
    """`value` if it is between 1 and `in_dim`; otherwise UsageError."""
    if not 1 <= value <= in_dim:
        raise UsageError(
            f"{name}={value} is outside 1 to {in_dim}, the width of h; choose {in_dim} or less, or a wider "
            "encoder."
        )
    return value


def check_positive(name: str, value: int, most: int = WIDEST) -> int:
    """`value` if it is between 1 and `most`; otherwise UsageError."""
    if not 1 <= value <= most:
        raise UsageError(f"{name} must lie in 1 to {most}, but got {value}; choose another.")
    return value


def narrowest(steps: list[nn.Module]) -> int | None:
    """The least width since the last nonlinearity, if the output is wider; otherwise None."""
    rank, width = None, 0
    for step in steps:
        if isinstance(step, nn.Linear):
            rank = min(step.in_features if rank is None else rank, step.in_features, step.out_features)
            width = step.out_features
        elif not isinstance(step, _RANK_KEEPING):
            rank = None
    return rank if rank is not None and rank < width else None


def unfolded(module: nn.Module) -> list[nn.Module]:
    """The steps of a module in order, as far as its class shows them; otherwise the module itself."""
    if isinstance(module, nn.Sequential):
        return [step for part in module for step in unfolded(part)]
    steps = getattr(module, "steps", None)
    if callable(steps) and (inner := steps()) != [module]:
        return [step for part in inner for step in unfolded(part)]
    return [module]


def checked_head(built: object, name: str, in_dim: int) -> nn.Module:
    """`built` if it is a head for width `in_dim`; otherwise UsageError names what is missing."""
    if not isinstance(built, nn.Module):
        raise UsageError(f"The head {name!r} is a {type(built).__name__}; a head must be an nn.Module.")
    for attribute in ("out_dim", "in_dim"):
        if type(getattr(built, attribute, None)) is not int:
            raise UsageError(
                f"The head {name!r} has no whole number {attribute}; set in_dim and out_dim in its __init__."
            )
    if built.in_dim != in_dim:
        raise UsageError(
            f"The head {name!r} was built for in_dim={in_dim}, but says in_dim={built.in_dim}; keep what its "
            "__init__ gets."
        )
    if unknown := sorted(set(getattr(built, "needs", ())) - {"views"}):
        raise UsageError(
            f"The head {name!r} needs {', '.join(unknown)}, but a training step can give it views only; "
            "leave the rest out of `needs`."
        )
    # Two rows without a trace: no random number is drawn, no statistic kept.
    parameter = next(built.parameters(), torch.empty(0))
    with (
        torch.no_grad(),
        torch.random.fork_rng(devices=()),
        evaluating(built),
        explained(f"The head {name!r} cannot map features (2, {in_dim})"),
    ):
        z = built(torch.randn(2, in_dim, dtype=parameter.dtype, device=parameter.device))
    width = getattr(built, "eval_dim", built.out_dim)
    if not isinstance(z, Tensor) or z.shape != (2, width):
        got = tuple(z.shape) if isinstance(z, Tensor) else type(z).__name__
        raise UsageError(
            f"The head {name!r} says out_dim={built.out_dim}, but maps (2, {in_dim}) to {got} in eval mode; "
            f"it must give (2, {width})."
        )
    return built


def views_for(head: nn.Module, numbers: ViewNumbers | None) -> Tensor | None:
    """What a head is given of two views, (2N, P). None if it takes none, or was built for other views."""
    if numbers is None or "views" not in getattr(head, "needs", ()):
        return None
    built_for = cast(dict[str, int], getattr(head, "view_dims", numbers.dims))
    return numbers.joined() if list(built_for.items()) == list(numbers.dims.items()) else None


def nested_widths(part: object) -> tuple[int, ...]:
    """The widths in `nested` of a head or an objective; empty for a part that has none."""
    nested = getattr(part, "nested", ())
    return nested if isinstance(nested, tuple) else ()


def with_options(
    part: nn.Module, norm: Norm | None = None, group: int = GROUP, dropout: float | None = None
) -> Head:
    """A head with its norm and dropout set, None as they are; other modules are put between the two."""
    if not isinstance(part, Head):
        if norm in (None, "none") and not dropout:
            return cast(Head, part)
        part = NormedHead(part, "none")
    if norm == "whiten":
        part.set_norm(norm, group)
    elif norm is not None:  # a set_norm of somebody else's need not take a group
        part.set_norm(norm)
    if dropout is not None:
        part.set_dropout(dropout)
    return part
