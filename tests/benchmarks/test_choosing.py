"""The quick form of benchmarks/choosing.py: three short runs, a case with known regrets, and the tables."""

import importlib
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from fullrank import train
from fullrank.choosing.candidates import Candidate, Pool
from fullrank.choosing.choose import measured_parts
from fullrank.choosing.criteria import CRITERIA
from fullrank.choosing.frozen import settings
from fullrank.heads import HEADS

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def choosing():
    sys.path.insert(0, str(BENCHMARKS))
    yield importlib.import_module("choosing")
    sys.path.remove(str(BENCHMARKS))
    for name in ("choosing", "choosing_tables"):
        sys.modules.pop(name)


def test_short_runs_are_read_grouped_and_judged(choosing, tmp_path):
    for head in ("none", "mlp:8", "subvector:4"):
        train(
            "digits",
            head=head,
            encoder="tiny-resnet,width=8",
            epochs=1,
            limit=500,
            out=tmp_path / "runs" / head.replace(":", "-"),
        )
    assert choosing.halves(tmp_path / "runs", "judged") == []
    paths = choosing.halves(tmp_path / "runs", "made")
    reads = [choosing.read(path) for path in paths]
    assert len(reads) == 3 and len({one.case for one in reads}) == 1
    groups = choosing.grouped(reads, "heads")
    ((group, sets),) = [item for item in groups.items() if item[0] == reads[0].case]
    (case,) = choosing.cases(group, sets, "heads")
    assert {each.place for each in case.pool.candidates} == {"h"}
    ways = choosing.judge(case)["ways"]
    # The mean over all candidates is what a random one gives; no single choice is better than the best.
    accuracies = 100 * case.hits.mean(1)
    assert ways["h of a random run"][0] == pytest.approx(ways["random"][0])
    assert ways["random"][0] <= accuracies.max() - accuracies.mean() + 1e-9
    assert set(CRITERIA) - {"cluster_predictability"} <= set(ways)


def test_the_regrets_of_a_known_case_are_those_of_its_accuracies(choosing):
    generator = torch.Generator().manual_seed(0)
    images = 200
    # Three runs at two places; each candidate is right on the images below a number. The bootstrap adds some
    # hundredths of a point.
    right = {
        ("a", "h"): 190,
        ("a", "z"): 120,
        ("b", "h"): 150,
        ("b", "z"): 110,
        ("c", "h"): 130,
        ("c", "z"): 100,
    }
    heads, losses = {"a": "mlp:4", "b": "subvector:4", "c": "none"}, {"a": 2.0, "b": 1.0, "c": 3.0}
    candidates = [
        Candidate(
            run,
            place,
            torch.randn(images, 6, generator=generator),
            depth=int(place == "z"),
            head=HEADS.parse(heads[run]),
            loss=losses[run],
            recipe=run,
        )
        for run, place in right
    ]
    pool = Pool(candidates, np.arange(images).astype(str))
    hits = np.array([np.arange(images) < count for count in right.values()])
    values = {
        "alpha_req": [-1.0 * count for count in right.values()],
        "rankme": [1.0 * count for count in right.values()],
    }
    values |= {name: list(range(6)) for name in ("infonce", "gride", "view_recall", "lidar")}
    parts = measured_parts(pool, settings())
    case = choosing.Case("known", "known", pool, parts, hits, np.arange(images) % 4, values, {"a": 0.9})
    ways = choosing.judge(case)["ways"]
    expected = {
        "h of the MLP head": 0.0,
        "h of the sub-vector": 20.0,
        "h at the lowest loss": 20.0,
        "z of a random run": (35 + 40 + 45) / 3,
        "random": (0 + 35 + 20 + 40 + 30 + 45) / 6,
    }
    assert {name: ways[name][0] for name in expected} == pytest.approx(expected, abs=0.1)
    # RankMe is better when it is higher; alpha is better when it is lower.
    assert ways["rankme"][0] == pytest.approx(0.0, abs=0.1)
    assert ways["rankme"][2] == pytest.approx(1.0)
    assert ways["alpha_req"][0] == pytest.approx(0.0, abs=0.1)


def test_the_tables_hold_medians_shares_and_paired_differences(choosing):
    tables = sys.modules["choosing_tables"]
    judged = [
        {
            "case": f"digits, {number}" + (", texture" if number == 2 else ""),
            "group": f"digits, {number}",
            "candidates": 5 + number,
            "ways": {"rule": [first, three, 0.5], "middle": [first + 1.0, None, math.nan]},
        }
        for number, (first, three) in enumerate([(0.2, 0.1), (0.6, 0.2), (2.0, 0.9)])
    ]
    rule = tables.summary(judged)["rule"]
    assert rule["first"] == 0.6 and rule["shortlist"] == 0.2 and rule["worst_first"] == 2.0
    assert rule["within_first"] == pytest.approx(1 / 3) and rule["within_shortlist"] == pytest.approx(2 / 3)
    assert tables.summary(judged)["middle"].get("shortlist") is None
    other = tables.paired_table(judged)[-1].split("|")
    assert other[1].strip() == "middle" and other[2].split()[0] == "-1.00" and other[4].strip() == ""
    assert [line.split("|")[1].strip() for line in tables.kind_table(judged)[2:]] == [
        "digits",
        "digits, texture",
    ]
    assert tables.report({"runs": judged, "places": []}).count("### ") == 1
