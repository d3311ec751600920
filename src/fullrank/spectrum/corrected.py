"""The participation ratio that all rows would have, estimated from some of them."""

import torch
from torch import Tensor

from fullrank.errors import DataError, UsageError
from fullrank.linalg import second_moments
from fullrank.spectrum.functional import participation_ratio_of


def corrected_participation_ratio(features: Tensor) -> float:
    r"""Participation ratio of the distribution of the rows, estimated from n of them.

    .. math:: \frac{1}{\mathrm{PR}} = \frac{1}{\mathrm{PR}_n} - \frac{1}{n - 1}

    Here :math:`\mathrm{PR}_n` is `participation_ratio` of the n rows. Few rows spread over few directions, so
    it is too small: a true 282 gives 51 with 64 rows. The corrected value hardly moves with n.

    It cannot see what `participation_ratio` cannot see. The correction assumes independent rows. With rows of
    very unequal length (heavy tails) it is too small. With n near the participation ratio it is noisy.

    Args:
        features: Features (n, D).

    Returns:
        The estimate, 1 or more, in directions. It can exceed D by chance. It is 0 if nothing varies.

    Raises:
        UsageError: For another shape.
        DataError: For no row, rows that are not finite, or n too small: :math:`\mathrm{PR}_n \ge n - 1`.

    >>> x = torch.randn(50, 200, generator=torch.Generator().manual_seed(0))
    >>> round(participation_ratio_of(second_moments(x).singular_values()))
    39
    >>> 180 < corrected_participation_ratio(x) < 230
    True

    Source: fullrank; the mean of the squared trace of a Wishart matrix with n - 1 degrees of freedom.
    """
    return corrected_participation_ratio_of(second_moments(features).singular_values(), rows=len(features))


def corrected_participation_ratio_of(values: Tensor, rows: int) -> float:
    """`corrected_participation_ratio` from a covariance spectrum.

    Args:
        values: Singular values (D,) of the covariance of n rows, as `singular_values` returns them.
        rows: The number of rows, n.

    Raises:
        UsageError: For anything that is not a spectrum, or for less than 1 row.
        DataError: If the rows are too few.

    >>> round(corrected_participation_ratio_of(torch.tensor([3.0, 3.0, 0.0]), rows=101), 3)
    2.041
    """
    if rows < 1:
        raise UsageError(f"rows must be 1 or more, but got {rows}; pass the number of rows of the features.")
    of_rows = participation_ratio_of(values)
    if of_rows == 0:
        return 0.0
    inverse = 1 / of_rows - 1 / max(rows - 1, 1)
    # Rows that are all at right angles leave rounding errors of this size.
    if inverse <= torch.finfo(torch.float64).eps * len(values):
        raise DataError(
            f"{rows} rows with a participation ratio of {of_rows:.1f} are too few to estimate that of all; "
            "give more rows."
        )
    return 1 / inverse
