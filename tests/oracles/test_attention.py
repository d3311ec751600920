"""The attention of the class token against the oracle, which goes from the raw weights through all blocks."""

import numpy as np
import pytest
import timm
import torch
from oracles import attention as oracle
from torch import nn

from fullrank.encoders.attention import cls_attention
from fullrank.encoders.tiny_vit import TinyViT

# The names of tiny-vit -> those of timm, which the oracle reads.
NAMES = {
    ".qkv": ".attn.qkv",
    ".proj": ".attn.proj",
    "embed.": "patch_embed.proj.",
    "positions": "pos_embed",
    ".mlp.0": ".mlp.fc1",
    ".mlp.2": ".mlp.fc2",
}


def weights_of(net: nn.Module, names: dict[str, str]) -> dict[str, np.ndarray]:
    """Weights drawn anew, large enough that attention is uneven."""
    found = {}
    for name, weight in net.named_parameters():
        nn.init.normal_(weight, std=0.4)
        for one, other in names.items():
            name = name.replace(one, other)
        found[name] = weight.detach().numpy()
    return found


def images_of(channels: int, side: int) -> torch.Tensor:
    return torch.rand(2, channels, side, side, dtype=torch.float64)


@pytest.mark.parametrize("channels", [1, 3])
def test_attention_of_tiny_vit_equals_the_oracle(channels):
    net = TinyViT(4, depth=3, width=12, heads=3, image_size=12, in_chans=channels).double().eval()
    weights, images = weights_of(net, NAMES), images_of(channels, 12)
    found = cls_attention(net, images).numpy()
    for each, image in zip(found, (images - 0.5) / 0.25, strict=True):
        expected = oracle.cls_attention(image.numpy(), weights, heads=3, epsilon=1e-5)
        np.testing.assert_allclose(each, expected, rtol=1e-9)
        assert np.ptp(expected) > 0.01


@pytest.mark.parametrize("registers", [0, 2])
@pytest.mark.parametrize("size", [(12, 12), (8, 16)])
def test_attention_of_a_net_of_timm_equals_the_oracle(size, registers):
    net = timm.models.VisionTransformer(
        size, 4, embed_dim=12, depth=2, num_heads=3, num_classes=0, reg_tokens=registers
    )
    net = net.double().eval()
    weights = weights_of(net, {})
    images = torch.rand(2, 3, *size, dtype=torch.float64)
    for each, image in zip(cls_attention(net, images).numpy(), images.numpy(), strict=True):
        np.testing.assert_allclose(each, oracle.cls_attention(image, weights, heads=3), rtol=1e-9)
