"""The class token's attention: against a hook on the plain softmax, float64 by hand, and other libraries."""

import pytest
import timm
import torch
import torchvision
import transformers
from refusals import refuses

from fullrank.encoders import cls_attention, encoder, module_encoder
from fullrank.errors import UsageError

IMAGES = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def small_vit(**settings):
    torch.manual_seed(0)
    size = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 4, "num_classes": 0}
    return timm.models.VisionTransformer(**(size | settings)).eval()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"qk_norm": True},
        {"reg_tokens": 2, "no_embed_class": True},
        {"global_pool": "avg", "fc_norm": True},
    ],
    ids=str,
)
def test_the_fused_attention_of_timm_is_the_softmax_of_the_plain_one(settings):
    net = small_vit(**settings)
    found = [cls_attention(net, IMAGES, block) for block in (0, -2, 2, -1)]
    softmaxes = []
    for block in net.blocks:
        assert block.attn.fused_attn
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_hook(lambda module, inputs, output: softmaxes.append(inputs[0]))
    net(IMAGES)
    prefix = 1 + settings.get("reg_tokens", 0)
    for attention, number in zip(found, (0, 1, 2, 2), strict=True):
        assert attention.shape == (3, 4, 4, 4)
        expected = softmaxes[number][:, :, 0, prefix:]
        torch.testing.assert_close(attention.flatten(2), expected, rtol=1e-5, atol=1e-7)
    # Without the fused kernel, the same weights are seen.
    assert torch.equal(cls_attention(net, IMAGES).flatten(2), softmaxes[2][:, :, 0, prefix:])


def test_tiny_vit_has_the_attention_that_its_weights_give_by_hand():
    torch.manual_seed(0)
    net = encoder("tiny-vit,patch=8,depth=2,width=12,heads=3", image_size=32, mean=(0.4,)).double().eval()
    images = IMAGES.double()
    inputs = []
    net.blocks[1].norm1.register_forward_hook(lambda module, inputs_, output: inputs.append(output))
    found = cls_attention(net, images)
    weight, bias, tokens = net.blocks[1].qkv.weight, net.blocks[1].qkv.bias, inputs[0]
    for head in range(3):
        own = slice(4 * head, 4 * head + 4)
        query = tokens[:, 0] @ weight[own].T + bias[own]
        keys = tokens @ weight[12:24][own].T + bias[12:24][own]
        powers = (torch.einsum("nd,ntd->nt", query, keys) / 2).exp()
        expected = (powers / powers.sum(1, keepdim=True))[:, 1:].reshape(3, 4, 4)
        torch.testing.assert_close(found[:, head], expected, rtol=0, atol=1e-12)


def test_nets_of_hugging_face_and_torchvision_have_theirs():
    size = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 24}
    config = transformers.ViTConfig(**size, image_size=32, patch_size=8, attn_implementation="eager")
    net = transformers.ViTModel(config).eval()
    expected = net(IMAGES, output_attentions=True).attentions[-1][:, :, 0, 1:]
    found = cls_attention(module_encoder(net, image_size=32, in_chans=3), IMAGES)
    torch.testing.assert_close(found.flatten(2), expected)
    other = torchvision.models.VisionTransformer(32, 8, num_layers=2, num_heads=4, hidden_dim=24, mlp_dim=24)
    seen = []
    layer = other.encoder.layers[1].self_attention
    hook = layer.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    found = cls_attention(other, IMAGES)
    hook.remove()
    weights = layer(*3 * [seen[0]], average_attn_weights=False)[1]
    torch.testing.assert_close(found.flatten(2), weights[:, :, 0, 1:])


@pytest.mark.parametrize("spec", ["tiny-vit,depth=2,width=24", "test_vit"])
def test_the_net_and_its_mode_stay_as_they_were(spec):
    net = encoder(spec, image_size=32).train()
    before = {name: each.clone() for name, each in net.state_dict().items()}
    state = torch.get_rng_state()
    attention = cls_attention(net, (255 * IMAGES).byte())
    assert torch.equal(torch.get_rng_state(), state) and all(m.training for m in net.modules())
    assert all(torch.equal(each, before[name]) for name, each in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters()) and not attention.requires_grad
    alone = cls_attention(net, (255 * IMAGES).byte()[1:2])
    torch.testing.assert_close(alone, attention[1:2])
    assert (attention > 0).all() and (attention.sum((2, 3)) < 1).all()


@pytest.mark.parametrize(
    ("build", "parts"),
    [
        (lambda: encoder("tiny-resnet,width=4", image_size=32), ["tiny-resnet", "attention"]),
        (lambda: encoder("test_vit2", image_size=32), ["test_vit2", "class token"]),
        (
            lambda: timm.models.SwinTransformer(
                32, 4, window_size=4, embed_dim=8, depths=(1, 1), num_heads=(1, 2)
            ),
            ["SwinTransformer", "class token"],
        ),
    ],
)
def test_nets_without_it_are_refused_with_what_works_for_any(build, parts):
    with refuses(UsageError, *parts, "gradient"):
        cls_attention(build(), IMAGES)


def test_a_block_that_does_not_exist_is_refused_with_their_number():
    with refuses(UsageError, 2, "block is 2", "-2 to 1"):
        cls_attention(encoder("tiny-vit,depth=2,width=24", image_size=32), IMAGES, 2)
