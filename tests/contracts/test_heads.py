"""What every registered head promises; a head joins by being registered."""

import pytest
import torch
from refusals import refuses

from fullrank import head
from fullrank.errors import UsageError
from fullrank.heads import CONDITIONING, HEADS, Head
from fullrank.heads.norms import NORMS
from fullrank.registry import takes
from fullrank.testing import VIEW_DIMS, check_head

WIDTH = 12
SMALL = {"out_dim": 5, "dim": 5, "kappa": 1.1, "widths": "2-5"}


# Heads whose builder takes further inputs after h; all of them can be conditioned.
CONDITIONED = [entry.name for entry in HEADS if takes(entry.load(), "extra_dim")]


def specs(norm: str) -> list[str]:
    values = {entry.name: f":{SMALL[entry.value.name]}" if entry.value else "" for entry in HEADS}
    plain = [f"{name}{value}" for name, value in values.items()]
    conditioned = [f"{name}{values[name]},conditioned=views,embedded=7" for name in CONDITIONED]
    return [spec + norm for spec in (*plain, *conditioned)]


@pytest.fixture(params=[spec for norm in ("", *NORMS[1:]) for spec in specs(norm and f",norm={norm}")])
def spec(request) -> str:
    return request.param


@pytest.fixture
def part(spec) -> Head:
    torch.manual_seed(0)
    return head(spec, in_dim=WIDTH, view_dims=VIEW_DIMS)


def test_every_registered_head_keeps_the_contract(spec):
    check_head(spec, in_dim=WIDTH)


@pytest.mark.parametrize("shape", [(8, WIDTH + 1), (8, 2, WIDTH), (WIDTH,)])
def test_features_of_another_shape_raise(part, shape):
    with refuses(UsageError, shape, WIDTH):
        part(torch.randn(shape))


@pytest.mark.parametrize("spec", specs(",norm=batch"))
def test_batch_norm_standardises_without_a_parameter(part):
    z = part(torch.randn(500, WIDTH) * 3 + 5)
    torch.testing.assert_close(z.mean(0), torch.zeros(z.shape[1]), atol=1e-4, rtol=0)
    torch.testing.assert_close(z.std(0, correction=0), torch.ones(z.shape[1]), atol=2e-2, rtol=0)
    assert not list(part.norm.parameters())


@pytest.mark.parametrize("spec", specs(""))
def test_centring_and_scaling_are_the_halves_of_standardising(spec):
    h = torch.randn(500, WIDTH) * 3 + 5
    found = {}
    for norm in NORMS:
        torch.manual_seed(0)
        part = head(f"{spec},norm={norm}", in_dim=WIDTH, view_dims=VIEW_DIMS)
        found[norm] = torch.stack([part(h), part.eval()(h)]) if "random" not in spec else part(h)[None]
    plain = found["none"][0]
    torch.testing.assert_close(found["centre"][0], plain - plain.mean(0))
    torch.testing.assert_close(found["scale"][0], plain / plain.std(0, correction=0), rtol=1e-4, atol=1e-4)
    centred = found["scale"][0] - found["scale"][0].mean(0)
    torch.testing.assert_close(centred, found["batch"][0], rtol=1e-4, atol=1e-4)
    if "random" not in spec:  # in eval: running statistics, which all three keep alike
        shift = found["none"][1] - found["centre"][1]
        factor = found["none"][1] / found["scale"][1]
        whole = (found["none"][1] - shift) / factor
        torch.testing.assert_close(whole, found["batch"][1], rtol=1e-4, atol=1e-4)


def test_every_entry_names_its_source_and_meaning():
    for entry in HEADS:
        assert entry.source and entry.summary, entry.name


def test_the_option_conditioned_is_of_the_heads_whose_builder_takes_further_inputs():
    offering = [entry.name for entry in HEADS if set(CONDITIONING) <= set(entry.options)]
    assert offering == CONDITIONED and {"linear", "mlp"} <= set(offering)
