"""What a diagnosis reads of a model and of a file, and what it hands to the causes."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from refusals import assert_names
from transparent import LOUD, QUIET, SETTINGS, TEST, Coded, Pixels, WithoutLoud, coded_images, pixel_rows
from typer.testing import CliRunner

import fullrank.diagnosis.of_file as diagnosing
from fullrank import diagnose, register_cause, train
from fullrank.cli.commands import app
from fullrank.diagnosis.augmentation import operation_shares
from fullrank.diagnosis.causes import Cause, Stage
from fullrank.probes import retrieval
from fullrank.reports.page import write_page
from fullrank.spectrum import alignment, effective_rank, live_dimensions, mean_cosine, rankme


@pytest.fixture
def evidence():
    """What the causes are given, in the order of the diagnoses."""
    shown = []

    @register_cause("witness")
    @dataclasses.dataclass(frozen=True)
    class Witness(Cause):
        name, stage = "witness", Stage.ROWS  # before a cause that ends the checks

        def check(self, place, evidence):
            if place is evidence.places[0]:
                shown.append(evidence)
            return []

    return shown


@pytest.fixture(scope="module")
def images_and_diagnosis(transparent_run, tmp_path_factory):
    return diagnose(transparent_run, out=tmp_path_factory.mktemp("diagnosis") / "d")


def test_layers_learn_from_the_training_images_and_are_scored_on_the_test_images(images_and_diagnosis):
    layers = {row.place: row for row in images_and_diagnosis.entry.layers}
    expected = {"quiet": QUIET, "h": LOUD, "z": QUIET}
    assert {place: row.linear for place, row in layers.items()} == expected
    assert {place: row.nearest for place, row in layers.items()} == expected
    rows, labels = pixel_rows("test"), torch.from_numpy(coded_images("test").labels["label"])
    for place, features in (("h", rows), ("quiet", rows[:, 4:])):
        assert layers[place].recall_at_1 == pytest.approx(retrieval(features, labels, ks=(1,)).recall[1])
        assert layers[place].effective_rank == pytest.approx(effective_rank(features))
        assert layers[place].rankme == pytest.approx(rankme(features), rel=1e-4)
        assert layers[place].width == features.shape[1]
    whole = next(curve for curve in images_and_diagnosis.entry.dimensions if curve.kind == "random channels")
    assert (whole.place, whole.dimensions[-1], whole.accuracy[-1]) == ("h", 16, LOUD)


def test_the_place_to_keep_is_the_one_whose_labels_are_read_best(images_and_diagnosis):
    assert images_and_diagnosis.entry.cut == "z" and images_and_diagnosis.entry.rows == TEST


def test_measures_are_those_of_the_test_images(images_and_diagnosis):
    measures = {(one.place, one.name): one.value for one in images_and_diagnosis.entry.measures}
    rows = pixel_rows("test")
    for place, features in (("h", rows), ("z", rows[:, 4:])):
        assert measures[place, "effective_rank"] == pytest.approx(effective_rank(features))
        assert measures[place, "live_dimensions"] == live_dimensions(features)
        assert measures[place, "mean_cosine"] == pytest.approx(mean_cosine(features))
        # The two views are the image itself, so each pair is one point.
        assert measures[place, "alignment"] == pytest.approx(0.0, abs=1e-9)


def test_the_label_that_is_named_is_the_one_that_is_probed(transparent_run, tmp_path):
    entry = diagnose(transparent_run, labels="shade", places=["h"], out=tmp_path / "d").entry
    assert [(row.place, row.linear) for row in entry.layers] == [("h", 1.0)]


def test_causes_get_clean_test_images_their_views_and_the_temperature(transparent_run, evidence, tmp_path):
    diagnose(transparent_run, out=tmp_path / "d")
    (given,) = evidence
    assert given.temperature == 0.5 and [place.place for place in given.places] == ["quiet", "h", "z"]
    for place, rows in zip(given.places, [pixel_rows("test")[:, 4:], pixel_rows("test")] * 2, strict=False):
        assert torch.equal(place.features, rows) and place.sample_of is None
        first, second = place.views
        assert torch.equal(first, second)  # views that change nothing
        order = torch.cdist(first, rows).argmin(1)
        torch.testing.assert_close(first, rows[order])


def test_other_views_and_a_limit_of_images_are_what_is_looked_at(transparent_run, evidence, tmp_path):
    entry = diagnose(transparent_run, views="weak,scale=1,flip=1", limit=32, out=tmp_path / "d").entry
    (given,) = evidence
    h = given.places[1]
    first, second = (view.reshape(-1, 4, 4) for view in h.views)
    images = h.features.reshape(-1, 1, 16)
    assert entry.rows == len(h.features) == 32
    assert torch.equal(first, second)
    distances = (images - first.flip(2).reshape(1, -1, 16)).abs().amax(2)
    assert float(distances.amin(0).max()) < 1e-6  # each view is one of the images, mirrored


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_shares_of_the_augmentation_are_weighted_at_the_temperature_of_the_loss(
    tmp_path, evidence, temperature
):
    options = SETTINGS | {"objective": f"infonce:{temperature}", "views": "weak,scale=0.3", "epochs": 1}
    run = train("digits", data=Coded, out=tmp_path / "run", head=WithoutLoud, **options)
    entry = diagnose(run, places=["h", "z"], out=tmp_path / "d").entry
    (given,) = evidence
    expected = [
        share
        for place in given.places
        for share in operation_shares(place, given.places[-1].views, temperature)
    ]
    assert entry.augmentation == expected and len(expected) > 0


def test_a_model_and_a_pair_of_sets_are_trained_and_tested_on_as_they_are_given(tmp_path):
    train_set, test_set = (
        [(image.tensor()[0] / 255, int(image.labels["label"][0])) for image in singles(split)]
        for split in ("train", "test")
    )
    entry = diagnose(Pixels(1, 4), data=(train_set, test_set), out=tmp_path / "d").entry
    assert {row.place: row.linear for row in entry.layers} == {"quiet": QUIET, "h": LOUD}


def singles(split):
    images = coded_images(split)
    return [images.subset(np.array([row])) for row in range(len(images))]


def write(folder, name, features, labels=None):
    np.save(folder / f"{name}.npy", features.astype(np.float32))
    if labels is not None:
        np.save(folder / f"{name}.labels.npy", labels)
    return folder / f"{name}.npy"


def test_a_files_probe_is_not_scored_on_the_rows_that_it_learnt_from(tmp_path):
    generator = np.random.default_rng(0)
    # Labels that the features know nothing of; so wide that a probe knows every row that it has seen.
    path = write(tmp_path, "x", generator.normal(size=(400, 256)), generator.integers(0, 4, 400))
    (row,) = diagnose(path, out=tmp_path / "d").entry.layers
    assert row.linear < 0.45 and row.nearest < 0.45


def test_a_files_labels_go_with_their_rows_in_a_sample_without_bad_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(diagnosing, "SAMPLE", 300)
    labels = np.arange(600) % 3
    features = np.random.default_rng(0).normal(size=(600, 8)) + 20 * np.eye(3, 8)[labels]
    features[[5, 7, 300]] = np.nan
    entry = diagnose(write(tmp_path, "x", features, labels), skip_bad=True, out=tmp_path / "d").entry
    assert (entry.rows, entry.layers[0].linear, entry.layers[0].nearest) == (597, 1.0, 1.0)


def test_a_sample_of_a_large_file_is_not_too_few_rows(tmp_path, monkeypatch, evidence):
    monkeypatch.setattr(diagnosing, "SAMPLE", 40)
    path = write(tmp_path, "x", np.random.default_rng(0).normal(size=(500, 60)))
    entry = diagnose(path, out=tmp_path / "d").entry
    (given,) = evidence
    assert given.places[0].features.shape == (40, 60) and given.places[0].sample_of == 500
    assert [finding.cause for finding in entry.findings] == [] and entry.rows == 500
    few = diagnose(write(tmp_path, "few", np.random.default_rng(0).normal(size=(40, 60))), out=tmp_path / "f")
    assert [finding.cause for finding in few.causes] == ["too-few-samples"]


def test_the_spectrum_of_a_file_is_that_of_all_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(diagnosing, "SAMPLE", 40)
    features = np.random.default_rng(0).normal(size=(500, 6)) * np.arange(1, 7)
    entry = diagnose(write(tmp_path, "x", features), out=tmp_path / "d").entry
    rows = torch.from_numpy(features.astype(np.float32))
    measures = {one.name: one.value for one in entry.measures}
    assert measures["effective_rank"] == pytest.approx(effective_rank(rows))
    assert measures["rankme"] == pytest.approx(rankme(rows), rel=1e-4)


@pytest.mark.parametrize("twins", [0, 200])
def test_twins_in_a_file_are_counted_among_all_rows_and_no_row_is_its_own_twin(tmp_path, monkeypatch, twins):
    monkeypatch.setattr(diagnosing, "SAMPLE", 60)
    features = np.random.default_rng(0).normal(size=(400, 32))
    features[400 - twins :] = features[:twins]
    entry = diagnose(write(tmp_path, "x", features), out=tmp_path / "d").entry
    measures = {one.name: one.value for one in entry.measures}
    assert measures["near_duplicates"] == 2 * twins / 400


def test_positives_of_a_file_are_paired_row_by_row_in_a_sample_too(tmp_path, monkeypatch):
    monkeypatch.setattr(diagnosing, "SAMPLE", 100)
    features = np.random.default_rng(0).normal(size=(300, 8)).astype(np.float32)
    other = features + np.random.default_rng(1).normal(size=(300, 8)).astype(np.float32) * 0.1
    entry = diagnose(
        write(tmp_path, "x", features), positives=write(tmp_path, "y", other), out=tmp_path / "d"
    )
    measures = {one.name: one.value for one in entry.entry.measures}
    expected = alignment(torch.from_numpy(features), torch.from_numpy(other))
    assert measures["alignment"] == pytest.approx(expected, rel=0.2)


def test_a_live_dimension_is_one_count_in_measures_on_the_page_and_beside_a_finding(tmp_path):
    generator = np.random.default_rng(0)
    features = generator.normal(size=(2000, 24)) @ generator.normal(size=(24, 96))
    features[:, :4] += 1e-3 * generator.normal(size=(2000, 4))  # above rounding, and far below the rest
    diagnosis = diagnose(write(tmp_path, "x", features), out=tmp_path / "d")
    measures = {one.name: one.value for one in diagnosis.entry.measures}
    assert measures["live_dimensions"] == live_dimensions(torch.from_numpy(features.astype(np.float32))) == 28
    assert "28 of 96" in write_page(diagnosis.path).read_text()
    (finding,) = diagnosis.causes
    assert_names(finding.evidence, "24 of 96")  # where the spectrum breaks off, which is not called live
    assert "live" not in finding.evidence


def test_options_of_the_command_arrive_where_they_belong(transparent_run, tmp_path):
    out = tmp_path / "d"
    command = [
        "diagnose",
        str(transparent_run.path),
        "--import",
        "transparent",
        "--place",
        "h",
        "--out",
        str(out),
    ]
    told = CliRunner().invoke(app, [*command, "--limit", "32", "--labels", "shade"])
    assert told.exit_code == 0, told.output
    diagnosis = json.loads((out / "record.json").read_text())["diagnosis"]
    assert (diagnosis["rows"], diagnosis["places"]) == (32, ["h"])
    assert diagnosis["layers"][0]["linear"] == 1.0
