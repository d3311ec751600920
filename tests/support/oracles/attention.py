"""CLS attention of the last block of a pre-norm vision transformer, from its raw weights."""

import math
from collections.abc import Mapping

import numpy as np

Weights = Mapping[str, np.ndarray]


def patches(image: np.ndarray, size: int) -> np.ndarray:
    """An image (C, Y, X) as patches (h w, C size size), row by row."""
    _, height, width = image.shape
    return np.array(
        [
            image[:, y : y + size, x : x + size].reshape(-1)
            for y in range(0, height, size)
            for x in range(0, width, size)
        ]
    )


def normalised(tokens: np.ndarray, weight: np.ndarray, bias: np.ndarray, epsilon: float) -> np.ndarray:
    """Layer norm of each token."""
    rows = []
    for token in tokens:
        mean = token.sum() / len(token)
        variance = ((token - mean) ** 2).sum() / len(token)
        rows.append((token - mean) / math.sqrt(variance + epsilon) * weight + bias)
    return np.array(rows)


def softmax(scores: np.ndarray) -> np.ndarray:
    """exp(s_i) / sum_j exp(s_j)."""
    powers = np.exp(scores - scores.max())
    return powers / powers.sum()


def gelu(values: np.ndarray) -> np.ndarray:
    """x times the normal distribution's Phi(x)."""
    return np.array([x * 0.5 * (1 + math.erf(x / math.sqrt(2))) for x in values.flat]).reshape(values.shape)


def attended(
    tokens: np.ndarray, qkv: np.ndarray, bias: np.ndarray, heads: int
) -> tuple[np.ndarray, np.ndarray]:
    """Attention (H, T, T) and the heads' outputs side by side (T, D); qkv (3 D, D) holds q, k, v in turn."""
    count, width = tokens.shape
    size = width // heads
    maps, outputs = np.zeros((heads, count, count)), np.zeros((count, width))
    for head in range(heads):
        q, k, v = (
            np.array([qkv[first : first + size] @ t + bias[first : first + size] for t in tokens])
            for first in (part * width + head * size for part in range(3))
        )
        for token in range(count):
            maps[head, token] = softmax(np.array([q[token] @ key / math.sqrt(size) for key in k]))
            outputs[token, head * size : (head + 1) * size] = maps[head, token] @ v
    return maps, outputs


def block(tokens: np.ndarray, weights: Weights, heads: int, epsilon: float) -> tuple[np.ndarray, np.ndarray]:
    """Attention (H, T, T) of a pre-norm block and its tokens (T, D)."""
    inner = normalised(tokens, weights["norm1.weight"], weights["norm1.bias"], epsilon)
    maps, outputs = attended(inner, weights["attn.qkv.weight"], weights["attn.qkv.bias"], heads)
    tokens = tokens + outputs @ weights["attn.proj.weight"].T + weights["attn.proj.bias"]
    inner = normalised(tokens, weights["norm2.weight"], weights["norm2.bias"], epsilon)
    hidden = gelu(inner @ weights["mlp.fc1.weight"].T + weights["mlp.fc1.bias"])
    return maps, tokens + hidden @ weights["mlp.fc2.weight"].T + weights["mlp.fc2.bias"]


def cls_attention(image: np.ndarray, weights: Weights, heads: int, epsilon: float = 1e-6) -> np.ndarray:
    """Attention (H, h, w) from the CLS token to the patches in the last block, for one image (C, Y, X).

    Weights have timm's names: `cls_token`, `pos_embed`, `patch_embed.proj.weight`, `blocks.0.norm1.weight`.
    Where there is a `reg_token`, its tokens stand between the CLS token and the patches.
    The values are those of the softmax over all tokens, so those of the patches sum to less than 1.
    """
    kernel = weights["patch_embed.proj.weight"]
    size, width = kernel.shape[-1], len(kernel)
    found = patches(image, size) @ kernel.reshape(width, -1).T + weights["patch_embed.proj.bias"]
    registers = weights.get("reg_token", np.zeros((0, width))).reshape(-1, width)
    tokens = np.vstack([weights["cls_token"].reshape(1, width), registers, found])
    tokens = tokens + weights["pos_embed"].reshape(-1, width)
    depth = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("blocks."))
    for number in range(depth):
        start = f"blocks.{number}."
        inner = {name.removeprefix(start): each for name, each in weights.items() if name.startswith(start)}
        maps, tokens = block(tokens, inner, heads, epsilon)
    return maps[:, 0, 1 + len(registers) :].reshape(heads, image.shape[1] // size, image.shape[2] // size)
