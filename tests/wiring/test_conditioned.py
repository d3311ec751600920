"""Which parameters a head is given: z is the parameters themselves, so a swap of views is a wrong number."""

import pytest
import torch
from refusals import refuses
from torch import nn
from transparent import Pixels

from fullrank import JointEmbedding, export, load, load_exported, objective, source, train, view_pipeline
from fullrank.data import BatchLoader
from fullrank.diagnosis.features import collect, view_batches
from fullrank.diagnosis.layers import gradient_ranks
from fullrank.diagnosis.subject import Subject
from fullrank.errors import UsageError
from fullrank.studies.cite import cite
from fullrank.views import step_generator

VIEWS = view_pipeline("simclr,scale=0.3,blur=0", image_size=8, channels=1)
COUNT = sum(VIEWS.number_dims.values())


class Shown(nn.Module):
    """z is the parameters of each row's view, and the first pixel of its image."""

    needs = frozenset({"views"})

    def __init__(self, in_dim: int):
        super().__init__()
        self.in_dim, self.out_dim, self.given = in_dim, COUNT + 1, []

    def forward(self, h, views=None):
        self.given.append(views)
        views = torch.zeros(len(h), COUNT) if views is None else views
        return torch.cat([views, h[:, :1]], 1)


@pytest.fixture
def batch():
    return next(iter(BatchLoader(source("digits").load("train").limited(32, seed=0), 16, seed=0)))


def expected_rows(drawn, batch):
    """z as it must be: first views and then second ones."""
    numbers = drawn.numbers()
    pixels = [view.flatten(1)[:, :1] for view in VIEWS.apply(batch, drawn)]
    views = (numbers.first, numbers.second)
    return torch.cat([torch.cat([*view.values(), p], 1) for view, p in zip(views, pixels, strict=True)])


@pytest.mark.parametrize("passes", [1, 2])
def test_each_row_of_a_step_has_the_parameters_of_its_own_view(batch, passes):
    module = JointEmbedding(Pixels(1, 8), Shown(64), nn.MSELoss(), VIEWS, encoder_passes=passes)
    drawn = module.draw(batch, step_generator(0, 3, 7))
    z = module.step(batch, 3, 7).z
    assert torch.equal(z, expected_rows(drawn, batch))
    assert not torch.equal(z, expected_rows(drawn, batch).roll(16, 0))


def test_each_process_gives_the_parameters_of_its_share(batch, monkeypatch):
    module = JointEmbedding(Pixels(1, 8), Shown(64), nn.MSELoss(), VIEWS)
    whole = module.step(batch, 0, 0)
    monkeypatch.setattr("fullrank.training.module.process_count", lambda: 2)
    for rank in range(2):
        monkeypatch.setattr("fullrank.training.module.process_rank", lambda rank=rank: rank)
        share = slice(8 * rank, 8 * rank + 8)
        images = batch.images[share]
        mine = module.step(type(batch)(images, batch.labels[share], batch.index[share]), 0, 0)
        assert torch.equal(mine.z_a, whole.z_a[share]) and torch.equal(mine.z_b, whole.z_b[share])


def test_a_diagnosis_gives_the_parameters_of_its_views_and_none_of_whole_images():
    images = source("digits").load("test").limited(20, seed=0)
    subject = Subject("pixels", Pixels(1, 8), Shown(64), None, images, VIEWS)
    evidence = collect(subject, ["z"]).evidence.places[0]
    assert not evidence.features[:, :COUNT].any()
    z = torch.cat(evidence.views)
    crops, flips, colours = z[:, :4], z[:, 4], z[:, 5:COUNT]
    assert (crops[:, 2:] < 1).any() and set(flips.tolist()) == {0.0, 1.0} and (colours != 0).any()
    only = torch.cat(evidence.operations["flip"])  # all others are off
    assert torch.equal(only[:, :4], torch.tensor([0.5, 0.5, 1, 1]).expand(40, -1))
    assert set(only[:, 4].tolist()) == {0.0, 1.0} and not only[:, 5:COUNT].any()


def test_the_gradient_rank_is_that_of_the_loss_with_the_parameters():
    images = source("digits").load("test").limited(40, seed=0)
    head = Shown(64)
    gradient_ranks(Pixels(1, 8), head, objective("infonce:0.2"), VIEWS, images, ["h"], limit=40)
    (_, drawn) = next(view_batches(images, VIEWS, 0, 40))
    given = torch.cat(head.given[:2])  # in pieces of 64 and 16 rows
    assert torch.equal(given, drawn.numbers().joined())


def test_a_head_that_was_built_for_other_views_is_refused():
    head = Shown(64)
    head.view_dims = {"crop": 4}
    with refuses(UsageError, {"crop": 4}, VIEWS.number_dims):
        JointEmbedding(Pixels(1, 8), head, nn.MSELoss(), VIEWS)


def test_a_run_with_a_conditioned_head_is_read_back_exported_and_cited(tmp_path):
    settings = {"encoder": "tiny-resnet,width=4", "classes": "3+8", "limit": 100, "batch_size": 50}
    run = train(
        "digits", out=tmp_path / "run", head="mlp:6,conditioned=views,embedded=5", epochs=1, **settings
    )
    part, h, images = load(run.path).head, torch.randn(4, 16), torch.rand(3, 1, 8, 8)
    assert torch.equal(part(h), part(h, views=part.neutral.expand(4, -1)))
    assert torch.equal(part(h), run.head(h))
    assert run.fresh_head().view_dims == part.view_dims == {"crop": 4, "flip": 1, "colour": 2}
    assert run.record.runs[0].conditioned and list(run.record.runs[0].probes) == ["h", "head.1", "z"]
    (file,) = export(run, tmp_path / "z.safetensors", place="z")
    assert torch.equal(load_exported(file)(images), run.head(run.encoder(images)))
    assert "2306.06082" in cite(run)
