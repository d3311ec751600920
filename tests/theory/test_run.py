"""Theory runs end to end: the record, the page, the command line, and a real run beside the theory."""

import sys

import numpy as np
import pytest
from refusals import assert_names, error_line, refuses

from fullrank import cli
from fullrank.diagnosis.predict import predict
from fullrank.errors import DataError, UsageError
from fullrank.files import load_arrays
from fullrank.record import Record
from fullrank.reports.page import write_page
from fullrank.reports.theory.page import theory_command
from fullrank.theory.run import TheoryRun, run_theorem

# P2's linear model at two layers, to the digits of the printed test vector.
PRE = [1.41421, 0.94868, 0.70711, 0.54772, 0.64807]
POST = [1, 0.9, 1, 0.3, 0.6]
VECTOR = ["--strengths", "2,1,0.5,1,0.7", "--keep", "1,0.9,1,0.3,0.6", "--depth", "2"]


def run(capsys, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["fullrank", "theory", *arguments])
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    captured = capsys.readouterr()
    return int(exit_.value.code or 0), captured.out, captured.err


def test_the_command_leaves_one_list_of_weights_per_layer(capsys, monkeypatch, tmp_path):
    status, printed, _ = run(capsys, monkeypatch, "feature-weighting", *VECTOR, "--out", str(tmp_path))
    assert status == 0 and max(map(len, printed.splitlines()[:-3])) <= 80
    record = Record.load(tmp_path)
    assert (
        record.kind == "theory" and record.theory is not None and record.theory.rows[0].startswith("layer 1")
    )
    np.testing.assert_allclose(record.predicted, [PRE, POST], atol=5e-6)
    np.testing.assert_allclose(record.simulated, record.predicted, rtol=1e-4)
    assert (tmp_path / "report.html").stat().st_size > 1e5
    assert_names(printed, "predicted", "simulated", "feature 5", 0.5477)


def test_set_and_options_are_the_same(capsys, monkeypatch, tmp_path):
    assignments = [f"--set={key[2:]}={value}" for key, value in zip(VECTOR[::2], VECTOR[1::2], strict=True)]
    assert run(capsys, monkeypatch, "feature-weighting", *assignments, "--out", str(tmp_path))[0] == 0
    np.testing.assert_allclose(Record.load(tmp_path).predicted, [PRE, POST], atol=5e-6)


def test_the_command_of_the_page_gives_the_numbers_again(capsys, monkeypatch, tmp_path):
    first = run_theorem("feature-weighting", out=tmp_path / "a", strengths="1,3", keep="0.5,0.25", depth=3)
    words = theory_command(first.record).split()
    assert words[:3] == ["fullrank", "theory", "feature-weighting"]
    assert run(capsys, monkeypatch, *words[2:], "--out", str(tmp_path / "b"))[0] == 0
    assert Record.load(tmp_path / "b").predicted == first.record.predicted


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["feature-waiting"], ["feature-waiting", "feature-weighting"]),
        (["feature-weighting", "--strengths", "1,-2"], ["strengths", "feature 2", -2]),
        (["feature-weighting", "--strengths", "1,two"], ["strengths", "1,two"]),
        (
            ["feature-weighting", "--keep", "1,1.5", "--strengths", "1,1"],
            ["keep", "feature 2", 1.5],
        ),
        (["feature-weighting", "--strengths", "1,2", "--keep", "1"], ["2 strengths", "1 keep"]),
        (["feature-weighting", "--depth", "0"], ["depth", 0, 1]),
        (["weight-decay", "--set", "decay"], ["--set", "decay"]),
        (["weight-decay", "--set", "decoy=1"], ["weight-decay", "decoy", "decay"]),
        (["weight-decay", "--set", "decay=-1"], ["decay", -1, 0]),
        (["weight-decay", "--set", "decay=nan"], ["decay", "nan"]),
        (["weight-decay", "--set", "decay=1e308"], ["decay", "1e308", 1000]),
        (["feature-weighting", "--strengths", "1e200,1"], ["1e+200", 0.001, 1000]),
        (["pre-or-post", "--strengths", "1e-9,1"], ["1e-09", 0.001, 1000]),
        (["strong-augmentation", "--set", "noise=lots"], ["noise", "lots"]),
    ],
)
def test_bad_settings_are_one_line_and_status_2(capsys, monkeypatch, tmp_path, arguments, parts):
    status, printed, error = run(capsys, monkeypatch, *arguments, "--out", str(tmp_path / "no"))
    assert status == 2 and not printed
    assert_names(error_line(error), *parts)
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize("arguments", [["--help"], ["depth", "--help"], ["predict", "--help"]])
def test_help_fits_80_columns(capsys, monkeypatch, arguments):
    status, printed, _ = run(capsys, monkeypatch, *arguments)
    assert status == 0 and max(map(len, printed.splitlines())) <= 80


def test_a_file_in_the_folders_place_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with refuses(UsageError, tmp_path / "file"):
        run_theorem("feature-weighting", out=tmp_path / "file")


def test_curves_that_are_missing_leave_their_pictures_out(tmp_path):
    done = run_theorem("feature-weighting", out=tmp_path)
    assert done.path == tmp_path and len(load_arrays(tmp_path)) == 2 * len(done.entry.curves)
    assert done.record == Record.load(tmp_path)
    (tmp_path / "arrays.npz").unlink()
    page = write_page(tmp_path).read_text()
    assert 'id="numbers"' in page and 'class="plot"' not in page


def test_a_record_of_another_kind_is_no_theory_run(quick_run):
    with refuses(DataError, quick_run.path, "theory run"):
        _ = TheoryRun(quick_run.path, Record.load(quick_run.path)).entry


def test_a_real_run_stands_beside_the_theory(quick_run, capsys, monkeypatch, tmp_path):
    status, printed, _ = run(
        capsys, monkeypatch, "predict", str(quick_run.path), "--place", "stage1.1", "--out", str(tmp_path)
    )
    record = Record.load(tmp_path)
    assert status == 0 and "Spearman" in printed
    assert record.recipe["place"] == "stage1.1" and record.recipe["outcome"] == "z"
    assert len(record.predicted[0]) == len(record.simulated[0]) == len(record.theory.columns)
    assert max(record.predicted[0]) == max(record.simulated[0]) == 1
    assert min(record.predicted[0]) >= 0


def test_without_a_place_it_is_the_input_of_the_last_map(quick_run, tmp_path):
    assert predict(quick_run, out=tmp_path).record.recipe["place"] == "h"


@pytest.mark.parametrize(
    ("places", "parts"),
    [
        ({"place": "z"}, ["z", "--place"]),
        ({"place": "z", "outcome": "h"}, ["z", "h", "after"]),
        ({"place": "nowhere"}, ["nowhere"]),
        ({"outcome": "z[:900]"}, ["900"]),
    ],
)
def test_places_that_cannot_be_compared_are_refused(quick_run, tmp_path, places, parts):
    with refuses(UsageError, *parts):
        predict(quick_run, out=tmp_path, **places)
