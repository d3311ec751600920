"""Choosing among some classes: the same scores, fewer of them."""

import pytest
import torch

from fullrank.errors import UsageError
from fullrank.probes import LinearProbe, among


@pytest.fixture(scope="module")
def fitted():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(80) % 4 * 10
    features = torch.eye(4)[labels // 10] + 0.6 * torch.randn(80, 4, generator=generator)
    return LinearProbe([1e-3]).fit(features, labels), features, labels


def test_predictions_are_the_largest_of_the_kept_logits(fitted):
    probe, features, _ = fitted
    logits = features.double() @ probe.weight.T + probe.bias
    kept = torch.tensor([1, 3])
    expected = torch.tensor([10, 30])[logits[:, kept].argmax(1)]
    assert torch.equal(among(probe, {30, 10}).predict(features), expected)


def test_no_row_of_these_classes_is_lost_by_it_and_the_probe_stays_as_it_was(fitted):
    probe, features, labels = fitted
    before = probe.predict(features)
    rows = (labels == 0) | (labels == 20)
    narrow = among(probe, frozenset({0, 20}))
    assert narrow.score(features[rows], labels[rows]) >= probe.score(features[rows], labels[rows])
    assert torch.equal(probe.predict(features), before) and len(probe.classes) == 4
    assert torch.equal(among(probe, {0, 10, 20, 30}).predict(features), before)


def test_errors(fitted):
    with pytest.raises(UsageError, match="1 of 2 are unknown to it, the first is 7; name some of its 4"):
        among(fitted[0], {7, 10})
    with pytest.raises(UsageError, match="but got none; name some of its 4"):
        among(fitted[0], set())
