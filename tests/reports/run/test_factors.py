"""The dial on a page and in a terminal: what is measured beside what is predicted, by head and place."""

from pathlib import Path

import pytest
from refusals import assert_names
from scipy import stats

from fullrank.cli.tables import print_dial
from fullrank.record import Record, Score
from fullrank.record.scores import IMAGES, LEFT_OUT, PREDICTED, RELATIVE
from fullrank.reports.page import write_page
from fullrank.reports.run.factors import FLOOR, dial_factors, dial_figure, dial_places, dial_rows

# Places -> factors -> what is measured, what is predicted.
DIAL = {
    IMAGES: {"label": (0.4, None), "object": (1.0, None)},
    "h": {"label": (0.61, 0.57), "object": (1.0, 1.0)},
    "z": {"label": (0.0, 0.23), "object": (1.0, 1.0)},
}


def with_dial(record: Record, silent: str = "subvector:24") -> Record:
    """A dial in every run: later seeds 0.02 higher; the theory says nothing of one head at h."""
    runs = []
    for run in record.runs:
        scores = [*run.scores]
        for place, factors in DIAL.items():
            for factor, (measured, predicted) in factors.items():
                value = measured if measured in (0, 1) else measured + 0.02 * run.seed
                told = None if (run.head, place) == (silent, "h") else predicted
                pairs = [(RELATIVE, value), *([] if told is None else [(PREDICTED, told)])]
                scores += [score(place, factor, statistic, number) for statistic, number in pairs]
        scores.append(score(IMAGES, "group", LEFT_OUT, 0.93))
        runs.append(run.model_copy(update={"scores": scores}))
    return record.model_copy(update={"runs": runs})


def score(place: str, factor: str, statistic: str, value: float) -> Score:
    return Score(
        place=place,
        label=factor,
        split="test",
        features="raw",
        shots=None,
        probe="factors",
        statistic=statistic,
        value=value,
    )


def test_rows_are_heads_by_places_with_means_over_seeds(large_record: Record) -> None:
    record = with_dial(large_record)
    rows = dial_rows(record)
    heads = list(dict.fromkeys(run.head for run in record.runs))
    assert [(row.head, row.place) for row in rows] == [
        (head, place) for head in heads for place in ("h", "z")
    ]
    cell = rows[0].cells[0]
    assert cell.measured.mean == pytest.approx(0.65) and cell.measured.half > 0 and cell.predicted == 0.57
    silent = next(row for row in rows if (row.head, row.place) == ("subvector:24", "h"))
    assert silent.cells[0].predicted is None and silent.cells[0].measured.mean == pytest.approx(0.65)
    assert dial_factors(record) == ["label", "object"]


def test_places_go_from_the_images_to_the_loss(study_record: Record) -> None:
    run = study_record.runs[0]
    scores = [score(place, "label", RELATIVE, 1.0) for place in (IMAGES, "z", "head.1", "h[:4]", "h")]
    record = study_record.model_copy(update={"runs": [run.model_copy(update={"scores": scores})]})
    assert dial_places(record) == [IMAGES, "h", "h[:4]", "head.1", "z"]


def test_the_figure_has_a_full_and_a_dashed_line_a_head(study_record: Record) -> None:
    figure = dial_figure(with_dial(study_record), "label")
    lines = {(trace.meta["role"], trace.meta["key"]): trace for trace in figure.data}
    assert {role for role, _ in lines} == {"mean", "predicted"} and len(lines) == 8
    assert figure.layout.yaxis.type == "log"
    assert list(lines["mean", 0].y) == [0.4, 0.61, FLOOR]  # 0 has no logarithm
    assert lines["mean", 0].customdata[2][1] == 0
    assert list(lines["predicted", 0].y) == [0.57, 0.23] and lines["predicted", 0].line.dash == "dash"
    assert list(lines["predicted", 2].y) == [0.23]
    assert lines["mean", 0].line.color != lines["mean", 1].line.color
    assert dial_figure(with_dial(study_record), "colour") is None


def test_intervals_stay_above_the_floor(large_record: Record) -> None:
    traces = [t for t in dial_figure(with_dial(large_record), "label").data if t.meta["role"] == "mean"]
    half = stats.sem([0.61, 0.63, 0.65, 0.67, 0.69]) * stats.t.ppf(0.975, 4)
    for trace in traces:
        assert trace.error_y.visible
        assert trace.error_y.array[1] == pytest.approx(half) == trace.error_y.arrayminus[1]
        assert all(
            y - down >= FLOOR - 1e-12 for y, down in zip(trace.y, trace.error_y.arrayminus, strict=True)
        )


def test_the_page_has_table_and_panels(large_record: Record, store, read_page, tmp_path: Path) -> None:
    page = read_page(write_page(store(with_dial(large_record), tmp_path)))
    assert "dial" in page.ids
    assert_names(page.words, "0.65", "0.57", "factor: group")
    titles = [figure["layout"]["yaxis"]["title"]["text"] for figure in page.figures]
    assert titles.count("relative weight") == 2


def test_without_factors_there_is_no_dial(
    study_record: Record, store, read_page, tmp_path: Path, capsys
) -> None:
    page = read_page(write_page(store(study_record, tmp_path)))
    assert "dial" not in page.ids
    print_dial(study_record)
    assert capsys.readouterr().out == ""


def test_a_page_whose_heads_the_theory_does_not_know_says_so(
    run_record: Record, store, read_page, tmp_path: Path
) -> None:
    scores = [score(place, "label", RELATIVE, 1.0) for place in ("h", "z")]
    record = run_record.model_copy(
        update={"runs": [run_record.runs[0].model_copy(update={"scores": scores})]}
    )
    page = read_page(write_page(store(record, tmp_path)))
    assert "linear theory" in page.words and "dashed" not in page.words and "0.57" not in page.words


def test_the_terminal_table_fits_80_columns(large_record: Record, capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    print_dial(with_dial(large_record))
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert "0.65 (0.57)" in out and "0.65 (–)" in out and "1.00 (1.00)" in out
    assert out.count("none,norm=batch") == 1  # a head is named once for both places
    assert_names(out, "factor: group")
