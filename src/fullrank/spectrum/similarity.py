"""Two sets of features of the same rows: how alike they are, with or without regard to a rotation."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from fullrank.errors import DataError, UsageError
from fullrank.linalg import Moments, inner_products, require_finite, require_matrix, row_coordinates
from fullrank.spectrum.geometry import sample_rows, unit_rows

# Variances (D,), descending, directions (D, D), and how many are more than rounding.
_Components = tuple[Tensor, Tensor, int]
# Cosines that differ by less are equal: products of the same rows differ by a few times 1e-16.
_EQUAL = 1e-12
# An HSIC of a set with itself that is a smaller share of the sums that it is a difference of is rounding.
_ROUNDING = 1e-12
# Rows that are closer to each other than this share of their length are equal but for rounding.
_CONSTANT = 1e-13
# The share of all rows that are called neighbours, unless their number is given.
_NEIGHBOURS = 0.01
# The share of the variance that the leading components of each set hold together.
_LEADING = 0.99


@dataclass(frozen=True)
class SideMoments:
    """Sums of one set of features, x (N, D), measured from `origin`, with n_i the squared length of row i.

    Attributes:
        origin: A point near the mean, (D,), float64.
        total: The sum of the rows, (D,).
        products: The sum of their outer products, (D, D).
        by_own: The sum of n_i x_i, (D,).
        by_other: The sum of m_i x_i, with m_i the squared length of the other set's row i, (D,).
        squares: The sum of n_i squared.
    """

    origin: Tensor
    total: Tensor
    products: Tensor
    by_own: Tensor
    by_other: Tensor
    squares: Tensor


@dataclass(frozen=True)
class JointMoments:
    r"""The moments of two sets of features of the same N rows, widths D and E, in float64.

    They take O((D + E)^2) memory, however many rows there are. `joint_moments` makes them from a stream.

    Attributes:
        count: N.
        first: The sums of the first set.
        second: The sums of the second set.
        products: The sum of the outer products of the rows of both, (D, E), measured from both origins.
        lengths: The sum of the products of both squared lengths.

    >>> x = torch.randn(50, 4, dtype=torch.float64)
    >>> round(joint_moments([(x, 3 * x)]).cka, 9)
    1.0
    """

    count: int
    first: SideMoments
    second: SideMoments
    products: Tensor
    lengths: Tensor

    @cached_property
    def cross(self) -> Tensor:
        """The sum over rows of the outer products of both sets about their means, (D, E)."""
        return self.products - torch.outer(self.first.total, self.second.total) / self.count

    @cached_property
    def _components(self) -> tuple[_Components, _Components]:
        """The principal components of both sets. They take most of the time of wide sets."""
        return _principal(self.scatter(self.first)), _principal(self.scatter(self.second))

    def scatter(self, side: SideMoments) -> Tensor:
        """The sum over rows of the outer products of one set about its mean, (D, D); 0 if it is rounding."""
        scatter = side.products - torch.outer(side.total, side.total) / self.count
        rounding = self.count * _CONSTANT**2 * side.origin.square().sum()
        return scatter if scatter.trace() > rounding else torch.zeros_like(scatter)

    @cached_property
    def cka(self) -> float:
        """Linear CKA without bias; see `linear_cka`. NaN in the same cases."""
        own = []
        for side in (self.first, self.second):
            value = self._hsic(side, side, side.products, side.squares)
            least = _ROUNDING * float(side.products.square().sum()) / (self.count * (self.count - 3))
            own.append(value if value > least and self.scatter(side).trace() > 0 else math.nan)
        both = self._hsic(self.first, self.second, self.products, self.lengths)
        return min(both / math.sqrt(own[0] * own[1]), 1.0)

    def _hsic(self, a: SideMoments, b: SideMoments, products: Tensor, lengths: Tensor) -> float:
        """The unbiased HSIC of linear kernels (Song et al. 2012, Equation 5), from sums over rows."""
        count = self.count
        if count < 4:
            raise DataError(f"CKA without bias needs 4 rows or more, but got {count}; give more rows.")
        by_other, by_one = (a.by_own, b.by_own) if a is b else (a.by_other, b.by_other)
        ones = [side.total @ side.total - side.products.trace() for side in (a, b)]
        middle = a.total @ products @ b.total - a.total @ by_other - b.total @ by_one + lengths
        trace = products.square().sum() - lengths
        whole = trace + ones[0] * ones[1] / ((count - 1) * (count - 2)) - 2 * middle / (count - 2)
        return float(whole) / (count * (count - 3))

    @cached_property
    def distance(self) -> float | None:
        r"""How far the second set is from the first, relative to the spread of the first.

        .. math:: \sqrt{\frac{\sum_i \|y_i - x_i\|^2}{\sum_i \|x_i - \bar x\|^2}}

        None for unlike widths. NaN where the first set does not vary. Below 1e-7 it is rounding.
        """
        one, other = self.first, self.second
        if len(one.origin) != len(other.origin):
            return None
        apart = one.origin - other.origin
        squares = one.products.trace() + other.products.trace() - 2 * self.products.trace()
        squares += 2 * apart @ (one.total - other.total) + self.count * apart @ apart
        spread = float(self.scatter(one).trace())
        return math.sqrt(max(float(squares), 0.0) / spread) if spread > 0 else math.nan

    @cached_property
    def rotated_distance(self) -> float:
        r"""What is left of the distance after the best shift, scale and rotation, 0 to 1.

        .. math:: \sqrt{1 - \frac{\|C\|_*^2}{\operatorname{tr} S_x \operatorname{tr} S_y}}

        C is `cross`, S are the scatters. A set of smaller width is filled with zeros. NaN where a set does
        not vary. Below 1e-7 it is rounding.

        Source: orthogonal Procrustes (Schönemann 1966), with scale.
        """
        spreads = [float(self.scatter(side).trace()) for side in (self.first, self.second)]
        if min(spreads) <= 0:
            return math.nan
        common = float(torch.linalg.svdvals(self.cross).sum())
        return math.sqrt(max(1 - common**2 / (spreads[0] * spreads[1]), 0.0))

    def angles(self, variance: float = _LEADING) -> Tensor:
        r"""The angles between the spaces that the leading components of both sets span in R^N, ascending.

        They compare what the components say of the rows, so the sets may have unlike widths, and a rotation
        of the channels changes nothing. The leading components of a set hold `variance` of its variance. An
        angle is 0 where both sets have one and the same direction over rows. Below 1e-6 an angle is rounding,
        and below 1e-3 where `variance` is 1 and some components are small.

        Args:
            variance: The share of the variance, above 0 to 1.

        Returns:
            The angles (r,) in radians, 0 to pi/2. r is the smaller number of components, 0 where a set does
            not vary.

        Source: Björck and Golub 1973 for the angles; Raghu et al. 2017 (arXiv 1706.05806) for the share.
        """
        if not 0 < variance <= 1:
            raise UsageError(f"The share of variance must be above 0 to 1, but got {variance}; try 0.99.")
        one, other = (_leading(components, variance) for components in self._components)
        if not (one.shape[1] and other.shape[1]):
            return torch.zeros(0, dtype=torch.float64)
        cosines: Tensor = torch.linalg.svdvals(one.T @ self.cross @ other)
        return cosines.clamp(max=1.0).arccos()

    @cached_property
    def kept(self) -> "Explained":
        """How much of the first set a linear map of the second explains: what the second has kept of it."""
        first, second = self._components
        return self._explained(first, second, self.cross)

    @cached_property
    def added(self) -> "Explained":
        """How much of the second set a linear map of the first explains; the rest is new in the second."""
        first, second = self._components
        return self._explained(second, first, self.cross.T)

    def _explained(self, side: _Components, by: _Components, cross: Tensor) -> "Explained":
        variances, directions, live = side
        whitened = _leading(by, 1.0)
        explained = (directions.T @ cross @ whitened).square().sum(1)
        # By chance alone a map of r directions explains r / (N - 1).
        spare = self.count - whitened.shape[1] - 1
        inflation = (self.count - 1) / spare if spare > 0 else math.nan
        shares = 1 - (1 - explained / variances).clamp_min(0.0) * inflation
        shares[live:] = torch.nan
        total = 1 - max(1 - float(explained.sum() / variances.sum()), 0.0) * inflation if live else math.nan
        return Explained(variances / self.count, shares, total, directions)


@dataclass(frozen=True)
class Explained:
    r"""The share of the variance of one set that a linear map of another explains (adjusted R^2).

    .. math:: R^2_k = \frac{v_k^\top C S_y^{+} C^\top v_k}{\lambda_k}, \qquad
              1 - (1 - R^2_k) \frac{N - 1}{N - r - 1}

    v_k and :math:`\lambda_k` are the principal directions and variances of the set, r the rank of the other
    set. It is about 0 for unrelated sets, and may be slightly below 0. A constant set explains 0.

    - It cannot see what is kept in a nonlinear form.
    - A small direction that is kept may be noise, and a small one that is lost may have held the labels.

    Attributes:
        variances: The variances, (D,), descending.
        shares: The share of each that is explained, (D,); NaN for a variance that is 0 or rounding, and where
            N is below r + 2.
        total: The share of all variance that is explained; NaN where the set does not vary or N is below
            r + 2.
        directions: The principal directions of the set, (D, D), one a column.
    """

    variances: Tensor
    shares: Tensor
    total: float
    directions: Tensor


def joint_moments(
    pairs: Iterable[tuple[Tensor, Tensor]], known: Sequence[Moments | None] = (None, None)
) -> JointMoments:
    """The joint moments of a stream of blocks of rows of two sets.

    Args:
        pairs: Blocks (n, D) and (n, E) of the same rows, of any real type. n may change from block to block,
            and may be 0.
        known: The moments of the same rows of each set, where they are known already.

    Raises:
        UsageError: The two blocks of a pair have unlike numbers of rows, D or E changes, or a block is not a
            matrix of real numbers. Known moments are of other rows.
        DataError: There is no row, or a value is not finite.
    """
    sums: _Sums | None = None
    for first, second in pairs:
        _require_pair(first, second)
        least = max(first.shape[1], second.shape[1])
        step = max(2**20 // least, least)
        blocks = zip(torch.split(first, step), torch.split(second, step), strict=True)
        for one, other in blocks if len(first) else ():
            sums = sums or _Sums((one.detach(), other.detach()), known)
            sums.add(one.detach(), other.detach())
    if sums is None:
        raise DataError("There are no rows to compare; give at least 4.")
    return sums.moments()


def _require_pair(first: Tensor, second: Tensor) -> None:
    for side in (first, second):
        require_matrix(side)
    if len(first) != len(second):
        raise UsageError(f"Rows belong together one by one, but got {len(first)} and {len(second)} rows.")


class _Sums:
    """The sums of `JointMoments` while rows are added.

    Columns of 1, n_i and m_i stand after the channels of each set, so one product gives all sums over both.
    More columns of 1 make their number a multiple of 4: with 516 columns a product takes a fifth less time
    than with 515.
    """

    def __init__(self, sides: tuple[Tensor, Tensor], known: Sequence[Moments | None]):
        self.known, self.count = known, 0
        self.origins = [
            side.double().mean(0) if moments is None else moments.mean
            for side, moments in zip(sides, known, strict=True)
        ]
        self.widths = [side.shape[1] for side in sides]
        # The same memory for all blocks: fresh memory of each block takes as long as a tenth of its product.
        columns = [-(-(width + 3) // 4) * 4 for width in self.widths]
        self.rows = [self.origins[0].new_ones(0, count) for count in columns]
        self.across = self.origins[0].new_zeros(columns)
        self.products = [origin.new_zeros(len(origin), len(origin)) for origin in self.origins]

    def add(self, x: Tensor, y: Tensor) -> None:
        if len(x) > len(self.rows[0]):
            self.rows = [self.across.new_ones(len(x), columns) for columns in self.across.shape]
        for rows, width in zip((x, y), self.widths, strict=True):
            if rows.shape[1] != width:
                raise UsageError(
                    f"All blocks of a set must have one width, but got {width} and {rows.shape[1]}; "
                    "give features of one place."
                )
        sides = [rows[: len(x)] for rows in self.rows]
        for i, (side, rows) in enumerate(zip(sides, (x, y), strict=True)):
            channels, lengths = side[:, : self.widths[i]], side[:, self.widths[i] + 1 + i]
            torch.sub(rows, self.origins[i], out=channels)
            torch.linalg.vector_norm(channels, dim=1, out=lengths).square_()
            if not torch.isfinite(lengths.sum()):
                require_finite(rows)
            if self.known[i] is None:
                self.products[i] += inner_products(channels)
        width, other = self.widths
        sides[0][:, width + 2], sides[1][:, other + 1] = sides[1][:, other + 2], sides[0][:, width + 1]
        self.count += len(x)
        self.across.addmm_(sides[0].T, sides[1])

    def moments(self) -> JointMoments:
        for i, moments in enumerate(self.known):
            if moments is not None:
                if moments.count != self.count:
                    counts = f"{moments.count} rows, but there are {self.count}"
                    raise UsageError(f"Known moments are of {counts}; leave them out.")
                self.products[i] = moments.scatter
        width, other = self.widths
        first = self._side(0, self.across[:width, other : other + 3].T)
        second = self._side(1, self.across[width : width + 3, :other])
        lengths = self.across[width + 1, other + 2]
        return JointMoments(self.count, first, second, self.across[:width, :other], lengths)

    def _side(self, i: int, sums: Tensor) -> SideMoments:
        total, by_first, by_second = sums
        by_own, by_other = (by_first, by_second) if i == 0 else (by_second, by_first)
        width, other = self.widths
        squares = self.across[width + 1 + i, other + 1 + i]
        return SideMoments(self.origins[i], total, self.products[i], by_own, by_other, squares)


def linear_cka(a: Tensor, b: Tensor) -> float:
    r"""Linear centred kernel alignment of two sets of features, without the bias of few rows.

    .. math:: \frac{\mathrm{HSIC}_1(K, L)}{\sqrt{\mathrm{HSIC}_1(K, K)\, \mathrm{HSIC}_1(L, L)}}, \qquad
              K = X X^\top, \; L = Y Y^\top

    HSIC_1 leaves out the diagonals of K and L. The plain estimate is about D/N for unrelated features, this
    one about 0; it may be slightly below 0. 1 is a rotation, shift and scale of the same features.

    - It weighs a direction by its variance: two sets that share one dominant direction have a value near 1.
    - It says nothing about quality.

    Args:
        a: Features (N, D).
        b: Features (N, E) of the same rows in the same order.

    Returns:
        The value, up to 1; NaN where a set does not vary, or HSIC_1 of a set with itself is 0: its rows are
        all equally far apart, or only one row differs from the others.

    Raises:
        UsageError: For unlike numbers of rows, or features that are no matrix of real numbers.
        DataError: For fewer than 4 rows, or values that are not finite.

    >>> x = torch.randn(200, 5)
    >>> turned = x @ torch.linalg.qr(torch.randn(5, 5)).Q
    >>> round(linear_cka(x, turned), 4), linear_cka(x, torch.randn(200, 5)) < 0.1
    (1.0, True)

    Source: Kornblith et al. 2019 (arXiv 1905.00414) with HSIC_1 of Song et al. 2012 (JMLR 13), Equation 5.
    """
    _require_pair(a, b)
    # Without a row there are no coordinates, and `joint_moments` says so.
    one, other = (row_coordinates(side) if len(side) else side for side in (a, b))
    return joint_moments([(one, other)]).cka


@dataclass(frozen=True)
class Overlap:
    """How many of the nearest rows of each row are the same in two sets.

    Attributes:
        shares: The share for each row, (n,), 0 to 1.
        neighbours: How many neighbours each row has, k.
        changes: How much the shares of the other rows would rise in sum if this row were left out, (n,).
    """

    shares: Tensor
    neighbours: int
    changes: Tensor

    @property
    def mean(self) -> float:
        """The mean share over rows."""
        return float(self.shares.mean())

    @property
    def error(self) -> float:
        r"""The standard error of the mean over fresh rows.

        .. math:: \sqrt{\frac{1}{n (n - 1)} \sum_i (t_i - \bar t)^2}, \qquad t_i = s_i - \tfrac12 c_i

        s are `shares` and c are `changes`: each row is also one that others find. A jackknife subtracts all
        of c. It counts twice what two rows do together, so half of c is subtracted.

        In simulations it was 0.9 to 1.3 times the true error, and up to 1.9 times where almost all neighbours
        agree. That of s alone is down to 0.6 times, that of the jackknife up to 3.3 times.
        """
        return float((self.shares - self.changes / 2).std()) / math.sqrt(len(self.shares))

    @property
    def by_chance(self) -> float:
        """The mean share of two unrelated sets, k / (n - 1)."""
        return self.neighbours / (len(self.shares) - 1)


def neighbour_overlap(
    a: Tensor, b: Tensor, *, neighbours: int | None = None, sample: int = 4096, seed: int = 0
) -> Overlap:
    r"""The share of the k nearest rows by cosine that both sets agree on, for each row.

    .. math:: \frac{|N_a(i) \cap N_b(i)|}{\max(|N_a(i)|, |N_b(i)|)}

    Rows that are as near as the k-th belong to the neighbours too, so the order of rows does not matter and a
    collapse to a point agrees with nothing. Nothing is centred.

    - At a fixed k the value falls as rows are added, so the default k is a share of them.
    - It says nothing about far rows.

    Args:
        a: Features (N, D).
        b: Features (N, E) of the same rows in the same order.
        neighbours: k, 1 to n - 1. The default is 1 % of the n compared rows, at least 1.
        sample: The cost is quadratic in N, so of more rows than this a random sample is compared.
        seed: The seed of the sample.

    Raises:
        UsageError: For unlike numbers of rows, a k outside its limits, or features that are no matrix of real
            numbers.
        DataError: For fewer than 2 rows, or values that are not finite.

    >>> x = torch.randn(300, 8)
    >>> overlap = neighbour_overlap(x, x.flip(1))
    >>> overlap.mean, overlap.neighbours
    (1.0, 3)

    Source: mutual k-nearest neighbours, Huh et al. 2024 (arXiv 2405.07987), Section 3, with a share of rows.
    """
    _require_pair(a, b)
    sets = [unit_rows(sample_rows(side, sample, seed, "The overlap of neighbours")) for side in (a, b)]
    count = len(sets[0])
    k = max(1, round(_NEIGHBOURS * count)) if neighbours is None else neighbours
    if not 1 <= k < count:
        raise UsageError(f"Neighbours must be 1 to {count - 1} of {count} rows, but got {k}.")
    shares, changes = [], sets[0].new_zeros(count)
    for start in range(0, count, 512):
        (near, following), (others, following_others) = (_nearest(rows, start, k) for rows in sets)
        sizes = torch.maximum(near.sum(1), others.sum(1)).double()
        common = near & others
        shares.append(common.sum(1) / sizes)
        # Without a near row the following one takes its place; a common neighbour is lost with the row.
        for mask, entering, beside in ((near, following, others), (others, following_others, near)):
            changes += _share_of(entering, beside) / sizes @ mask.double()
        changes += (_share_of(following, following_others) - 1) / sizes @ common.double()
    return Overlap(torch.cat(shares), k, changes)


def _nearest(rows: Tensor, start: int, k: int) -> tuple[Tensor, Tensor]:
    """Which rows are among the k nearest of 512 rows from `start` on, and which follow: masks (n, N)."""
    cosines = rows[start : start + 512] @ rows.T
    cosines.diagonal(start).fill_(-torch.inf)
    limits = cosines.topk(k + 1).values[:, -2:] - _EQUAL
    near = cosines >= limits[:, :1]
    return near, (cosines >= limits[:, 1:]) & ~near


def _share_of(mask: Tensor, other: Tensor) -> Tensor:
    """The share of the rows of a mask (n, N) that another has too, (n,); 0 for none."""
    share: Tensor = (mask & other).sum(1) / mask.sum(1).clamp_min(1).double()
    return share


def _leading(components: _Components, variance: float) -> Tensor:
    """The leading directions (D, k) that hold a share of the variance, over the roots of their scatter."""
    values, directions, live = components
    held = values.cumsum(0) / values.sum()
    count = min(live, int((held < variance * (1 - 1e-12)).sum()) + 1)
    leading: Tensor = directions[:, :count] / values[:count].sqrt()
    return leading


def _principal(scatter: Tensor) -> _Components:
    """Eigenvalues (D,), descending, directions (D, D), and how many are more than rounding in float32."""
    values, directions = torch.linalg.eigh(scatter)
    values, directions = values.flip(0).clamp_min(0.0), directions.flip(1)
    live = int((values > values[:1] * (len(values) * torch.finfo(torch.float32).eps) ** 2).sum())
    return values, directions, live
