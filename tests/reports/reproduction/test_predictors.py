"""What predicts a column: correlations against SciPy's, and intervals that know which runs share a row."""

import numpy as np
import pytest
from refusals import refuses
from scipy.stats import spearmanr

from fullrank.cli.reproduction import print_reproduction
from fullrank.record import Predicts, TableRow
from fullrank.reports.page import write_page
from fullrank.reports.reproduction.predictors import predictor_sentence, predictors
from fullrank.reports.reproduction.words import verdict
from fullrank.statistics import correlations, mean_ranks
from fullrank.studies.table import Table


def asking(record, values):
    """The record with a table of the columns target, good, noise and flat; values are (rows, seeds) each."""
    titles = ["target", "good", "noise", "flat"]
    rows = [
        TableRow(
            title=f"row {number}",
            seeds=[0, 1, 2],
            runs=[],
            paper=[None] * 4,
            values=[values[title][number].tolist() for title in titles],
        )
        for number in range(len(values["target"]))
    ]
    table = record.table.model_copy(
        update={
            "columns": titles,
            "units": ["number"] * 4,
            "differences": [],
            "rows": rows,
            "predicts": Predicts(target="target", by=titles[1:]),
        }
    )
    return record.model_copy(update={"table": table})


@pytest.fixture
def values():
    random = np.random.default_rng(0)
    target = np.arange(10.0)[:, None] + random.normal(size=(10, 3))
    good = 2 * target + random.normal(size=(10, 3))
    return {"target": target, "good": good, "noise": random.normal(size=(10, 3)), "flat": np.ones((10, 3))}


def test_correlations_of_ranks_are_scipys_also_with_ties():
    one, other = np.random.default_rng(1).integers(0, 5, (2, 7, 20)).astype(float)
    expected = [spearmanr(a, b)[0] for a, b in zip(one, other, strict=True)]
    assert correlations(mean_ranks(one), mean_ranks(other)) == pytest.approx(expected)
    assert np.isnan(correlations(np.ones(3), np.arange(3.0)))


def test_predictors_correlate_over_all_runs_with_an_interval_over_rows(table_record, values):
    table = asking(table_record, values).table
    good, noise, flat = predictors(table)
    target = values["target"].ravel()
    assert good.rank.mean == pytest.approx(spearmanr(values["good"].ravel(), target)[0])
    assert good.r2.mean == pytest.approx(np.corrcoef(values["good"].ravel(), target)[0, 1] ** 2)
    assert good.rank.separated and good.rank.low < good.rank.mean <= good.rank.high
    assert not noise.rank.separated and flat.rank is flat.r2 is None
    # Three copies of a seed are no more evidence than one, since seeds stay in their row.
    copied = {title: each[:, :1].repeat(3, 1) for title, each in values.items()}
    wide, narrow = (predictors(asking(table_record, each).table)[1].rank for each in (copied, values))
    assert wide.half > narrow.half


def test_page_and_terminal_show_the_predictors_and_a_sentence(
    table_record, values, store, read_page, tmp_path, capsys
):
    record = asking(table_record, values)
    sentence = predictor_sentence(record.table)
    before, after = sentence.split(", and ")
    assert "good" in before and "noise" in after and "flat" not in sentence and "30 runs" in before
    assert sentence in verdict(record.table)
    page = read_page(write_page(store(record, tmp_path)))
    print_reproduction("title", record)
    rank = f"{predictors(record.table)[0].rank.mean:+.2f}"
    assert "predictors" in page.ids and rank in page.words and rank in capsys.readouterr().out
    assert not predictors(table_record.table) and not predictor_sentence(table_record.table)
    assert "predictors" not in read_page(write_page(store(table_record, tmp_path / "plain"))).ids


def test_a_table_that_predicts_an_unknown_column_is_refused():
    content = {
        "title": "t",
        "recipe": "digits",
        "seeds": 1,
        "columns": [{"title": "a"}],
        "rows": [{"title": "r"}],
    }
    Table(**content, predicts={"target": "a", "by": ["a"]})
    with refuses(ValueError, "other", "a"):
        Table(**content, predicts={"target": "a", "by": ["other"]})
