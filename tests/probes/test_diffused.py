"""Diffused redundancy: known answers by construction, what a rotation changes, and edge cases."""

import pytest
import torch
from refusals import refuses

from fullrank.errors import DataError, UsageError
from fullrank.probes import LinearProbe, diffused_redundancy, least_dimensions, redundancy
from fullrank.probes.diffused import KINDS
from fullrank.probes.directions import LEAST, PRINCIPAL

Y = torch.arange(120) % 4
ONE_HOT = torch.eye(4, dtype=torch.float64)[Y]
QUICK = LinearProbe([1e-3])


def measured(x, y=Y, **how):
    n = 80
    probe = QUICK.fit(x[:n], y[:n])
    return redundancy(x[:n], y[:n], x[n:], y[n:], probe=probe, **{"draws": 2, **how})


def means(result, kind):
    return [each.mean for each in result.curves[kind]]


def rotation(width):
    gaussian = torch.randn(width, width, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return torch.linalg.qr(gaussian)[0]


def test_a_curve_gives_the_least_k_that_keeps_the_share():
    k, a = [1, 2, 4, 8, 12], [10.0, 72.0, 60.0, 79.0, 80.0]
    assert [least_dimensions(k, a, delta) for delta in (0.1, 0.5, 0.9, 0.98, 1.0)] == [1, 2, 2, 8, 12]
    assert diffused_redundancy(k, a) == 1 - 2 / 12 and diffused_redundancy(k, a, 1.0) == 0
    # A tie in exact arithmetic counts, whatever the rounding of the product.
    for full in range(1, 50):
        assert least_dimensions([1, 2], [0.9 * full / 49, full / 49]) == 1
        assert least_dimensions([1, 2], [(9 * full) / 490, full / 49]) == 1
    assert diffused_redundancy([1], [0.3]) == 0


@pytest.mark.parametrize(
    ("k", "a", "delta"), [([], [], 0.9), ([1, 2], [0.5], 0.9), ([1], [1.0], 0.0), ([1], [1.0], 1.5)]
)
def test_curves_and_shares_that_mean_nothing_are_refused(k, a, delta):
    with refuses(UsageError, str(len(k)) if len(k) != len(a) or not k else f"{delta:g}"):
        least_dimensions(k, a, delta)


def test_copies_of_one_channel_need_a_single_one():
    x = (Y % 2)[:, None].expand(-1, 16).double()
    result = measured(x, Y % 2)
    assert result.least_dimensions() == 1 and result.diffused() == 1 - 1 / 16
    assert result.least_dimensions(kind="random") == 1 == result.least_dimensions(kind="principal")
    # The 15 directions without variance hold nothing, so only all 16 do.
    assert result.least_dimensions(kind="least") == 16


def test_one_hot_channels_are_needed_each():
    """k of C one-hot channels leave C - k classes alike, of which a probe predicts one."""
    result = measured(ONE_HOT)
    assert means(result, "channels") == [0.5, 0.75, 1.0] and result.diffused() == 0
    assert [each.worst_class for each in result.curves["channels"]] == [0, 0, 1]
    assert result.least_dimensions(0.75) == 2 and result.least_dimensions(0.5) == 1


def test_a_rotation_changes_channels_and_neither_principal_nor_random_directions():
    x = torch.cat([ONE_HOT, torch.zeros(120, 12, dtype=torch.float64)], 1)
    x = x + 0.02 * torch.randn(120, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    plain, turned = (measured(each, draws=3, dimensions=[2, 4, 8]) for each in (x, x @ rotation(16)))
    for kind in ("principal", "least"):
        assert means(plain, kind) == means(turned, kind)
    assert turned.diffused() > plain.diffused()
    # Random directions of the rotated features are other draws of the same distribution.
    one, other = (sum(means(result, "random")) / len(means(result, "random")) for result in (plain, turned))
    assert one == pytest.approx(other, abs=0.06)
    assert plain.full == turned.full and plain.full_worst_class == turned.full_worst_class


def test_scale_shift_and_the_order_of_rows_change_nothing():
    x = ONE_HOT @ rotation(4) + 0.1 * torch.randn(120, 4, generator=torch.Generator().manual_seed(1))
    order = torch.cat([torch.randperm(80), 80 + torch.randperm(40)])
    two = {"dimensions": [2]}
    assert measured(x, **two) == measured(64 * x + 8, **two) == measured(x[order], Y[order], **two)


def test_every_kind_ends_at_all_features_and_the_grid_is_that_asked_for():
    x = torch.randn(120, 6, generator=torch.Generator().manual_seed(2)) + Y[:, None]
    result = measured(x, dimensions=[4, 2, 4])
    assert set(result.curves) == {kind.name for kind in KINDS}
    for curve in result.curves.values():
        assert [each.dimensions for each in curve] == [2, 4, 6]
        assert curve[-1].mean == result.full and curve[-1].worst_class == result.full_worst_class
    assert [len(result.curves[kind][0].accuracies) for kind in ("channels", "random", "least")] == [2, 2, 1]
    assert measured(x, dimensions=[6]).least_dimensions() == 6


def test_least_directions_are_the_last_principal_ones():
    x = torch.randn(50, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * torch.arange(
        1, 7
    )
    (first,), (last,) = PRINCIPAL.projections(x, 6), LEAST.projections(x, 6)
    torch.testing.assert_close(last(x, 6), first(x, 6).flip(1))
    torch.testing.assert_close(last(x, 2), first(x, 6)[:, [5, 4]])


@pytest.mark.parametrize("rows", [10, 40])
def test_least_directions_without_variance_hold_nothing_not_even_rounding(rows):
    """6 live directions of 24, with fewer rows than channels and with more."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, 6, generator=generator, dtype=torch.float64) @ rotation(24)[:6]
    (project,) = LEAST.projections(x, 24)
    assert not project(x, 18).any() and project(x, 18).shape[1] == 1
    assert [project(x, k).shape[1] for k in (19, 24)] == [1, 6]
    centred = x - x.mean(0)
    torch.testing.assert_close(project(x, 24).square().sum(1), centred.square().sum(1))


def test_more_channels_than_rows_are_measured_like_their_coordinates():
    generator = torch.Generator().manual_seed(0)
    narrow = ONE_HOT @ rotation(20)[:4] + 0.1 * torch.randn(120, 20, generator=generator, dtype=torch.float64)
    basis = torch.linalg.qr(torch.randn(200, 20, generator=generator, dtype=torch.float64))[0]
    few, many = (measured(x, dimensions=[2, 16]) for x in (narrow, narrow @ basis.T))
    assert (many.width, many.full) == (200, few.full)
    assert means(many, "principal")[:2] == means(few, "principal")[:2]
    # 180 directions are outside the span, so the least 16 predict one class.
    assert means(many, "least")[:2] == [0.25, 0.25]


def test_a_class_that_training_lacks_is_an_error_and_the_worst_class():
    y = Y.clone()
    y[-1] = 9
    result = measured(ONE_HOT, y)
    assert result.full == 39 / 40 and result.full_worst_class == 0


def test_words_are_taken_also_with_a_probe_that_was_fitted_on_words():
    words = [("north", "east", "south", "west")[label] for label in Y]
    x = ONE_HOT + 0.5 * torch.randn(120, 4, generator=torch.Generator().manual_seed(1))
    in_order = torch.tensor([sorted(set(words)).index(word) for word in words])
    assert measured(x, words, dimensions=[2]) == measured(x, in_order, dimensions=[2])


def test_one_channel_and_constant_features_have_no_redundancy_to_find():
    single = measured(ONE_HOT[:, :1])
    assert single.width == 1 and single.diffused() == 0 == single.diffused(kind="least")
    flat = measured(torch.ones(120, 4))
    assert flat.full == 0.25 and all(set(means(flat, kind.name)) == {0.25} for kind in KINDS)


def test_bad_input_is_refused():
    with refuses(UsageError, "dimensions", 4, 5):
        measured(ONE_HOT, dimensions=[5])
    with refuses(UsageError, "draws", 0):
        measured(ONE_HOT, draws=0)
    with refuses(DataError, 2, 1):
        redundancy(ONE_HOT[:80], torch.zeros(80, dtype=torch.int64), ONE_HOT[80:], Y[80:])
    with refuses(UsageError, 4, 3):
        redundancy(ONE_HOT[:80], Y[:80], ONE_HOT[80:, :3], Y[80:])
    with refuses(UsageError, "chanels", "channels", "random"):
        measured(ONE_HOT).diffused(kind="chanels")
