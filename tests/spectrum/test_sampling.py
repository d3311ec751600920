"""The error of an effective rank against the spread over fresh samples, and what leaves it as it is."""

import pytest
import torch
from refusals import refuses

from fullrank.errors import DataError, UsageError
from fullrank.spectrum import effective_rank
from fullrank.spectrum.sampling import effective_rank_error


def draw(kind, rows, seed):
    x = torch.randn(rows, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    if kind == "power law":
        return x / torch.arange(1, 13)
    if kind == "low rank":
        x[:, 3:] *= 1e-3
        return x
    centres = torch.randn(4, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(99))
    return 0.3 * x + centres[torch.arange(rows) % 4]


@pytest.mark.parametrize("kind", ["power law", "low rank", "classes"])
def test_effective_rank_error_is_the_spread_over_samples(kind):
    ranks = torch.tensor([effective_rank(draw(kind, 300, seed)) for seed in range(150)])
    error = effective_rank_error(draw(kind, 300, 1000))
    # 150 draws leave 6 % of error in the spread itself; four of these.
    assert error == pytest.approx(float(ranks.std()), rel=0.25)


@pytest.mark.parametrize("rows", [60, 8])
def test_effective_rank_error_does_not_depend_on_order_rotation_offset_or_scale(rows):
    x = draw("power law", rows, 0)
    rotation = torch.linalg.qr(draw("power law", 12, 1))[0]
    changed = 7 * x.flip(0) @ rotation + 3
    assert effective_rank_error(changed) == pytest.approx(effective_rank_error(x), rel=1e-6)


def test_effective_rank_error_of_rows_that_coincide_and_of_bad_rows():
    assert effective_rank_error(torch.ones(5, 3)) == 0
    with refuses(DataError, 2, 1):
        effective_rank_error(torch.ones(1, 3))
    with refuses(UsageError, "rows", 5, 4):
        effective_rank_error(torch.ones(5, 3), rows=4)
    with refuses(DataError, 1, 2):
        effective_rank_error(torch.tensor([[1.0, 2.0], [torch.nan, 1.0]]))
