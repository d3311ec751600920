"""Why a representation collapsed: each cause is measured, held against its rule, and told with a remedy."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from fullrank.diagnosis.augmentation import AugmentationRatio, augmentation_ratio, operation_shares
from fullrank.diagnosis.evidence import Evidence, PlaceEvidence
from fullrank.diagnosis.stacked import block_alignment, imbalance, product
from fullrank.record import Finding
from fullrank.spectrum.rules import RULES, Rule, Rules

_ASSUMED_TEMPERATURE = 0.1
# A standard deviation below this share of the largest, or of the channel's own mean, is rounding of float32.
_FLAT = 1e-6
# Eigenvalues below this share of the largest count as this share: there float32 features and the sums over
# many channels leave rounding, and an untrained net has breaks of 50 to 500 times at shares of 1e-10.
_FLOOR = 1e-8
# Rectified features come near zero; any others that are never negative are far from it by their mean.
_NEAR_ZERO = 0.3
# The head's rank counts as reached from here: the data need not fill it to the last dimension.
_FILLED = 0.9


@dataclass(frozen=True)
class Shape:
    """What the rules need to know of the features (N, D) at a place, from one pass in float64.

    `spread` is the root of the variance over the mean squared norm, `mean_share` the squared norm of the mean
    over the same. `dead` are the channels without variance, `eigenvalues` those of the centred covariance of
    the others, descending, no more than their possible rank.
    """

    rows: int
    width: int
    spread: float
    mean_share: float
    dead: int
    rectified: bool
    eigenvalues: Tensor


@dataclass(frozen=True)
class Cut:
    """Where a spectrum breaks off: `live` values, then one that is `ratio` times smaller, of `possible`."""

    live: int
    ratio: float
    possible: int

    @property
    def lost_share(self) -> float:
        """The share of the possible rank that is lost."""
        return 1 - self.live / self.possible


def find_causes(evidence: Evidence, rules: Rules = RULES, seed: int = 0) -> list[Finding]:
    """The causes of collapse that `evidence` shows, by place from the image to z; empty where all is healthy.

    Places that are one point (`complete-collapse`) are asked nothing else. A spectrum that breaks off beyond
    its dead channels is explained by `augmentation` at a place below, else by `implicit-regularisation` of
    the stacked maps at the last place, else it is `unexplained-low-rank`; it is told where it is first seen,
    and again only where the rank falls further. A rank that a head imposes is never a finding.
    `mean-dominance` is judged where cosines are taken, at h and the last place. `seed` is the bootstrap's.

    >>> x = torch.randn(500, 16)
    >>> find_causes(Evidence((PlaceEvidence("z", x),)))
    []
    >>> x[:, 4:] = x[:, :4].repeat(1, 3)
    >>> [found.cause for found in find_causes(Evidence((PlaceEvidence("z", x),)))]
    ['unexplained-low-rank']
    """
    found: list[Finding] = []
    last = len(evidence.places) - 1
    below: Cut | None = None
    for index, place in enumerate(evidence.places):
        shape = measure(place.features)
        if rules.complete_collapse.fires(shape.spread):
            found.append(_complete(place, shape, rules))
            below = None
            continue
        found += _channels(place, shape, rules)
        if index == last or place.place == "h":
            found += _mean(place, shape, rules)
        found += _samples(place, shape, rules)
        cut = low_rank(shape, rules, place.imposed_rank)
        if cut is not None and not _inherited(cut, below):
            found.append(_explained(evidence, index, cut, rules, seed))
        below = cut
    return found


def measure(features: Tensor) -> Shape:
    """What the rules need to know of features (N, D).

    >>> shape = measure(torch.tensor([[1.0, 5.0], [3.0, 5.0]]))
    >>> shape.dead, shape.eigenvalues.tolist(), shape.rectified
    (1, [1.0], True)
    """
    x = features.detach().double().cpu()
    mean = x.mean(0)
    centred = x - mean
    variances = centred.square().mean(0)
    total = float(x.square().sum(1).mean())
    deviations = variances.sqrt()
    dead = deviations <= _FLAT * torch.maximum(deviations.max(), mean.abs())
    possible = min(len(x) - 1, int((~dead).sum()))
    if possible:
        live = centred[:, ~dead]
        gram = live.T @ live if live.shape[1] <= len(live) else live @ live.T
        eigenvalues = torch.linalg.eigvalsh(gram / len(live)).flip(0)[:possible].clamp_min(0)
    else:
        eigenvalues = torch.zeros(0, dtype=torch.float64)
    return Shape(
        rows=len(x),
        width=x.shape[1],
        spread=math.sqrt(float(variances.sum()) / total) if total > 0 else 0.0,
        mean_share=float(mean.square().sum()) / total if total > 0 else 0.0,
        dead=int(dead.sum()),
        rectified=0 <= float(x.min()) <= _NEAR_ZERO * float(x.mean()),
        eigenvalues=eigenvalues,
    )


def low_rank(shape: Shape, rules: Rules = RULES, imposed_rank: int | None = None) -> Cut | None:
    """The largest break of a spectrum that passes the rules, or None.

    Eigenvalues that float32 cannot tell from 0 count as that limit, so a spectrum that fades out has no break
    where it meets it. With an `imposed_rank` only ranks below nine tenths of it are looked for.

    >>> low_rank(measure(torch.randn(500, 16)))
    >>> low_rank(measure(torch.randn(500, 4) @ torch.randn(4, 16))).live
    4
    """
    possible = len(shape.eigenvalues)
    if possible < 2:
        return None
    values = shape.eigenvalues.clamp_min(_FLOOR * float(shape.eigenvalues[0]))
    if imposed_rank is not None:
        possible = min(possible, imposed_rank)
    most = min(len(values) - 1, math.floor((1 - rules.lost_share) * possible))
    if imposed_rank is not None:
        most = min(most, math.ceil(_FILLED * imposed_rank) - 1)
    if most < 1:
        return None
    ratios = values[:most] / values[1 : most + 1]
    limits = torch.full_like(ratios, rules.gap)
    limits[0] = rules.single_gap
    passing = ratios >= limits
    if not passing.any():
        return None
    live = int(torch.where(passing, ratios, 0.0).argmax()) + 1
    return Cut(live, float(ratios[live - 1]), possible)


def _inherited(cut: Cut, below: Cut | None) -> bool:
    # A map cannot bring a rank back by itself, so the place below has told already, unless more is lost here.
    return below is not None and cut.live >= 0.8 * below.live


def _finding(rule: Rule, place: str, value: float, evidence: str) -> Finding:
    return Finding(
        cause=rule.cause,
        place=place,
        level=rule.level,
        measure=rule.measure,
        value=value,
        threshold=rule.threshold,
        evidence=evidence,
        remedy=rule.remedy,
    )


def _complete(place: PlaceEvidence, shape: Shape, rules: Rules) -> Finding:
    return _finding(
        rules.complete_collapse,
        place.place,
        shape.spread,
        f"All {shape.rows} rows at {place.place} are nearly one point: their spread is {shape.spread:.2g} of "
        "their norm.",
    )


def _channels(place: PlaceEvidence, shape: Shape, rules: Rules) -> Iterator[Finding]:
    imposed = shape.width - (place.imposed_rank or shape.width)
    share = max(0, shape.dead - imposed) / shape.width
    ladder = (rules.dead_rectified, rules.idle_rectified) if shape.rectified else (rules.dead_channels,)
    for rule in ladder:
        if rule.fires(share):
            yield _finding(
                rule,
                place.place,
                share,
                f"{shape.dead} of {shape.width} channels at {place.place} do not vary over "
                f"{shape.rows} images.",
            )
            return


def _mean(place: PlaceEvidence, shape: Shape, rules: Rules) -> Iterator[Finding]:
    rule = rules.mean_rectified if shape.rectified else rules.mean_dominance
    if rule.fires(shape.mean_share):
        yield _finding(
            rule,
            place.place,
            shape.mean_share,
            f"The mean makes up {100 * shape.mean_share:.2f} % of the squared norm at {place.place}, so all "
            "rows point the same way: a cone.",
        )


def _samples(place: PlaceEvidence, shape: Shape, rules: Rules) -> Iterator[Finding]:
    share = (shape.rows - 1) / (place.imposed_rank or shape.width)
    if rules.too_few_samples.fires(share):
        yield _finding(
            rules.too_few_samples,
            place.place,
            share,
            f"{shape.rows} images can span {shape.rows - 1} of the {place.imposed_rank or shape.width} "
            f"dimensions at {place.place}, so every rank there is bounded by the images.",
        )


def _explained(evidence: Evidence, index: int, cut: Cut, rules: Rules, seed: int) -> Finding:
    place = evidence.places[index]
    seen = (
        f"{cut.live} of {cut.possible} possible dimensions at {place.place} are live, the next variance is "
        f"{cut.ratio:.3g} times smaller"
    )
    looked, cause = _augmentation(evidence, index, cut, rules, seed)
    if cause is not None:
        finding = _augmented(evidence, place, seen, cause, rules)
    elif index == len(evidence.places) - 1 and (stacked := _stacked(evidence, rules)) is not None:
        value, live, between = stacked
        views = (
            "augmentation is weak in the lost ones"
            if looked
            else "no views were given to exclude augmentation"
        )
        finding = _finding(
            rules.implicit_regularisation,
            place.place,
            value,
            f"{seen}, the product of {len(evidence.stacked)} linear maps breaks off after {live}, where they "
            f"are aligned to {value:.2f} (imbalance {between:.2f}), and {views}.",
        )
    else:
        lacking = [] if looked else ["no views"]
        lacking += [] if len(evidence.stacked) > 1 else ["no stacked maps"]
        unknown = f"; {' and '.join(lacking)} were given" if lacking else ""
        finding = _finding(
            rules.unexplained_low_rank,
            place.place,
            cut.lost_share,
            f"{seen}, and no cause was found{unknown}.",
        )
    return finding


def _augmentation(
    evidence: Evidence, index: int, cut: Cut, rules: Rules, seed: int
) -> tuple[bool, AugmentationRatio | None]:
    """Whether any views could be looked at, and the nearest place below at which augmentation explains."""
    target = evidence.places[index]
    # Without a place below, what little is left of the lost directions at the place itself has to tell.
    sources = [place for place in evidence.before(index) if place.views is not None] or [target]
    looked = False
    for source in sources:
        ratio = augmentation_ratio(
            source, target, cut.live, temperature=evidence.temperature or _ASSUMED_TEMPERATURE, seed=seed
        )
        if ratio is None:
            continue
        looked = True
        if rules.augmentation.fires(ratio.low) and ratio.lost > rules.kept_ratio * ratio.kept:
            return looked, ratio
    return looked, None


def _augmented(
    evidence: Evidence, place: PlaceEvidence, seen: str, ratio: AugmentationRatio, rules: Rules
) -> Finding:
    assumed = "" if evidence.temperature is not None else f", temperature {_ASSUMED_TEMPERATURE} assumed"
    source = next(other for other in evidence.places if other.place == ratio.place)
    shares = operation_shares(source)
    blamed = f"; {shares[0].operation} makes {100 * shares[0].share:.0f} % of it" if shares else ""
    return _finding(
        rules.augmentation,
        place.place,
        ratio.lost,
        f"{seen}, and in the lost directions of {ratio.place} augmentation weighs {ratio.lost:.2f} of the "
        f"data (95 % interval {ratio.low:.2f} to {ratio.high:.2f}{assumed}), in the kept ones "
        f"{ratio.kept:.2f}{blamed}.",
    )


def _stacked(evidence: Evidence, rules: Rules) -> tuple[float, int, float] | None:
    """Least block alignment, live directions of the product and largest imbalance, where the rule fires."""
    if len(evidence.stacked) < 2:
        return None
    squares = torch.linalg.svdvals(product(evidence.stacked).cpu()).square()
    possible = min(len(squares), *(min(map_.shape) for map_ in evidence.stacked))
    cut = low_rank(_spectrum_only(squares[:possible]), rules)
    pairs = list(zip(evidence.stacked, evidence.stacked[1:], strict=False))
    if cut is None or any(cut.live >= first.shape[0] for first, _ in pairs):
        return None
    value = min(block_alignment(first, second, cut.live) for first, second in pairs)
    if not rules.implicit_regularisation.fires(value):
        return None
    return value, cut.live, max(imbalance(first, second) for first, second in pairs)


def _spectrum_only(eigenvalues: Tensor) -> Shape:
    width = len(eigenvalues)
    return Shape(width + 1, width, 1.0, 0.0, 0, False, eigenvalues)
