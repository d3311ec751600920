"""Pools of candidates whose best one is known by construction."""

import numpy as np
import torch
from torch import Tensor

from fullrank.choosing.candidates import Candidate, Pool


def mixture(images: int = 400, groups: int = 6, width: int = 12, noise: float = 0.3, seed: int = 0) -> Tensor:
    """Features of images in groups, (N, D)."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(groups, width, generator=torch.Generator().manual_seed(99))
    numbers = torch.arange(images) % groups
    return centres[numbers] + noise * torch.randn(images, width, generator=generator)


def candidate(
    run: str, features: Tensor, *, jitter: float = 0.1, place: str = "h", **known: object
) -> Candidate:
    """A candidate whose four views are its features with noise."""
    generator = torch.Generator().manual_seed(len(run))
    noise = [jitter * torch.randn(features.shape, generator=generator) for _ in range(4)]
    views = torch.stack([features + each for each in noise])
    return Candidate(run, place, features, views, recipe=run, **known)  # type: ignore[arg-type]


def pool_of(*candidates: Candidate, labels: np.ndarray | None = None) -> Pool:
    """A pool in which every image has views."""
    count = len(candidates[0].clean)
    return Pool(candidates, np.arange(count).astype(str), np.arange(count), "weak", labels)


def three_runs() -> Pool:
    """Two runs that show the groups, and one of noise."""
    generator = torch.Generator().manual_seed(5)
    turned = mixture(seed=1) @ torch.linalg.qr(torch.randn(12, 12, generator=generator))[0]
    noise = torch.randn(400, 12, generator=generator)
    good, also, none = candidate("a", mixture(seed=2)), candidate("b", turned), candidate("noise", noise)
    return pool_of(good, also, none, labels=np.arange(400) % 6)
