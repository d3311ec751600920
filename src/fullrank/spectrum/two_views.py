"""How well two views of the same images belong together: InfoNCE at a place, and DiME."""

import torch
from torch import Tensor

from fullrank.errors import DataError, UsageError
from fullrank.linalg import require_finite, require_matrix
from fullrank.spectrum.geometry import sample_index, unit_rows

TEMPERATURE = 0.2
# How many rows are compared with all others at once.
_ROWS = 512


def infonce_by_image(a: Tensor, b: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """What each image adds to `infonce_at_place`, (n,), float64; its mean is that.

    Args:
        a: Features (n, D) of the first view.
        b: Features (n, D) of the second view.
        temperature: The divisor of the cosines.

    Raises:
        UsageError: As `infonce_at_place`.
        DataError: As `infonce_at_place`.

    >>> x = torch.eye(3)
    >>> infonce_by_image(x, x).shape
    torch.Size([3])
    """
    first, second = _centred_units(a, b, "InfoNCE")
    if not temperature > 0:
        raise UsageError(f"The temperature must be above 0, but got {temperature:g}; the usual one is 0.2.")
    losses = torch.zeros(len(first), dtype=torch.float64)
    for queries, keys in ((first, second), (second, first)):
        for start in range(0, len(queries), _ROWS):
            logits = queries[start : start + _ROWS] @ keys.T / temperature
            losses[start : start + _ROWS] += (logits.logsumexp(1) - logits.diagonal(start)).cpu() / 2
    return losses


def infonce_at_place(a: Tensor, b: Tensor, temperature: float = TEMPERATURE) -> float:
    r"""InfoNCE of two views at a place: how well each image is told from the others. Lower is better.

    .. math:: \frac1{2n} \sum_i \Big( -\ln \frac{e^{x_i \cdot y_i / \tau}}{\sum_j e^{x_i \cdot y_j / \tau}}
              - \ln \frac{e^{x_i \cdot y_i / \tau}}{\sum_j e^{x_j \cdot y_i / \tau}} \Big)

    x and y are the unit rows of the two views after their joint mean was subtracted. Chance is ln n, so only
    values of equally many images compare.

    It cannot see what an objective of the same form was trained for: there it is a training loss. It cannot
    see whether what tells images apart matters, and it is wrong for labels that the views change.

    Args:
        a: Features (n, D) of the first view.
        b: Features (n, D) of the second view, of the same images in the same order.
        temperature: The divisor of the cosines.

    Raises:
        UsageError: For shapes that differ, or a temperature that is not positive.
        DataError: For fewer than 2 rows, or rows that are not finite.

    >>> x = torch.eye(4)
    >>> infonce_at_place(x, x) < infonce_at_place(x, x.roll(1, 0))
    True

    Source: van den Oord et al. 2018 (1807.03748); at a place: Skean et al. 2025, Layer by Layer.
    """
    return float(infonce_by_image(a, b, temperature).mean())


def dime(a: Tensor, b: Tensor, *, draws: int = 4, sample: int = 256, seed: int = 0) -> float:
    r"""DiME: how much less entropy two views have together than after a shuffle. Higher is better.

    .. math:: \mathrm{E}_\Pi\, S(A \circ \Pi B \Pi^\top) - S(A \circ B), \qquad
              S(M) = -\sum_k \lambda_k \ln \lambda_k \text{ of } M / \operatorname{tr} M

    A and B are Gram matrices with the Gaussian kernel :math:`e^{-\|x - y\|^2 / 2}` on unit rows after the
    joint mean was subtracted. The kernel is ours; published values use others, so they do not compare.

    It cannot see more than the kernel: rows that are nearly equal to it, or nearly all apart, give 0.

    Args:
        a: Features (n, D) of the first view.
        b: Features (n, D) of the second view, of the same images in the same order.
        draws: The number of shuffles.
        sample: Of more rows than this a random sample is taken, because the cost grows with their cube.
        seed: The seed of the sample and of the shuffles.

    Raises:
        UsageError: For shapes that differ, no draw, or a sample below 2.
        DataError: For fewer than 2 rows, or rows that are not finite.

    >>> x = torch.randn(60, 5, generator=torch.Generator().manual_seed(0))
    >>> dime(x, x) > dime(x, x.roll(1, 0))
    True

    Source: Skean et al. 2023 (DiME, 2301.08164), with the entropy of von Neumann, the limit alpha to 1.
    """
    index = sample_index(len(a), sample, seed, "DiME")
    first, second = (rows[index.to(rows.device)] for rows in _centred_units(a, b, "DiME"))
    if draws < 1:
        raise UsageError(f"DiME needs 1 shuffle or more, but got {draws}; the default is 4.")
    one, other = ((rows @ rows.T - 1).exp() for rows in (first, second))  # |x - y|^2 / 2 = 1 - x y
    generator = torch.Generator().manual_seed(seed)
    shuffled = 0.0
    for _ in range(draws):
        order = torch.randperm(len(one), generator=generator)
        shuffled += _entropy(one * other[order][:, order]) / draws
    return shuffled - _entropy(one * other)


def _entropy(matrix: Tensor) -> float:
    """The von Neumann entropy of a positive matrix over its trace."""
    values = torch.linalg.eigvalsh(matrix / matrix.diagonal().sum()).clamp_min(0)
    return float(torch.special.entr(values).sum())


def _centred_units(a: Tensor, b: Tensor, measure: str) -> tuple[Tensor, Tensor]:
    """Both views (n, D) as unit rows in float64, after their joint mean was subtracted."""
    if a.shape != b.shape:
        raise UsageError(
            f"{measure} needs pairs of rows, but got shapes {tuple(a.shape)} and {tuple(b.shape)}; pass both "
            "views of the same images in the same order."
        )
    require_matrix(a)
    if len(a) < 2:
        raise DataError(f"{measure} needs 2 rows or more, but got {len(a)}; give more.")
    require_finite(a)
    require_finite(b)
    joint = (a.double().mean(0) + b.double().mean(0)) / 2
    return unit_rows(a.double() - joint), unit_rows(b.double() - joint)
