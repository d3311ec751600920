"""One of two gloo processes: every objective on its share of a batch; what it found goes into a file.

Run by test_processes.py as `python one_share.py RANK MEETING_FILE OUT`.
"""

import sys

import torch
import torch.distributed as dist

from fullrank import objective
from fullrank.objectives import OBJECTIVES, loss_of, needs_of

IMAGES, WIDTH, CLASSES = 8, 5, 3
# Unlike shares: the first has one unlabelled image, the second has one labelled.
LABELS = torch.tensor([0, 1, -1, 0, -1, -1, 1, -1])


def embeddings() -> tuple[torch.Tensor, torch.Tensor]:
    """Both views of the whole batch, always the same ones."""
    generator = torch.Generator().manual_seed(3)
    z_a = torch.randn(IMAGES, WIDTH, generator=generator, dtype=torch.float64)
    return z_a, z_a + 0.5 * torch.randn(IMAGES, WIDTH, generator=generator, dtype=torch.float64)


def measured(spec: str, rows: slice, one_view: bool) -> list[torch.Tensor]:
    """The loss on `rows`, and its gradients in them and in the objective's own weights."""
    torch.manual_seed(0)
    loss = objective(spec, in_dim=WIDTH, num_classes=CLASSES).double()
    views = [z[rows].clone().requires_grad_() for z in embeddings()]
    if one_view:
        views = views[:1]
    value = loss(views[0], None, LABELS[rows]) if one_view else loss_of(loss, *views, LABELS[rows])
    value.backward()
    return [value.detach(), *(z.grad for z in views), *(p.grad for p in loss.parameters())]


def cases() -> list[tuple[str, bool]]:
    """Every objective with two views, and those with labels with one."""
    labelled = [entry.name for entry in OBJECTIVES if "labels" in needs_of(entry.load())]
    return [(entry.name, False) for entry in OBJECTIVES] + [(name, True) for name in labelled]


if __name__ == "__main__":
    rank, meeting, out = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    share = slice(rank * IMAGES // 2, (rank + 1) * IMAGES // 2)
    torch.save({f"{name}, one view {one}": measured(name, share, one) for name, one in cases()}, out)
    dist.destroy_process_group()
