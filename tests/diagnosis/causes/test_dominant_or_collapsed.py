"""One direction with nearly all variance: a collapse, or a healthy rest behind it."""

import pytest
import torch
from refusals import assert_names

from fullrank.diagnosis import Evidence, PlaceEvidence, find_causes
from fullrank.diagnosis.shape import low_rank_of, measure


def gaussian(n=600, d=64, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def turned(x):
    return x @ torch.linalg.qr(gaussian(x.shape[1], x.shape[1], 9)).Q


def found(features, **more):
    return find_causes(Evidence((PlaceEvidence("h", features),), **more))


def names(features, **more):
    return [(finding.cause, finding.level) for finding in found(features, **more)]


def decaying(first, factor, **more):
    """A share of the variance in the first direction; the others fall by a factor each."""
    rest = factor ** torch.arange(63.0)
    variances = torch.cat([torch.tensor([first]), (1 - first) * rest / rest.sum()])
    return turned(gaussian(**more) * variances.sqrt())


@pytest.mark.parametrize("factor", [0.3, 0.4, 0.5])
@pytest.mark.parametrize("rows", [60, 600])
def test_little_behind_the_first_direction_is_a_collapse_without_any_drop(factor, rows):
    x = decaying(0.97, factor, n=rows)
    assert low_rank_of(measure(x).eigenvalues, rows=rows) is None
    assert ("dimensional-collapse", "alarm") in names(x)
    assert ("dimensional-collapse", "note") in names(x, trained=False)


def test_a_smaller_share_or_a_longer_tail_is_no_collapse():
    assert names(decaying(0.85, 0.3)) == []
    assert names(decaying(0.97, 0.95)) == [("dominant-direction", "note")]


def test_between_the_limits_the_note_asks_for_the_net_before_training():
    (clear,), (unclear,) = found(decaying(0.97, 0.95)), found(decaying(0.97, 0.7))
    assert (unclear.cause, unclear.level) == ("dominant-direction", "note")
    assert "before training" in unclear.remedy and "before training" not in clear.remedy


@pytest.mark.parametrize("distance", [45, 60, 300])
def test_two_groups_are_named_with_their_rows(distance):
    x = gaussian()
    x[:200, 0] += distance
    x[200:, 0] -= distance
    for features in (x, turned(x)):
        (finding,) = found(features)
        assert (finding.cause, finding.level) == ("dominant-direction", "note")
        assert finding.rows == list(range(200))
        assert_names(finding.evidence, 400, 200, 63)


@pytest.mark.parametrize("scale", [40, 100, 1e6])
def test_one_large_channel_is_named(scale):
    x = gaussian()
    x[:, 5] *= scale
    (finding,) = found(x)
    assert (finding.cause, finding.level, finding.rows) == ("dominant-direction", "note", [])
    assert_names(finding.evidence, "Channel 5", 63)


@pytest.mark.parametrize(("scale", "expected"), [(20, []), (100, [("dominant-direction", "note")])])
def test_three_rogue_channels_of_many_are_a_note_or_nothing(scale, expected):
    x = gaussian(700, 384)
    x[:, [3, 5, 7]] *= scale
    assert names(x) == expected


def test_one_row_far_from_all_others_is_named():
    x = gaussian(500, 32)
    x[77] = 1e15
    (finding,) = found(x)
    assert (finding.cause, finding.level, finding.rows) == ("dominant-direction", "note", [77])


def test_a_line_with_a_little_noise_is_a_collapse_and_no_dominant_direction():
    line = gaussian(d=1) @ gaussian(1, 64, 1)
    for noise in (0, 1e-5, 1e-3):
        assert [level for _, level in names(line + noise * gaussian(seed=2))] == ["alarm"]


@pytest.mark.parametrize("separation", [1, 3, 6])
@pytest.mark.parametrize("classes", [3, 10])
def test_separate_classes_with_a_live_rest_are_no_collapse(classes, separation):
    means = separation * gaussian(classes, 256, 1)
    x = means[torch.arange(800) % classes] + gaussian(800, 256)
    assert names(x) == []


def test_an_exact_low_rank_stays_one_where_rows_are_few():
    for n, d, rank in ((12, 8, 3), (40, 8, 2), (30, 60, 4)):
        assert "alarm" in [level for _, level in names(gaussian(n, rank) @ gaussian(rank, d, 1))]


@pytest.mark.parametrize(("n", "d"), [(3, 2), (5, 4), (8, 8), (11, 10), (16, 8)])
@pytest.mark.parametrize("tails", ["gaussian", "student"])
def test_narrow_healthy_features_have_no_drop_by_chance(n, d, tails):
    generator = torch.Generator().manual_seed(n)
    draws = torch.randn(400, n, d, generator=generator, dtype=torch.float64)
    if tails == "student":
        draws /= torch.randn(400, n, d, 3, generator=generator).square().mean(-1).sqrt()
    spectra = torch.linalg.svdvals(draws - draws.mean(1, keepdim=True)).square()[:, : min(n - 1, d)]
    chance = [low_rank_of(values, rows=n) is not None for values in spectra]
    without = [low_rank_of(values) is not None for values in spectra]
    assert sum(chance) <= 8 and sum(chance) < sum(without)


def test_a_self_supervised_loss_leaves_no_direction_that_dominates_by_itself():
    x = gaussian() * torch.tensor([100.0, *[1.0] * 63])
    assert names(turned(x)) == names(x, supervised=False) == [("dominant-direction", "note")]
    assert names(turned(x), supervised=False) == [("unexplained-low-rank", "alarm")]
