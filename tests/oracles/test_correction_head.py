"""The head and the term of corrections against the oracle."""

import numpy as np
import pytest
import torch
from oracles import corrections as oracle

from fullrank.heads import CorrectionHead
from fullrank.objectives.terms import MMDTerm
from fullrank.step import Step

ROWS, WIDTH = 24, 3


def step_of(seed: int) -> Step:
    """Two views of rows with classes and two cues, of which some are unknown."""
    random = np.random.default_rng(seed)
    labels, background, other = (
        torch.from_numpy(random.choice([-1, 0, 0, 1, 1], ROWS)) for _ in ("label", "background", "object")
    )
    z = torch.from_numpy(random.normal(size=(2 * ROWS, WIDTH)) * 3)
    return Step(z, z, labels=labels, cues={"background": background, "object": other})


@pytest.mark.parametrize("cues", ["background", "background+object"])
def test_mmd_term_is_the_mean_over_views_and_cues(cues):
    for seed in range(4):
        step = step_of(seed)
        expected = [
            oracle.within_class_mmd(z.numpy(), step.labels.numpy(), step.cues[cue].numpy())
            for cue in cues.split("+")
            for z in (step.z_a, step.z_b)
        ]
        assert MMDTerm(label=cues)(step).item() == pytest.approx(sum(expected) / len(expected), rel=1e-9)


def test_correction_head_equals_the_oracle_and_adds_nothing_at_the_start():
    part = CorrectionHead(WIDTH, hidden=5).double()
    h = torch.randn(ROWS, WIDTH, dtype=torch.float64)
    assert torch.equal(part(h), h)
    for weight in part.parameters():
        torch.nn.init.normal_(weight)
    weights = [weight.detach().numpy() for weight in part.parameters()]
    expected = oracle.correction_vectors(h.numpy(), *weights)
    np.testing.assert_allclose(part.correction(h).detach().numpy(), expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(part(h).detach().numpy(), h.numpy() + expected, rtol=1e-9, atol=1e-12)
