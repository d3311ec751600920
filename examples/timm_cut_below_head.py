"""A timm model trained with a head, probed at several places, and exported without the head.

uv run python examples/timm_cut_below_head.py
"""

import tempfile
from pathlib import Path

import timm
import torch
from safetensors.torch import load_file

from fullrank import embed, export, load, probe, train

folder = Path(tempfile.mkdtemp())

# `init="weights.safetensors"` starts from your own weights, `resnet10t,pretrained=true` from timm's.
train(
    "small-images",
    data="digits",
    image_size=32,
    encoder="resnet10t",
    head="mlp:32",
    epochs=1,
    limit=150,
    batch_size=50,
    out=folder / "run",
)
run = load(folder / "run")

places = ["layer3.0", "h", "head.1", "z"]
for place, scores in probe(run, places).probes.items():
    print(f"{place:>10}: linear {100 * scores.linear:.1f} %, nearest {100 * scores.nearest:.1f} %")

# Keep h: its features as an array, and the encoder without the head as a file that timm loads.
h = torch.from_numpy(embed(run, place="h"))
export(run, folder / "encoder.safetensors")
model = timm.create_model("resnet10t", num_classes=0, in_chans=1).eval()
model.load_state_dict(load_file(folder / "encoder.safetensors"))

images = torch.rand(4, 1, 32, 32)
with torch.no_grad():
    mean, std = run.encoder.mean, run.encoder.std
    difference = (model((images - mean) / std) - run.encoder(images)).abs().max()
print(f"features of all test images: {tuple(h.shape)}; timm's net differs by {difference:.1e}")
