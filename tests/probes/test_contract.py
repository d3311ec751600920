"""What every probe promises, whatever it learns."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from refusals import refuses

from fullrank.errors import DataError, UsageError
from fullrank.probes import ClassMeanProbe, LinearProbe, NearestProbe

PROBES = {
    "linear": lambda: LinearProbe(penalties=(1e-1, 1e-3)),
    "linear, l2": lambda: LinearProbe(penalties=(1e-1, 1e-3), features="l2"),
    "linear, standardised": lambda: LinearProbe(penalties=(1e-1, 1e-3), features="standardised"),
    "nearest": lambda: NearestProbe(k=5),
    "nearest-mean": lambda: ClassMeanProbe(),
}
pytestmark = pytest.mark.parametrize("make", PROBES.values(), ids=PROBES.keys())


def clusters(n=90, width=6, labels=(3, 7, 40), seed=0):
    """Rows around one direction a class, labels that are no class numbers."""
    generator = torch.Generator().manual_seed(seed)
    number = torch.arange(n) % len(labels)
    features = 4 * torch.eye(width)[number] + torch.randn(n, width, generator=generator)
    return features, torch.tensor(labels)[number]


def test_learns_and_gives_the_labels_it_was_given(make):
    train, test = clusters(seed=0), clusters(seed=1)
    probe = make().fit(*train)
    predicted = probe.predict(test[0])
    assert probe.classes.tolist() == [3, 7, 40]
    assert predicted.shape == (90,) and predicted.dtype == torch.int64
    assert probe.score(*test) == (predicted == test[1]).double().mean().item() > 0.95


def test_is_repeatable_and_leaves_its_input_alone(make):
    features, labels = clusters()
    labels[4] = -1
    kept = features.clone(), labels.clone()
    first, second = make().fit(features, labels), make().fit(features, labels)
    assert torch.equal(first.predict(features), second.predict(features))
    assert first.score(features, labels) == second.score(features, labels)
    assert torch.equal(features, kept[0]) and torch.equal(labels, kept[1])


def test_draws_nothing_from_the_global_generator(make):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    make().fit(*clusters())
    assert torch.equal(torch.rand(3), expected)


def test_unlabelled_rows_count_neither_in_fit_nor_in_score(make):
    features, labels = clusters()
    hidden = torch.arange(90) % 4 == 0
    partly = torch.where(hidden, -1, labels)
    wild = torch.where(hidden[:, None], torch.tensor(1e3), features)
    probe, plain = make().fit(wild, partly), make().fit(features[~hidden], labels[~hidden])
    assert torch.equal(probe.predict(features), plain.predict(features))
    assert probe.score(wild, partly) == plain.score(features[~hidden], labels[~hidden])


def test_unlabelled_rows_may_be_broken(make):
    features, labels = clusters()
    features[0], labels[0] = torch.nan, -1
    make().fit(features, labels)


def test_a_label_never_seen_is_a_miss(make):
    features, labels = clusters()
    probe = make().fit(features, labels)
    assert probe.score(features[:2], torch.tensor([8, labels[1].item()])) == 0.5


@pytest.mark.parametrize("kind", [torch.float16, torch.float64, torch.int32])
def test_takes_features_of_any_number_type(make, kind):
    features, labels = clusters()
    features = (8 * features).round()
    probe = make().fit(features, labels)
    assert torch.equal(make().fit(features.to(kind), labels.int()).predict(features), probe.predict(features))


def test_takes_arrays_even_read_only_ones(make):
    features, labels = (part.numpy() for part in clusters())
    features.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        predicted = make().fit(features, labels).predict(features)
    assert np.mean(predicted.numpy() == labels) > 0.95


WORDS = np.array(["cat", "dog", "eel"])


@pytest.mark.parametrize("kind", [np.array, list, pd.Series, lambda words: np.array(words, object)])
def test_words_serve_as_labels(make, kind):
    (train, numbers), (test, truth) = clusters(labels=(0, 1, 2)), clusters(labels=(0, 1, 2), seed=1)
    plain, probe = make().fit(train, numbers), make().fit(train, kind(WORDS[numbers]))
    assert probe.classes_.tolist() == WORDS.tolist()
    assert probe.predict(test).tolist() == WORDS[plain.predict(test)].tolist()
    assert probe.score(test, kind(WORDS[truth])) == plain.score(test, truth)


def test_words_that_are_missing_or_new(make):
    features, numbers = clusters(labels=(0, 1, 2))
    words = WORDS[numbers].astype(object)
    words[:9], numbers[:9] = [None, "", np.nan] * 3, -1
    probe, plain = make().fit(features, words), make().fit(features, numbers)
    assert probe.predict(features).tolist() == WORDS[plain.predict(features)].tolist()
    assert probe.score(features[9:11], ["ant", words[10]]) == 0.5
    with refuses(UsageError, "words", "numbers"):
        probe.score(features, numbers)
    with refuses(UsageError, "numbers", "words"):
        plain.score(features, words)


@pytest.mark.parametrize("value", [0.0, 3.5])
def test_features_collapsed_to_a_point_give_chance_and_no_nan(make, value):
    labels = torch.tensor([0] * 30 + [1] * 10)
    probe = make().fit(torch.full((40, 8), value), labels)
    assert probe.score(torch.full((40, 8), value), labels) in (0.25, 0.75)
    if isinstance(probe, LinearProbe):
        assert torch.isfinite(probe.weight).all() and probe.score(torch.full((40, 8), value), labels) == 0.75


def test_classes_of_one_row_do_no_harm(make):
    features, labels = clusters(n=30)
    labels[0], labels[1] = 100, 101
    probe = make().fit(features, labels)
    assert set(probe.classes.tolist()) == {3, 7, 40, 100, 101}
    alone = make().fit(torch.eye(3), torch.arange(3))
    assert torch.isfinite(torch.tensor(alone.score(torch.eye(3), torch.arange(3))))


@pytest.mark.parametrize(
    ("features", "labels", "error", "parts"),
    [
        (torch.ones(3, 2), torch.tensor([0, 1]), UsageError, ["3 rows", "2 labels"]),
        (torch.ones(3), torch.tensor([0, 1, 0]), UsageError, ["(3,)"]),
        (torch.ones(3, 0), torch.tensor([0, 1, 0]), UsageError, ["(3, 0)"]),
        (torch.ones(3, 2), torch.tensor([0.0, 1.0, 0.0]), UsageError, ["float32"]),
        (torch.ones(3, 2), torch.tensor([[0], [1], [0]]), UsageError, ["(3, 1)"]),
        (torch.ones(3, 2), None, UsageError, ["NoneType"]),
        (torch.ones(3, 2), ["a", 1, "b"], DataError, ["numbers", "words"]),
        ([["a"], ["b"], ["a"]], torch.tensor([0, 1, 0]), UsageError, ["list"]),
        (torch.ones(3, 2), torch.tensor([4, 4, -1]), DataError, ["2 classes", "got 1"]),
        (torch.ones(3, 2), torch.tensor([-1, -1, -1]), DataError, ["2 classes", "got 0"]),
        (torch.tensor([[1.0], [torch.inf]]), torch.tensor([0, 1]), DataError, ["1 of 2"]),
        (torch.tensor([[torch.nan], [torch.nan]]), torch.tensor([0, 1]), DataError, ["2 of 2"]),
    ],
)
def test_errors_of_fit(make, features, labels, error, parts):
    with refuses(error, *parts) as caught:
        make().fit(features, labels)
    assert one_sentence(str(caught.value))


def test_errors_of_predict_and_score(make):
    features, labels = clusters()
    with refuses(UsageError, "fit") as unfitted:
        make().predict(features)
    probe = make().fit(features, labels)
    with refuses(UsageError, "width 6", "width 4") as width:
        probe.predict(features[:, :4])
    with refuses(DataError, "1 of 90") as broken:
        probe.predict(torch.where(torch.arange(90)[:, None] == 3, torch.nan, features))
    with refuses(DataError, "score", 1, "-1") as unlabelled:
        probe.score(features, torch.full((90,), -1))
    assert all(one_sentence(str(e.value)) for e in (unfitted, width, broken, unlabelled))


def one_sentence(message):
    return message.endswith(".") and ". " not in message and "\n" not in message
