"""The parts that an objective says: they sum to the loss, also over views and processes, and draw nothing."""

import pytest
import torch
from gloo_group import in_processes

from fullrank import InfoNCELoss, VICRegLoss, objective
from fullrank.objectives.contract import loss_of_views, summands_of

SPECS = {
    "infonce:0.2": {"alignment", "uniformity"},
    "ntxent:0.5": {"alignment", "uniformity"},
    "spectral,mu=3": {"alignment", "uniformity"},
    "vicreg,variance=3": {"invariance", "variance", "covariance"},
    "barlow-twins": {"invariance", "redundancy"},
}


def views(count=2, n=12, width=5):
    generator = torch.Generator().manual_seed(count)
    images = torch.randn(n, width, generator=generator, dtype=torch.float64)
    return images + 0.5 * torch.randn(count, n, width, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("spec", SPECS)
def test_the_parts_sum_to_the_loss(spec, count):
    loss, z = objective(spec), views(count)
    parts = summands_of(loss, z, global_views=2)
    assert parts.keys() == SPECS[spec]
    torch.testing.assert_close(sum(parts.values()), loss_of_views(loss, z, global_views=2))


@pytest.mark.parametrize("spec", SPECS)
def test_the_parts_of_nested_widths_sum_to_their_mean(spec):
    loss, z = objective(spec, nested=(2, 5)), views()
    torch.testing.assert_close(sum(summands_of(loss, z).values()), loss_of_views(loss, z))


def test_the_alignment_is_the_distance_of_the_views_and_the_rest_does_not_see_which_belong_together():
    z = views()
    shuffled = torch.stack([z[0], z[1].roll(1, 0)])
    cosines = torch.cosine_similarity(*z, dim=1)
    for spec, temperature in (("infonce:0.2", 0.2), ("ntxent:0.5", 0.5)):
        parts, others = (summands_of(objective(spec), each) for each in (z, shuffled))
        torch.testing.assert_close(parts["alignment"], (1 - cosines).mean() / temperature)
        torch.testing.assert_close(parts["uniformity"], others["uniformity"])
        assert others["alignment"] > parts["alignment"]


def test_a_part_that_is_switched_off_is_zero():
    parts = summands_of(VICRegLoss(variance=0), views())
    assert parts["variance"] == 0 and parts["invariance"] > 0


def test_random_groups_have_no_parts_and_draw_nothing():
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    assert summands_of(InfoNCELoss(groups=5, generator=generator), views()) == {}
    assert torch.equal(generator.get_state(), before)


def test_an_objective_that_says_nothing_has_no_parts():
    assert summands_of(torch.nn.MSELoss(), views()) == {}


def _parts_of_share(rank):
    torch.set_num_threads(1)
    return [summands_of(objective(spec), views().chunk(2, 1)[rank]) for spec in SPECS]


def test_the_parts_are_those_of_the_rows_of_all_processes(tmp_path):
    shares = in_processes(_parts_of_share, 2, tmp_path)
    for spec, *parts in zip(SPECS, *shares, strict=True):
        whole = summands_of(objective(spec), views())
        for name, expected in whole.items():
            torch.testing.assert_close(torch.stack([each[name] for each in parts]).mean(), expected)
