"""Two processes are one: gathered rows, and each one's share of the work."""

import torch
from gloo_group import in_processes
from hypothesis import given, strategies as st

from fullrank.processes import Share, gather_rows, launched_rank, own_share, process_count, process_rank

PROCESSES = 2


def shared(rank: int) -> dict[str, torch.Tensor]:
    own = torch.arange(2**14 + 3)[:, None] if rank else torch.tensor([[-1]])  # more than one message
    return {
        "process": torch.tensor([process_rank(), process_count()]),
        "gathered": gather_rows(torch.full((2,), float(rank))),
        "to first": own_share().to_first(own),
    }


def test_rows_come_in_the_order_of_the_processes(tmp_path):
    outcomes = in_processes(shared, PROCESSES, tmp_path)
    for rank, each in enumerate(outcomes):
        assert each["process"].tolist() == [rank, PROCESSES]
        assert each["gathered"].tolist() == [0.0, 0.0, 1.0, 1.0]
    assert outcomes[0]["to first"][:, 0].tolist() == [-1, *range(2**14 + 3)]
    assert torch.equal(outcomes[1]["to first"], outcomes[0]["to first"][1:])


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
