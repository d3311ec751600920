"""The LightningModule on its own: schedules, parameter groups, foreign losses, foreign trainers."""

import lightning.pytorch as pl
import pytest
import torch
from torch.utils.data import DataLoader

from fullrank import JointEmbedding, Optimizer, encoder, head, source, view_pipeline
from fullrank.data import BatchLoader
from fullrank.training.module import build_optimizer, warmup_cosine


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


def quiet_trainer(**more) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **more,
    )


@pytest.mark.filterwarnings("ignore")
def test_a_foreign_loss_under_a_foreign_trainer_and_dataloader(module):
    batches = list(BatchLoader(source("digits").load("train").limited(64, seed=0), 16, seed=0))
    before = [p.clone() for p in module.encoder.parameters()]
    trainer = quiet_trainer(max_epochs=1)
    trainer.fit(module, DataLoader(batches, batch_size=None))
    assert trainer.global_step == 4 and torch.isfinite(trainer.callback_metrics["loss"])
    assert any(not torch.equal(a, b) for a, b in zip(before, module.encoder.parameters(), strict=True))


def test_one_encoder_call_serves_both_views(module):
    calls = []
    module.encoder.register_forward_hook(lambda m, inputs, output: calls.append(len(inputs[0])))
    module.log = lambda *a, **k: None
    module.trainer = quiet_trainer()
    batch = next(iter(BatchLoader(source("digits").load("train"), 16, seed=0)))
    module.training_step(batch, 0)
    assert calls == [32] and module.latest.z_a.shape == (16, 6)


def test_norms_and_other_1d_parameters_have_no_decay(module):
    for name in ("adamw", "sgd"):
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
