"""What a term of the loss is given: pixels are features, so each row can be told from every other."""

import lightning.pytorch as pl
import pytest
import torch
from runs import quiet_trainer
from torch import nn
from torch.utils.data import DataLoader
from transparent import Pixels

from fullrank import JointEmbedding, Optimizer, head, source, view_pipeline
from fullrank.data import BatchLoader
from fullrank.objectives.terms.contract import Auxiliary
from fullrank.views import step_generator

SPEC = "simclr,scale=0.3,blur=0"


class Recorder(Auxiliary):
    """A term that keeps every step, and pulls one weight towards the mean of h."""

    needs = frozenset({"views", "generator"})
    places = ("loud",)

    def __init__(self, weight: float = 1.0):
        super().__init__(weight)
        self.pull = nn.Parameter(torch.zeros(()))
        self.steps = []

    def forward(self, step):
        self.steps.append(step)
        return (self.pull - step.h.mean()).square() + 1


class TwoPlaces(Pixels):
    """h is all pixels; `loud` is the first four of them."""

    places = ("loud",)

    def features(self, x, places):
        return {place: x.flatten(1)[:, : 4 if place == "loud" else None] for place in places}


@pytest.fixture
def batch():
    return next(iter(BatchLoader(source("digits").load("train").limited(32, seed=0), 16, seed=0)))


def module_with(*terms, passes=1):
    views = view_pipeline(SPEC, image_size=8, channels=1)
    parts = TwoPlaces(1, 8), head("linear:5", in_dim=64), nn.MSELoss(), views
    return JointEmbedding(*parts, Optimizer(lr=0.1), terms=terms, encoder_passes=passes)


@pytest.mark.parametrize("passes", [1, 2])
def test_a_term_sees_the_rows_of_the_step_and_the_parameters_that_made_them(batch, passes):
    term = Recorder(0.25)
    module = module_with(term, passes=passes)
    made = module.step(batch, 3, 7, progress=0.5)
    (step,) = term.steps
    drawn = module.draw(batch, step_generator(0, 3, 7))
    view_a, view_b = module.views.apply(batch, drawn)
    assert torch.equal(step.h_a, view_a.flatten(1)) and torch.equal(step.h_b, view_b.flatten(1))
    assert torch.equal(step.features["loud"], step.h[:, :4])
    assert torch.equal(step.z, module.head(step.h)) and torch.equal(step.labels, batch.labels)
    for name, numbers in drawn.numbers().first.items():
        assert torch.equal(step.views.first[name], numbers)
        assert torch.equal(step.views.second[name], drawn.numbers().second[name])
    again = step_generator(0, 3, 7, stream=1)
    assert torch.equal(torch.rand(3, generator=step.generator), torch.rand(3, generator=again))
    assert step.progress == 0.5
    losses = {"objective": nn.MSELoss()(step.z_a, step.z_b), "Recorder": 0.25 * (step.h.mean().square() + 1)}
    assert made.losses.keys() == losses.keys()
    for name, loss in losses.items():
        assert torch.allclose(made.losses[name], loss)
    assert torch.allclose(made.loss, sum(losses.values()))


def test_what_no_part_asks_for_is_not_made(batch):
    step = module_with().step(batch, 0, 0)
    assert step.views is None and step.generator is None and not step.features


@pytest.mark.filterwarnings("ignore")
def test_progress_rises_from_nothing_and_the_weights_of_a_term_are_trained():
    term = Recorder()
    batches = list(BatchLoader(source("digits").load("train").limited(64, seed=0), 16, seed=0))
    trainer: pl.Trainer = quiet_trainer(max_epochs=2)
    trainer.fit(module_with(term), DataLoader(batches, batch_size=None))
    assert [step.progress for step in term.steps] == [n / 8 for n in range(8)]
    assert float(term.pull) > 0.05
