"""The shape of a file of embeddings: over all its rows, with one rank in the record, and uneven channels."""

import numpy as np
import pytest
import torch

from fullrank import diagnose
from fullrank.diagnosis import layers, of_file
from fullrank.diagnosis.layers import standardised_again
from fullrank.embeddings.files import open_embeddings
from fullrank.probes import LinearProbe


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(of_file, "SAMPLE", 100)
    monkeypatch.setattr(of_file, "_LEAST_COMPARED", 100)
    monkeypatch.setattr(of_file, "_MOST_COMPARED", 100)
    monkeypatch.setattr(layers, "DRAWS", 1)


def written(folder, features, labels=None):
    arrays = {"features": features.astype(np.float32)} | ({} if labels is None else {"labels": labels})
    np.savez(folder / "x.npz", **arrays)
    return folder / "x.npz"


def labelled(rows=400, width=12):
    """Three classes, read in channels 3 to 5."""
    numbers = np.random.default_rng(0)
    labels = numbers.integers(0, 3, rows)
    features = numbers.normal(size=(rows, width))
    features[:, 3:6] += 4 * np.eye(3)[labels]
    return features, labels


def test_dead_channels_are_counted_over_all_rows_and_not_in_the_sample(tmp_path):
    features = np.random.default_rng(0).normal(size=(300, 8))
    path = written(tmp_path, features)
    outside = np.setdiff1d(np.arange(300), open_embeddings(path).sample_rows(100, 0))
    features[:, 2] = 0
    features[outside, 2] = 1
    assert diagnose(written(tmp_path, features), out=tmp_path / "d").entry.findings == []
    features[:, 2] = 0
    (finding,) = diagnose(written(tmp_path, features), out=tmp_path / "e").entry.findings
    assert finding.cause == "dead-channels" and "300" in finding.evidence


def test_a_place_has_one_effective_rank_that_of_all_rows(tmp_path):
    features, labels = labelled()
    entry = diagnose(written(tmp_path, features, labels), out=tmp_path / "d").entry
    (row,) = entry.layers
    centred = features.astype(np.float32).astype(np.float64)
    shares = np.linalg.svd(centred - centred.mean(0), compute_uv=False)
    shares = shares / shares.sum()
    expected = np.exp(-(shares * np.log(shares)).sum())
    measures = {measure.name: measure.value for measure in entry.measures}
    ranks = (row.effective_rank, entry.spectrum["embedding"].effective_rank, measures["effective_rank"])
    assert ranks == pytest.approx([expected] * 3)
    assert row.rankme == pytest.approx(measures["rankme"], rel=1e-4)


@pytest.mark.parametrize("scale", [1e4, 1e5, 1e6])
def test_labels_in_the_channels_beside_a_large_one_are_uneven_scale(tmp_path, scale):
    features, labels = labelled()
    features[:, 0] *= scale
    entry = diagnose(written(tmp_path, features, labels), out=tmp_path / "d").entry
    (again,) = entry.probed_again
    assert again.change == "standardised channels" and again.before == entry.layers[0].linear
    gain = again.linear - again.before > 2 * again.error
    assert [(finding.cause, finding.level) for finding in entry.findings] == [
        ("uneven-scale" if gain else "dominant-direction", "note")
    ]
    assert gain or scale < 1e6


def test_even_channels_are_not_probed_again(tmp_path):
    assert diagnose(written(tmp_path, *labelled()), out=tmp_path / "d").entry.probed_again == []


def test_standardised_channels_are_those_of_the_training_rows():
    features, labels = labelled()
    x = torch.from_numpy(features * np.r_[1e5, np.ones(11)])
    train, test, parts = x[:300], x[300:], (labels[:300], labels[300:])
    again = standardised_again(train, test, parts, "h")
    probe = LinearProbe().fit(train / train.std(0), parts[0])
    assert again.linear == pytest.approx(probe.score(test / train.std(0), parts[1]), abs=0.02)
    assert again.tested == 100 and again.place == "h" and again.error >= 0
