"""Two and four processes compute every term as one does, with the batch norms inside it."""

from functools import partial

import pytest
import torch
from gloo_group import in_processes

from fullrank.objectives import AUXILIARIES, auxiliary
from fullrank.objectives.terms.samples import PLACES, VIEW_DIMS, alternating_cues, random_numbers, taken
from fullrank.step import Step

IMAGES, WIDTH = 8, 3
NAMES = [entry.name for entry in AUXILIARIES]


def measured(name, rank=0, processes=1):
    """The term on a share of the images, and its gradient in h, in each place and in its own weights."""
    torch.manual_seed(0)
    sizes = {"in_dim": WIDTH, "out_dim": WIDTH, "num_classes": 3}
    term = auxiliary(name, **sizes, place_dims=dict.fromkeys(PLACES, WIDTH), view_dims=VIEW_DIMS).double()
    own = torch.arange(IMAGES).chunk(processes)[rank]
    both = torch.cat([own, own + IMAGES])
    everything = torch.randn(2 + len(term.places), 2 * IMAGES, WIDTH, dtype=torch.float64)
    h, z, *inner = (rows[both].requires_grad_() for rows in everything)
    features = dict(zip(term.places, inner, strict=True))
    labels = torch.arange(IMAGES)[own] % 2
    cues = {name: cue[own] for name, cue in alternating_cues(term.cues, IMAGES).items()}
    views = taken(random_numbers(IMAGES), own)
    step = Step(h, z, features, views, labels, torch.Generator().manual_seed(0), progress=0.7, cues=cues)
    value = term(step)
    inputs = [h, z, *inner, *term.parameters()]
    slopes = torch.autograd.grad(value, inputs, allow_unused=True, materialize_grads=True)
    return [value.detach(), *slopes], 2 + len(inner)


def share_of(processes, rank):
    return {name: measured(name, rank, processes)[0] for name in NAMES}


@pytest.fixture(scope="module", params=[2, 4])
def shares(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shares")
    return in_processes(partial(share_of, request.param), request.param, folder)


@pytest.mark.parametrize("name", NAMES)
def test_several_processes_have_the_loss_and_gradient_of_one(shares, name):
    (value, *slopes), rows = measured(name)
    values, *gradients = zip(*(share[name] for share in shares), strict=True)
    for each in values:  # so that the curve of the first process is that of all
        torch.testing.assert_close(each, value, rtol=1e-12, atol=0)
    for number, (slope, parts) in enumerate(zip(slopes, gradients, strict=True)):
        if number < rows:  # each process has the rows of its own images; first views, then second views
            halves = [torch.cat([part.chunk(2)[view] for part in parts]) for view in range(2)]
            average = torch.cat(halves) / len(shares)
        else:
            average = torch.stack(parts).mean(0)
        torch.testing.assert_close(average, slope, rtol=1e-9, atol=1e-13)
