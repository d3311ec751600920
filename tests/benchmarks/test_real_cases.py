"""The quick form of benchmarks/causes.py: constructed cases of one seed, and how written cases are judged."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from fullrank.record import Finding

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SEED = 3
TRAINED = {"augmentation", "implicit-regularisation"}
HEALTHY = {"5 rows x 0.001", "views at distance 0.3", "variances x 1", "tokens x 3", "Gaussian 60 x 10"}


@pytest.fixture(scope="module")
def load():
    before = set(sys.modules)
    sys.path.insert(0, str(BENCHMARKS))
    yield importlib.import_module
    sys.path.remove(str(BENCHMARKS))
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(BENCHMARKS)):
            del sys.modules[name]


def test_each_cause_is_named_where_it_is_alone_and_nothing_alarms_elsewhere(load):
    causes = load("causes")
    ill = {case.cause: case for case in causes.CASES if case.cause not in {*TRAINED, "healthy"}}
    healthy = [case for case in causes.CASES if case.strength in HEALTHY]
    assert len(healthy) == len(HEALTHY)
    rows = [causes.judge(case, [SEED]) for case in (*ill.values(), *healthy)]
    missed = [str(row) for row in rows if row.case.cause != "healthy" and not row.named]
    assert not missed and not [str(row) for row in rows if row.false_alarms or row.false_notes]
    assert {case.cause for case in causes.CASES} >= {"zero-rows", "leakage", "view-gap", "outlier-tokens"}


def written(load, folder, build, half="fix"):
    real = load("real_sample")
    load("real_cases").make(real.RealCase("some", "case", half, build), folder)
    (truth,) = load("real_judge").truths(folder)
    return truth, load("real_judge").judge(folder, truth)


def test_a_case_with_a_fault_is_named_from_its_file(load, tmp_path):
    sample = load("real_sample").Sample
    x, _ = load("real_features").principal("digits")
    x = x.clone()
    x[::10] = 0
    truth, judged = written(load, tmp_path, lambda: sample({"embedding": x}, ("zero-rows",), "note"))
    assert truth.expected == {"zero-rows"} and judged.named and not judged.false_alarms
    assert [finding.row_count for finding in judged.findings] == [120]


def test_the_evidence_of_a_case_is_what_was_written(load, tmp_path):
    real = load("real_sample")
    h, z, map_ = torch.randn(40, 6), torch.randn(40, 4), torch.randn(4, 6)
    views, labels = (torch.randn(20, 4), torch.randn(20, 4)), torch.arange(40) % 3
    sample = real.Sample({"h": h, "z": z}, labels=labels, views={"z": views}, imposed={"z": 3},
                         stacked=(map_,), supervised=False, temperature=0.2)  # fmt: skip
    sample.save(tmp_path / "x.npz")
    evidence = real.evidence_of(tmp_path / "x.npz")
    first, last = evidence.places
    assert (first.place, last.place, first.views) == ("h", "z", None)
    assert torch.equal(first.features, h) and torch.equal(last.features, z)
    assert last.imposed_rank == 3 and torch.equal(last.views[1], views[1])
    assert torch.equal(evidence.stacked[0], map_) and torch.equal(evidence.labels, labels)
    assert (evidence.supervised, evidence.temperature, evidence.trained) == (False, 0.2, True)


def test_a_leaked_file_keeps_its_split(load, tmp_path):
    real = load("real_sample")
    x, labels = torch.randn(60, 5), torch.arange(60) % 2
    x[50:55], labels[50:55] = x[:5], labels[:5]
    split = np.array(["train"] * 50 + ["test"] * 10)
    sample = real.Sample({"embedding": x}, ("leakage",), "note", labels=labels, split=split)
    _, judged = written(load, tmp_path, lambda: sample)
    assert judged.named and judged.findings[0].value == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("level", "found", "named", "alarms"),
    [
        ("alarm", "alarm", True, 0),
        ("alarm", "note", False, 0),
        ("note", "note", True, 0),
        ("note", "alarm", True, 1),
        ("none", "alarm", False, 1),
        ("ambiguous", "alarm", False, 0),
    ],
)
def test_an_alarm_is_false_unless_one_may_be_due(load, level, found, named, alarms):
    judge = load("real_judge")
    truth = judge.Truth("a-b-fix.npz", "fix", frozenset({"x"}), level, frozenset(), "")
    finding = Finding(cause="x", title="", place="z", level=found, measure="", value=1, threshold=0,
                      evidence="", remedy="")  # fmt: skip
    judged = judge.Judged(truth, (finding,))
    assert (judged.named, len(judged.false_alarms)) == (named, alarms)
