"""Sweeps: one setting with several values, from Python and from the command line."""

import sys

import numpy as np
import pytest
from refusals import assert_names, refuses

from fullrank import cli
from fullrank.errors import UsageError
from fullrank.record import Record
from fullrank.theory import theorem_named
from fullrank.theory.run import run_theorem
from fullrank.theory.sweep import values_to_sweep
from fullrank.theory.weighting.theorems import FeatureWeighting


def test_each_column_is_the_run_of_its_own_value(tmp_path):
    run = run_theorem("absent-features", threshold="2,0.1,0.5", out=tmp_path)
    assert run.entry.sweep == "threshold" and run.record.recipe["threshold"] == [0.1, 0.5, 2]
    assert run.entry.columns == ["threshold 0.1", "threshold 0.5", "threshold 2"]
    for column, threshold in enumerate((0.1, 0.5, 2)):
        alone = theorem_named("absent-features", threshold=threshold).outcome().measures
        for row, measure in enumerate(alone):
            assert run.entry.rows[row] == measure.name
            assert run.record.predicted[row][column] == measure.predicted
            assert run.record.simulated[row][column] == measure.simulated
    # 0.8 times the strengths 2, 1 and 0.5 has to pass the threshold.
    assert run.record.predicted[0] == [0, 1, 3]
    assert_names(run.entry.verdict, 0.1, 0.5, 2)


def test_noise_beyond_the_square_root_of_two_collapses_the_augmented_directions(tmp_path):
    settings = {"width": 5, "augmented": 2, "steps": 5, "noise": (1, 2.5)}
    run = run_theorem("strong-augmentation", **settings, out=tmp_path)
    assert run.record.simulated[0] == [0, 2]
    lines = [curve for curve in run.entry.curves if curve.panel == run.entry.rows[0]]
    assert [line.dashed for line in lines] == [True, False]


def test_the_command_sweeps_and_its_page_repeats_it(capsys, monkeypatch, tmp_path):
    words = ["fullrank", "theory", "weight-decay", "--decay", "0.01,0.1,1", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", words)
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    printed = capsys.readouterr().out
    assert not exit_.value.code and max(map(len, printed.splitlines()[:-3])) <= 80
    record = Record.load(tmp_path)
    np.testing.assert_array_equal(record.predicted, [[5, 4, 1], [5, 3, 1]])
    assert record.predicted == record.simulated
    assert "--set decay=0.01,0.1,1.0" in (tmp_path / "report.html").read_text()


def test_settings_of_several_numbers_are_not_swept():
    settings = {"strengths": "1,2", "keep": (1, 0.5), "depth": "2", "scale": 0.5}
    assert values_to_sweep(FeatureWeighting, settings) == {}
    assert values_to_sweep(FeatureWeighting, {"depth": "1, 2"}) == {"depth": ("1", "2")}


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({"depth": "1,2", "scale": "0.5,0.6"}, ["depth", "scale"]),
        ({"depth": (3,)}, ["depth", 1, 2, 64]),
        ({"depth": "2,2"}, ["depth", "2 twice"]),
        ({"depth": "1,two"}, ["depth", "two"]),
        ({"scale": "0.5,9"}, ["scale", 9, 2]),
    ],
)
def test_a_sweep_that_makes_no_sense_is_refused_before_anything_runs(tmp_path, settings, parts):
    with refuses(UsageError, *parts):
        run_theorem("feature-weighting", out=tmp_path / "no", **settings)
    assert not (tmp_path / "no").exists()
