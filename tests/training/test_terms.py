"""Runs with auxiliary terms: resumed bit for bit, and what their curves hold."""

import signal

import pytest
import torch
from refusals import assert_names, refuses
from runs import fingerprint

from fullrank import cite, train
from fullrank.errors import InterruptedRunError
from fullrank.files import load_arrays
from fullrank.reports.diagnosis.words import gradient_note
from fullrank.reports.run.page import curve_panels

TERMS = {"objective": "infonce:0.2 + augself:2,hidden=8 + sdssl:0.5", "encoder_passes": 2}
CURVES = ["loss of augself", "loss of sdssl"]


@pytest.fixture(scope="module")
def settings(quick):
    return quick | TERMS | {"epochs": 2, "engine.accumulate": 2}


@pytest.fixture(scope="module")
def run(settings, tmp_path_factory):
    return train("digits", out=tmp_path_factory.mktemp("terms") / "run", **settings)


def test_a_run_with_terms_resumes_bit_for_bit(run, settings, tmp_path, at_batch):
    """Also the weights of the terms, on which the later steps depend, and how far the ramp has come."""
    at_batch(0, 3, signal.SIGINT)
    with refuses(InterruptedRunError, "--resume"):
        train("digits", out=tmp_path / "run", **settings)
    torch.manual_seed(99)
    again = train("digits", out=tmp_path / "run", resume=True, **settings)
    assert fingerprint(again) == fingerprint(run)


def test_each_term_has_a_curve_in_the_table_the_arrays_and_a_panel(run):
    header = (run.path / "metrics.csv").read_text().splitlines()[0].split(",")
    arrays = load_arrays(run.path)
    assert [name for name in header if name.startswith("loss of")] == CURVES
    # The ramp of sdssl starts at 0, after which it counts; augself predicts from the first step on.
    assert arrays[CURVES[1]][0] == 0 < arrays[CURVES[1]][-1] and arrays[CURVES[0]].min() > 0
    panels = list(curve_panels(run.record, {".": arrays}))
    assert len(panels) == len(list(curve_panels(run.record, {".": without(arrays)}))) + 2


def without(arrays):
    return {name: array for name, array in arrays.items() if name not in CURVES}


def test_citations_and_the_note_on_the_gradient_name_the_terms(run):
    assert all(paper in cite(run) for paper in ("2111.09613", "2111.12958", "1807.03748"))
    assert_names(gradient_note(run.record), "infonce:0.2", "augself:2,hidden=8", "sdssl:0.5")


def test_weights_of_terms_are_counted_and_not_kept_in_the_run(run):
    assert run.record.runs[0].parameters["terms"] > 0
    assert {path.stem for path in run.path.glob("*.safetensors")} == {"encoder", "head"}
