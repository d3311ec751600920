"""What correction vectors do by group: closed forms, and what the shares say."""

import pytest
import torch
from refusals import assert_names, refuses
from transparent import Pixels, coded_images, pixel_rows

from fullrank.errors import DataError, UsageError
from fullrank.evaluation.correction_table import head_corrections
from fullrank.heads import Head
from fullrank.probes import correction_effect
from fullrank.record import CorrectionTable
from fullrank.reports.corrections import MOST_SHOWN, correction_figure, correction_sentence


def test_means_and_shares_are_those_of_each_group_in_any_row_order():
    vectors = torch.randn(30, 4, dtype=torch.float64)
    groups = torch.arange(30) % 3 * 2
    vectors[4], groups[4] = torch.inf, -1
    order = torch.randperm(30)
    effect = correction_effect(vectors[order], groups[order])
    assert effect.groups.tolist() == [0, 2, 4] and effect.counts.tolist() == [10, 9, 10]
    members = [vectors[groups == group] for group in (0, 2, 4)]
    torch.testing.assert_close(effect.mean, torch.stack([each.mean(0) for each in members]))
    torch.testing.assert_close(effect.size, torch.stack([each.abs().mean(0) for each in members]))
    within = sum(float((each - each.mean(0)).square().sum()) for each in members)
    total = float(torch.cat(members).square().sum())
    assert effect.common + effect.between + within / total == pytest.approx(1)


def test_a_shift_of_all_rows_is_common_and_one_of_groups_is_between():
    groups = torch.tensor([0, 0, 1, 1])
    one = correction_effect(torch.ones(4, 3), groups)
    assert (one.common, one.between) == (1, 0)
    two = correction_effect(torch.tensor([[1.0, 0.0]] * 2 + [[-1.0, 0.0]] * 2), groups)
    assert (two.common, two.between) == (0, 1)
    none = correction_effect(torch.zeros(4, 3), groups)
    assert (none.common, none.between) == (0, 0)


def test_channels_are_sorted_by_their_difference_between_groups_then_by_size():
    vectors = torch.tensor([[5.0, 1.0, 0.0, 6.0], [5.0, -1.0, 0.5, 6.0]])
    assert correction_effect(vectors, torch.tensor([0, 1])).differing(9).tolist() == [1, 2, 3, 0]
    assert correction_effect(vectors, torch.tensor([0, 0])).differing(2).tolist() == [3, 0]


def test_what_cannot_be_grouped_is_refused():
    with refuses(UsageError, 3, 2):
        correction_effect(torch.ones(3, 2), torch.zeros(2, dtype=torch.int64))
    with refuses(DataError, 3):
        correction_effect(torch.ones(3, 2), torch.full((3,), -1))
    with refuses(DataError, "finite"):
        correction_effect(torch.full((3, 2), torch.nan), torch.zeros(3, dtype=torch.int64))


class ShadeCorrected(Head):
    """Add what removes the code of the shade from h: minus the pixels 8 and 9, and 0 elsewhere."""

    def __init__(self, in_dim: int):
        super().__init__(in_dim, in_dim)

    def correction(self, h):
        return -h * ((torch.arange(self.in_dim) == 8) | (torch.arange(self.in_dim) == 9))

    def project(self, h):
        return h + self.correction(h)


def test_the_channels_that_show_a_cue_are_those_that_the_table_names():
    test = coded_images("test")
    shade, group = head_corrections(Pixels(1, 4), ShadeCorrected(16), test, ("shade",))
    assert (shade.label, shade.values, group.label, len(group.values)) == (
        "shade",
        ["dark", "light"],
        "group",
        8,
    )
    assert set(shade.channels[:2]) == {8, 9} and not any(any(row[2:]) for row in shade.size)
    level = 120 / 255
    by_channel = {channel: [row[at] for row in shade.mean] for at, channel in enumerate(shade.channels)}
    assert by_channel[8] == pytest.approx([-level, 0]) and by_channel[9] == pytest.approx([0, -level])
    assert (shade.common, shade.between) == pytest.approx((0.5, 0.5))
    spread = pixel_rows("test").double().std(0, correction=0).mean()
    assert shade.share == pytest.approx(level / 16 / float(spread), rel=1e-5)
    assert_names(correction_sentence(shade), "50.0 %", "0.0 %", "dark", "light", *shade.counts)


def test_heads_that_correct_nothing_have_no_table():
    assert not head_corrections(Pixels(1, 4), torch.nn.Identity(), coded_images("test"), ("shade",))


def table_of(values, channels, mean, **more):
    sizes = {"mean": [[mean] * channels] * values, "size": [[abs(mean)] * channels] * values}
    named = {"values": [f"<v{n}>" for n in range(values)], "counts": [5] * values, "width": channels}
    shares = {"common": float(mean != 0), "between": 0.0}
    return CorrectionTable(
        method="head", label="c", channels=[*range(channels)], **named, **sizes, **shares, **more
    )


def test_a_figure_shows_the_first_channels_and_a_scale_with_zero_in_its_middle():
    (heat,) = correction_figure(table_of(2, 60, 0.5)).data
    assert (len(heat.z), len(heat.z[0]), heat.zmin, heat.zmax) == (2, MOST_SHOWN, -0.5, 0.5)
    assert correction_figure(table_of(1, 3, 0.0)).data[0].zmax > 0


def test_sentences_of_a_head_that_did_not_move_and_of_one_value():
    assert_names(correction_sentence(table_of(2, 7, 0.0)), 0, 7)
    assert_names(correction_sentence(table_of(1, 7, 0.5, share=0.25)), "<v0>", "25.0 %", "100.0 %")
