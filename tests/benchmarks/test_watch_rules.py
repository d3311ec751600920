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


def rows_of(printed):
    """What each line of a report says, by what it is about."""
    return dict(re.findall(r"^  (all rules|event \w+|\d+ places)\b(.*)$", printed, re.MULTILINE))


def test_a_training_that_collapses_is_counted_as_found(watch_rules, monkeypatch, capsys):
    monkeypatch.setattr(watch_rules, "cases", lambda quick: [watch_rules.Case("alignment", rate=1e-2)])
    monkeypatch.setattr(watch_rules, "STEPS", 160)
    monkeypatch.setattr(watch_rules, "HALVES", {"fix": "digits"})
    monkeypatch.setattr(sys, "argv", ["watch_rules.py", "--quick"])
    watch_rules.main()
    rows = rows_of(capsys.readouterr().out)
    # h and z of the training without negatives and of its twin.
    assert_names(rows["4 places"], "1 collapsed", "3 healthy")
    assert_names(rows["all rules"], "1 of 1 collapsed", "0 of 3 healthy")


def test_a_jump_that_stays_is_counted_as_found(watch_rules, capsys):
    steps, look = 120, dict.fromkeys(watch_rules.MEASURED, 0.5)
    looks = {place: [look] * (steps // watch_rules.EVERY) for place in watch_rules.PLACES}
    falls = [max(1.0, 3 - step / 30) for step in range(1, steps + 1)]
    jumps = [loss + 1.5 * (step >= watch_rules.event_step(steps)) for step, loss in enumerate(falls, 1)]
    plain, event = (watch_rules.Case("infonce:0.2", event=event) for event in ("", "rate"))
    watch_rules.report_jumps(
        {plain: watch_rules.Course(falls, looks), event: watch_rules.Course(jumps, looks)}
    )
    rows = rows_of(capsys.readouterr().out)
    assert_names(rows["event rate"], "1 of 1 found")
    assert_names(rows["event none"], "0 of 1 alarm")
