"""Figures hold the record's numbers: every expected value is computed here from the record with NumPy."""

import math

import numpy as np
import plotly.graph_objects as go
import pytest
from scipy import stats

from fullrank.record import Record, Spectrum
from fullrank.reports.drawing import COLORS, MOST_POINTS, distinct_styles
from fullrank.reports.run.figures import (
    accuracy_figure,
    curve_figure,
    spectrum_figure,
    spectrum_history_figure,
)


def traces(figure: go.Figure | None, role: str) -> dict[str, go.Scatter]:
    assert figure is not None
    return {trace.name: trace for trace in figure.data if trace.meta["role"] == role}


def with_spectrum(record: Record, head: str, values: list[float], place: str = "h") -> Record:
    runs = [
        run.model_copy(
            update={"spectrum": {**run.spectrum, place: Spectrum(singular_values=values, effective_rank=1.0)}}
        )
        if run.head == head
        else run
        for run in record.runs
    ]
    return record.model_copy(update={"runs": runs})


@pytest.mark.parametrize("place", ["h", "z"])
def test_spectrum_is_the_mean_log_over_seeds(large_record: Record, place: str) -> None:
    means, seeds = (traces(spectrum_figure(large_record, place), role) for role in ("mean", "seeds"))
    assert len(means) == 12
    for head, trace in means.items():
        values = np.array([r.spectrum[place].singular_values for r in large_record.runs if r.head == head])
        alive = (values > 0).all(axis=0)
        np.testing.assert_allclose(trace.y[alive], np.log(values[:, alive]).mean(axis=0))
        assert np.isnan(trace.y[~alive]).all()
        np.testing.assert_array_equal(trace.x, np.arange(1, values.shape[1] + 1))
        own = np.asarray(seeds[head].y).reshape(5, -1)[:, :-1]
        np.testing.assert_allclose(own[:, alive], np.log(values[:, alive]))


def test_collapsed_values_are_crosses_below_everything(study_record: Record) -> None:
    zeros = traces(spectrum_figure(study_record, "h"), "lost")
    assert list(zeros) == ["none"]
    np.testing.assert_array_equal(zeros["none"].x, np.arange(89, 97))
    lowest = min(np.log(v) for r in study_record.runs for v in r.spectrum["h"].singular_values if v > 0)
    assert max(zeros["none"].y) < lowest


@pytest.mark.parametrize(
    ("values", "dead"),
    [
        ([1.0, 0.1, 1e-18, 0.0], [3, 4]),
        ([1.0, 0.1, -1e-9], [3]),
        ([0.0, 0.0, 0.0], [1, 2, 3]),
    ],
)
def test_what_has_no_logarithm_is_marked(run_record: Record, values: list[float], dead: list[int]) -> None:
    figure = spectrum_figure(with_spectrum(run_record, "linear:48", values), "h")
    (cross,) = traces(figure, "lost").values()
    assert list(cross.x) == dead
    assert np.isfinite(cross.y).all()


def test_seeds_of_different_widths_have_no_mean(large_record: Record) -> None:
    runs = [run for run in large_record.runs if run.head == "none"][:2]
    record = large_record.model_copy(update={"runs": runs})
    first = with_spectrum(record.model_copy(update={"runs": runs[:1]}), "none", [1.0, 0.5]).runs
    figure = spectrum_figure(record.model_copy(update={"runs": [*first, runs[1]]}), "h")
    assert not traces(figure, "mean") and list(traces(figure, "seeds")) == ["none"]


def test_a_place_nobody_measured_has_no_figure(run_record: Record) -> None:
    assert spectrum_figure(run_record, "stage.9") is None
    bare = [run.model_copy(update={"probes": {}}) for run in run_record.runs]
    assert accuracy_figure(run_record.model_copy(update={"runs": bare})) is None


def test_accuracy_by_place(large_record: Record) -> None:
    figure = accuracy_figure(large_record)
    lines, slices = traces(figure, "mean"), traces(figure, "slice")
    assert len(lines) == 12 and set(slices) == {"subvector:24", "subvector:24,norm=batch"}
    for head, trace in {**lines}.items():
        for place, shown, half in zip(trace.customdata, trace.y, trace.error_y.array, strict=True):
            values = [100 * r.probes[place].linear for r in large_record.runs if r.head == head]
            assert shown == pytest.approx(np.mean(values))
            assert half == pytest.approx(stats.sem(values) * stats.t.ppf(0.975, 4))
    assert list(lines["mlp:48"].customdata) == ["h", "head.1", "head.2", "z"]


@pytest.mark.parametrize("series", ["loss", "positive_similarity", "negative_similarity", "effective_rank"])
def test_curves_are_means_over_seeds(large_record: Record, make_arrays, series: str) -> None:
    arrays = make_arrays(large_record)
    figure = curve_figure(large_record, arrays, series, series)
    for head, trace in traces(figure, "mean").items():
        own = [arrays[r.folder] for r in large_record.runs if r.head == head]
        np.testing.assert_allclose(trace.y, np.mean([one[series] for one in own], axis=0))
        np.testing.assert_array_equal(trace.x, own[0]["epoch"])
    assert len(traces(figure, "mean")) == 12
    chance = traces(figure, "chance")
    assert (
        (list(chance["chance"].y) == pytest.approx([math.log(256)] * 2)) if series == "loss" else not chance
    )


def test_no_chance_no_line(run_record: Record, make_arrays) -> None:
    run = run_record.runs[0].model_copy(update={"chance": None})
    figure = curve_figure(
        run_record.model_copy(update={"runs": [run]}), make_arrays(run_record), "loss", "loss"
    )
    assert not traces(figure, "chance")


def test_seeds_logged_at_other_steps_are_drawn_without_a_mean(large_record: Record, make_arrays) -> None:
    arrays = make_arrays(large_record)
    folder = next(r.folder for r in large_record.runs if r.head == "mlp:48")
    arrays[folder] = {key: values[:50] for key, values in arrays[folder].items()}
    figure = curve_figure(large_record, arrays, "loss", "loss")
    assert "mlp:48" not in traces(figure, "mean")
    assert np.isfinite(traces(figure, "seeds")["mlp:48"].y).sum() == 450


def test_long_series_are_thinned(run_record: Record) -> None:
    long = {"epoch": np.linspace(0, 100, 25_001), "loss": np.linspace(5, 1, 25_001)}
    (line,) = traces(curve_figure(run_record, {".": long}, "loss", "loss"), "mean").values()
    assert len(line.y) <= MOST_POINTS and line.y[1] == long["loss"][26]


def test_missing_or_misshapen_series_are_left_out(run_record: Record) -> None:
    assert curve_figure(run_record, {}, "loss", "loss") is None
    bad = {"epoch": np.arange(3.0), "loss": np.arange(4.0)}
    assert curve_figure(run_record, {".": bad}, "loss", "loss") is None
    assert spectrum_history_figure({}) is None
    assert spectrum_history_figure({"spectrum_h": np.ones((2, 3)), "spectrum_step": np.arange(5)}) is None


def test_spectrum_over_training(run_record: Record, make_arrays) -> None:
    arrays = make_arrays(run_record)["."]
    lines = traces(spectrum_history_figure(arrays), "rank")
    lines = {name.removeprefix("singular value "): line for name, line in lines.items()}
    assert list(lines) == ["1", "2", "4", "8", "16", "32", "64", "96"]
    np.testing.assert_allclose(lines["32"].y, np.log(arrays["spectrum_h"][:, 31]))
    np.testing.assert_allclose(lines["32"].x, arrays["spectrum_step"] / 5)


def test_a_head_looks_the_same_everywhere(large_record: Record, make_arrays) -> None:
    figures = [
        spectrum_figure(large_record, "h"),
        accuracy_figure(large_record),
        curve_figure(large_record, make_arrays(large_record), "loss", "loss"),
    ]
    assert (
        len({tuple((t.line.dash, t.meta["key"]) for t in traces(f, "mean").values()) for f in figures}) == 1
    )
    assert len(set(distinct_styles([str(i) for i in range(18)]).values())) == 18


def test_colours_stand_out_on_white() -> None:
    for color in COLORS:
        channels = np.array([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)])
        light = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        assert 1.05 / (light @ [0.2126, 0.7152, 0.0722] + 0.05) >= 3  # WCAG 2.1, 1.4.11


def test_names_are_shown_as_they_are(run_record: Record) -> None:
    run = run_record.runs[0].model_copy(update={"head": "<b>x</b>"})
    figure = spectrum_figure(run_record.model_copy(update={"runs": [run]}), "h")
    assert figure is not None and figure.data[0].name == "&lt;b&gt;x&lt;/b&gt;"
