"""How strongly features encode each known factor of the images, and whether factors are separable."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fullrank.errors import DataError, UsageError
from fullrank.linalg import require_finite, require_matrix

# Factors with a larger association are not weighed separately.
TOLERANCE = 0.1


@dataclass(frozen=True)
class Entangled:
    """A factor that is not weighed because it is associated with another one.

    Attributes:
        factor: The factor that is left out.
        goes_with: The factor that it is associated with.
        strength: Their `association`.
    """

    factor: str
    goes_with: str
    strength: float


def factor_weights(features: Tensor, factors: Mapping[str, Tensor]) -> dict[str, float]:
    r"""The weight of each factor in features: the spread of its level means, corrected for sampling noise.

    .. math:: a_f = \sqrt{\operatorname{tr} B_f}, \quad
              B_f = \frac1V \sum_v (\mu_v - \bar\mu)(\mu_v - \bar\mu)^\top, \quad
              \bar\mu = \frac1V \sum_v \mu_v

    The level means are those of the additive model with all factors, fitted by least squares. Chance
    co-occurrence of levels of different factors therefore does not count. If the levels are balanced, they
    are the plain means. Sampling noise adds :math:`\tfrac{\hat\sigma^2}{V} \operatorname{tr} C_f` to
    :math:`\operatorname{tr} \hat B_f`, and this is subtracted. Here :math:`\hat\sigma^2` is the residual
    variance over its degrees of freedom, and :math:`C_f` the unscaled covariance of the centred level means.
    The result is unbiased if all rows have equal noise. Negative results are set to 0.

    Args:
        features: Features (N, D).
        factors: For each factor, whole numbers (N,), -1 if unknown. Rows with an unknown factor are left out.

    Raises:
        UsageError: For other shapes, or no factor.
        DataError: For a factor with fewer than two levels, inseparable factors, too few rows, or rows that
            are not finite.

    >>> level = torch.tensor([0, 0, 1, 1])
    >>> factor_weights(torch.tensor([[1.0], [1.0], [5.0], [5.0]]), {"colour": level})
    {'colour': 2.0}

    Source: derived here (the components of variance of a fixed-effects analysis of variance).
    """
    require_matrix(features)
    for name, levels in factors.items():
        if levels.shape != (len(features),):
            raise UsageError(
                f"The factor {name!r} has the shape {tuple(levels.shape)}, but must be ({len(features)},), "
                "one whole number for each row of features."
            )
    if not factors:
        raise UsageError("Expected 1 or more factors, but got 0; give the levels of a factor.")
    labelled = torch.stack([levels >= 0 for levels in factors.values()]).all(0)
    require_finite(features[labelled])
    blocks = [_indicators(name, levels[labelled]) for name, levels in factors.items()]
    design, rows = torch.cat(blocks, 1), features[labelled].detach().double().cpu()
    inverse = _inverse(design, list(factors), [block.shape[1] for block in blocks])
    means = inverse @ (design.T @ rows)
    freedom = len(rows) - (design.shape[1] - len(blocks) + 1)
    noise = float((rows - design @ means).square().sum()) / freedom
    weights, start = {}, 0
    for name, block in zip(factors, blocks, strict=True):
        own = slice(start, start + block.shape[1])
        start = own.stop
        centred = means[own] - means[own].mean(0)
        spread = inverse[own, own]
        variance = float(centred.square().sum()) - noise * float(spread.trace() - spread.mean(1).sum())
        weights[name] = math.sqrt(max(0.0, variance / block.shape[1]))
    return weights


def association(first: Tensor, second: Tensor) -> float:
    r"""How far two labels are from independent, 0 to 1: Cramer's V, corrected for chance.

    .. math:: \tilde V = \sqrt{\frac{\max(0,\ \chi^2 / n - \tfrac{(r - 1)(c - 1)}{n - 1})}
              {\min(\tilde r, \tilde c) - 1}}, \quad \tilde r = r - \frac{(r - 1)^2}{n - 1}

    The same holds for the c levels of the second label.

    Args:
        first: Whole numbers (N,), -1 if unknown. Rows that lack a label are left out.
        second: The same for the second label.

    Raises:
        UsageError: For other shapes.
        DataError: For a label with fewer than two levels.

    >>> first = torch.tensor([0, 0, 1, 1] * 25)
    >>> association(first, torch.tensor([0, 1, 0, 1] * 25)), association(first, 1 - first)
    (0.0, 1.0)

    Source: Bergsma 2013, A bias-correction for Cramer's V and Tschuprow's T.
    """
    if first.ndim != 1 or first.shape != second.shape:
        raise UsageError(
            f"Expected two labels of the same rows, but got the shapes {tuple(first.shape)} and "
            f"{tuple(second.shape)}; give one whole number per row for each."
        )
    labelled = (first >= 0) & (second >= 0)
    a, b = _indicators("first", first[labelled]), _indicators("second", second[labelled])
    count = len(a)
    observed = a.T @ b
    expected = a.sum(0)[:, None] * b.sum(0) / count
    chi = float(((observed - expected).square() / expected).sum())
    r, c = observed.shape
    excess = max(0.0, chi / count - (r - 1) * (c - 1) / (count - 1))
    ranks = (levels - (levels - 1) ** 2 / (count - 1) for levels in (r, c))
    return math.sqrt(min(1.0, excess / max(min(ranks) - 1, 1e-9)))


def independent_factors(
    labels: Mapping[str, Tensor], tolerance: float = TOLERANCE
) -> tuple[list[str], list[Entangled]]:
    """The labels that are independent factors, and those that are associated with one of these.

    The first named wins: a later label is compared with the factors before it. Labels with fewer than two
    levels are in neither list.

    Args:
        labels: For each label, whole numbers (N,), -1 if unknown.
        tolerance: The largest `association` of two independent factors.

    Raises:
        UsageError: As `association`.

    >>> shape = torch.tensor([0, 0, 1, 1] * 25)
    >>> colour = torch.tensor([0, 1, 0, 1] * 25)
    >>> own, others = independent_factors({"shape": shape, "colour": colour, "both": 2 * shape + colour})
    >>> own, others[0].factor, others[0].goes_with
    (['shape', 'colour'], 'both', 'shape')
    """
    factors: list[str] = []
    entangled: list[Entangled] = []
    for name, levels in labels.items():
        if len(torch.unique(levels[levels >= 0])) < 2:
            continue
        for other in factors:
            if (strength := association(labels[other], levels)) > tolerance:
                entangled.append(Entangled(name, other, strength))
                break
        else:
            factors.append(name)
    return factors, entangled


def _indicators(name: str, levels: Tensor) -> Tensor:
    """One column for each level that occurs, 1 where a row has it: (n, V), float64, on the CPU."""
    distinct, codes = torch.unique(levels.cpu(), return_inverse=True)
    if len(distinct) < 2:
        raise DataError(
            f"The factor {name!r} has {len(distinct)} level among the {len(levels)} labelled rows, but needs "
            "2 or more; leave it out, or give images of other levels."
        )
    return torch.nn.functional.one_hot(codes, len(distinct)).double()


def _inverse(design: Tensor, names: list[str], levels: list[int]) -> Tensor:
    """The pseudo-inverse of the design's Gram matrix. DataError unless every factor can be estimated."""
    rank = sum(levels) - len(levels) + 1
    if len(design) <= rank:
        raise DataError(
            f"{len(design)} labelled rows are too few for the {sum(levels)} levels of {', '.join(names)}; "
            f"give {rank + 1} or more."
        )
    gram = design.T @ design
    if int(torch.linalg.matrix_rank(gram, hermitian=True)) < rank:
        raise DataError(
            f"The factors {', '.join(names)} are inseparable: some of their levels never occur without each "
            "other; leave one out."
        )
    inverse: Tensor = torch.linalg.pinv(gram, hermitian=True)
    return inverse
