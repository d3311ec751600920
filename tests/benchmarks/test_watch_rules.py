"""The quick form of benchmarks/watch_rules.py, on three of its trainings."""

import importlib
import re
import sys
from pathlib import Path

import pytest
from refusals import assert_names

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def watch_rules(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield importlib.import_module("watch_rules")
    sys.modules.pop("watch_rules")


def test_a_collapse_and_a_jump_are_counted_as_found(watch_rules, monkeypatch, capsys):
    case = watch_rules.Case
    some = [case("alignment", rate=1e-2), case("infonce:0.2", event="rate")]
    monkeypatch.setattr(watch_rules, "cases", lambda quick: some)
    monkeypatch.setattr(watch_rules, "STEPS", 160)
    monkeypatch.setattr(watch_rules, "HALVES", {"fix": "digits"})
    monkeypatch.setattr(sys, "argv", ["watch_rules.py", "--quick"])
    watch_rules.main()
    rows = dict(
        re.findall(r"^  (all rules|event \w+|\d+ places)\b(.*)$", capsys.readouterr().out, re.MULTILINE)
    )
    # h and z of the training without negatives and of its twin, which is the training before the event too.
    assert_names(rows["4 places"], "1 collapsed", "3 healthy")
    assert_names(rows["all rules"], "1 of 1 collapsed", "0 of 3 healthy")
    assert_names(rows["event rate"], "1 of 1 found")
    assert_names(rows["event none"], "0 of 2 alarm")
