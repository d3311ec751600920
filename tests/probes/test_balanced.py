"""Deep feature reweighting against the closed form of two Gaussian cues, and its invariances."""

import math

import pytest
import torch
from hypothesis import given, settings, strategies as st
from refusals import refuses

from fullrank.errors import DataError, UsageError
from fullrank.probes import LinearProbe, balanced, balanced_probe, group_accuracy
from fullrank.probes.probe import rows_by_value, shuffled

CORE, SPURIOUS, SPREAD = 1.0, 3.0, 1.0


def cued(counts, seed=0):
    """Features (core y, spurious s) with unit noise, labels, and groups 2 y + s, of so many rows a group."""
    groups = torch.repeat_interleave(torch.arange(4), torch.tensor(counts))
    labels, cue = groups // 2, groups % 2
    generator = torch.Generator().manual_seed(seed)
    noise = SPREAD * torch.randn(len(groups), 2, generator=generator, dtype=torch.float64)
    signs = torch.stack([CORE * (2 * labels - 1), SPURIOUS * (2 * cue - 1)], 1)
    return signs + noise, labels, groups


def normal_share(x):
    return 0.5 * math.erfc(-x / math.sqrt(2))


def test_the_spurious_direction_is_removed_and_the_core_one_is_that_of_the_closed_form():
    # y goes with s in 95 %. Where groups are balanced, s tells nothing of y, and the log-odds of y given x
    # are 2 CORE x_1 / SPREAD^2 exactly, though the classes are mixtures: each group has Phi(CORE / SPREAD).
    features, labels, groups = cued([9500, 500, 500, 9500])
    probe = balanced_probe(features, labels, groups, penalties=[1e-6])
    odds = probe.weight[1] - probe.weight[0]
    assert odds[0] == pytest.approx(2 * CORE / SPREAD**2, abs=0.12)
    assert abs(odds[1]) < 0.06 and abs(probe.bias[1] - probe.bias[0]) < 0.15
    plain = LinearProbe([1e-6]).fit(features, labels)
    assert (plain.weight[1] - plain.weight[0])[1] > 0.5
    test, test_labels, test_groups = cued([4000] * 4, seed=1)
    worst = {
        name: group_accuracy(each.predict(test), test_labels, test_groups).worst
        for name, each in (("balanced", probe), ("plain", plain))
    }
    assert worst["balanced"] == pytest.approx(normal_share(CORE / SPREAD), abs=0.03)
    assert worst["plain"] < 0.35


class Recorder(LinearProbe):
    """Keeps the first feature of the rows that it learns from: their numbers."""

    subsets: list

    def fit(self, features, labels):
        self.subsets.append(features[:, 0].long())
        self.penalty, self.weight, self.bias = 1.0, torch.zeros(2, 1), torch.zeros(2)
        return self


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=2, max_size=5), st.integers(0, 100))
def test_every_draw_has_as_many_rows_of_each_group_as_the_smallest(counts, seed):
    groups = torch.repeat_interleave(torch.arange(len(counts)) * 3, torch.tensor(counts))
    groups = groups[torch.randperm(len(groups), generator=torch.Generator().manual_seed(seed))]
    Recorder.subsets = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(balanced, "LinearProbe", Recorder)
        balanced_probe(torch.arange(len(groups))[:, None], groups, groups, draws=3, seed=seed)
    assert len(Recorder.subsets) == 3
    for rows in Recorder.subsets:
        assert len(set(rows.tolist())) == len(rows) == min(counts) * len(counts)
        assert torch.bincount(groups[rows] // 3).tolist() == [min(counts)] * len(counts)


def test_balanced_groups_and_one_draw_are_the_plain_probe():
    features, labels, groups = cued([30] * 4)
    one = balanced_probe(features, labels, groups, draws=1, penalties=[1e-2])
    plain = LinearProbe([1e-2]).fit(features, labels)
    torch.testing.assert_close(one.weight, plain.weight, atol=1e-5, rtol=1e-5)
    assert torch.equal(one.predict(features), plain.predict(features))


@pytest.mark.parametrize("treatment", ["raw", "l2", "standardised"])
def test_weights_are_the_mean_over_draws_at_one_penalty(treatment):
    features, labels, groups = cued([40, 8, 8, 40])
    grid = [1e-1, 1e-3]
    probe = balanced_probe(features, labels, groups, draws=3, penalties=grid, treatment=treatment, seed=3)
    assert probe.features == treatment and probe.classes.tolist() == [0, 1]
    generator, weights = torch.Generator().manual_seed(3), []
    for _ in range(3):
        rows = torch.cat([members[:8] for members in shuffled(rows_by_value(groups), generator)])
        fit = LinearProbe([probe.penalty], features=treatment).fit(features[rows], labels[rows])
        weights.append(fit.weight)
    torch.testing.assert_close(probe.weight, torch.stack(weights).mean(0), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("change", [lambda x: x + 1e3, lambda x: 1e-4 * x, lambda x: x.flip(1) * -1])
def test_a_shift_a_scale_and_a_rotation_change_no_prediction(change):
    features, labels, groups = cued([60, 12, 12, 60])
    test = cued([50] * 4, seed=2)[0]
    one, other = (
        balanced_probe(x, labels, groups, penalties=[1e-2], draws=2) for x in (features, change(features))
    )
    assert (one.predict(test) == other.predict(change(test))).double().mean() > 0.98


def test_rows_without_a_label_or_a_group_are_left_out():
    features, labels, groups = cued([30, 6, 6, 30])
    wild = torch.cat([features, torch.full((2, 2), torch.nan)])
    probe = balanced_probe(
        torch.where(torch.arange(74)[:, None] < 72, wild, 1e6),
        torch.cat([labels, torch.tensor([-1, 1])]),
        torch.cat([groups, torch.tensor([0, -1])]),
        penalties=[1e-2],
        draws=2,
    )
    plain = balanced_probe(features, labels, groups, penalties=[1e-2], draws=2)
    assert torch.equal(probe.weight, plain.weight)


def test_it_is_repeatable_and_leaves_the_global_generator_alone():
    features, labels, groups = cued([30, 6, 6, 30])
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    first, second = (
        balanced_probe(features, labels, groups, draws=2, penalties=[1e-1, 1e-2]) for _ in range(2)
    )
    assert torch.equal(torch.rand(2), expected) and torch.equal(first.weight, second.weight)


def test_errors():
    features, labels, groups = cued([4, 4, 4, 4])
    with refuses(DataError, 1, "of 5 groups", "first is 4"):
        balanced_probe(features, labels, groups, num_groups=5)
    with refuses(DataError, "2 groups", "got 1", "16", "LinearProbe"):
        balanced_probe(features, labels, torch.zeros_like(groups))
    with refuses(DataError, "2 classes", "got 1"):
        balanced_probe(features, torch.zeros_like(labels), groups)
    with refuses(UsageError, "draw", 1, "got 0", 10):
        balanced_probe(features, labels, groups, draws=0)
    with refuses(UsageError, "Labels", "groups", "16 and 3"):
        balanced_probe(features, labels, groups[:3])
    with refuses(UsageError, "raw", "l2", "standardised", "'whitened'"):
        balanced_probe(features, labels, groups, treatment="whitened")
