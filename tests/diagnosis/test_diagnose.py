"""Diagnoses end to end: a run, a model of timm's, any module, a file of embeddings, and bad input."""

import json

import numpy as np
import pytest
import torch
from refusals import assert_names, refuses
from torch import nn

from fullrank import VICRegLoss, diagnose, objective, source, target, train, view_pipeline
from fullrank.cli.commands import app
from fullrank.diagnosis import layers, of_model, operation_shares
from fullrank.diagnosis.features import collect
from fullrank.diagnosis.of_model import diagnose_model
from fullrank.diagnosis.subject import Subject, find_subject
from fullrank.errors import DataError, UsageError
from fullrank.record import Record
from fullrank.reports.page import write_page
from fullrank.statistics import live_dimensions


def saved(folder, name, array):
    np.save(folder / name, array.astype(np.float32))
    return folder / name


@pytest.fixture
def gaussian():
    return np.random.default_rng(0).normal(size=(600, 16))


@pytest.fixture(autouse=True)
def short_probes(monkeypatch):
    monkeypatch.setattr(of_model, "LEARNT_FROM", 100)
    monkeypatch.setattr(layers, "DRAWS", 1)


@pytest.fixture(scope="module")
def two_digits():
    """Training and test images of two classes, whose probes are quick."""
    digits = (source("digits").load(split).of_classes(["0", "1"]) for split in ("train", "test"))
    return tuple(
        [(image[..., 0], part.labels["label"][i]) for i, image in enumerate(part.images)] for part in digits
    )


def test_a_run_is_looked_at_from_the_image_to_z(quick_run, tmp_path):
    diagnosis = diagnose(quick_run.path, out=tmp_path / "d", limit=200)
    entry = diagnosis.entry
    assert entry.places[0] == "stem" and entry.places[-3:] == ["h", "head.1", "z"]
    assert entry.rows == 200 and diagnosis.record.recipe == quick_run.recipe.model_dump(mode="json")
    rows = {row.place: row for row in entry.layers}
    assert all(0 < row.linear <= 1 and row.gradient_rank >= 1 for row in rows.values())
    assert rows["z"].width == 16 and entry.cut in rows
    # Each operation was replayed alone, and its shares at a place are parts of one whole.
    at_h = [share for share in entry.augmentation if share.place == "h"]
    assert {share.operation for share in at_h} == {"crop", "flip", "brightness", "contrast"}
    assert sum(share.share for share in at_h) == pytest.approx(1)
    # The views were read at the same places, of no more than 8 draws of the images that were allowed.
    readout = entry.view_readout
    assert readout.views == str(quick_run.recipe.views) and readout.test <= 8 * 200
    assert {score.place for score in readout.scores} == {"pixels", *entry.places}
    assert {"crop", "crop row", "colour contrast", "flip"} <= {score.subject for score in readout.scores}
    # The spectrum is the one that training recorded, up to the sample of 200 of 500 images.
    recorded = quick_run.record.runs[0].spectrum["h"].effective_rank
    assert entry.spectrum["h"].effective_rank == pytest.approx(recorded, rel=0.1)
    assert Record.load(diagnosis.path) == diagnosis.record
    assert "<script>alert" not in write_page(diagnosis.path).read_text()


def test_the_same_seed_gives_the_same_diagnosis(quick_run, two_digits, tmp_path):
    first, second = (
        diagnose(quick_run, data=two_digits, out=tmp_path / name, limit=50).entry for name in "ab"
    )
    assert first == second and first.layers[0].linear is not None


def test_a_model_of_timms_with_weights_and_views(two_digits, tmp_path):
    found = diagnose(
        "resnet10t",
        data=two_digits,
        views="weak",
        image_size=32,
        limit=20,
        places=["layer4.0", "h"],
        out=tmp_path,
    )
    assert found.entry.places == ["layer4.0", "h"] and {s.operation for s in found.entry.augmentation} == {
        "crop",
        "flip",
    }
    with refuses(DataError, "no.safetensors"):
        diagnose("resnet10t", data=two_digits, image_size=32, weights=tmp_path / "no.safetensors")


def test_any_module_that_gives_features(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 8))
    entry = diagnose(model, data="digits", limit=150, out=tmp_path).entry
    assert entry.places == ["h"] and entry.target == "Sequential" and entry.layers[0].linear > 0.3
    assert [word in " ".join(entry.not_seen) for word in ("--views", "loss", "labels")] == [True] * 3
    assert entry.view_readout is None


def test_the_temperature_of_the_loss_weighs_the_operations():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 8))
    views = view_pipeline("weak", image_size=8, channels=1)
    images = source("digits").load("test")
    subject = Subject("it", net, nn.Linear(8, 4), None, images, views, objective("infonce:0.5"))
    shares = diagnose_model(subject, limit=40).entry.augmentation
    h, z = collect(subject, limit=40).evidence.places
    assert shares[:2] == operation_shares(h, z.views, 0.5) != operation_shares(h, z.views, 0.1)
    assert shares[2:] == operation_shares(z, z.views, 0.5)


def test_a_collapsed_model_whose_objective_lacks_a_guard_is_told_so():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 8))
    net[1].weight.data *= 1e-6
    missing = VICRegLoss(variance=0).unguarded()
    subject = Subject("it", net, None, None, source("digits").load("test"), unguarded=missing)
    (finding,) = diagnose_model(subject, limit=40).entry.findings
    assert finding.cause == "complete-collapse"
    assert_names(finding.evidence, missing[0].name, missing[0].means)
    assert missing[0].remedy in finding.remedy.lower()


def test_a_healthy_file_and_one_of_rank_four(tmp_path, gaussian):
    healthy = diagnose(saved(tmp_path, "x.npy", gaussian), out=tmp_path / "a")
    assert not healthy.entry.collapsed and healthy.causes == []
    low = gaussian[:, :4] @ np.random.default_rng(1).normal(size=(4, 16))
    found = diagnose(saved(tmp_path, "low.npy", low), out=tmp_path / "b")
    assert found.entry.collapsed and [f.cause for f in found.causes] == ["unexplained-low-rank"]
    assert_names(found.verdict, "unexplained-low-rank", "embedding", 16)
    measured = {m.name: m.value for m in found.entry.measures}
    variances = found.entry.spectrum["embedding"].singular_values
    assert measured["live_dimensions"] == live_dimensions(variances) == 4
    assert_names(found.causes[0].evidence, "4 of 16")
    rank = float(np.exp(entropy(np.linalg.svd(low, compute_uv=False))))
    assert measured["rankme"] == pytest.approx(rank, rel=1e-3)


def entropy(values):
    p = values / values.sum()
    p = p[p > 1e-12]
    return -(p * np.log(p)).sum()


def test_labels_beside_the_features_are_probed(tmp_path, gaussian):
    labels = (gaussian[:, 0] > 0).astype(int)
    np.savez(tmp_path / "x.npz", features=gaussian.astype(np.float32), labels=labels)
    (row,) = diagnose(tmp_path / "x.npz", out=tmp_path / "d").entry.layers
    assert row.linear > 0.9


def test_positives_give_alignment_and_let_augmentation_be_asked(tmp_path, gaussian):
    other = saved(tmp_path, "y.npy", gaussian + 0.1 * np.random.default_rng(2).normal(size=gaussian.shape))
    entry = diagnose(saved(tmp_path, "x.npy", gaussian), positives=other, out=tmp_path / "d").entry
    assert 0 < {m.name: m.value for m in entry.measures}["alignment"] < 0.2
    assert not any("positives" in sentence for sentence in entry.not_seen)
    with refuses(DataError, "600 rows", "z.npy has 300"):
        diagnose(saved(tmp_path, "x.npy", gaussian), positives=saved(tmp_path, "z.npy", gaussian[:300]))


@pytest.mark.parametrize(
    ("target", "options", "error", "part"),
    [
        ("resnet10t", {}, UsageError, "--data"),
        ("resnet10t", {"data": "digits", "positives": "y.npy"}, UsageError, "positives"),
        ("resnt18", {"data": "digits", "image_size": 32}, UsageError, "resnet18"),
        ("nothing.npy", {}, DataError, "nothing.npy"),
        ("runs/nothing", {"data": "digits"}, UsageError, "runs/nothing"),
    ],
)
def test_what_cannot_be_diagnosed_is_one_sentence(target, options, error, part, tmp_path):
    with refuses(error, part) as raised:
        diagnose(target, out=tmp_path / "d", **options)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize("option", ["weights", "image_size"])
def test_what_a_run_has_of_its_own_is_not_taken(quick_run, option, tmp_path):
    with refuses(UsageError, "run", option):
        diagnose(quick_run, out=tmp_path / "d", **{option: 32})
    assert not (tmp_path / "d").exists()


def test_weights_of_a_module_that_is_given_whole_are_refused(tmp_path):
    with refuses(UsageError, "module", "weights"):
        diagnose(nn.Flatten(), data="digits", weights=tmp_path / "w.pth", out=tmp_path / "d")


def test_the_command_says_why_and_exits_with_three(tmp_path, gaussian, monkeypatch):
    from typer.testing import CliRunner

    monkeypatch.setenv("COLUMNS", "80")
    low = saved(tmp_path, "low.npy", gaussian[:, :4] @ np.random.default_rng(1).normal(size=(4, 16)))
    arguments = ["diagnose", str(low), "--out", str(tmp_path / "d"), "--fail-on", "collapse"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 3 and "alarm" in result.output and "Try:" in result.output
    # Width, effective rank, RankMe, and the live dimensions, which are those of the measures.
    row = next(line for line in map(str.split, result.output.splitlines()) if line[:1] == ["embedding"])
    assert (row[1], row[4]) == ("16", "4")
    assert max(map(len, result.stdout.splitlines()[:-2])) <= 80
    assert json.loads((tmp_path / "d" / "record.json").read_text())["kind"] == "diagnosis"
    healthy = saved(tmp_path, "x.npy", gaussian)
    assert CliRunner().invoke(app, ["diagnose", str(healthy), "--out", str(tmp_path / "e")]).exit_code == 0
    with refuses(UsageError, "'collapse'", "'rank'"):
        CliRunner().invoke(app, ["diagnose", str(healthy), "--fail-on", "rank"], catch_exceptions=False)


def test_twins_in_a_large_file_are_counted_among_all_rows(tmp_path):
    # 20,000 rows of which half have their twin half a file away: a sample of 4096 holds few pairs.
    rows = np.random.default_rng(0).normal(size=(10_000, 32))
    x = np.concatenate([rows, rows[:5000], np.random.default_rng(1).normal(size=(5000, 32)) * 3])
    found = diagnose(saved(tmp_path, "x.npy", x), out=tmp_path / "d").entry
    shares = {measure.name: measure.value for measure in found.measures}
    assert shares["near_duplicates"] == pytest.approx(0.5, abs=0.07)
    spread = x.astype(np.float32).var(0)
    assert shares["largest_variance_share"] == pytest.approx(spread.max() / spread.sum(), rel=1e-6)


@pytest.mark.parametrize("loss", ["supcon:0.2", "cross-entropy"])
def test_a_run_that_learned_labels_is_diagnosed_without_its_loss(loss, two_digits, tmp_path):
    settings = {
        "encoder": "tiny-resnet,width=4",
        "classes": "3+8",
        "limit": 100,
        "batch_size": 50,
        "epochs": 1,
    }
    run = train("digits", out=tmp_path / "run", head="linear:8", objective=loss, **settings)
    entry = diagnose(run, data=two_digits, places=["h", "z"], out=tmp_path / "d", limit=50).entry
    assert find_subject(target(run), two_digits, None).supervised is True
    assert all(row.gradient_rank is None and row.linear is not None for row in entry.layers)
    assert any("loss" in sentence for sentence in entry.not_seen)


def test_only_a_run_is_known_to_have_learned_without_labels(quick_run, two_digits):
    assert find_subject(target(quick_run), two_digits, None).supervised is False
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    assert find_subject(target(net), two_digits, None).supervised is None


def test_classes_of_a_file_that_are_points_are_a_note_and_no_low_rank(tmp_path):
    rng = np.random.default_rng(0)
    labels = np.arange(500) % 10
    x = rng.normal(size=(10, 64))[labels] + 1e-3 * rng.normal(size=(500, 64))
    np.savez(tmp_path / "x.npz", x=x.astype(np.float32), label=labels)
    entry = diagnose(tmp_path / "x.npz", out=tmp_path / "d").entry
    assert not entry.collapsed and [finding.cause for finding in entry.findings] == ["class-collapse"]


def test_paired_files_in_two_cones_are_a_note_and_of_two_widths_are_refused(tmp_path, gaussian):
    images = saved(tmp_path, "images.npy", gaussian)
    texts = saved(tmp_path, "texts.npy", gaussian + 0.1 * gaussian[::-1] + 10 * np.eye(16)[0])
    entry = diagnose(images, positives=texts, out=tmp_path / "d").entry
    assert not entry.collapsed and [finding.cause for finding in entry.findings] == ["view-gap"]
    narrow = saved(tmp_path, "narrow.npy", gaussian[:, :8])
    with refuses(DataError, "narrow.npy", 16, 8):
        diagnose(images, positives=narrow, out=tmp_path / "e")


def test_a_file_takes_nothing_that_only_a_model_has_and_says_what_it_left_out(gaussian, tmp_path):
    gaussian[3] = np.nan
    path = saved(tmp_path, "x.npy", gaussian)
    with refuses(UsageError, "views"):
        diagnose(path, views="simclr", out=tmp_path / "d")
    entry = diagnose(path, skip_bad=True, out=tmp_path / "d").entry
    assert entry.rows == 599 and any(" 1." in sentence for sentence in entry.not_seen)


def test_a_file_with_more_channels_than_rows_and_of_many_classes(tmp_path):
    rng = np.random.default_rng(0)
    wide = saved(tmp_path, "wide.npy", rng.normal(size=(30, 3000)))
    entry = diagnose(wide, out=tmp_path / "a").entry
    values = entry.spectrum["embedding"].singular_values
    assert len(values) == 3000 and not any(values[30:])
    x = np.load(wide).astype(float)
    np.testing.assert_allclose(values[:29], np.linalg.svd(x - x.mean(0), compute_uv=False)[:29] ** 2 / 30)
    shares = {measure.name: measure.value for measure in entry.measures}
    variances = x.var(0)
    assert shares["largest_variance_share"] == pytest.approx(variances.max() / variances.sum())
    np.savez(tmp_path / "many.npz", x=rng.normal(size=(420, 2)), label=np.arange(420) // 4)
    many = diagnose(tmp_path / "many.npz", out=tmp_path / "b").entry
    assert many.images.classes <= 100 and many.images.train + many.images.test == 400
    assert any("100 of 105" in sentence for sentence in many.not_seen)


def test_ids_that_occur_twice_are_said_at_once(tmp_path, capsys):
    ids = np.array(["first", "first", *map(str, range(98))])
    np.savez(tmp_path / "x.npz", features=np.random.default_rng(0).normal(size=(100, 4)), id=ids)
    diagnose(tmp_path / "x.npz", out=tmp_path / "d")
    assert_names(capsys.readouterr().err, "ids", "first", 2)
