"""A file of embeddings is evaluated as a run is."""

import numpy as np
import pytest
import torch
from refusals import refuses

from fullrank.embeddings.files import open_embeddings
from fullrank.errors import DataError, UsageError
from fullrank.evaluation.probe_file import probe_file
from fullrank.evaluation.scores import Request
from fullrank.probes import LinearProbe, NearestProbe, reduced_accuracy, redundancy, retrieval
from fullrank.record.scores import ACCURACY_IN, DIFFUSED, WORST_CLASS_IN


@pytest.fixture(scope="module")
def arrays():
    rng = np.random.default_rng(0)
    labels = rng.choice(["ant", "bee", ""], 240, p=[0.4, 0.4, 0.2])
    x = rng.standard_normal((240, 8)) + 1.5 * (labels == "bee")[:, None] * np.eye(8)[0]
    return x.astype(np.float32), labels, np.array(["train", "test"] * 120)


@pytest.fixture
def path(arrays, tmp_path):
    x, labels, split = arrays
    np.savez(tmp_path / "x.npz", x=x, label=labels, split=split, other=np.arange(240) // 60)
    return tmp_path / "x.npz"


def test_the_numbers_are_those_of_the_probes_on_the_split(arrays, path):
    x, labels, _ = arrays
    numbers = torch.tensor([{"ant": 0, "bee": 1, "": -1}[label] for label in labels])
    train, test = torch.tensor(x[::2]), torch.tensor(x[1::2])
    evaluation = probe_file(path, Request(measures=("per-class", "retrieval", "reduced"), shots=(5,)))
    score = evaluation.probes["embedding"]
    assert list(evaluation.probes) == ["embedding"]
    assert score.linear == LinearProbe().fit(train, numbers[::2]).score(test, numbers[1::2])
    assert score.nearest == NearestProbe().fit(train, numbers[::2]).score(test, numbers[1::2])
    values = {(each.probe, each.statistic): each.value for each in evaluation.scores}
    assert values["retrieval", "recall@1"] == retrieval(test, numbers[1::2]).recall[1]
    data = train, numbers[::2], test, numbers[1::2]
    for kind in ("principal", "random"):
        name = f"accuracy in {kind} directions"
        found = {each.subject: each.value for each in evaluation.scores if each.statistic == name}
        expected = {str(each.dimensions): each.mean for each in reduced_accuracy(*data, directions=kind)}
        assert found == expected and list(found) == ["1", "2", "4", "8"][: len(found)]
    by_class = [each for each in evaluation.scores if each.statistic == "class accuracy"]
    assert {each.subject for each in by_class} == {"ant", "bee"}
    assert any(each.shots == 5 for each in evaluation.scores)
    images = evaluation.images
    assert (images.train, images.test) == (int((numbers[::2] >= 0).sum()), int((numbers[1::2] >= 0).sum()))
    covariance = np.cov(x[1::2].T.astype(float), bias=True)
    expected = np.linalg.eigvalsh(covariance)[::-1]
    np.testing.assert_allclose(evaluation.spectrum["embedding"].singular_values, expected, rtol=1e-9)


def test_redundancy_draws_the_channels_of_the_file_also_where_they_are_more_than_rows(tmp_path):
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(40) % 2
    x = torch.randn(40, 64, generator=generator) + torch.randn(2, 64, generator=generator)[y]
    np.savez(tmp_path / "wide.npz", x=x.numpy(), y=y.numpy(), split=np.repeat(["train", "test"], 20))
    evaluation = probe_file(tmp_path / "wide.npz", Request(label="y", measures=("redundancy",)))
    expected = redundancy(x[:20], y[:20], x[20:], y[20:])
    found = {(each.statistic, each.subject): each for each in evaluation.scores}
    for kind in ACCURACY_IN:
        assert found[DIFFUSED, f"{kind}, 0.9"].value == expected.diffused(0.9, kind)
        for each in expected.curves[kind]:
            k = str(each.dimensions)
            accuracy = found[ACCURACY_IN[kind], k]
            assert accuracy.value == pytest.approx(each.mean) and accuracy.episodes == len(each.accuracies)
            assert accuracy.low == pytest.approx(each.interval.low)
            assert found[WORST_CLASS_IN[kind], k].value == pytest.approx(each.worst_class)


def test_another_label_is_named_as_for_a_run(path):
    evaluation = probe_file(path, Request(label="other"))
    assert evaluation.images.classes == 4 and {score.label for score in evaluation.scores} == {"other"}


def test_without_a_split_half_of_the_rows_learn(arrays, tmp_path):
    np.savez(tmp_path / "y.npz", x=arrays[0], label=10**15 * (np.arange(240) % 3))
    evaluation = probe_file(open_embeddings(tmp_path / "y.npz"), Request(measures=("per-class",)))
    assert (evaluation.images.train, evaluation.images.test) == (120, 120)
    assert {score.subject for score in evaluation.scores if score.statistic == "class accuracy"} == {
        "0",
        "1000000000000000",
        "2000000000000000",
    }


def test_more_channels_than_rows_give_the_same_accuracies(tmp_path):
    rng = np.random.default_rng(1)
    labels, split = np.arange(60) % 3, np.array(["train", "train", "test"] * 20)[rng.permutation(60)]
    narrow = rng.standard_normal((60, 30)) + 2 * np.eye(30)[labels]
    wide = narrow @ np.linalg.qr(rng.standard_normal((200, 30)))[0].T
    for name, x in (("narrow", narrow), ("wide", wide)):
        np.savez(tmp_path / f"{name}.npz", x=x, label=labels, split=split)
    narrow, wide = (probe_file(tmp_path / f"{name}.npz") for name in ("narrow", "wide"))
    assert wide.probes == narrow.probes
    spectra = [each.spectrum["embedding"].singular_values for each in (wide, narrow)]
    assert len(spectra[0]) == 200
    np.testing.assert_allclose(spectra[0][:19], spectra[1][:19], rtol=1e-5)


def test_what_a_file_cannot_answer_is_refused(path, tmp_path):
    with refuses(UsageError, "factors", "per-class"):
        probe_file(path, Request(measures=("factors",)))
    np.savez(tmp_path / "y.npz", x=np.eye(9), label=np.arange(9))
    with refuses(DataError, "y.npz", "9 of 9"):
        probe_file(tmp_path / "y.npz")
