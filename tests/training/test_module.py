"""The LightningModule on its own: schedules, parameter groups, foreign losses, foreign trainers."""

import copy
import csv
from dataclasses import replace
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from runs import quiet_trainer
from torch.utils.data import DataLoader

from fullrank import JointEmbedding, Optimizer, encoder, head, source, view_pipeline
from fullrank.data import BatchLoader
from fullrank.training.module import build_optimizer, warmup_cosine
from fullrank.views import step_generator


class Attraction(torch.nn.Module):
    """A loss from somewhere else: called as loss(z0, z1), knows nothing of this package."""

    def forward(self, z0, z1):
        return 1 - torch.nn.functional.cosine_similarity(z0, z1).mean()


@pytest.fixture
def module() -> JointEmbedding:
    torch.manual_seed(0)
    views = view_pipeline("weak", image_size=8, channels=1)
    return JointEmbedding(
        encoder("tiny-resnet,width=4", image_size=8, in_chans=1),
        head("mlp:6", in_dim=16),
        Attraction(),
        views,
        Optimizer(),
    )


@pytest.mark.filterwarnings("ignore")
def test_a_foreign_loss_under_a_foreign_trainer_and_dataloader(module):
    batches = list(BatchLoader(source("digits").load("train").limited(64, seed=0), 16, seed=0))
    before = [p.clone() for p in module.encoder.parameters()]
    trainer = quiet_trainer(max_epochs=1)
    trainer.fit(module, DataLoader(batches, batch_size=None))
    assert trainer.global_step == 4 and torch.isfinite(trainer.callback_metrics["loss"])
    assert any(not torch.equal(a, b) for a, b in zip(before, module.encoder.parameters(), strict=True))


@pytest.mark.filterwarnings("ignore")
def test_a_foreign_logger_has_the_loss_of_its_steps_and_a_callback_that_of_each(module, tmp_path):
    """A ModelCheckpoint that watches the loss may look in the middle of an epoch."""
    losses, seen = [], []

    class Watch(pl.Callback):
        def on_train_batch_end(self, trainer, module, *_):
            losses.append(float(module.latest.loss))
            seen.append(float(trainer.callback_metrics["loss"]))

    batches = list(BatchLoader(source("digits").load("train").limited(80, seed=0), 16, seed=0))
    logger = CSVLogger(tmp_path)
    trainer = quiet_trainer(max_epochs=2, logger=logger, log_every_n_steps=3, callbacks=[Watch()])
    trainer.fit(module, DataLoader(batches, batch_size=None))
    rows = list(csv.DictReader((Path(logger.log_dir) / "metrics.csv").open()))
    assert {int(row["step"]): float(row["loss"]) for row in rows} == pytest.approx(
        {step: losses[step] for step in (2, 5, 8)}
    )
    assert seen == pytest.approx(losses)


def test_one_encoder_call_serves_both_views(module):
    calls = []
    module.encoder.register_forward_hook(lambda m, inputs, output: calls.append(len(inputs[0])))
    module.log = lambda *a, **k: None
    module.trainer = quiet_trainer()
    batch = next(iter(BatchLoader(source("digits").load("train"), 16, seed=0)))
    module.training_step(batch, 0)
    assert calls == [32] and module.latest.z_a.shape == (16, 6)


def test_norms_and_other_1d_parameters_have_no_decay(module):
    for name in ("adamw", "sgd", "lars"):
        optimizer = build_optimizer(Optimizer(name=name, weight_decay=0.3), [module.encoder, module.head])
        decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
        parameters = [*module.encoder.parameters(), *module.head.parameters()]
        assert len(decay) == len(parameters)
        assert all(decay[id(p)] == (0.3 if p.ndim > 1 else 0.0) for p in parameters)


@pytest.mark.parametrize(("warmup", "total"), [(0, 10), (3, 10), (10, 10)])
def test_the_schedule_rises_then_follows_torchs_cosine(warmup, total):
    rates = [warmup_cosine(step, warmup, total) for step in range(total + 1)]
    assert rates[:warmup] == pytest.approx([(i + 1) / warmup for i in range(warmup)])
    if warmup < total:
        weight = torch.nn.Parameter(torch.zeros(1))
        optimizer = torch.optim.SGD([weight], lr=1.0)
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total - warmup)
        for rate in rates[warmup:]:
            assert rate == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-9)
            optimizer.step()
            cosine.step()


def test_the_cosine_ends_at_the_floor():
    assert warmup_cosine(10, 2, 10, floor=0.001) == pytest.approx(0.001)
    assert warmup_cosine(2, 2, 10, floor=0.001) == 1.0


def test_lars_adapts_matrices_and_steps_1d_parameters_as_sgd():
    """P1's code: eta 1e-3, decay and adaptation for parameters of two dimensions or more alone."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(5, 4).double()
    settings = Optimizer(name="lars", lr=0.5, momentum=0.9, weight_decay=1e-6, trust=1e-3)
    optimizer = build_optimizer(settings, [layer])
    weight, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    speed = {"weight": torch.zeros_like(weight), "bias": torch.zeros_like(bias)}
    for _ in range(3):
        gradients = torch.randn_like(weight), torch.randn_like(bias)
        layer.weight.grad, layer.bias.grad = (g.clone() for g in gradients)
        optimizer.step()
        decayed = gradients[0] + 1e-6 * weight
        speed["weight"] = 0.9 * speed["weight"] + 1e-3 * weight.norm() / decayed.norm() * decayed
        speed["bias"] = 0.9 * speed["bias"] + gradients[1]
        weight, bias = weight - 0.5 * speed["weight"], bias - 0.5 * speed["bias"]
    assert torch.equal(layer.bias.detach(), bias)
    torch.testing.assert_close(layer.weight.detach(), weight, rtol=1e-6, atol=1e-9)


def test_lars_adapts_matrices_also_without_decay():
    layer = torch.nn.Linear(3, 2, bias=False)
    before = layer.weight.detach().clone()
    layer.weight.grad = torch.ones_like(before) * 1e6
    build_optimizer(Optimizer(name="lars", lr=1.0, weight_decay=0.0, trust=1e-3), [layer]).step()
    assert float((layer.weight.detach() - before).norm()) == pytest.approx(
        float(1e-3 * before.norm()), rel=1e-4
    )


@pytest.mark.parametrize("passes", [1, 2])
def test_batch_norms_see_one_view_a_pass(module, passes):
    """With two passes a step is what calling encoder and head once for each view gives."""
    module.encoder_passes = passes
    module.log = lambda *a, **k: None
    module.trainer = quiet_trainer()
    batch = next(iter(BatchLoader(source("digits").load("train"), 16, seed=0)))
    reference = copy.deepcopy((module.encoder, module.head))
    module.training_step(batch, 0)
    views = module.views.apply(batch, module.draw(batch, step_generator(0, 0, 0)))
    inputs = views if passes == 2 else [torch.cat(views)]
    expected = torch.cat([reference[1](reference[0](images)) for images in inputs])
    torch.testing.assert_close(torch.cat([module.latest.z_a, module.latest.z_b]), expected)


class Labelled(Attraction):
    """A foreign loss that says it learns labels, with a weight of its own."""

    needs_labels = True

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1))
        self.seen = []

    def forward(self, z0, z1, labels):
        self.seen.append(labels)
        return self.scale * super().forward(z0, z1)


@pytest.mark.filterwarnings("ignore")
def test_labels_go_to_the_loss_that_says_it_needs_them_and_its_weights_are_trained(module):
    module.objective = Labelled()
    batches = list(BatchLoader(source("digits").load("train").limited(32, seed=0), 16, seed=0))
    quiet_trainer(max_epochs=1).fit(module, DataLoader(batches, batch_size=None))
    for seen, batch in zip(module.objective.seen, batches, strict=True):
        assert torch.equal(seen, batch.labels)
    assert float(module.objective.scale.detach()) != 1.0


@pytest.mark.filterwarnings("ignore")
def test_the_loss_is_computed_in_32_bits_under_mixed_precision(module):
    kinds = []

    class Kinds(Attraction):
        def forward(self, z0, z1):
            kinds.append((z0.dtype, (z0 @ z1.T).dtype))
            return super().forward(z0, z1)

    module.objective = Kinds()
    batches = list(BatchLoader(source("digits").load("train").limited(16, seed=0), 8, seed=0))
    quiet_trainer(max_epochs=1, precision="bf16-mixed").fit(module, DataLoader(batches, batch_size=None))
    assert set(kinds) == {(torch.float32, torch.float32)}


def test_a_process_draws_for_all_and_keeps_its_share(module, monkeypatch):
    """Two processes together see the views that one process sees of the whole batch."""
    batch = next(iter(BatchLoader(source("digits").load("train"), 16, seed=0)))
    whole = module.draw(batch, step_generator(0, 0, 0))
    monkeypatch.setattr("fullrank.training.module.process_count", lambda: 2)
    for rank in range(2):
        monkeypatch.setattr("fullrank.training.module.process_rank", lambda rank=rank: rank)
        rows = slice(8 * rank, 8 * rank + 8)
        share = replace(batch, images=batch.images[rows], labels=batch.labels[rows], index=batch.index[rows])
        drawn = module.draw(share, step_generator(0, 0, 0))
        assert torch.equal(drawn.first["crop"], whole.first["crop"][rows])
        assert torch.equal(drawn.second["flip"], whole.second["flip"][rows])
