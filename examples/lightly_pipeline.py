"""lightly's data pipeline and projection head with fullrank's loss, in your own loop.

uv run --group dev python examples/lightly_pipeline.py
"""

import timm
import torch
from lightly.data import LightlyDataset
from lightly.models.modules import SimCLRProjectionHead
from lightly.transforms import SimCLRTransform
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from fullrank import InfoNCELoss, source
from fullrank.spectrum.functional import effective_rank

STEPS, BATCH = 8, 32


class Digits(Dataset):
    """scikit-learn's digits as RGB images, the form that lightly's transforms take."""

    def __init__(self, transform: SimCLRTransform) -> None:
        self.transform = transform
        self.images = source("digits").load("train", image_size=32)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> tuple[list[torch.Tensor], int]:
        image = Image.fromarray(self.images.images[row, ..., 0]).convert("RGB")
        return self.transform(image), int(self.images.labels["label"][row])


torch.manual_seed(0)
transform = SimCLRTransform(input_size=32, min_scale=0.5, gaussian_blur=0.0)
dataset = LightlyDataset.from_torch_dataset(Digits(transform))
loader = DataLoader(dataset, batch_size=BATCH, shuffle=True, drop_last=True)

encoder = timm.create_model("resnet10t", num_classes=0)
head = SimCLRProjectionHead(input_dim=encoder.num_features, hidden_dim=128, output_dim=64)
loss = InfoNCELoss(temperature=0.2)
optimizer = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], lr=1e-3)

for step, ((view_a, view_b), _, _) in zip(range(STEPS), loader, strict=False):
    h = encoder(torch.cat([view_a, view_b]))
    z_a, z_b = head(h).chunk(2)
    value = loss(z_a, z_b)
    optimizer.zero_grad()
    value.backward()
    optimizer.step()
    rank_h, rank_z = (effective_rank(x.detach()) for x in (h, torch.cat([z_a, z_b])))
    print(
        f"step {step + 1}: loss {value.item():.2f} (chance {loss.chance(BATCH):.2f}), "
        f"rank of h {rank_h:.1f}, of z {rank_z:.1f}"
    )
