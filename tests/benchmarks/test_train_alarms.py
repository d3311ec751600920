"""The quick form of benchmarks/train_alarms.py, on two shorter runs."""

import importlib
import re
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def train_alarms(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield importlib.import_module("train_alarms")
    sys.modules.pop("train_alarms")


def test_a_collapsing_run_counts_as_found_and_a_healthy_one_as_quiet(train_alarms, monkeypatch, capsys):
    shorter = {"limit": 300, "batch_size": 64, "optimizer.lr": 2e-2, "monitor_every": 2}
    monkeypatch.setattr(train_alarms, "SETTINGS", train_alarms.SETTINGS | shorter)
    monkeypatch.setattr(train_alarms, "HEADS", ("linear:8",))
    monkeypatch.setattr(train_alarms, "POINT", 0.9)  # so far does a collapse come in so few steps
    monkeypatch.setattr(sys, "argv", ["train_alarms.py", "--quick", "--half", "fix", "--epochs", "8"])
    train_alarms.main()
    printed = capsys.readouterr().out
    healthy, collapsed = re.findall(r"^(?:infonce|vicreg).*$", printed, re.MULTILINE)
    assert healthy.split()[-2:] == ["-", "-"]
    assert re.search(r" z +spread-fell of z at \d+", collapsed)
    counts = re.findall(r"(\d of \d) (collapsed|other)", printed)
    assert counts == [("1 of 1", "collapsed"), ("0 of 1", "other")]


def test_a_place_has_collapsed_by_its_cosine_or_by_its_rank_beside_the_twin(train_alarms):
    def ending(**last):
        measured = ({"mean_cosine": cosine, "effective_rank": rank} for cosine, rank in last.values())
        return train_alarms.Outcome((0, 0), dict(zip(last, measured, strict=True)), [])

    twin = ending(h=(0.5, 20.0), z=(0.1, 8.0))
    assert train_alarms.collapsed(ending(h=(0.96, 20.0), z=(0.1, 1.9)), twin) == ["h", "z"]
    assert train_alarms.collapsed(ending(h=(0.94, 5.1), z=(0.1, 2.1)), twin) == []
