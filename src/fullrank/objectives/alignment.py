"""The alignment of two views alone: the attraction that other objectives share, with nothing against it."""

from torch import Tensor

from fullrank.objectives.contract import PairLoss, Unguarded, unit_rows


def alignment(z_a: Tensor, z_b: Tensor) -> Tensor:
    """The mean squared distance of the rows of two views at unit length, (N, K), (N, K) -> scalar."""
    # 2 - 2 cos is the same number, but loses its digits where the views nearly agree.
    return (unit_rows(z_a) - unit_rows(z_b)).square().sum(1).mean()


class AlignmentLoss(PairLoss):
    r"""The mean squared distance of the two views at unit length.

    .. math:: L = \frac1N \sum_i \Big\| \frac{a_i}{\|a_i\|} - \frac{b_i}{\|b_i\|} \Big\|^2
                = 2 - \frac2N \sum_i \cos(a_i, b_i)

    with a and b the rows of z_a and z_b. Nothing in it keeps images apart: its lowest value, 0, is reached
    where all rows are alike. It needs a head that whitens z over the batch (`norm=whiten`), which together is
    W-MSE. Called as `loss(z_a, z_b)`. Shapes: (N, K), (N, K) -> scalar, N of 2 or more.

    Args:
        gather: Whether the mean is over the rows of all processes.

    Raises:
        UsageError: The two embeddings differ in shape, or N is 1.

    >>> import torch
    >>> AlignmentLoss()(torch.eye(4), 3 * torch.eye(4).flip(0))  # at right angles
    tensor(2.)

    Source: Wang and Isola 2020 (2005.10242), Equation 1 with alpha 2; Ermolov et al. 2021 (2007.06346),
    Equation 1 (W-MSE).
    """

    trains = frozenset({"alignment"})

    def __init__(self, gather: bool = True):
        super().__init__(gather)

    def loss(self, z_a: Tensor, z_b: Tensor) -> Tensor:
        """Return the mean squared distance."""
        return alignment(z_a, z_b)

    def chance(self, n: int, width: int | None = None) -> float:
        """The loss of embeddings that are all alike: 0, the lowest there is."""
        return 0.0

    def collapsed(self, n: int, width: int) -> dict[str, float]:
        """All rows alike, or half along a vector and half against it: 0."""
        return {"one point": 0.0, "one line": 0.0}

    def unguarded(self) -> tuple[Unguarded, ...]:
        """Always: the loss has no part that keeps images apart."""
        return (
            Unguarded(
                "nothing keeps images apart",
                means="the loss only pulls views together, and is lowest where all embeddings are alike",
                remedy="use a head with norm=whiten, or another objective, such as vicreg",
            ),
        )
