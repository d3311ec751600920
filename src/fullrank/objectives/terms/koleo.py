"""KoLeo: push each row away from its nearest neighbour, which spreads the rows over the sphere."""

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from fullrank.errors import UsageError, unknown_name
from fullrank.objectives.contract import in_single, unit_rows
from fullrank.objectives.terms.contract import Auxiliary
from fullrank.processes import gather_rows, process_rank
from fullrank.step import Step

_EPS = 1e-8  # the authors' own: two equal rows count as if 1e-8 apart


def koleo(rows: Tensor) -> Tensor:
    """The mean of -log(distance to the nearest other row + 1e-8) of unit rows, (N, D) -> scalar.

    The neighbours are sought among the rows of all processes. Raises UsageError for fewer than two rows.

    >>> koleo(torch.tensor([[2.0, 0.0], [0.0, 3.0], [0.0, -1.0]]))  # all neighbours at sqrt(2)
    tensor(-0.3466)
    """
    return _spread(unit_rows(rows))


@in_single
def _spread(own: Tensor) -> Tensor:
    everyones = gather_rows(own)
    if len(everyones) < 2:
        raise UsageError(
            f"koleo needs 2 images or more in a batch, but got {len(everyones)}: raise the batch size."
        )
    with torch.no_grad():
        cosines = own @ everyones.T
        numbers = torch.arange(len(own), device=own.device)
        cosines[numbers, process_rank() * len(own) + numbers] = -math.inf
        nearest = cosines.argmax(1)
    distances = (own - everyones[nearest]).norm(dim=1)
    return gather_rows(-(distances + _EPS).log().mean()[None]).mean()  # the same value in every process


def uniform_koleo(n: int, width: int) -> float:
    r"""What `koleo` expects of n independent, uniform points on the unit sphere of R^width.

    A quarter of the squared distance of two points has the distribution Beta(a, a) with a = (width - 1) / 2.
    The nearest of n - 1 points lies within r with probability :math:`1 - (1 - F(r))^{n - 1}`, and the mean of
    -log r is an integral over that probability.

    Args:
        n: The number of points, 2 or more.
        width: The number of dimensions, 2 or more.

    Raises:
        UsageError: A number is below 2.

    >>> [round(uniform_koleo(n, 64), 3) for n in (2, 64, 256, 4096)]
    [-0.343, -0.175, -0.133, -0.06]
    >>> [round(uniform_koleo(256, width), 3) for width in (2, 8, 384)]
    [4.976, 0.575, -0.269]

    Source: the form of the estimator is that of Kozachenko and Leonenko; this expectation is ours.
    """
    from scipy import integrate, special

    if n < 2 or width < 2:
        raise UsageError(f"The level needs 2 points or more of width 2 or more, but got ({n}, {width}).")
    half = (width - 1) / 2

    def log_distance(probability: float) -> float:
        single = -math.expm1(math.log1p(-probability) / (n - 1))
        return math.log(2 * math.sqrt(special.betaincinv(half, half, single)) + _EPS)

    return -float(integrate.quad(log_distance, 0, 1, limit=200)[0])


class KoLeoTerm(Auxiliary):
    r"""KoLeo, the term of DINOv2 that spreads representations over the sphere.

    With unit rows x_i of one global view, and the nearest other row of the same view,

    .. math:: L = \sum_{v\ \text{global}} \frac1N \sum_i
              -\log\Big(\min_{j \ne i} \|x_i^{(v)} - x_j^{(v)}\| + 10^{-8}\Big)

    The gradient reaches the row and its neighbour. Two views of one image are never compared, and local crops
    are left out. The rows are those of all processes; the authors' code takes those of one device. The sum
    over the views is theirs too: with two global views the term is twice a mean. Two rows that are exactly
    equal have no gradient between them. Shapes: rows (V N, D) -> scalar.

    Args:
        weight: What the step multiplies the term by, 0 or more; DINOv2's is 0.1.
        place_dims: Place of the encoder -> its width.
        place: The rows: `h`, as in DINOv2, `z`, or a place of the encoder.

    Raises:
        UsageError: The encoder does not have the place.

    >>> KoLeoTerm(place_dims={"stage1.1": 4}, place="stage1.1").places
    ('stage1.1',)
    >>> round(KoLeoTerm().chance(256, 384), 3)  # two views
    -0.538

    Source: Sablayrolles et al. 2019 (1806.03198); Oquab et al. 2024 (DINOv2, 2304.07193), and authors' code.
    """

    takes_views: ClassVar[bool] = True
    trains: ClassVar[frozenset[str]] = frozenset({"gride", "two_nn", "uniformity"})

    def __init__(self, weight: float = 0.1, *, place_dims: Mapping[str, int] | None = None, place: str = "h"):
        super().__init__(weight)
        widths = place_dims or {}
        if place not in ("h", "z", *widths):
            raise unknown_name(
                "place", place, ["h", "z", *widths], f"koleo can take {', '.join(['h', 'z', *widths])}"
            )
        self.place, self.places = place, () if place in ("h", "z") else (place,)

    def forward(self, step: Step) -> Tensor:
        """The sum over the global views."""
        rows = {"h": step.h, "z": step.z, **step.features}[self.place]
        return torch.stack([koleo(view) for view in step.by_view(rows)[: step.global_count]]).sum()

    def chance(self, n: int, width: int, global_views: int = 2) -> float | None:
        """The term for n images whose rows are uniform on the sphere; None for rows of one channel."""
        return None if n < 2 or width < 2 else global_views * uniform_koleo(n, width)
