"""Contrastive objectives: pull the two views of an image together, push other images away."""

import math

import torch
from torch import Tensor

from fullrank.errors import UsageError
from fullrank.objectives.contract import PairLoss, check_number, in_single, unit_rows
from fullrank.objectives.tiles import log_sums_among, log_sums_between
from fullrank.processes import ALONE, Share


def info_nce(z_a: Tensor, z_b: Tensor, temperature: float, share: Share = ALONE) -> Tensor:
    """`InfoNCELoss` of one group: (N, K), (N, K) -> scalar."""
    return _between(unit_rows(z_a), unit_rows(z_b), temperature, share)


def nt_xent(z_a: Tensor, z_b: Tensor, temperature: float, share: Share = ALONE) -> Tensor:
    """`NTXentLoss`: (N, K), (N, K) -> scalar."""
    return _among(unit_rows(torch.cat([z_a, z_b])), temperature, share)


@in_single
def _between(a: Tensor, b: Tensor, temperature: float, share: Share) -> Tensor:
    from_a, from_b = log_sums_between(a, b, 1 / temperature, share)
    return 0.5 * (from_a + from_b).mean() - ((a * b).sum(1) - 1).mean() / temperature


@in_single
def _among(u: Tensor, temperature: float, share: Share) -> Tensor:
    a, b = u.chunk(2)
    return log_sums_among(u, 1 / temperature, share).mean() - ((a * b).sum(1) - 1).mean() / temperature


class InfoNCELoss(PairLoss):
    r"""InfoNCE with cross-view negatives, symmetrised, with P1's group mode.

    With unit vectors a_i, b_i along z_a, z_b and s_ij = a_i . b_j / temperature,

    .. math:: L = \tfrac12 \cdot \tfrac1N \sum_i \Big[\log \sum_j e^{s_{ij}} - s_{ii}\Big]
                + \tfrac12 \cdot \tfrac1N \sum_i \Big[\log \sum_j e^{s_{ji}} - s_{ii}\Big]

    Called as `loss(z_a, z_b)`. Shapes: (N, K), (N, K) -> scalar, N of 2 or more.

    Args:
        temperature: Divides the cosines, above 0.
        groups: With 2 or more, each call permutes the channels at random, cuts them into this many equal
            groups, and adds the losses of the groups. It must divide K.
        gather: Whether the loss sees the rows of all processes, with exact gradients.
        generator: Where the permutation comes from; None is torch's own generator.

    Raises:
        UsageError: A setting is outside its limits, the embeddings differ in shape, N is 1, or `groups`
            does not divide K.

    >>> InfoNCELoss(0.1)(torch.ones(4, 6), torch.ones(4, 6))  # all rows equal: ln 4
    tensor(1.3863)

    Source: P1, authors' code, modes `directclr` and `group` (8 groups of 256 channels). The paper's formula
    leaves out the temperature and the minus sign.
    """

    def __init__(
        self,
        temperature: float = 0.1,
        groups: int = 1,
        gather: bool = True,
        generator: torch.Generator | None = None,
    ):
        super().__init__(gather)
        self.temperature = check_number("temperature", temperature, above=0)
        if groups < 1:
            raise UsageError(f"groups must be 1 or more, but got {groups}.")
        self.groups, self.generator = groups, generator

    def loss(self, z_a: Tensor, z_b: Tensor) -> Tensor:
        """Return the sum over the groups."""
        if self.groups == 1:
            return info_nce(z_a, z_b, self.temperature, self.share)
        width = z_a.shape[1]
        if width % self.groups:
            raise UsageError(
                f"groups={self.groups} does not divide the {width} channels of z; choose a divisor."
            )
        order = torch.randperm(width, generator=self.generator).to(z_a.device)
        pairs = zip(z_a[:, order].chunk(self.groups, 1), z_b[:, order].chunk(self.groups, 1), strict=True)
        return torch.stack([info_nce(a, b, self.temperature, self.share) for a, b in pairs]).sum()

    def chance(self, n: int, width: int | None = None) -> float:
        """The loss of a batch of n images whose similarities are all equal: groups x ln n."""
        return self.groups * math.log(n)

    def collapsed(self, n: int, width: int) -> dict[str, float]:
        r"""All rows alike, or half of them along a vector and half against it: ln(n/2 (1 + e^{-2/t}))."""
        line = self.groups * math.log(n / 2 * (1 + math.exp(-2 / self.temperature)))
        return {"one point": self.chance(n), "one line": line}


class NTXentLoss(PairLoss):
    r"""SimCLR's loss: each of the 2N views against all others.

    With u the 2N unit vectors of both views, s_ij = u_i . u_j / temperature and p(i) the other view of i,

    .. math:: L = \tfrac1{2N} \sum_i \Big[\log \sum_{j \ne i} e^{s_{ij}} - s_{i\,p(i)}\Big]

    Called as `loss(z_a, z_b)`. Shapes: (N, K), (N, K) -> scalar, N of 2 or more.

    Args:
        temperature: Divides the cosines, above 0.
        gather: Whether the loss sees the rows of all processes, with exact gradients.

    Raises:
        UsageError: A setting is outside its limits, the two embeddings differ in shape, or N is 1.

    >>> NTXentLoss(0.5)(torch.ones(4, 3), torch.ones(4, 3))  # all rows equal: ln 7
    tensor(1.9459)

    Source: Chen et al. 2020 (2002.05709), Equation 1 and Algorithm 1.
    """

    def __init__(self, temperature: float = 0.5, gather: bool = True):
        super().__init__(gather)
        self.temperature = check_number("temperature", temperature, above=0)

    def loss(self, z_a: Tensor, z_b: Tensor) -> Tensor:
        """Return the loss of each view against all others."""
        return nt_xent(z_a, z_b, self.temperature, self.share)

    def chance(self, n: int, width: int | None = None) -> float:
        """The loss of a batch of n images whose similarities are all equal: ln(2n - 1)."""
        return math.log(2 * n - 1)

    def collapsed(self, n: int, width: int) -> dict[str, float]:
        r"""All rows alike, or half of them along a vector and half against it: ln(n - 1 + n e^{-2/t})."""
        line = math.log(n - 1 + n * math.exp(-2 / self.temperature))
        return {"one point": self.chance(n), "one line": line}
