"""How many threads compute: who asked, what is free, and what a resumed run takes."""

import os
from pathlib import Path

import pytest
import torch

from fullrank import Run, threads
from fullrank.errors import UsageError
from fullrank.threads import CoreLoad, asked_threads, choose_threads, follow_threads, limited_threads
from tests.support.refusals import refuses


@pytest.fixture
def nobody_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


def test_what_a_user_asks_for_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert choose_threads(5, CoreLoad()).count == 5
    assert choose_threads(None, CoreLoad()).count == 3


def test_default_is_at_least_one_and_at_most_the_allowed_cores(nobody_asked: None) -> None:
    chosen = choose_threads(None, CoreLoad())
    assert 1 <= chosen.count <= len(os.sched_getaffinity(0))
    assert chosen.free is not None
    assert choose_threads(None, CoreLoad(), processes=64).count == 1


def test_free_cores_are_those_that_others_do_not_use(
    nobody_asked: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 8 cores, busy for 3 core-seconds in each second by others, 5 are free."""
    clock = iter([100.0, 101.0, 101.0, 101.0])
    busy = iter([50.0, 53.0])
    monkeypatch.setattr(threads.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(threads.time, "process_time", lambda: 0.0)
    monkeypatch.setattr(threads, "_own_cores", lambda: set(range(8)))
    monkeypatch.setattr(threads, "_busy_seconds", lambda cores: next(busy))
    monkeypatch.setattr(threads, "_QUOTAS", ())
    assert choose_threads(None, CoreLoad()).count == 5


@pytest.mark.parametrize(("quota", "allowed"), [("200000 100000", 2), ("50000 100000", 1), ("max 100000", 8)])
def test_a_limit_of_the_container_bounds_the_cores(
    quota: str, allowed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpu.max").write_text(quota)
    monkeypatch.setattr(threads, "_own_cores", lambda: set(range(8)))
    monkeypatch.setattr(threads, "_QUOTAS", ((str(tmp_path / "cpu.max"),),))
    assert threads.allowed_cores() == allowed


def test_fewer_than_one_thread_is_refused() -> None:
    with refuses(UsageError, "threads", 0):
        choose_threads(0, CoreLoad())
    with refuses(UsageError, "threads", -2), asked_threads(-2):
        raise AssertionError


def test_the_number_is_put_back() -> None:
    before = torch.get_num_threads()
    with asked_threads(before + 2):
        assert torch.get_num_threads() == before + 2
    assert torch.get_num_threads() == before


def test_a_resumed_run_takes_the_threads_of_its_first_part(nobody_asked: None) -> None:
    with limited_threads(2, asked=False):
        follow_threads(3)
        assert torch.get_num_threads() == 3
    with limited_threads(2, asked=True):
        follow_threads(3)
        assert torch.get_num_threads() == 2


def test_a_checkpoint_holds_the_number_of_threads(quick_run: Run) -> None:
    newest = max((quick_run.path / "checkpoints").glob("step-*.ckpt"))
    state = torch.load(newest, weights_only=True)
    assert state["callbacks"]["Checkpointer"]["threads"] == quick_run.record.machine.threads


def test_waiting_threads_sleep_unless_a_user_says_how_they_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    threads.sleep_while_waiting()
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    monkeypatch.delenv("GOMP_SPINCOUNT")
    threads.sleep_while_waiting()
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"
    assert "GOMP_SPINCOUNT" not in os.environ
