"""Features of twelve families against timm's own preprocessing and forward, and its forward_intermediates.

    uv run python benchmarks/timm_features.py

Weights are random. For each model it prints the largest difference of h from timm's output for timm's own
input, and of the last block of each stage from `forward_intermediates`, both over the largest value.
"""

import re

import numpy as np
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config

from fullrank import encoder
from fullrank.encoders.library import preprocessing_of

FAMILIES = (
    "resnet18",
    "vit_tiny_patch16_224",
    "deit_tiny_distilled_patch16_224",
    "swin_tiny_patch4_window7_224",
    "convnext_atto",
    "efficientnet_b0",
    "mobilenetv3_small_050",
    "regnety_002",
    "densenet121",
    "maxvit_rmlp_pico_rw_256",
    "eva02_tiny_patch14_224",
    "levit_128s",
)
LIMIT = 1e-5


@torch.no_grad()
def main() -> None:
    """Print a line for each family. A difference above the limit ends the script with an error."""
    pixels = np.random.default_rng(0).integers(0, 256, (300, 350, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels).resize((280, 240))
    worst = 0.0
    for name in FAMILIES:
        torch.manual_seed(0)
        theirs = timm.create_model(name, num_classes=0).eval()
        own = preprocessing_of(name)
        net = encoder(f"{name},stem=standard" if "resnet" in name else name, image_size=own.size).eval()
        net.normalise_by(own.mean, own.std)
        net.model.load_state_dict(theirs.state_dict())
        inputs = create_transform(**resolve_data_config({}, model=theirs))(picture)[None]
        images = torch.from_numpy(own.fit(picture)).permute(2, 0, 1)[None] / 255
        h = apart(net(images), theirs(inputs))
        inner = max(intermediates(net, images, theirs, inputs), default=float("nan"))
        print(f"{name:34} {own.size:4} px   h {h:.1e}   places {inner:.1e}")
        worst = max(worst, h, 0.0 if np.isnan(inner) else inner)
    if worst > LIMIT:
        raise SystemExit(f"The largest difference, {worst:.1e}, is above {LIMIT:.0e}.")


def apart(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """The largest difference over the largest value."""
    return float((ours - theirs).abs().max() / theirs.abs().max())


def intermediates(net, images, theirs, inputs) -> list[float]:
    """Differences at timm's intermediate features; empty for a model that cannot give them."""
    if not hasattr(theirs, "forward_intermediates"):
        return []
    found = theirs.forward_intermediates(inputs, intermediates_only=True)
    names = [info["module"] for info in theirs.feature_info][-len(found) :]
    differences = []
    for name, features in zip(names, found, strict=False):
        blocks = [each for each in net.places if re.match(rf"{re.escape(name)}(\.|$)", each)]
        place = f"{name}.mean" if net.has_place(f"{name}.mean") else name
        if blocks and net.has_place(place):
            differences.append(apart(net.features(images, [place])[place], features.mean((2, 3))))
    return differences


if __name__ == "__main__":
    main()
