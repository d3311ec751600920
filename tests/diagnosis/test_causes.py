"""Every cause where it is the only one, what is healthy, and what an imposed rank hides."""

import dataclasses
import importlib.util
import math
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings, strategies as st

from fullrank.diagnosis import Evidence, PlaceEvidence, find_causes
from fullrank.diagnosis.causes import low_rank, measure
from fullrank.errors import DataError, UsageError
from fullrank.spectrum.rules import RULES

FILE = Path(__file__).parents[2] / "benchmarks" / "causes.py"


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("benchmark_causes", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def causes(*places, **more):
    return [(found.cause, found.place) for found in find_causes(Evidence(places, **more))]


def gaussian(n=500, d=32, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def broken(rank, n=500, d=32, seed=0):
    return gaussian(n, rank, seed) @ gaussian(rank, d, seed + 1)


def test_the_benchmark_in_its_quick_form(benchmark):
    rows = [benchmark.judge(case, range(2)) for case in benchmark.CASES if not case.slow]
    said = benchmark.summary(rows, range(2))
    assert "named 42 of 42 (100.0 %), false alarms 0 of 54 (0.0 %), false notes 0." in said


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 999), scale=st.sampled_from([1e-4, 1.0, 1e4]))
def test_scale_rotation_and_row_order_change_no_verdict(seed, scale):
    rotation = torch.linalg.qr(gaussian(32, 32, seed)).Q
    order = torch.randperm(500, generator=torch.Generator().manual_seed(seed))
    for x, expected in ((gaussian(), []), (broken(6), [("unexplained-low-rank", "z")])):
        assert causes(PlaceEvidence("z", scale * (x @ rotation)[order])) == expected


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_precision_is_judged(dtype):
    assert causes(PlaceEvidence("z", gaussian().to(dtype))) == []


def test_a_rank_that_the_head_imposes_is_no_finding_and_one_below_it_is():
    assert causes(PlaceEvidence("z", broken(24), imposed_rank=24)) == []
    assert causes(PlaceEvidence("z", broken(6), imposed_rank=24)) == [("unexplained-low-rank", "z")]
    idle = gaussian()
    idle[:, 24:] = 0
    assert causes(PlaceEvidence("z", idle, imposed_rank=24)) == []
    assert causes(PlaceEvidence("z", idle)) == [("dead-channels", "z")]
    assert causes(PlaceEvidence("z", gaussian(26), imposed_rank=24)) == []
    assert causes(PlaceEvidence("z", gaussian(26))) == [("too-few-samples", "z")]


def test_a_low_rank_is_told_where_it_is_first_seen():
    low, high = broken(6), gaussian()
    lower = low @ torch.linalg.qr(gaussian(32, 32)).Q[:, :2] @ gaussian(2, 32)
    assert causes(PlaceEvidence("a", high), PlaceEvidence("h", low), PlaceEvidence("z", 2 * low)) == [
        ("unexplained-low-rank", "h")
    ]
    assert causes(PlaceEvidence("h", low), PlaceEvidence("z", lower)) == [
        ("unexplained-low-rank", "h"),
        ("unexplained-low-rank", "z"),
    ]


def test_positive_features_have_a_large_mean_and_idle_channels_without_an_alarm():
    # Half normals, averaged over nine positions.
    x = torch.randn(9, 500, 32, generator=torch.Generator().manual_seed(0)).abs().mean(0)
    assert measure(x).mean_share > 0.9 and causes(PlaceEvidence("z", x)) == []
    assert causes(PlaceEvidence("z", -x)) == [("mean-dominance", "z")]
    x[:, :8] = 0
    (found,) = find_causes(Evidence((PlaceEvidence("z", x),)))
    assert (found.cause, found.level, found.value) == ("dead-channels", "note", 0.25)
    x[:, :24] = 0
    (found,) = find_causes(Evidence((PlaceEvidence("z", x),)))
    assert (found.level, found.value) == ("alarm", 0.75)


def test_a_cone_is_judged_where_cosines_are_taken():
    x = gaussian() - 10
    assert causes(PlaceEvidence("layer1", x), PlaceEvidence("h", x), PlaceEvidence("z", gaussian())) == [
        ("mean-dominance", "h")
    ]
    strong = find_causes(Evidence((PlaceEvidence("z", gaussian() - 1000),)))
    assert [found.cause for found in strong] == ["mean-dominance"]


@pytest.mark.parametrize("value", [0.0, 3.0, -1e6])
def test_constant_features_have_collapsed_completely(value):
    (found,) = find_causes(Evidence((PlaceEvidence("z", torch.full((10, 4), value)),)))
    assert found.cause == "complete-collapse" and found.value == 0 and found.value < found.threshold


def test_mean_and_spread_by_hand():
    shape = measure(torch.tensor([[3.0, 0.0], [5.0, 0.0]]))
    assert shape.mean_share == pytest.approx(16 / 17) and shape.spread == pytest.approx(math.sqrt(1 / 17))
    assert shape.dead == 1 and shape.eigenvalues.tolist() == pytest.approx([1.0])


@settings(max_examples=15, deadline=None)
@given(n=st.integers(4, 60), d=st.integers(2, 40), seed=st.integers(0, 99))
def test_the_spectrum_against_an_svd(n, d, seed):
    x = gaussian(n, d, seed).double()
    expected = torch.linalg.svdvals(x - x.mean(0))[: min(n - 1, d)] ** 2 / n
    torch.testing.assert_close(measure(x).eigenvalues, expected, rtol=1e-8, atol=1e-12)


def test_a_spectrum_that_fades_out_has_no_break_and_one_direction_needs_a_larger_one():
    fading = gaussian(1000, 200) * torch.exp(-0.15 * torch.arange(200))
    assert low_rank(measure(fading)) is None
    first = gaussian()
    first[:, 0] *= 7
    assert low_rank(measure(first)) is None
    first[:, 0] *= 10
    assert low_rank(measure(first)).live == 1


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
    for words in (
        "4 of 8 possible",
        "lost directions of h",
        "95 % interval",
        "temperature 0.1 assumed",
        "; noise",
    ):
        assert words in found.evidence
    (told,) = find_causes(augmentation_evidence(temperature=0.2))
    assert "assumed" not in told.evidence and told.value != found.value


def test_augmentation_that_is_as_strong_in_the_kept_directions_explains_nothing():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(600, 8, generator=generator)
    views = tuple(x + 2 * torch.randn(600, 8, generator=generator) for _ in range(2))
    z = x * torch.tensor([1.0] * 4 + [1e-3] * 4)
    (found,) = find_causes(Evidence((PlaceEvidence("h", x, views), PlaceEvidence("z", z))))
    assert found.cause == "unexplained-low-rank" and "no stacked maps were given" in found.evidence


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
    assert found.cause == "implicit-regularisation" and "no views were given" in found.evidence


def test_rules_can_be_changed():
    strict = dataclasses.replace(
        RULES, mean_dominance=dataclasses.replace(RULES.mean_dominance, threshold=0.1)
    )
    evidence = Evidence((PlaceEvidence("z", gaussian() - 0.6),))
    assert find_causes(evidence) == []
    (found,) = find_causes(evidence, strict)
    assert found.threshold == 0.1


def test_the_same_seed_gives_the_same_findings():
    assert find_causes(augmentation_evidence(), seed=3) == find_causes(augmentation_evidence(), seed=3)


def test_evidence_that_cannot_be_judged_is_refused():
    z = PlaceEvidence("z", gaussian())
    with pytest.raises(UsageError, match="1 place or more, but got 0"):
        Evidence(())
    with pytest.raises(UsageError, match="temperature must be a number above 0, but got -1"):
        Evidence((z,), temperature=-1)
    with pytest.raises(UsageError, match="4 outputs is followed by one of 5 inputs"):
        Evidence((z,), stacked=(torch.ones(4, 4), torch.ones(4, 5)))
    with pytest.raises(UsageError, match=r"as matrices \(out, in\), but got \(4,\)"):
        Evidence((z,), stacked=(torch.ones(4),))
    with pytest.raises(DataError, match=r"stacked map \(2, 2\) holds NaN"):
        Evidence((z,), stacked=(torch.full((2, 2), math.nan),))


def test_a_constant_added_to_healthy_features_is_a_cone_also_where_none_is_negative():
    x = torch.randn(2000, 32, generator=torch.Generator().manual_seed(0)) + 20
    assert x.min() > 0
    assert [found.cause for found in find_causes(Evidence((PlaceEvidence("z", x),)))] == ["mean-dominance"]
