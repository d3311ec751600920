"""The small parts of figures and sentences: which points, ranges, colours and numbers are shown."""

import numpy as np
import pytest
from refusals import assert_names

from fullrank.reports.drawing import (
    Style,
    between,
    distinct_styles,
    even_choice,
    faint,
    line_mode,
    log_or_nan,
    span,
    stride,
)
from fullrank.reports.numbers import distance, in_points, live_note, signed


def test_a_style_has_a_colour_then_a_dash():
    styles = distinct_styles(["none", "linear:48", *map(str, range(5))])
    assert styles["linear:48"] == Style("#0072b2", "solid", "circle")
    assert styles["4"] == Style("#4d4d4d", "dash", "diamond")


def test_log_or_nan_has_no_number_for_what_is_not_live():
    np.testing.assert_array_equal(
        log_or_nan(np.array([np.e, 0.0, -1.0, np.nan])), [1, np.nan, np.nan, np.nan]
    )


def test_even_choice_and_stride_keep_at_most_1000_points():
    assert len(even_choice(12)) == 12 and even_choice(5000)[[0, 1, -1]].tolist() == [0, 5, 4999]
    assert (stride(0), stride(1000), stride(1001)) == (1, 1, 2)


def test_span_leaves_some_room():
    assert span(np.array([100, 200])) == [98.0, 202.0] and span(np.array([7])) == [6.5, 7.5]


def test_few_points_have_dots():
    assert (line_mode(1), line_mode(12), line_mode(13)) == ("lines+markers", "lines+markers", "lines")


def test_colours_fade_and_mix():
    assert faint("#0072b2", 0.5) == "rgba(0,114,178,0.5)"
    assert between("#000000", "#ffffff", 0.5) == "#808080"


@pytest.mark.parametrize(
    ("value", "plain", "with_sign"),
    [
        (2.94, "2.9", "+2.9"),
        (-2.94, "−2.9", "−2.9"),
        (0.01, "0.0", "0.0"),
        (-0.04, "0.0", "0.0"),
        (None, "–", "–"),
        (np.nan, "–", "–"),
    ],
)
def test_numbers_have_a_decimal_and_a_real_minus_sign(value, plain, with_sign):
    assert (in_points(value), signed(value)) == (plain, with_sign)


def test_distance_says_which_side():
    assert distance(-2.94, " points") == "2.9 points below" and distance(2.94) == "2.9 above"
    assert distance(0.01) == "level with"


def test_live_note_counts_only_spectra_that_lost_something():
    spectra = {"none": [[1.0, 0.5, 0.2], [1.0, 0.0, 0.0]], "mlp:2": [[1.0, 0.5]]}
    assert_names(live_note(spectra), "none: 1 to 3 of 3")
    assert "mlp" not in live_note(spectra)
    assert live_note({"mlp:2": [[1.0, 0.5]]}) == ""
