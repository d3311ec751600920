"""The nearest-neighbour probe against a loop and against scikit-learn."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from refusals import refuses
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

from fullrank.errors import UsageError
from fullrank.probes import NearestProbe, nearest as nearest_module


def vote(train, labels, query, k, temperature):
    """One query, in float64, one neighbour after the other."""
    similarities = []
    for row in train.double():
        lengths = row.norm() * query.double().norm()
        similarities.append((row @ query.double() / lengths).item() if lengths > 0 else 0.0)
    votes = {}
    for i in sorted(range(len(train)), key=lambda i: -similarities[i])[:k]:
        votes[int(labels[i])] = votes.get(int(labels[i]), 0.0) + np.exp(similarities[i] / temperature)
    return max(sorted(votes), key=votes.__getitem__)


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    k=st.integers(1, 12),
    temperature=st.sampled_from([0.05, 0.07, 0.5, 10.0]),
    queries_at_once=st.sampled_from([1, 3, 1000]),
    rows_at_once=st.sampled_from([1, 7, 1000]),
)
def test_agrees_with_a_loop(seed, k, temperature, queries_at_once, rows_at_once):
    generator = torch.Generator().manual_seed(seed)
    train = torch.randn(30, 4, generator=generator)
    labels = torch.randint(3, (30,), generator=generator) * 5
    labels[:2] = torch.tensor([0, 5])
    queries = torch.randn(8, 4, generator=generator) * 100
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nearest_module, "_QUERIES", queries_at_once)
        patch.setattr(nearest_module, "_ROWS", rows_at_once)
        predicted = NearestProbe(k, temperature).fit(train, labels).predict(queries)
    assert predicted.tolist() == [vote(train, labels, query, k, temperature) for query in queries]


def test_agrees_with_scikit_learn_on_digits():
    images, labels = load_digits(return_X_y=True)
    oracle = KNeighborsClassifier(20, metric="cosine", weights=lambda d: np.exp((1 - d) / 0.07))
    expected = oracle.fit(images[:600], labels[:600]).predict(images[1297:])
    probe = NearestProbe().fit(torch.tensor(images[:600]), torch.tensor(labels[:600]))
    assert np.mean(probe.predict(torch.tensor(images[1297:])).numpy() == expected) > 0.997


def test_near_neighbours_outweigh_many_distant_ones():
    train = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.6, 0.8], [0.6, 0.8]])
    labels = torch.tensor([9, 4, 4, 4])
    query = torch.tensor([[1.0, 0.0]])
    assert NearestProbe(4, 0.07).fit(train, labels).predict(query).item() == 9
    assert NearestProbe(4, 10.0).fit(train, labels).predict(query).item() == 4


def test_equal_votes_go_to_the_smallest_label():
    train = torch.tensor([[1.0, 1.0], [1.0, -1.0]])
    for labels in ([8, 2], [2, 8]):
        assert (
            NearestProbe(2).fit(train, torch.tensor(labels)).predict(torch.tensor([[3.0, 0.0]])).item() == 2
        )


def test_more_neighbours_than_rows_means_all_of_them():
    train, labels = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]]), torch.tensor([0, 1, 1])
    query = torch.tensor([[1.0, 0.0]])
    assert NearestProbe(1, 10.0).fit(train, labels).predict(query).item() == 0
    assert NearestProbe(1000, 10.0).fit(train, labels).predict(query).item() == 1


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1e6, 1e30])
def test_lengths_do_not_matter(scale):
    generator = torch.Generator().manual_seed(0)
    train, queries = torch.randn(40, 5, generator=generator), torch.randn(40, 5, generator=generator)
    labels = torch.arange(40) % 4
    plain = NearestProbe().fit(train, labels).predict(queries)
    assert torch.equal(NearestProbe().fit(train * scale, labels).predict(queries * scale), plain)


def test_a_zero_query_and_a_zero_row_have_similarity_zero():
    train = torch.tensor([[0.0, 0.0], [-1.0, 0.0], [-1.0, 0.1]])
    probe = NearestProbe(1).fit(train, torch.tensor([3, 6, 6]))
    assert probe.predict(torch.tensor([[1.0, 0.0]])).item() == 3
    assert probe.predict(torch.zeros(1, 2)).item() in (3, 6)


def test_a_very_small_temperature_does_not_overflow():
    train = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.1, 1.0]])
    probe = NearestProbe(3, temperature=1e-4).fit(train, torch.tensor([1, 0, 0]))
    assert probe.predict(torch.tensor([[5.0, 1.0]])).item() == 1


@pytest.mark.parametrize("k", [0, -3])
def test_k_must_be_one_or_more(k):
    with refuses(UsageError, "k", 1, f"got {k}", 20):
        NearestProbe(k=k)


@pytest.mark.parametrize("temperature", [0.0, -0.1, float("nan"), float("inf")])
def test_the_temperature_must_be_positive(temperature):
    with refuses(UsageError, "temperature", temperature, 0.07):
        NearestProbe(temperature=temperature)
