"""What pages and the terminal say of unequal classes."""

import numpy as np
import pytest
from refusals import assert_names

from fullrank.cli.classes import print_classes
from fullrank.evaluation.classes import class_scores
from fullrank.probes import per_class
from fullrank.record import Score
from fullrank.record.scores import BIAS, BY_CLASS, CLASS_ACCURACY
from fullrank.reports.class_words import class_sentences
from fullrank.reports.classes import class_tables
from fullrank.reports.page import write_page
from fullrank.reports.run.classes import accuracy_figure, bias_figure, class_panels
from fullrank.statistics import binomial_interval

RISING = np.linspace(0.4, 0.94, 10)


def results(shares, images):
    """Predictions with these accuracies by class; each class is taken for the one before it."""
    labels = np.repeat(np.arange(len(shares)), images)
    hits = np.concatenate([np.arange(n) < round(share * n) for share, n in zip(shares, images, strict=True)])
    return per_class(np.where(hits, labels, (labels - 1) % len(shares)), labels)


def scores(linear, mean, nearest, images=None, place="h", names=None):
    images = [1000] * len(linear) if images is None else images
    names = [f"class {i}" for i in range(len(linear))] if names is None else names
    every = dict(zip(BY_CLASS, (results(each, images) for each in (linear, mean, nearest)), strict=True))
    return [
        score(one.statistic, one.subject, one.value, probe=one.probe, place=place)
        for one in class_scores(every, names)
    ]


def score(statistic, subject, value=0.5, probe="linear", place="h"):
    where = {"place": place, "label": "label", "split": "test", "features": "raw", "shots": None}
    return Score(**where, probe=probe, statistic=statistic, subject=subject, value=value)


def said(*args, **more):
    (table,) = class_tables({"": scores(*args, **more)})
    return " ".join(class_sentences(table))


def test_classes_are_sorted_by_the_linear_probe_with_their_errors_and_confusions():
    shares = RISING[::-1]
    (table,) = class_tables({"": scores(shares, shares, RISING)})
    assert [row.name for row in table.rows] == [f"class {i}" for i in range(9, -1, -1)]
    worst = table.rows[0]
    assert (worst.images, worst.taken_for, worst.taken) == (1000, "class 8", pytest.approx(60))
    linear = worst.probes["linear"]
    assert (linear.accuracy, linear.error) == pytest.approx((40, 100 * (0.24 / 1000) ** 0.5))
    assert (linear.false_positives, linear.bias) == pytest.approx((60, 0.46))
    assert worst.probes["nearest"].accuracy == pytest.approx(94)


def test_equal_orders_name_the_agreements_and_the_shared_worst_classes():
    text = said(RISING, RISING - 0.1, RISING[[1, 0, *range(2, 10)]])
    assert_names(text, "representation", "1.00", "0.99", "class 0", "class 1", 2)


def test_orders_that_do_not_agree_point_at_the_classifier_or_leave_it_open():
    assert_names(said(RISING, RISING[::-1], RISING[::-1]), "classifier", "−1.00")
    level = np.full(10, 0.9)
    assert_names(said(RISING, level, level), "classifier")
    text = said(RISING, RISING, RISING[::-1])
    assert_names(text, "1.00", "−1.00", "open", 10)
    assert "points at" not in text


def test_a_spread_within_sampling_says_nothing_about_classes():
    rng = np.random.default_rng(0)
    noisy = [rng.binomial(50, 0.9, 10) / 50 for _ in range(3)]
    for shares, images in ((noisy, [50] * 10), ([[1.0] * 10] * 3, [1000] * 10)):
        text = said(*shares, images=images)
        assert_names(text, "sampling", "cannot")
        assert "representation" not in text and "class 0" not in text


def test_few_classes_and_unequal_ones():
    assert_names(said([0.5, 0.7, 0.9], [0.5, 0.7, 0.9], [0.5, 0.7, 0.9]), 3, "few")
    assert said([0.5], [0.5], [0.5]) == ""
    images = [100] * 5 + [3000] * 5
    assert_names(said(RISING, RISING, RISING, images=images), 100, "3,000", "bias")


def test_an_older_record_has_a_table_without_sentences():
    older = [
        one
        for one in scores(RISING, RISING, RISING)
        if one.probe == "linear" and one.statistic in (CLASS_ACCURACY, BIAS, "worst class")
    ]
    (table,) = class_tables({"": older})
    assert len(table.rows) == 10 and table.rows[0].images is table.rows[0].probes["linear"].error is None
    assert class_sentences(table) == []


def test_seeds_are_averaged():
    (table,) = class_tables({"": [*scores(RISING, RISING, RISING), *scores(RISING - 0.2, RISING, RISING)]})
    assert table.rows[0].probes["linear"].accuracy == pytest.approx(30)
    assert table.probes[0].mean.mean == pytest.approx(57) and table.probes[0].mean.half is not None


def test_a_page_of_a_run_has_classes_worst_first(run_record, store, read_page, tmp_path):
    (run,) = run_record.runs
    names = [f"<b>kind {i}</b>" for i in range(10)]
    more = [*scores(RISING, RISING, RISING, names=names), *scores(RISING, RISING, RISING, place="z")]
    record = run_record.model_copy(update={"runs": [run.model_copy(update={"scores": [*run.scores, *more]})]})
    page = read_page(write_page(store(record, tmp_path)))
    assert "classes" in page.ids and "representation" in page.words
    assert "classes" not in read_page(write_page(store(run_record, tmp_path))).ids


def test_a_page_with_many_classes_leaves_their_scores_to_the_record(run_record, store, read_page, tmp_path):
    (run,) = run_record.runs
    shares = np.linspace(0.2, 0.9, 100)
    record, few = (
        run_record.model_copy(update={"runs": [run.model_copy(update={"scores": own})]})
        for own in (scores(*[shares[:count]] * 3, images=[100] * count) for count in (100, 51))
    )
    page = read_page(write_page(store(record, tmp_path)))
    assert "classes" in page.ids and score(BIAS, "class 50").measure not in page.words
    assert score(BIAS, "class 50").measure in read_page(write_page(store(few, tmp_path))).words


def test_the_terminal_has_a_row_for_each_class_within_80_columns(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    print_classes(scores(RISING, RISING, RISING, names=[*"abcdefghi", "[bold]"]))
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80 and "[bold]" in printed
    assert_names(printed, "40.0", "±1.5", "94.0", 1000)
    print_classes([])
    assert capsys.readouterr().out == ""


def test_the_terminal_shows_the_ends_of_many_classes(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    shares = np.linspace(0, 1, 200)
    print_classes(scores(shares, shares, shares, images=[20] * 200))
    printed = capsys.readouterr().out
    assert len(printed.splitlines()) < 50
    assert_names(printed, "class 0", "class 199", 188)
    assert "class 100" not in printed


def test_figures_have_the_worst_class_on_top_and_a_bar_at_full_accuracy_too():
    shares = np.linspace(0.55, 1, 10)
    (table,) = class_tables({"": scores(shares, shares - 0.1, shares, images=[100] * 10)})
    figure = accuracy_figure(table)
    assert figure.layout.yaxis.ticktext[0] == "class 0" and figure.layout.yaxis.range[0] > 9
    linear = figure.data[0]
    assert linear.x == pytest.approx(100 * shares)
    ends = [binomial_interval(share, 100) for share in shares]
    assert [100 * high for _, high in ends] == pytest.approx(np.array(linear.x) + linear.error_x.array)
    assert [100 * low for low, _ in ends] == pytest.approx(np.array(linear.x) - linear.error_x.arrayminus)
    assert linear.error_x.arrayminus[-1] > 3 and linear.error_x.array[-1] == pytest.approx(0, abs=1e-9)
    biases = bias_figure(table)
    assert biases.data[0].x == pytest.approx([row.probes["linear"].bias for row in table.rows])
    assert [trace.name for trace in biases.data] == [trace.name for trace in figure.data]


def test_a_record_with_nothing_but_a_mean_over_classes_has_no_figure():
    only = [one for one in scores(RISING, RISING, RISING) if not one.subject]
    (table,) = class_tables({"": only})
    assert table.rows == () and class_panels(table) == [] and class_sentences(table) == []
    print_classes(only)
