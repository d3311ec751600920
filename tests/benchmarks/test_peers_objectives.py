"""The comparison with lightly's objectives in its quick form: each is equal, or says how it differs."""

import importlib
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
EQUAL = {"sigreg", "visreg", "simsiam", "byol", "dino", "infonce", "mmcr", "align", "koleo", "vicreg"}


@pytest.fixture
def peers(monkeypatch):
    pytest.importorskip("lightly")
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield importlib.import_module("peers_objectives")
    sys.modules.pop("peers_objectives", None)


def test_lightlys_objectives_have_our_value_and_gradient(peers):
    equal = set()
    for each in peers.lightly_comparisons():
        _, _, value_apart, slopes_apart = each.measured()
        if not each.differs:
            assert max(value_apart, slopes_apart) <= peers.FURTHEST, each.spec
            equal.add(each.spec.partition(",")[0].partition(":")[0])
    assert equal >= EQUAL


def test_a_difference_that_has_no_reason_is_an_error(peers, capsys):
    rows = [
        peers.Comparison("one", "peer", lambda z: z.sum(), lambda z: 2 * z.sum(), differs)
        for differs in ("", "twice")
    ]
    assert [peers.print_comparisons(iter([row])) for row in rows] == [False, True]
    said = capsys.readouterr().out.splitlines()
    assert "NOT EQUAL" in said[0] and said[1].endswith("| twice |")
