"""The causes that explain a low rank, one by one."""

import dataclasses

import pytest
import torch
from refusals import assert_names, refuses

from fullrank.diagnosis import Evidence, PlaceEvidence, find_causes
from fullrank.diagnosis.causes import Augmentation, UnexplainedLowRank
from fullrank.diagnosis.shape import LowRankLimits
from fullrank.errors import UsageError


def causes(*places, **more):
    return [(found.cause, found.place) for found in find_causes(Evidence(places, **more))]


def augmentation_evidence(**more):
    """Two channels that z lost; views that move them a lot."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(600, 8, generator=generator)
    scale = torch.tensor([0.05] * 4 + [2.0] * 4)
    noise = [scale * torch.randn(600, 8, generator=generator) for _ in range(2)]
    blur = torch.tensor([0.1] * 8)
    views = (x + noise[0], x + noise[1])
    operations = {"noise": views, "blur": (x + blur * noise[0], x + blur * noise[1])}
    z = x * torch.tensor([1.0] * 4 + [1e-3] * 4)
    return Evidence((PlaceEvidence("h", x, views, operations), PlaceEvidence("z", z)), **more)


def test_augmentation_names_the_operation_and_says_what_it_assumed():
    (found,) = find_causes(augmentation_evidence())
    assert (found.cause, found.place) == ("augmentation", "z") and found.value > found.threshold
    assert_names(found.evidence, "4 of 8", "h", f"{found.value:.2f}", "95 %", "temperature 0.1", "noise")
    (other,) = find_causes(augmentation_evidence(temperature=0.2))
    assert "temperature" not in other.evidence and other.value != found.value


def test_augmentation_that_is_as_strong_in_the_kept_directions_explains_nothing():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(600, 8, generator=generator)
    views = tuple(x + 2 * torch.randn(600, 8, generator=generator) for _ in range(2))
    z = x * torch.tensor([1.0] * 4 + [1e-3] * 4)
    (found,) = find_causes(Evidence((PlaceEvidence("h", x, views), PlaceEvidence("z", z))))
    assert found.cause == "unexplained-low-rank"
    assert "stacked" in found.evidence and "views" not in found.evidence


def test_the_same_seed_gives_the_same_findings_and_another_one_another_interval():
    first, second, other = (find_causes(augmentation_evidence(), seed=seed) for seed in (3, 3, 4))
    assert first == second != other
    assert find_causes(augmentation_evidence(seed=3)) == first


def test_kept_ratio_decides_and_is_a_ratio():
    evidence = augmentation_evidence()
    assert [found.cause for found in find_causes(evidence, [Augmentation(kept_ratio=1e6)])] == []
    assert [found.cause for found in find_causes(evidence, [Augmentation()])] == ["augmentation"]
    with refuses(UsageError, "kept_ratio", 1, 0.5):
        Augmentation(kept_ratio=0.5)


def test_maps_that_are_low_rank_without_being_aligned_are_no_implicit_regularisation():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(600, 16, generator=generator)
    first, second = (
        torch.randn(16, 6, generator=generator) @ torch.randn(6, 16, generator=generator) for _ in "ab"
    )
    place = PlaceEvidence("z", x @ (second @ first).T)
    assert causes(place, stacked=(first, second)) == [("unexplained-low-rank", "z")]
    left, middle, right = (torch.linalg.qr(torch.randn(16, 16, generator=generator)).Q for _ in "abc")
    gains = torch.diag(torch.tensor([1.0] * 6 + [1e-2] * 10))
    first, second = middle @ gains @ right, left @ gains @ middle.T
    place = PlaceEvidence("z", x @ (second @ first).T)
    (found,) = find_causes(Evidence((place,), stacked=(first, second)))
    assert found.cause == "implicit-regularisation"
    assert_names(found.evidence, "6 of 16", "2 linear maps", "after 6", f"{found.value:.2f}", "no views")


def test_a_drop_that_no_single_map_makes_is_implicit_regularisation_without_alignment():
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(600, 16, generator=generator)
    maps = [torch.randn(16, 16, generator=generator) / 4 for _ in range(12)]
    value = x
    for weight in maps:
        value = value @ weight.T
    place = PlaceEvidence("z", value)
    (found,) = find_causes(Evidence((place,), stacked=tuple(maps)))
    assert found.cause == "implicit-regularisation" and found.value < 0.5
    # The same product from one map with all of the drop.
    first = torch.linalg.multi_dot(maps[::-1])
    rotation = torch.linalg.qr(torch.randn(16, 16, generator=generator)).Q
    assert causes(PlaceEvidence("z", value @ rotation.T), stacked=(first, rotation)) == [
        ("unexplained-low-rank", "z")
    ]


def test_the_last_resort_obeys_its_threshold_and_the_limits_of_the_evidence():
    generator = torch.Generator().manual_seed(0)
    z = PlaceEvidence(
        "z", torch.randn(500, 18, generator=generator) @ torch.randn(18, 20, generator=generator)
    )
    cause = UnexplainedLowRank()
    # A tenth is lost: just what the limits ask, and the threshold of the rule.
    (found,) = find_causes(Evidence((z,)), [cause])
    assert found.value == pytest.approx(0.1)
    assert find_causes(Evidence((z,), limits=LowRankLimits(lost_share=0.2)), [cause]) == []
    stricter = dataclasses.replace(cause, rule=dataclasses.replace(cause.rule, threshold=0.2))
    assert find_causes(Evidence((z,)), [stricter]) == []
