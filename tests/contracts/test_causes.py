"""What every registered cause promises; a cause joins by being registered, with a case in `CASES`."""

import math
from collections.abc import Callable
from dataclasses import FrozenInstanceError, dataclass, is_dataclass, replace

import pytest
import torch
from torch import Tensor

from fullrank.diagnosis import Evidence, PlaceEvidence, find_causes
from fullrank.diagnosis.causes import CAUSES, Cause, Stage
from fullrank.diagnosis.norms import NormShift
from fullrank.diagnosis.rows import survey_features
from fullrank.diagnosis.tokens import TokenNorms
from fullrank.record import ProbedAgain


@dataclass(frozen=True)
class Case:
    """Evidence in which a cause is found, and like evidence that is healthy."""

    ill: Callable[[], Evidence]
    healthy: Callable[[], Evidence]


def gaussian(rows: int = 600, width: int = 16, seed: int = 0) -> Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))


def at_z(features: Tensor) -> Evidence:
    return Evidence((PlaceEvidence("z", features),))


def scaled(*parts: tuple[int, float]) -> Tensor:
    """A vector of so many entries of each value."""
    return torch.cat([torch.full((count,), value) for count, value in parts])


def through(scales: Tensor, noise: Tensor) -> Evidence:
    """Two places, z being h with its channels scaled; views of h with additive noise."""
    h = gaussian()
    views = (h + noise * gaussian(seed=1), h + noise * gaussian(seed=2))
    return Evidence((PlaceEvidence("h", h, views), PlaceEvidence("z", h * scales)))


def stacked(gains: Tensor) -> Evidence:
    """Two maps that share their directions, and what they make of Gaussian features."""
    left, middle, right = (torch.linalg.qr(gaussian(16, 16, seed)).Q for seed in (1, 2, 3))
    first, second = middle @ torch.diag(gains) @ right, left @ torch.diag(gains) @ middle.T
    return Evidence((PlaceEvidence("z", gaussian() @ (second @ first).T),), stacked=(first, second))


def twinned(share: float) -> Tensor:
    """Gaussian features, a share of which are equal to another row."""
    x = gaussian()
    pairs = int(share * len(x)) // 2
    x[:pairs] = x[-pairs:]
    return x


def split(share: float) -> Evidence:
    """Gaussian features, of which the last 100 are test rows; a share of these are training rows."""
    x = gaussian()
    leaked = int(share * 100)
    x[500 : 500 + leaked] = x[:leaked]
    return Evidence((PlaceEvidence("z", x),), survey=survey_features(x).of_split(range(500), range(500, 600)))


def rotated(decay: float) -> Tensor:
    """Features whose directions have standard deviations that fall by a factor, none of them a channel."""
    return gaussian() * decay ** torch.arange(16) @ torch.linalg.qr(gaussian(16, 16, 1)).Q


def probed_twice(scale: float, standardised: float) -> Evidence:
    """Features with one channel of another scale, and the accuracy of a probe on standardised channels."""
    z = PlaceEvidence("z", gaussian() * scaled((1, scale), (15, 1)))
    again = ProbedAgain(
        place="z", change="standardised channels", linear=standardised, before=0.5, tested=100
    )
    return Evidence((z,), probed_again=(again,))


def points(noise: float) -> Tensor:
    """Ten points with noise around them."""
    return gaussian(10, 16, 4).repeat(60, 1) + noise * gaussian()


def paired(distance: float) -> Evidence:
    """Two views that agree up to noise, at a distance along one axis."""
    x, away = gaussian(), distance * torch.eye(16)[0]
    return Evidence((PlaceEvidence("z", x, (x + away, x + 0.1 * gaussian(seed=1) - away)),))


def normed(features: Tensor, off: float) -> Evidence:
    """Features at h behind two batch norms, with this share of channels that do not fit."""
    norms = (NormShift("bn1", 8, 0.1, 0.1, off), NormShift("bn2", 8, -9.0, 0.1, off))
    return Evidence((PlaceEvidence("h", features),), norms=norms)


def with_tokens(norm: float) -> Evidence:
    """Healthy features, of images whose first patch token has this norm and whose others have norm 1."""
    norms = torch.ones(40, 49)
    norms[:, 0] = norm
    return replace(at_z(gaussian()), tokens=(TokenNorms.of("z", norms),))


CASES = {
    "batch-statistics": Case(lambda: normed(1 + 1e-5 * gaussian(), 1.0), lambda: normed(1 + gaussian(), 0.1)),
    "zero-rows": Case(
        lambda: at_z(gaussian() * scaled((60, 0), (540, 1))[:, None]),
        lambda: at_z(gaussian() * scaled((60, 1e-3), (540, 1))[:, None]),
    ),
    "duplicate-rows": Case(lambda: at_z(twinned(0.25)), lambda: at_z(twinned(0.01))),
    "leakage": Case(lambda: split(0.3), lambda: split(0.01)),
    "outlier-tokens": Case(lambda: with_tokens(12.0), lambda: with_tokens(3.0)),
    "complete-collapse": Case(lambda: at_z(1 + 1e-5 * gaussian()), lambda: at_z(1 + gaussian())),
    "dead-channels": Case(lambda: at_z(gaussian() * scaled((12, 1), (4, 0))), lambda: at_z(gaussian())),
    "mean-dominance": Case(lambda: at_z(gaussian() - 10), lambda: at_z(gaussian() - 1)),
    "class-collapse": Case(lambda: at_z(points(1e-3)), lambda: at_z(points(1.0))),
    "view-gap": Case(lambda: paired(8), lambda: paired(0.5)),
    "dimensional-collapse": Case(lambda: at_z(rotated(0.2)), lambda: at_z(rotated(0.7))),
    "uneven-scale": Case(lambda: probed_twice(1000, 0.9), lambda: probed_twice(1, 0.9)),
    "dominant-direction": Case(
        lambda: at_z(gaussian() * scaled((1, 100), (15, 1))),
        lambda: at_z(gaussian() * scaled((1, 2), (15, 1))),
    ),
    "too-few-samples": Case(lambda: at_z(gaussian(12)), lambda: at_z(gaussian(40))),
    "augmentation": Case(
        lambda: through(scaled((8, 1), (8, 1e-3)), scaled((8, 0.05), (8, 2))),
        lambda: through(scaled((8, 1), (8, 0.5)), scaled((8, 0.05), (8, 0.3))),
    ),
    "implicit-regularisation": Case(
        lambda: stacked(scaled((6, 1), (10, 1e-2))), lambda: stacked(scaled((6, 1), (10, 0.7)))
    ),
    "unexplained-low-rank": Case(
        lambda: at_z(gaussian(600, 4) @ gaussian(4, 16)),
        lambda: at_z(gaussian() @ torch.linalg.qr(gaussian(16, 16)).Q),
    ),
}


@pytest.fixture(params=[entry.name for entry in CAUSES])
def cause(request) -> Cause:
    return CAUSES.build(request.param)


def test_it_is_found_in_its_case_and_by_one_of_its_rules(cause):
    found = find_causes(CASES[cause.name].ill())
    assert {finding.cause for finding in found} == {cause.name}
    for finding in found:
        said = (finding.level, finding.measure, finding.threshold, finding.remedy)
        rules = {(rule.level, rule.measure, rule.threshold, rule.remedy): rule for rule in cause.rules}
        assert rules[said].fires(finding.value)
        assert finding.title == CAUSES[cause.name].summary and finding.evidence.endswith(".")


def test_nothing_is_found_in_its_healthy_control(cause):
    assert find_causes(CASES[cause.name].healthy()) == []


def test_it_is_found_by_itself_and_without_it_nothing_is_called_by_its_name(cause):
    evidence = CASES[cause.name].ill()
    assert {finding.cause for finding in find_causes(evidence, [cause])} == {cause.name}
    others = [CAUSES.build(entry.name) for entry in CAUSES if entry.name != cause.name]
    assert cause.name not in {finding.cause for finding in find_causes(evidence, others)}


def test_its_rules_fire_on_their_side_alone_and_name_one_sentence_to_try(cause):
    assert cause.rules
    for rule in cause.rules:
        beyond = math.inf if rule.side == "above" else -math.inf
        assert rule.fires(math.nextafter(rule.threshold, beyond))
        assert not rule.fires(rule.threshold)
        assert not rule.fires(math.nextafter(rule.threshold, -beyond))
        assert rule.remedy.endswith(".") and ". " not in rule.remedy


def test_a_rule_out_of_reach_silences_it(cause):
    far = {
        name: replace(rule, threshold=1e9 if rule.side == "above" else 0)
        for name, rule in vars(cause).items()
        if rule in cause.rules
    }
    assert find_causes(CASES[cause.name].ill(), [replace(cause, **far)]) == []


def test_it_is_a_frozen_dataclass_that_bears_the_name_of_its_entry(cause):
    assert is_dataclass(cause) and isinstance(cause.stage, Stage)
    assert CAUSES[cause.name].load() is type(cause)
    with pytest.raises(FrozenInstanceError):
        cause.rule = None


def test_its_summary_is_a_heading(cause):
    summary = CAUSES[cause.name].summary
    assert summary[0].isupper() and not summary.endswith(".")


# These look at single channels, so they may change when the axes are rotated.
BY_CHANNEL = {"dead-channels", "uneven-scale"}


def mapped(evidence: Evidence, change: Callable[[Tensor], Tensor]) -> Evidence:
    """The evidence with the features and the views at every place changed row by row."""

    def pair(views):
        return None if views is None else tuple(map(change, views))

    places = tuple(
        replace(
            place,
            features=change(place.features),
            views=pair(place.views),
            operations={name: pair(views) for name, views in place.operations.items()},
        )
        for place in evidence.places
    )
    return replace(evidence, places=places)


def reordered(evidence: Evidence) -> Evidence:
    count = len(evidence.places[0].features)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(5))
    places = tuple(replace(place, features=place.features[order]) for place in evidence.places)
    labels = None if evidence.labels is None else evidence.labels[order]
    return replace(evidence, places=places, labels=labels)


def turned(features: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(6)
    width = features.shape[1]
    turn = torch.linalg.qr(torch.randn(width, width, dtype=torch.float64, generator=generator)).Q
    return (features.double() @ turn).to(features.dtype)


def said(evidence: Evidence) -> list[tuple[str, str, str]]:
    return [(found.cause, found.place, found.level) for found in find_causes(evidence)]


@pytest.mark.parametrize("which", ["ill", "healthy"])
def test_it_depends_neither_on_the_order_of_rows_nor_on_their_unit(cause, which):
    evidence = getattr(CASES[cause.name], which)()
    if evidence.survey is None:  # a survey numbers the rows
        assert said(reordered(evidence)) == said(evidence)
    assert said(mapped(evidence, lambda x: 64 * x)) == said(evidence)


@pytest.mark.parametrize("which", ["ill", "healthy"])
def test_it_does_not_depend_on_the_axes_unless_it_looks_at_channels(cause, which):
    if cause.name in BY_CHANNEL:
        pytest.skip("it looks at single channels")
    evidence = getattr(CASES[cause.name], which)()
    assert said(mapped(evidence, turned)) == said(evidence)
