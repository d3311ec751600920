"""Several processes compute every objective as one does: on average the same loss and the same gradient."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from gloo_group import in_processes
from torch import Tensor

from fullrank import objective
from fullrank.objectives import OBJECTIVES, loss_of, needs_of, tiles
from fullrank.objectives.contract import loss_of_views
from fullrank.objectives.trial import trial_of

# Sides of 3 rows: the processes have unlike shares of the tiles.
IMAGES, WIDTH, CLASSES, SIDE = 8, 6, 3, 3
# Unlike shares: the first process has one unlabelled image, the second has one labelled.
LABELS = torch.tensor([0, 1, -1, 0, -1, -1, 1, -1])
SMALL_SIZES = {
    "dino": "dino,prototypes=32",
    "byol": "byol,hidden=16",
    "simsiam": "simsiam,hidden=8",
    "sigreg": "sigreg:0.05,slices=32",
    "visreg": "visreg,slices=32",
}
NAMES = [SMALL_SIZES.get(entry.name, entry.name) for entry in OBJECTIVES]
LABELLED = [entry.name for entry in OBJECTIVES if "labels" in needs_of(entry.load())]
TAUGHT = (SMALL_SIZES["byol"], SMALL_SIZES["dino"])  # an objective with a teacher cannot be nested
# A temperature of 0.002 is beyond the range of the tiles.
SPECS = [*NAMES, "infonce:0.2,groups=2", "ntxent:0.002", "infonce:0.2,queue=5"]


@dataclass(frozen=True)
class Case:
    """An objective on so many views, of which the last are local crops, with nested widths."""

    spec: str
    views: int = 2
    local: int = 0
    nested: tuple[int, ...] = ()


CASES = [Case(spec) for spec in SPECS] + [Case(name, 4, 2) for name in SPECS]
CASES += [Case(name, 1) for name in LABELLED]
CASES += [Case(name, nested=(2, 5)) for name in NAMES if name not in TAUGHT]


def measured(case: Case, rows: slice) -> list[Tensor]:
    """The mean loss of two steps on `rows`, and its gradients in them and in the objective's own weights."""
    generator = torch.Generator().manual_seed(3)
    x, *noise = torch.randn(case.views + 1, IMAGES, WIDTH, generator=generator, dtype=torch.float64)
    z = torch.stack([x + 0.5 * each for each in noise])[:, rows].requires_grad_()
    torch.manual_seed(0)
    loss = objective(case.spec, in_dim=WIDTH, num_classes=CLASSES, nested=case.nested).double()
    if case.views == 1:
        value = loss_of(loss, z[0], None, LABELS[rows])
    else:  # the second step has the state that the first left
        steps = [loss_of_views(loss, z, **given(loss, z, case, rows)) for _ in range(2)]
        value = torch.stack(steps).mean()
    value.backward()
    return [value.detach(), z.grad, *(p.grad for p in loss.parameters() if p.requires_grad)]


def given(loss, z, case, rows):
    return trial_of(loss, z.detach(), LABELS[rows], case.views - case.local)


@pytest.fixture(scope="module", params=[2, 4])
def shares(request, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[dict[str, list[Tensor]]]]:
    """What each of several processes measures."""

    def share_of(rank: int) -> dict[str, list[Tensor]]:
        size = IMAGES // request.param
        return {str(case): measured(case, slice(rank * size, (rank + 1) * size)) for case in CASES}

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(tiles._SIDE, "cpu", SIDE)
        yield in_processes(share_of, request.param, tmp_path_factory.mktemp("shares"))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_processes_together_have_the_loss_and_gradient_of_one(shares, case):
    value, slope, *weights = measured(case, slice(None))
    each = [share[str(case)] for share in shares]
    # DistributedDataParallel averages: over rows that is their sum over processes, divided by their number.
    torch.testing.assert_close(torch.stack([one[0] for one in each]).mean(), value, rtol=1e-12, atol=0)
    rows = torch.cat([one[1] for one in each], dim=1) / len(each)
    torch.testing.assert_close(rows, slope, rtol=1e-10, atol=1e-14)
    for number, gradient in enumerate(weights, start=2):
        averaged = sum(one[number] for one in each) / len(each)
        torch.testing.assert_close(averaged, gradient, rtol=1e-10, atol=1e-14)
