"""Two processes compute every objective as one does: the same loss, and on average the same gradient."""

from collections.abc import Iterator

import pytest
import torch
from gloo_group import in_processes

from fullrank import objective
from fullrank.objectives import OBJECTIVES, loss_of, needs_of, tiles

# Sides of 3 rows: the processes have unlike shares of the tiles.
IMAGES, WIDTH, CLASSES, SIDE = 8, 6, 3, 3
# Unlike shares: the first process has one unlabelled image, the second has one labelled.
LABELS = torch.tensor([0, 1, -1, 0, -1, -1, 1, -1])
LABELLED = [entry.name for entry in OBJECTIVES if "labels" in needs_of(entry.load())]
# A temperature of 0.002 is beyond the range of the tiles.
SPECS = [*(entry.name for entry in OBJECTIVES), "infonce:0.2,groups=2", "ntxent:0.002"]
NESTED = (2, 5)
CASES = [(spec, 2, ()) for spec in SPECS] + [(name, 1, ()) for name in LABELLED]
CASES += [(entry.name, 2, NESTED) for entry in OBJECTIVES]


def measured(spec: str, rows: slice, views: int, nested: tuple[int, ...]) -> list[torch.Tensor]:
    """The loss on `rows`, and its gradients in them and in the objective's own weights."""
    generator = torch.Generator().manual_seed(3)
    z_a, noise = torch.randn(2, IMAGES, WIDTH, generator=generator, dtype=torch.float64)
    torch.manual_seed(0)
    loss = objective(spec, in_dim=WIDTH, num_classes=CLASSES, nested=nested).double()
    embeddings = [z[rows].clone().requires_grad_() for z in (z_a, z_a + 0.5 * noise)[:views]]
    value = loss_of(loss, *embeddings, *[None] * (2 - views), LABELS[rows])
    value.backward()
    return [value.detach(), *(z.grad for z in embeddings), *(p.grad for p in loss.parameters())]


def share_of(rank: int) -> dict[str, list[torch.Tensor]]:
    rows = slice(rank * IMAGES // 2, (rank + 1) * IMAGES // 2)
    return {str(case): measured(case[0], rows, *case[1:]) for case in CASES}


@pytest.fixture(scope="module")
def shares(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[dict[str, list[torch.Tensor]]]]:
    """What each of two processes measures."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(tiles._SIDE, "cpu", SIDE)
        yield in_processes(share_of, 2, tmp_path_factory.mktemp("shares"))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_two_processes_have_the_loss_and_gradient_of_one(shares, case):
    spec, views, nested = case
    value, *gradients = measured(spec, slice(None), views, nested)
    first, second = (share[str(case)] for share in shares)
    for share in (first, second):
        torch.testing.assert_close(share[0], value, rtol=1e-12, atol=0)
    for number, gradient in enumerate(gradients, start=1):
        # DistributedDataParallel averages: over rows that is their sum over processes, halved.
        parts = first[number], second[number]
        average = torch.cat(parts) / 2 if number <= views else sum(parts) / 2
        torch.testing.assert_close(average, gradient, rtol=1e-10, atol=1e-14)
