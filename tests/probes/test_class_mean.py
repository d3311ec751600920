"""The probe of class means against scikit-learn, and what it promises."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.neighbors import NearestCentroid

from fullrank.probes import ClassMeanProbe, nearest as nearest_module


@pytest.mark.filterwarnings("ignore:self.within_class_std_dev_")
@pytest.mark.parametrize("at_once", [1, 100, 10_000])
def test_agrees_with_scikit_learn_on_digits(at_once, monkeypatch):
    monkeypatch.setattr(nearest_module, "_QUERIES", at_once)
    images, labels = load_digits(return_X_y=True)
    oracle = NearestCentroid().fit(images[:600], labels[:600])
    probe = ClassMeanProbe().fit(images[:600], labels[:600])
    assert np.array_equal(probe.predict(images[1500:]), oracle.predict(images[1500:]))
    assert np.allclose(probe.means, oracle.centroids_, rtol=1e-12)


def test_moving_turning_and_scaling_change_nothing():
    generator = torch.Generator().manual_seed(0)
    train, queries = (torch.randn(60, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    labels = torch.arange(60) % 4
    plain = ClassMeanProbe().fit(train, labels).predict(queries)
    turn = torch.linalg.qr(torch.randn(5, 5, generator=generator, dtype=torch.float64)).Q
    for change in (lambda x: x @ turn, lambda x: x + 1e6, lambda x: 1e-20 * x, lambda x: 1e20 * x):
        moved = ClassMeanProbe().fit(change(train), labels)
        assert torch.equal(moved.predict(change(queries)), plain)
    order = torch.randperm(60, generator=generator)
    assert torch.equal(ClassMeanProbe().fit(train[order], labels[order]).predict(queries), plain)


def test_distance_decides_and_not_the_direction_or_the_number_of_rows():
    train, labels = torch.tensor([[0.0], [0.0], [0.0], [10.0]]), torch.tensor([3, 3, 3, 8])
    assert ClassMeanProbe().fit(train, labels).predict(torch.tensor([[4.9], [5.1]])).tolist() == [3, 8]
    assert ClassMeanProbe().fit(train, labels).predict(torch.tensor([[5.0]])).item() == 3  # a tie
