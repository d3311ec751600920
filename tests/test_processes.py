"""Two processes are one: gathered rows, their gradients, and the losses that gather."""

import forked
import pytest
import torch
import torch.distributed as dist
from hypothesis import given, strategies as st

from fullrank import objective
from fullrank.objectives import OBJECTIVES, loss_of, tiles
from fullrank.processes import Share, gather_rows, launched_rank, own_share, process_count, process_rank

# Seven tiles among the views, so that processes have unlike shares of them.
PROCESSES, ROWS, WIDTH, CLASSES, SIDE = 2, 13, 4, 3, 8
# A temperature of 0.002 is beyond the tiles' range.
SPECS = (*(entry.name for entry in OBJECTIVES), "infonce:0.2,groups=2", "ntxent:0.002")


def whole() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    z_a, z_b = torch.randn(2, PROCESSES * ROWS, WIDTH, dtype=torch.float64, generator=generator).unbind()
    return z_a, z_b


def labels() -> torch.Tensor:
    return torch.arange(PROCESSES * ROWS) % (CLASSES + 1) - 1


def compute(
    spec: str, z_a: torch.Tensor, z_b: torch.Tensor, of: torch.Tensor, weight: torch.Tensor
) -> torch.Tensor:
    torch.manual_seed(1)  # the permutation of the group mode, the weights of a classifier
    loss = objective(spec, in_dim=WIDTH, num_classes=CLASSES).double()
    return loss_of(loss, z_a @ weight, z_b @ weight, of)


def one_of_two(folder: str) -> None:
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    rows = slice(rank * ROWS, (rank + 1) * ROWS)
    outcome = {"process": torch.tensor([process_rank(), process_count()])}
    outcome["gathered"] = gather_rows(torch.full((2,), float(rank)))
    own = torch.arange(2**14 + 3)[:, None] if rank else torch.tensor([[-1]])  # more than one message
    outcome["to first"] = own_share().to_first(own)
    tiles._SIDE["cpu"] = SIDE
    for spec in SPECS:
        weight = torch.eye(WIDTH, dtype=torch.float64, requires_grad=True)
        z_a, z_b = whole()
        loss = compute(spec, z_a[rows], z_b[rows], labels()[rows], weight)
        loss.backward()
        gradient = weight.grad
        dist.all_reduce(gradient)  # DistributedDataParallel takes the mean over processes
        outcome[spec], outcome[f"{spec} gradient"] = loss.detach(), gradient / PROCESSES
    torch.save(outcome, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    environments = enumerate(forked.launched(PROCESSES))
    workers = [
        forked.start(folder / f"{rank}.txt", one_of_two, folder, **each) for rank, each in environments
    ]
    assert forked.finish(workers) == [0] * PROCESSES, [file.read_text() for file in folder.glob("*.txt")]
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(PROCESSES)]


def test_rows_come_in_the_order_of_the_processes(outcomes):
    for rank, each in enumerate(outcomes):
        assert each["process"].tolist() == [rank, PROCESSES]
        assert each["gathered"].tolist() == [0.0, 0.0, 1.0, 1.0]
    assert outcomes[0]["to first"][:, 0].tolist() == [-1, *range(2**14 + 3)]
    assert torch.equal(outcomes[1]["to first"], outcomes[0]["to first"][1:])


@pytest.mark.parametrize("spec", SPECS)
def test_two_processes_have_the_loss_and_gradient_of_one(outcomes, spec):
    weight = torch.eye(WIDTH, dtype=torch.float64, requires_grad=True)
    loss = compute(spec, *whole(), labels(), weight)
    loss.backward()
    for each in outcomes:
        torch.testing.assert_close(each[spec], loss.detach(), rtol=1e-12, atol=0)
        torch.testing.assert_close(each[f"{spec} gradient"], weight.grad, rtol=1e-10, atol=1e-14)


def test_one_process_gathers_nothing():
    rows = torch.ones(2, requires_grad=True)
    assert gather_rows(rows) is rows and process_count() == 1 and process_rank() == 0


def test_the_launcher_names_the_process(monkeypatch):
    for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert launched_rank(4) == 0
    monkeypatch.setenv("SLURM_PROCID", "3")
    assert launched_rank(4) == 3 and launched_rank(1) == 0
    monkeypatch.setenv("RANK", "1")
    assert launched_rank(4) == 1


@given(count=st.integers(0, 50), of=st.integers(1, 9))
def test_stretches_are_all_things_once_in_order_and_the_first_has_some(count, of):
    stretches = [Share(number, of).stretch(count) for number in range(of)]
    assert [thing for stretch in stretches for thing in stretch] == list(range(count))
    taken = [list(Share(number, of).taken(range(count))) for number in range(of)]
    assert all(part == list(range(number, count, of)) for number, part in enumerate(taken))
    assert len(stretches[0]) == -(-count // of) and all(len(s) >= count // of for s in stretches)
