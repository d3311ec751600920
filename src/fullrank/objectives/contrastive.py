"""Contrastive objectives: pull the two views of an image together, push other images away."""

import math

import torch
from torch import Tensor

from fullrank.errors import UsageError
from fullrank.objectives.contract import PairLoss, check_number, check_pair, in_single, unit_rows
from fullrank.objectives.tiles import log_sums_among, log_sums_between
from fullrank.processes import ALONE, Share


def info_nce(z_a: Tensor, z_b: Tensor, temperature: float, share: Share = ALONE) -> Tensor:
    """`InfoNCELoss` of one group: (N, K), (N, K) -> scalar."""
    a, b = unit_rows(z_a), unit_rows(z_b)
    return _spread_between(a, b, temperature, share) + _distance(a, b, temperature)


def nt_xent(z_a: Tensor, z_b: Tensor, temperature: float, share: Share = ALONE) -> Tensor:
    """`NTXentLoss`: (N, K), (N, K) -> scalar."""
    u = unit_rows(torch.cat([z_a, z_b]))
    a, b = u.chunk(2)
    return _spread_among(u, temperature, share) + _distance(a, b, temperature)


@in_single
def _distance(a: Tensor, b: Tensor, temperature: float) -> Tensor:
    """How far the two unit views of an image are apart: their mean 1 - cosine, over the temperature."""
    return -((a * b).sum(1) - 1).mean() / temperature


@in_single
def _spread_between(a: Tensor, b: Tensor, temperature: float, share: Share) -> Tensor:
    """The mean log of the sum of exp((cosine - 1) / temperature) over the other views, in both directions."""
    from_a, from_b = log_sums_between(a, b, 1 / temperature, share)
    return 0.5 * (from_a + from_b).mean()


@in_single
def _spread_among(u: Tensor, temperature: float, share: Share) -> Tensor:
    """The same over all 2N - 1 other unit views."""
    return log_sums_among(u, 1 / temperature, share).mean()


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

    trains = frozenset({"infonce", "alignment", "uniformity", "view_recall"})

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

    def summands(self, z_a: Tensor, z_b: Tensor) -> dict[str, Tensor]:
        """How far positives are apart, (1 - cosine) / temperature, and the rest; empty for random groups."""
        check_pair(z_a, z_b)
        if self.groups > 1:  # they would draw other groups, and so change what is drawn next
            return {}
        a, b = map(unit_rows, self.gathered(z_a, z_b))
        uniformity = _spread_between(a, b, self.temperature, self.share)
        return {"uniformity": uniformity, "alignment": _distance(a, b, self.temperature)}

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

    trains = frozenset({"infonce", "alignment", "uniformity", "view_recall"})

    def __init__(self, temperature: float = 0.5, gather: bool = True):
        super().__init__(gather)
        self.temperature = check_number("temperature", temperature, above=0)

    def loss(self, z_a: Tensor, z_b: Tensor) -> Tensor:
        """Return the loss of each view against all others."""
        return nt_xent(z_a, z_b, self.temperature, self.share)

    def summands(self, z_a: Tensor, z_b: Tensor) -> dict[str, Tensor]:
        """How far positives are apart, (1 - cosine) / temperature, and the rest."""
        check_pair(z_a, z_b)
        u = unit_rows(torch.cat(self.gathered(z_a, z_b)))
        a, b = u.chunk(2)
        uniformity = _spread_among(u, self.temperature, self.share)
        return {"uniformity": uniformity, "alignment": _distance(a, b, self.temperature)}

    def chance(self, n: int, width: int | None = None) -> float:
        """The loss of a batch of n images whose similarities are all equal: ln(2n - 1)."""
        return math.log(2 * n - 1)

    def collapsed(self, n: int, width: int) -> dict[str, float]:
        r"""All rows alike, or half of them along a vector and half against it: ln(n - 1 + n e^{-2/t})."""
        line = math.log(n - 1 + n * math.exp(-2 / self.temperature))
        return {"one point": self.chance(n), "one line": line}
