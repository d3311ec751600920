"""Batch norms compared with their input: the measure, what it leaves alone, and nets that nobody trained."""

import copy

import pytest
import timm
import torch
from timm.layers import BatchNormAct2d, FrozenBatchNormAct2d
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from fullrank.diagnosis.norms import has_first_values, norm_shifts
from fullrank.encoders.programs import program_encoder

IMAGES = torch.rand(64, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def net(norm: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 3, bias=False), norm, nn.Flatten(), nn.Linear(216, 4))


def input_of_norm(model: nn.Module) -> torch.Tensor:
    """What the norm gets, as (channels, values)."""
    with torch.no_grad():
        return model[0](IMAGES).transpose(0, 1).flatten(1).double()


@pytest.mark.parametrize(
    "build", [nn.BatchNorm2d, nn.SyncBatchNorm, BatchNormAct2d, FrozenBatchNormAct2d, FrozenBatchNorm2d]
)
def test_norm_shifts_measures_every_kind_of_batch_norm(build):
    model = net(build(6)).eval()
    x = input_of_norm(model)
    model[1].running_mean.copy_(x.mean(1) - 3 * x.std(1) / 5)
    model[1].running_var.copy_(x.var(1) / 25)
    (shift,) = norm_shifts(model, [IMAGES[:40], IMAGES[40:]])
    assert (shift.layer, shift.channels, shift.off) == ("1", 6, 1.0)
    assert shift.log_ratio == pytest.approx(torch.tensor(25.0).log().item(), rel=0.02)
    assert shift.mean_shift == pytest.approx(3.0, rel=0.02)


@pytest.mark.parametrize(
    "norm", [nn.BatchNorm2d(6, track_running_stats=False), nn.InstanceNorm2d(6, track_running_stats=True)]
)
def test_norm_shifts_says_nothing_of_norms_without_running_statistics_of_a_batch(norm):
    assert norm_shifts(net(norm).eval(), IMAGES) == ()


@pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning")
def test_norm_shifts_says_nothing_of_traced_and_exported_models(tmp_path):
    model = net(nn.BatchNorm2d(6)).eval()
    assert norm_shifts(torch.jit.trace(model, IMAGES[:2]), IMAGES) == ()
    torch.export.save(torch.export.export(model, (IMAGES,)), tmp_path / "net.pt2")
    encoder = program_encoder(tmp_path / "net.pt2")
    assert norm_shifts(encoder, IMAGES) == () and not has_first_values(encoder)


def test_norm_shifts_fit_after_the_statistics_were_estimated():
    model = net(nn.BatchNorm2d(6, momentum=None))
    torch.optim.swa_utils.update_bn([IMAGES], model)
    (shift,) = norm_shifts(model, IMAGES)
    assert shift.off == 0 and abs(shift.log_ratio) < 1e-3 and shift.mean_shift < 1e-5


def test_norm_shifts_changes_neither_buffers_nor_mode_nor_hooks():
    model = net(nn.BatchNorm2d(6)).train()
    model[0].eval()
    before, modes = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    norm_shifts(model, IMAGES)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert modes == [m.training for m in model.modules()]
    assert not any(m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("name", ["resnet10t", "convnext_atto", "vit_tiny_patch16_224", "levit_128s"])
def test_has_first_values_until_the_first_step(name):
    model = timm.create_model(name, num_classes=0)
    assert has_first_values(model)
    last = [m for m in model.modules() if getattr(m, "weight", None) is not None and m.weight.ndim == 1][-1]
    with torch.no_grad():
        last.bias[0] += 1e-3
    assert not has_first_values(model)


def test_has_first_values_is_unknown_without_norms():
    assert not has_first_values(nn.Sequential(nn.Linear(4, 4), nn.PReLU()))


def test_norms_of_the_head_are_compared_and_few_updates_are_not_settled() -> None:
    encoder, head = nn.Sequential(nn.Flatten(), nn.LazyLinear(4)).eval(), nn.Sequential(nn.BatchNorm1d(4))
    with torch.no_grad():
        h = encoder(IMAGES.float() / 255 if IMAGES.dtype == torch.uint8 else IMAGES)
    head.train()(h)
    (shift,) = norm_shifts(encoder, IMAGES, head)
    assert (shift.layer, shift.of_head, shift.settled) == ("head.0", True, False)
    for _ in range(60):
        head(h)
    (shift,) = norm_shifts(encoder, IMAGES, head)
    assert shift.settled and shift.off == 0 and head.training
