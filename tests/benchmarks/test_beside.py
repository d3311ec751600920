"""The quick form of benchmarks/beside.py: changes of real features without labels, and two halves."""

import importlib
import sys
from pathlib import Path

import pytest
from sklearn.datasets import load_digits

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def beside():
    sys.path.insert(0, str(BENCHMARKS))
    yield importlib.import_module("beside")
    sys.path.remove(str(BENCHMARKS))
    sys.modules.pop("beside")


def test_changes_of_real_features_have_their_words_and_halves_are_not_told_apart(beside):
    pixels = load_digits().data[:300].astype("float32")
    few = [pair for pair in beside.changed("digits", "fix", pixels, None) if pair.name[7:] in beside.QUICK]
    said = {pair.name: beside.judged(pair).verdict for pair in few}
    assert len(said) == len(beside.QUICK)
    assert all(said[pair.name] in pair.expected for pair in few), said
    assert beside.judged_halves(pixels, None, draw=0).verdict == beside.UNDECIDED
