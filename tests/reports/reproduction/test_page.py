"""The page of a reproduced table: what is known and not known, what was predicted, and its figures."""

import pytest
from refusals import assert_names

from fullrank.reports.page import write_page
from fullrank.reports.reproduction.page import sweep_figure
from fullrank.reports.reproduction.words import cell, difference, digits, shown, verdict, with_paper

from ..conftest import Page


@pytest.fixture
def page(table_record, store, tmp_path):
    return Page(write_page(store(table_record, tmp_path)))


def test_the_papers_number_stands_beside_ours_or_is_not_known(page):
    assert "62.7" in page.text and page.text.count("not known") == 2
    assert "92.5 [86.1, 98.9]" in page.text  # 92 and 93: t(0.975, 1) / 2 = 6.35 to either side
    assert "+2.0 [+2.0, +2.0]" in page.text  # against the first row, paired: 2 for both seeds


def test_only_columns_with_a_number_of_the_papers_have_its_column(table_record):
    table = table_record.table
    assert [with_paper(table, column) for column in range(3)] == [True, False, False]
    unasked = table.model_copy(update={"paper": None})
    assert with_paper(unasked, 0)  # a number is a number
    bare = [row.model_copy(update={"paper": [None] * 3}) for row in table.rows]
    assert not with_paper(unasked.model_copy(update={"rows": bare}), 0)
    assert len(verdict(unasked.model_copy(update={"rows": bare}))) == 1  # of the predictions alone


def test_predictions_have_their_outcome_in_words(page):
    for word in ("as predicted", "contradicted", "nothing predicted"):
        assert word in page.text, word
    assert_names(page.text, "1 predictions", "pre 1 as")


def test_the_paper_s_order_is_counted_over_the_rows_it_knows(table_record):
    (first, *_) = verdict(table_record.table)
    assert_names(first, "linear on h: 1 of 1", "separate 1, 1")
    rows = table_record.table.rows
    rows[0].values[0][:], rows[2].values[0][:] = [93.0, 94.5], [92.0, 93.4]
    (first, *_) = verdict(table_record.table)
    assert_names(first, "linear on h: 0 of 1", "separate 1, 0")


def test_the_sweep_draws_the_rows_in_order_and_the_others_as_lines(table_record):
    figure = sweep_figure(table_record.table, "points")
    (line,) = figure.data
    assert list(line.x) == [8.0, 24.0, 48.0] and list(line.y) == [91.5, 92.5, 93.5]
    (flat,) = figure.layout.shapes
    assert flat.y0 == flat.y1 == cell(table_record.table.rows[0], 0).mean
    assert sweep_figure(table_record.table, "number").data[0].name == "effective rank"
    few = table_record.table.model_copy(update={"rows": table_record.table.rows[:2]})
    assert sweep_figure(few, "points") is None


def test_rows_without_a_seed_in_common_are_not_subtracted(table_record):
    one, other = table_record.table.rows[:2]
    assert difference(one, other.model_copy(update={"seeds": [5, 6]}), 0) is None
    assert shown(difference(other, one, 0), sign=True) == "+1.0 [+1.0, +1.0]"


def test_tables_of_unlike_images_have_no_column_against_the_first(table_record, store, tmp_path):
    unlike = table_record.table.model_copy(update={"alike": False})
    page = Page(write_page(store(table_record.model_copy(update={"table": unlike}), tmp_path)))
    assert "+2.0 [+2.0, +2.0]" not in page.text


@pytest.mark.parametrize(
    ("unit", "scale", "written"), [("number", 0.01, 2), ("number", 1.0, 1), ("points", 0.01, 1)]
)
def test_a_column_of_small_numbers_has_two_decimals(table_record, unit, scale, written):
    table = table_record.table
    rows = [
        row.model_copy(update={"values": [[scale * value for value in row.values[0]], *row.values[1:]]})
        for row in table.rows
    ]
    small = table.model_copy(update={"rows": rows, "units": [unit, *table.units[1:]]})
    assert digits(small, 0) == written
    mean = shown(cell(small.rows[0], 0), digits=digits(small, 0)).split()[0]
    assert len(mean.partition(".")[2]) == written
