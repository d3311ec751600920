"""Tidy rows: what their numbers are, and that every way out of the tool holds the same ones."""

import csv
import io
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from refusals import refuses
from scipy import stats
from studies import small_study

from fullrank.errors import DataError, UsageError
from fullrank.record import Baseline, ProbedImages, Record, Result
from fullrank.record.finding import read_result, results_in
from fullrank.record.summary import summary
from fullrank.record.tidy import score_rows, study_rows, tidy_rows
from fullrank.reports.formats import csv_text, json_text
from fullrank.theory.run import run_theorem

LEVELS = {"none": {0: 0.90, 1: 0.92, 2: 0.94}, "mlp:8": {1: 0.95, 2: 0.99, 3: 0.90}}
OLD = Path(__file__).parent / "schema-1"


@pytest.fixture
def study() -> Result:
    return small_study("runs/a", LEVELS)


def test_means_intervals_and_paired_differences_are_those_of_the_t_tests(study):
    first, _, second, at_z = study_rows([study])
    assert [first["place"], second["place"], at_z["place"]] == ["h", "h", "z"]
    values = [90.0, 92.0, 94.0]
    oracle = stats.t.interval(0.95, 2, loc=np.mean(values), scale=stats.sem(values))
    assert first["linear_points"] == pytest.approx(92.0) and first["seeds"] == 3
    assert (first["linear_low_points"], first["linear_high_points"]) == pytest.approx(oracle)
    assert first["nearest_points"] == pytest.approx(87.0)
    assert first["effective_rank"] == pytest.approx(1.91) and first["dimensions"] == 3
    paired = stats.ttest_rel([95.0, 99.0], [92.0, 94.0]).confidence_interval(0.95)
    assert (second["against"], second["paired_seeds"]) == ("none", 2)
    assert second["difference_points"] == at_z["difference_points"] == pytest.approx(4.0)
    assert (second["difference_low_points"], second["difference_high_points"]) == pytest.approx(tuple(paired))
    assert first["against"] is None and first["difference_points"] is None


def test_varied_keys_are_columns(study):
    swept = small_study("b", LEVELS, {"none": {"epochs": "40"}, "mlp:8": {"epochs": "80"}})
    assert {(row["head"], row["epochs"]) for row in study_rows([swept])} == {("none", "40"), ("mlp:8", "80")}
    assert study_rows([swept])[-1]["row"] == "mlp:8, epochs=80"


def test_images_and_baselines_are_columns_where_the_record_has_them(study):
    images = ProbedImages(label="label", train=1297, test=500, classes=10, chance=0.101)
    baselines = [
        Baseline(features="pixels", linear=0.92, nearest=0.95),
        Baseline(features="untrained", linear=0.8, nearest=0.7),
    ]
    update = {"images": images, "baselines": baselines}
    runs = [run.model_copy(update=update) for run in study.record.runs]
    row = study_rows([Result(study.path, study.record.model_copy(update={"runs": runs}))])[0]
    assert (row["train_images"], row["test_images"], row["test_classes"]) == (1297, 500, 10)
    assert row["chance_points"] == pytest.approx(10.1)
    assert row["pixels_nearest_points"] == pytest.approx(95.0)
    assert row["untrained_linear_points"] == pytest.approx(80.0)
    assert study_rows([study])[0]["test_images"] is None


def test_a_place_without_probes_has_its_spectrum(study):
    runs = [run.model_copy(update={"probes": {}}) for run in study.record.runs]
    bare = Result(study.path, study.record.model_copy(update={"runs": runs}))
    row = study_rows([bare])[0]
    assert (row["place"], row["linear_points"], row["seeds"]) == ("h", None, 3)
    assert row["effective_rank"] == pytest.approx(1.91)
    assert "none" in summary(bare)


def test_every_score_is_a_row_in_long_form(study):
    rows = score_rows([study])
    assert [(row["head"], row["seed"], row["value"]) for row in rows] == [
        (head, seed, 100 * level) for head, seeds in LEVELS.items() for seed, level in seeds.items()
    ]
    assert {(row["unit"], row["probe"], row["place"]) for row in rows} == {("points", "linear", "h")}


def test_few_shot_scores_keep_their_interval_in_points(study):
    run = study.record.runs[0]
    few = run.scores[0].model_copy(update={"shots": 5, "value": 0.4, "low": 0.3, "high": 0.5, "episodes": 7})
    runs = [run.model_copy(update={"scores": [run.scores[0], few]}), *study.record.runs[1:]]
    rows = score_rows([replace(study, record=study.record.model_copy(update={"runs": runs}))])
    keys = ("value", "low", "high", "episodes")
    assert [rows[1][key] for key in keys] == pytest.approx([40.0, 30.0, 50.0, 7])
    assert [rows[0][key] for key in keys[1:]] == [None, None, None]


def test_csv_and_json_hold_the_rows_at_full_precision(study, tmp_path):
    theory = run_theorem("feature-weighting", strengths=(1, 2), keep=(1, 0.5), out=tmp_path)
    results = [study, theory]
    rows = tidy_rows(results)
    assert json.loads(json_text(results)) == rows
    read = list(csv.DictReader(io.StringIO(csv_text(results))))
    assert [list(row) for row in read] == [list(row) for row in rows]
    for written, row in zip(read, rows, strict=True):
        for column, value in row.items():
            assert written[column] == ("" if value is None else str(value))
    assert [row["predicted"] for row in rows[4:]] == [
        value for line in theory.record.predicted for value in line
    ]
    assert {row["kind"] for row in rows} == {"study", "theory"}


def test_a_frame_holds_the_rows(study):
    pytest.importorskip("pandas")
    frame = study.to_frame()
    assert list(frame.columns) == list(tidy_rows([study])[0]) and len(frame) == 4
    assert frame.set_index(["row", "place"]).loc[("mlp:8", "h"), "difference_points"] == pytest.approx(4.0)
    scores = study.scores_frame()
    assert scores.groupby("head")["value"].mean()["none"] == pytest.approx(92.0)


def test_without_pandas_the_extra_is_named(study, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with refuses(UsageError, "pandas", "fullrank[pandas]"):
        study.to_frame()


def test_a_record_of_schema_1_has_rows():
    rows = tidy_rows([read_result(OLD)])
    record = Record.load(OLD)
    first = [run.probes["h"].linear for run in record.runs if run.head == record.runs[0].head]
    assert rows[0]["linear_points"] == pytest.approx(100 * np.mean(first))


def test_results_below_a_folder_leave_out_the_runs_of_a_study(tmp_path):
    for name in ("one/study", "two"):
        study = small_study(tmp_path / name, LEVELS)
        for run in study.record.runs:
            (study.path / run.folder).mkdir(parents=True)
            own = run.model_copy(update={"folder": "."})
            study.record.model_copy(update={"kind": "run", "runs": [own]}).save(study.path / run.folder)
        study.record.save(study.path)
    # A table's runs lie beside it.
    table = tmp_path / "table"
    table.mkdir()
    beside = [run.model_copy(update={"folder": "../runs/x"}) for run in study.record.runs[:1]]
    study.record.model_copy(update={"runs": beside}).save(table)
    (tmp_path / "runs" / "x").mkdir(parents=True)
    study.record.save(tmp_path / "runs" / "x")
    found = [each.path.relative_to(tmp_path).as_posix() for each in results_in(tmp_path)]
    assert found == ["one/study", "table", "two"]
    with refuses(DataError, "record.json", tmp_path / "two" / "empty"):
        results_in(tmp_path / "two" / "empty")


def test_a_prompt_shows_a_few_lines(study):
    many = {f"linear:{width}": {0: 0.5} for width in range(1, 40)}
    for result in (study, small_study("b", many)):
        lines = repr(result).splitlines()
        assert len(lines) <= 7 and max(map(len, lines)) <= 200
    assert "92.0" in repr(study) and "runs/a" in repr(study)
