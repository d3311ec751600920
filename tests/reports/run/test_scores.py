"""Scores of groups and shifts as tables: paired by seed, with t intervals, on the page if there are any."""

from pathlib import Path

import pytest
from scipy import stats

from fullrank.record import Record, Score
from fullrank.record.scores import Probe
from fullrank.reports.page import write_page
from fullrank.reports.run.scores import group_table, shift_table, standardised_note

GROUPS = {
    ("linear", "worst group", ""): 0.4,
    ("linear", "gap", "background"): -0.2,
    ("group-balanced", "mean over groups", ""): 0.6,
}
SHIFT = "imagenet-r:PATH"


def tidy(
    value: float,
    probe: Probe = "linear",
    statistic: str = "accuracy",
    subject: str = "",
    *,
    place: str = "h",
    split: str = "test",
    features: str = "raw",
    shots: int | None = None,
) -> Score:
    return Score(
        place=place,
        label="label",
        split=split,
        features=features,
        shots=shots,
        probe=probe,
        statistic=statistic,
        subject=subject,
        value=value,
    )


def with_scores(record: Record, make) -> Record:
    """The record, whose runs have the scores that `make(head, seed)` gives."""
    runs = [run.model_copy(update={"scores": make(run.head, run.seed)}) for run in record.runs]
    return record.model_copy(update={"runs": runs})


def by_group(head: str, seed: int) -> list[Score]:
    found = [tidy(0.9), tidy(0.1, statistic="worst class")]
    found += [tidy(value + 0.01 * seed, *kind) for kind, value in GROUPS.items() if head != "none"]
    return [*found, tidy(0.3, statistic="worst group", place="z")]


def under_shift(head: str, seed: int) -> list[Score]:
    drop = 0.3 + 0.02 * seed
    return [
        tidy(0.9 + 0.001 * seed),
        tidy(0.7, shots=5),
        tidy(0.8, "nearest", features="l2"),
        tidy(0.95 + 0.001 * seed, statistic="accuracy among classes", subject=SHIFT),
        tidy(0.95 + 0.001 * seed - drop, split=SHIFT),
        tidy(0.5, "nearest", split="digits", features="l2"),
        tidy(0.4, "nearest", place="z", split="digits", features="l2"),
    ]


def test_measures_are_columns_and_places_rows(large_record: Record) -> None:
    table = group_table(with_scores(large_record, by_group))
    assert table is not None
    assert list(table.measures) == [tidy(0.5, *kind).measure for kind in GROUPS]
    assert len(table.rows) == 2 * 12 - 1 and {row.place for row in table.rows} == {"h", "z"}
    (row,) = [row for row in table.rows if (row.head, row.place) == ("mlp:48", "h")]
    assert [cell.mean for cell in row.cells] == pytest.approx([42.0, -18.0, 62.0])
    low, high = stats.t.interval(0.95, 4, 42.0, stats.sem([40, 41, 42, 43, 44]))
    assert (row.cells[0].low, row.cells[0].high) == pytest.approx((low, high))
    (row,) = [row for row in table.rows if (row.head, row.place) == ("diagonal", "z")]
    assert row.cells[0].mean == 30.0 and row.cells[1:] == (None, None)


def test_a_shift_stands_beside_the_test_images_of_its_classes(large_record: Record) -> None:
    rows = shift_table(with_scores(large_record, under_shift))
    assert len(rows) == 3 * 12
    linear, nearest, alone = rows[:3]
    assert (linear.head, linear.kind.shift, linear.kind.probe, linear.kind.fewer) == (
        "none",
        SHIFT,
        "linear",
        True,
    )
    assert linear.inside.mean == pytest.approx(95.2) and linear.shifted.mean == pytest.approx(61.2)
    drops = [-30, -32, -34, -36, -38]
    low, high = stats.t.interval(0.95, 4, -34.0, stats.sem(drops))
    assert linear.difference.mean == pytest.approx(-34.0)
    assert (linear.difference.low, linear.difference.high) == pytest.approx((low, high))
    assert (nearest.kind.fewer, nearest.inside.mean, nearest.difference.mean) == (
        False,
        80.0,
        pytest.approx(-30),
    )
    assert (alone.kind.place, alone.inside, alone.difference) == ("z", None, None)


def test_what_was_not_measured_is_not_there(large_record: Record) -> None:
    assert group_table(large_record) is None and shift_table(large_record) == []
    assert standardised_note(large_record) != ""  # the made-up records have such scores at h and z


@pytest.mark.parametrize("scales", [True, False])
def test_standardised_scores_at_both_sides_of_a_head_that_scales_channels_are_warned_of(
    run_record: Record, scales: bool
) -> None:
    def record(*scores: Score) -> Record:
        run = run_record.runs[0].model_copy(update={"scales_channels": scales, "scores": list(scores)})
        return run_record.model_copy(update={"runs": [run]})

    both = [tidy(0.9, place=place, features="standardised") for place in ("h", "z")]
    assert (run_record.runs[0].head in standardised_note(record(*both))) is scales
    assert standardised_note(record(both[0])) == ""


def test_the_page_shows_both_tables(large_record: Record, store, read_page, tmp_path: Path) -> None:
    record = with_scores(large_record, lambda *run: [*by_group(*run), *under_shift(*run)])
    page = read_page(write_page(store(record, tmp_path)))
    assert "gap background" in page.words and SHIFT in page.words
    assert "42.0 ± 2.0" in page.words and "−34.0 [−37.9, −30.1]" in page.words
    assert "95.2 ± 0.2*" in page.words and "* The" in page.words
    headings = [attributes.get("id") for attributes in page.all("h2")]
    assert headings.index("groups") < headings.index("shifts") < headings.index("spectra")
    for attributes in page.all("section"):
        assert attributes["aria-labelledby"] in headings


def test_a_page_without_them_has_no_empty_table(run_record: Record, store, read_page, tmp_path: Path) -> None:
    page = read_page(write_page(store(run_record, tmp_path)))
    headings = [attributes.get("id") for attributes in page.all("h2")]
    assert "groups" not in headings and "shifts" not in headings
