"""The examples run as they stand, and what they print is what they promise."""

import re
import runpy
from pathlib import Path

import pytest

from fullrank.data.sets.digits import Digits

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture
def run(capsys):
    """Runs an example and returns what it printed."""

    def run(name: str) -> str:
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return run


def test_every_example_is_tested():
    assert {path.name for path in EXAMPLES.glob("*.py")} == {
        "bare_loop.py",
        "timm_cut_below_head.py",
        "lightly_pipeline.py",
        "sentence_transformers_watched.py",  # in diagnosis/watch/test_huggingface.py, which has its imports
    }


def test_a_bare_loop_learns(run):
    printed = run("bare_loop.py")
    first, *_, last = (float(value) for value in re.findall(r"loss ([\d.]+)", printed))
    assert last < first < 5.6
    assert float(re.search(r"probe.*: ([\d.]+) %", printed)[1]) > 80


def test_timms_net_gives_the_same_features(run, monkeypatch):
    read = Digits.read  # two classes, and so fewer images and cheaper probes
    monkeypatch.setattr(Digits, "read", lambda *given: read(*given).of_classes(["3", "8"]))
    printed = run("timm_cut_below_head.py")
    assert float(re.search(r"differs by ([\d.e+-]+)", printed)[1]) < 1e-5
    assert all(place in printed for place in ("layer3.0", "h:", "head.1", "z:"))


def test_lightlys_views_and_head_train_under_our_loss(run):
    pytest.importorskip("lightly")
    losses = [float(value) for value in re.findall(r"loss ([\d.]+)", run("lightly_pipeline.py"))]
    assert len(losses) == 8 and sum(losses[-3:]) < sum(losses[:3])
