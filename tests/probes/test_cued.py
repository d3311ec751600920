"""How well a cue is read within a class."""

import pytest
import torch
from refusals import refuses

from fullrank.errors import DataError
from fullrank.probes import cue_accuracy


def rows(shown, count=60, seed=0):
    """Noise of unit variance plus `shown` times the cue, a class and a cue that is mostly the class."""
    labels = torch.arange(count) % 2
    cue = torch.where(torch.arange(count) // 2 % 5 == 0, 1 - labels, labels)
    noise = torch.randn(count, 2, generator=torch.Generator().manual_seed(seed))
    return noise + shown * cue[:, None] + 10 * labels[:, None], labels, cue


def test_a_cue_is_read_where_it_is_shown_and_the_class_does_not_help():
    read = {shown: cue_accuracy(*rows(shown, 300), *rows(shown, 300, seed=1)) for shown in (0, 20)}
    assert read[20] == 1.0
    assert read[0] == pytest.approx(0.5, abs=0.12)  # though class and cue agree in 80 % of the rows


def test_classes_with_one_value_and_unknown_rows_are_left_out():
    features, labels, cue = rows(20)
    third = torch.cat([labels, torch.full((5,), 2)]), torch.cat([cue, torch.zeros(5).long()])
    padded = torch.cat([features, torch.zeros(5, 2)])
    assert cue_accuracy(padded, *third, padded, *third) == 1.0
    wrong = torch.where(torch.arange(60) < 4, -1, cue)
    swapped = torch.where((torch.arange(60) < 4)[:, None], -features, features)
    assert cue_accuracy(features, labels, cue, swapped, labels, wrong) == 1.0
    with refuses(DataError, 2):
        cue_accuracy(features, labels, labels, features, labels, labels)
