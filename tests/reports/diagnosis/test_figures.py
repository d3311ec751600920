"""Figures of a diagnosis hold the record's numbers, computed here with NumPy."""

import numpy as np
import plotly.graph_objects as go
import pytest

from fullrank.record import DiagnosisEntry, OperationShare, Record, Spectrum
from fullrank.reports.diagnosis.figures import (
    MOST_DIRECTIONS,
    accuracies_figure,
    alignment_figure,
    augmentation_figure,
    place_styles,
    ranks_figure,
    ranks_over_time_figure,
    spectra_figure,
    spectrum_over_time_figure,
)
from fullrank.reports.diagnosis.words import in_order
from fullrank.reports.drawing import MOST_POINTS


def traces(figure: go.Figure | None, role: str) -> dict[str, go.Scatter]:
    assert figure is not None
    return {trace.name: trace for trace in figure.data if trace.meta["role"] == role}


def part(record: Record, **changes: object) -> DiagnosisEntry:
    assert record.diagnosis is not None
    return record.diagnosis.model_copy(update=changes)


def spectra(diagnosis: DiagnosisEntry) -> go.Figure | None:
    return spectra_figure(diagnosis, place_styles(in_order(diagnosis, diagnosis.spectrum)))


def test_spectra_are_relative_to_the_largest(healthy_diagnosis: Record) -> None:
    diagnosis = part(healthy_diagnosis)
    lines = traces(spectra(diagnosis), "spectrum")
    assert list(lines) == diagnosis.places
    for place, line in lines.items():
        values = np.array(diagnosis.spectrum[place].singular_values)
        np.testing.assert_allclose(np.exp(line.y.astype(float)), values / values.max(), rtol=1e-12)
        np.testing.assert_allclose(line.x, np.arange(1, values.size + 1) * 100 / values.size)
    assert not traces(spectra(diagnosis), "lost")


def test_spectra_come_from_the_image_to_z_whatever_the_record(healthy_diagnosis: Record) -> None:
    held = part(healthy_diagnosis).spectrum
    shuffled = part(healthy_diagnosis, spectrum=dict(reversed(held.items())))
    assert list(traces(spectra(shuffled), "spectrum")) == shuffled.places


@pytest.mark.parametrize(
    ("values", "at"),
    [([4.0, 2.0, 0.0, 0.0], 75.0), ([1.0, 1e-18, 0.0, 0.0], 50.0), ([0.0, 0.0], 50.0)],
)
def test_a_cross_stands_where_zero_begins(file_diagnosis: Record, values: list[float], at: float) -> None:
    spectrum = {"features": Spectrum(singular_values=values, effective_rank=1.0)}
    (cross,) = traces(spectra(part(file_diagnosis, spectrum=spectrum)), "lost").values()
    assert f"{values.index(0.0) if values[0] else 0} of" in cross.hovertemplate or values[1] == 1e-18
    assert cross.x[1] == at and np.isfinite(list(cross.y)).all() and cross.y[1] < min(cross.y[0], -1)


def test_wide_spectra_are_thinned_without_moving(file_diagnosis: Record) -> None:
    values = np.exp(-np.arange(4096) / 400)
    spectrum = {"features": Spectrum(singular_values=values.tolist(), effective_rank=1.0)}
    (line,) = traces(spectra(part(file_diagnosis, spectrum=spectrum)), "spectrum").values()
    assert len(line.y) <= MOST_POINTS
    np.testing.assert_allclose(line.y, -(line.x * 40.96 - 1) / 400, atol=1e-9)


def test_accuracies_and_the_cut(collapsed_diagnosis: Record) -> None:
    diagnosis = part(collapsed_diagnosis)
    figure = accuracies_figure(diagnosis)
    for role, field in (("linear", "linear"), ("nearest neighbours", "nearest"), ("recall@1", "recall_at_1")):
        (line,) = traces(figure, role).values()
        np.testing.assert_allclose(line.x, [100 * getattr(row, field) for row in diagnosis.layers])
        assert list(line.customdata) == diagnosis.places
    (band,) = figure.layout.shapes
    row = diagnosis.places.index(diagnosis.cut)
    assert (band.y0, band.y1) == (row - 0.5, row + 0.5)
    assert [i for i, text in enumerate(figure.layout.yaxis.ticktext) if "▸" in text] == [row]
    assert figure.layout.yaxis.range[0] > figure.layout.yaxis.range[1]  # the image stands at the top


def test_what_was_measured_nowhere_is_no_line(healthy_diagnosis: Record) -> None:
    rows = [row.model_copy(update={"recall_at_1": None}) for row in part(healthy_diagnosis).layers]
    rows[1] = rows[1].model_copy(update={"linear": None, "gradient_rank": None})
    diagnosis = part(healthy_diagnosis, layers=rows, cut=None)
    figure = accuracies_figure(diagnosis)
    assert [trace.name for trace in figure.data] == ["linear", "nearest neighbours"]
    assert figure.data[0].x[1] is None and not figure.layout.shapes
    (line,) = traces(ranks_figure(diagnosis), "rank of the gradient").values()
    assert line.x[1] is None


def test_ranks_by_place(healthy_diagnosis: Record) -> None:
    diagnosis = part(healthy_diagnosis)
    figure = ranks_figure(diagnosis)
    for name, field in (
        ("effective rank", "effective_rank"),
        ("RankMe", "rankme"),
        ("rank of the gradient", "gradient_rank"),
        ("width", "width"),
    ):
        (line,) = traces(figure, name).values()
        np.testing.assert_allclose(line.x, [getattr(row, field) for row in diagnosis.layers])


def test_shares_stack_in_the_order_of_the_record(deep_diagnosis: Record) -> None:
    diagnosis = part(deep_diagnosis)
    figure = augmentation_figure(diagnosis)
    assert figure.layout.barmode == "stack"
    np.testing.assert_allclose(np.sum([bar.x for bar in figure.data], axis=0), 100)
    for share in diagnosis.augmentation:
        (bar,) = [bar for bar in figure.data if bar.name == share.operation]
        assert bar.x[diagnosis.places.index(share.place)] == pytest.approx(100 * share.share)
    shares = [
        OperationShare(place="h", operation="crop", share=1.0),
        OperationShare(place="z", operation="flip", share=1.0),
    ]
    bars = augmentation_figure(part(deep_diagnosis, augmentation=shares)).data
    assert [tuple(bar.x) for bar in bars] == [(100.0, None), (None, 100.0)]


def test_alignment_is_the_matrix_cropped(collapsed_diagnosis: Record) -> None:
    diagnosis = part(collapsed_diagnosis)
    np.testing.assert_array_equal(np.array(alignment_figure(diagnosis).data[0].z), diagnosis.alignment)
    large = np.random.default_rng(0).random((100, 70))
    shown = np.array(alignment_figure(part(collapsed_diagnosis, alignment=large.tolist())).data[0].z)
    np.testing.assert_array_equal(shown, large[:MOST_DIRECTIONS, :MOST_DIRECTIONS])


def test_parts_without_data_have_no_figure(file_diagnosis: Record) -> None:
    bare = part(file_diagnosis, spectrum={}, alignment=[[], []])
    assert spectra(bare) is None
    assert accuracies_figure(bare) is None and ranks_figure(bare) is None
    assert augmentation_figure(bare) is None
    assert alignment_figure(bare) is None
    assert alignment_figure(part(file_diagnosis, alignment=[[1.0], [0.5, 0.5]])) is None


def test_places_look_different_and_stand_out_on_white() -> None:
    styles = place_styles(["stem", "layer1", "layer2", "h", "h[:24]", "head.1", "z"])
    assert len({(style.color, style.dash) for style in styles.values()}) == 7
    assert styles["h"].color == styles["h[:24]"].color
    for place in (*(f"layer{i}" for i in range(14)), "h", "head.1", "z"):
        color = place_styles([*(f"layer{i}" for i in range(14)), "h", "head.1", "z"])[place].color
        channels = np.array([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)])
        light = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        assert 1.05 / (light @ [0.2126, 0.7152, 0.0722] + 0.05) >= 3  # WCAG 2.1, 1.4.11


def test_long_places_keep_their_end(deep_diagnosis: Record) -> None:
    labels = ranks_figure(part(deep_diagnosis, cut=None)).layout.yaxis.ticktext
    assert labels[0] == "stem" and labels[1] == "…0.blocks.0" and len(set(labels)) == len(labels)
    assert max(map(len, labels)) <= 16


def test_a_spectrum_over_time_holds_every_look(watched_arrays: dict) -> None:
    lines = traces(spectrum_over_time_figure(watched_arrays, "head.0"), "rank")
    lines = {name.removeprefix("singular value "): line for name, line in lines.items()}
    assert list(lines) == ["1", "2", "4", "8", "16", "32", "64"]
    held = watched_arrays["spectrum/head.0/singular_values"].astype(float)
    for rank, line in lines.items():
        values = np.where(held[:, int(rank) - 1] > 0, held[:, int(rank) - 1], np.nan)
        np.testing.assert_allclose(np.exp(line.y), values, rtol=1e-6)
        np.testing.assert_array_equal(line.x, watched_arrays["spectrum/head.0/step"])
        assert [text for text in line.text if text] in ([f" {rank}"], [])
    # Rank 64 is zero at the end, so it has no name there; rank 32 is the last that has.
    assert lines["32"].text[-1] == " 32" and set(lines["64"].text) == {""}


def test_lines_are_named_at_the_last_finite_look(watched_arrays: dict) -> None:
    values = watched_arrays["spectrum/encoder/singular_values"]
    values[-3:] = np.nan
    (line, *_) = traces(spectrum_over_time_figure(watched_arrays, "encoder"), "rank").values()
    assert line.text[-4] == " 1" and set(line.text[-3:]) == {""}
    values[:] = np.nan
    assert spectrum_over_time_figure(watched_arrays, "encoder") is None
    assert spectrum_over_time_figure(watched_arrays, "other") is None


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("singular_values", np.zeros((21, 8))),
        ("singular_values", np.ones((20, 8))),
        ("singular_values", np.ones(21)),
        ("singular_values", np.full((21, 8), "x")),
        ("step", np.zeros(0)),
    ],
)
def test_series_of_another_shape_or_kind_are_no_picture(
    name: str, wrong: np.ndarray, watched_arrays: dict
) -> None:
    arrays = watched_arrays | {f"spectrum/encoder/{name}": wrong}
    assert spectrum_over_time_figure(arrays, "encoder") is None


@pytest.mark.parametrize(("count", "mode"), [(1, "lines+markers"), (12, "lines+markers"), (13, "lines")])
def test_few_looks_have_dots(count: int, mode: str, watched_arrays: dict) -> None:
    few = {key: value[:count] for key, value in watched_arrays.items()}
    (line, *_) = traces(spectrum_over_time_figure(few, "encoder"), "rank").values()
    assert line.mode == f"{mode}+text"
    ranks = ranks_over_time_figure(few, ["encoder"], place_styles(["encoder"]))
    assert {trace.mode for trace in ranks.data} == {mode}
    low, high = ranks.layout.xaxis.range
    assert low < few["spectrum/encoder/step"][0] and high > few["spectrum/encoder/step"][-1]


def test_ranks_over_time_are_the_looks(watched_arrays: dict) -> None:
    names = ["encoder", "head.0"]
    figure = ranks_over_time_figure(watched_arrays, names, place_styles(["other", *names]))
    for measure, dash in (("effective rank", "solid"), ("live dimensions", "dot")):
        lines = traces(figure, measure)
        assert list(lines) == [f"{name}, {measure}" for name in names]
        for key, name in enumerate(names, 1):
            line = lines[f"{name}, {measure}"]
            held = watched_arrays[f"spectrum/{name}/{measure.replace(' ', '_')}"]
            np.testing.assert_array_equal(line.y, held)
            assert (line.line.dash, line.meta["key"]) == (dash, key) and np.isnan(held).sum() == 1
    highest = max(np.nanmax(trace.y) for trace in figure.data)
    assert 10 ** figure.layout.yaxis.range[1] > highest and 10 ** figure.layout.yaxis.range[0] < 1


def test_a_rank_of_zero_is_a_gap_and_only_zeros_are_no_picture(watched_arrays: dict) -> None:
    watched_arrays["spectrum/encoder/live_dimensions"][3] = 0
    styles = place_styles(["encoder"])
    (line,) = traces(ranks_over_time_figure(watched_arrays, ["encoder"], styles), "live dimensions").values()
    assert np.isnan(line.y[3]) and np.isnan(line.y).sum() == 2
    zeros = {key: 0 * value for key, value in watched_arrays.items()}
    assert ranks_over_time_figure(zeros, ["encoder"], styles) is None


def test_long_trainings_are_thinned(watched_arrays: dict) -> None:
    many = {key: np.repeat(value, 200, axis=0) for key, value in watched_arrays.items()}
    many["spectrum/encoder/step"] = np.arange(4200)
    for figure in (
        spectrum_over_time_figure(many, "encoder"),
        ranks_over_time_figure(many, ["encoder"], place_styles(["encoder"])),
    ):
        for trace in figure.data:
            assert len(trace.x) == len(trace.y) == MOST_POINTS
            assert (trace.x[0], trace.x[-1]) == (0, 4199)
