"""The corrected participation ratio against the known one of the distribution that rows are drawn from."""

import pytest
import torch
from hypothesis import given, settings, strategies as st
from refusals import refuses

from fullrank.errors import DataError, UsageError
from fullrank.spectrum import (
    corrected_participation_ratio,
    corrected_participation_ratio_of,
    participation_ratio,
    singular_values,
)


def drawn(rows, scales, generator):
    return torch.randn(rows, len(scales), generator=generator, dtype=torch.float64) * scales


@pytest.mark.parametrize("rows", [16, 64, 200])
@pytest.mark.parametrize("scales", [torch.ones(40), torch.arange(1, 101) ** -0.25], ids=["flat", "power law"])
def test_its_mean_over_draws_is_the_known_one_where_the_plain_one_is_too_small(rows, scales):
    generator = torch.Generator().manual_seed(rows)
    draws = [drawn(rows, scales, generator) for _ in range(40)]
    known = float((scales**2).sum() ** 2 / (scales**4).sum())
    corrected = torch.tensor([corrected_participation_ratio(x) for x in draws]).mean()
    assert corrected == pytest.approx(known, rel=0.08)
    plain = torch.tensor([participation_ratio(x) for x in draws]).mean()
    assert plain < known / (1 + 0.5 * known / rows)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 99), scale=st.floats(1e-3, 1e3))
def test_it_knows_neither_axes_nor_unit_nor_order_nor_mean(seed, scale):
    generator = torch.Generator().manual_seed(seed)
    x = drawn(30, torch.arange(1, 7) ** -1.0, generator)
    rotation = torch.linalg.qr(drawn(6, torch.ones(6), generator)).Q
    order = torch.randperm(30, generator=generator)
    changed = scale * (x @ rotation)[order] + 7
    assert corrected_participation_ratio(changed) == pytest.approx(corrected_participation_ratio(x), rel=1e-8)


def test_the_twin_gives_the_same_and_many_rows_leave_the_plain_one():
    x = drawn(25, torch.ones(60), torch.Generator().manual_seed(0))
    assert corrected_participation_ratio_of(singular_values(x), rows=25) == corrected_participation_ratio(x)
    assert corrected_participation_ratio_of(torch.tensor([3.0, 1.0]), rows=10**9) == pytest.approx(1.6)


def test_what_is_not_defined_is_refused():
    assert corrected_participation_ratio(torch.ones(5, 3)) == 0
    with refuses(DataError, "4 rows"):
        corrected_participation_ratio(torch.eye(4))
    with refuses(UsageError, "rows", 1, "got 0"):
        corrected_participation_ratio_of(torch.ones(3), rows=0)
