"""Names of other programs: their own nets compute what timm's net must compute with their weights."""

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.convnext import CNBlockConfig

from fullrank.encoders.layouts import Net, nets_in

State = dict[str, Tensor]
VIT: dict[str, Any] = {"img_size": 32, "depth": 2}


def random(net: nn.Module) -> nn.Module:
    """The net with weights that all matter: those of a new net may be 0."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in net.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(0.1 * torch.rand(tensor.shape, generator=generator))
    return net.eval()


def of_timm(rename: Callable[[str], str], name: str = "test_vit", **options: Any) -> tuple[nn.Module, State]:
    """A net of timm, and its state under other names."""
    net = random(timm.create_model(name, num_classes=0, **options))
    return net, {rename(key): tensor for key, tensor in net.state_dict().items()}


def torchvision_vit() -> tuple[nn.Module, State]:
    net = random(torchvision.models.VisionTransformer(32, 16, 2, 2, 64, 192))
    state = net.state_dict()
    net.heads = nn.Identity()
    return net, state


def torchvision_convnext() -> tuple[nn.Module, State]:
    widths, depths = (24, 32, 48, 64, None), (1, 2, 4, 2)
    blocks = [CNBlockConfig(widths[i], widths[i + 1], depth) for i, depth in enumerate(depths)]
    net = random(torchvision.models.ConvNeXt(blocks, num_classes=3))
    state = net.state_dict()
    net.classifier[2] = nn.Identity()
    return net, state


def chunked(name: str) -> str:
    """DINOv2's names of blocks in chunks of one, which keep their own number."""
    return re.sub(r"^blocks\.(\d+)\.", r"model.teacher.backbone.blocks.\1.\1.", name)


def chunked_dinov2(name: str) -> str:
    return chunked(name) if name.startswith("blocks.") else f"model.teacher.backbone.{name}"


def facebook_convnext(name: str) -> str:
    """The names of the ConvNeXt of its authors."""
    name = re.sub(r"^stem\.", "downsample_layers.0.", name)
    name = re.sub(r"stages\.(\d)\.downsample\.", r"downsample_layers.\1.", name)
    name = name.replace(".blocks.", ".").replace("conv_dw", "dwconv")
    return name.replace("mlp.fc", "pwconv").replace("head.norm.", "norm.")


def wrapped(name: str) -> str:
    return "module." + name.replace("blocks.1.", "blocks.1._checkpoint_wrapped_module._orig_mod.")


@pytest.mark.parametrize(
    ("theirs", "name", "options"),
    [
        pytest.param(torchvision_vit, "test_vit", VIT, id="torchvision ViT"),
        pytest.param(
            torchvision_convnext, "test_convnext", {"norm_eps": 1e-6, "act_layer": "gelu"}, id="CNBlock"
        ),
        pytest.param(partial(of_timm, chunked_dinov2, **VIT), "test_vit", VIT, id="DINOv2's chunks"),
        pytest.param(
            partial(of_timm, facebook_convnext, "test_convnext"), "test_convnext", {}, id="ConvNeXt"
        ),
        pytest.param(partial(of_timm, wrapped, **VIT), "test_vit", VIT, id="compiled blocks"),
    ],
)
def test_a_net_under_names_of_another_program_computes_what_that_program_computes(theirs, name, options):
    net, state = theirs()
    assert_same_output(net, state, timm.create_model(name, num_classes=0, **options))


@pytest.mark.parametrize("registers", [0, 4])
@pytest.mark.parametrize("saved", [False, True])
def test_transformers_of_hugging_face_compute_what_they_do_there(registers, saved, tmp_path):
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32}
    sizes |= {"patch_size": 16, "layer_norm_eps": 1e-6}
    if registers:
        config = transformers.Dinov2WithRegistersConfig(**sizes, mlp_ratio=3, num_register_tokens=registers)
        options = VIT | {"reg_tokens": registers, "no_embed_class": True, "init_values": 1.0}
    else:
        config, options = transformers.ViTConfig(**sizes, intermediate_size=192), VIT
    net = random(transformers.AutoModel.from_config(config))
    state = net.state_dict()
    if saved:
        net.save_pretrained(tmp_path)
        state = {f"model.{key}": each for key, each in read(tmp_path / "model.safetensors").items()}
    model = timm.create_model("test_vit", num_classes=0, **options)
    assert_same_output(lambda x: net(x).last_hidden_state[:, 0], state, model)


def read(path: Any) -> State:
    from safetensors.torch import load_file

    return load_file(path)


def assert_same_output(theirs: Callable[[Tensor], Tensor], state: State, model: nn.Module) -> None:
    best = nets_in(state, model.state_dict(), model)[0]
    assert best.fits(model.state_dict())
    load(model, best)
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(images), theirs(images), rtol=1e-4, atol=1e-5)


def load(model: nn.Module, net: Net) -> None:
    model.load_state_dict({name: source.tensor for name, source in net.sources.items()}, strict=False)


def test_position_embeddings_of_another_size_are_resampled_as_timm_does():
    options = {"depth": 2, "num_classes": 0}
    large = random(timm.create_model("test_vit", img_size=96, **options)).state_dict()
    timms = timm.create_model(
        "test_vit",
        pretrained=True,
        pretrained_cfg_overlay={"state_dict": dict(large)},
        img_size=64,
        **options,
    )
    ours = timm.create_model("test_vit", img_size=64, **options)
    best = nets_in(large, ours.state_dict(), ours)[0]
    load(ours, best)
    torch.testing.assert_close(ours.pos_embed, timms.pos_embed)
    assert ours.pos_embed.shape == (1, 17, 64) and best.resampled and best.used() == set(large)


@pytest.mark.parametrize(
    ("options", "beyond"),
    [
        ({"reg_tokens": 4}, "reg_token"),
        ({"global_pool": "avg", "fc_norm": True, "final_norm": True}, "fc_norm.weight"),
        ({"pre_norm": True}, "norm_pre.weight"),
        ({"init_values": 1.0}, "blocks.0.ls1.gamma"),
        ({"patch_size": 8, "img_size": 16}, None),
    ],
)
def test_a_net_with_other_parts_or_patches_does_not_fit(options, beyond):
    _, state = of_timm(str, **VIT | options)
    model = timm.create_model("test_vit", num_classes=0, **VIT)
    nets = nets_in(state, model.state_dict(), model)
    assert not any(net.fits(model.state_dict()) for net in nets)
    assert beyond is None or beyond in nets[0].beyond(model.state_dict())
