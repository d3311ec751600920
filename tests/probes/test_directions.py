"""Accuracy in k directions: against scikit-learn, at the full width, and under rotations."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from refusals import refuses
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression

from fullrank.errors import DataError, UsageError
from fullrank.probes import DIRECTIONS, Directions, LinearProbe, reduced_accuracy
from fullrank.probes.directions import CHANNELS, PRINCIPAL, RANDOM, powers_of_two

GENERATOR = torch.Generator().manual_seed(0)
WIDTH = 12
CLASSES = torch.arange(300) % 4
MIXING = torch.randn(WIDTH, WIDTH, generator=GENERATOR) * torch.linspace(3, 0.3, WIDTH)
FEATURES = (
    torch.randn(300, WIDTH, generator=GENERATOR) + torch.randn(4, WIDTH, generator=GENERATOR)[CLASSES]
) @ MIXING + 5
DATA = FEATURES[:200], CLASSES[:200], FEATURES[200:], CLASSES[200:]
PROBE = LinearProbe([1e-3]).fit(*DATA[:2])


def accuracies(**how):
    return [result.mean for result in reduced_accuracy(*DATA, probe=PROBE, **how)]


def orthonormal(rows, columns):
    generator = torch.Generator().manual_seed(1)
    return torch.linalg.qr(torch.randn(rows, columns, generator=generator, dtype=torch.float64))[0]


@pytest.mark.parametrize("k", [1, 3, 8])
def test_principal_directions_are_those_of_scikit_learn(k):
    train, classes, test, tested = (part.double().numpy() for part in DATA)
    pca = PCA(k).fit(train)
    train, test = pca.transform(train), pca.transform(test)
    penalty = PROBE.penalty * train.var(0).sum()
    classifier = LogisticRegression(C=1 / (len(train) * penalty), tol=1e-8, max_iter=2000)
    expected = classifier.fit(train, classes).score(test, tested)
    assert accuracies(dimensions=[k]) == [pytest.approx(expected, abs=1e-12)]


@pytest.mark.parametrize("kind", DIRECTIONS)
def test_all_directions_give_the_accuracy_on_all_features(kind):
    assert accuracies(directions=kind, dimensions=[WIDTH]) == [pytest.approx(PROBE.score(*DATA[2:]))]


def test_principal_and_random_directions_do_not_feel_a_rotation_and_a_scale_but_channels_do():
    turn = orthonormal(WIDTH, WIDTH).float()
    one = torch.zeros(300, WIDTH)
    one[:, 0] = CLASSES  # a single channel that tells everything
    for kind, changes in (("principal", False), ("channels", True)):
        plain, turned = (
            reduced_accuracy(x[:200], DATA[1], x[200:], DATA[3], directions=kind, dimensions=[1])[0].mean
            for x in (one, 7 * one @ turn)
        )
        assert (plain != turned) is changes


def test_random_directions_are_orthonormal_and_every_direction_is_equally_likely():
    (project,) = replace(RANDOM, draws=1).projections(FEATURES, 5)
    basis = project(torch.eye(WIDTH), 5)
    torch.testing.assert_close(basis.T @ basis, torch.eye(5, dtype=torch.float64))
    many = replace(RANDOM, draws=400).projections(FEATURES, 3)
    # Of any unit vector, a random subspace of k directions holds a share of k / D on average.
    for vector in (torch.eye(WIDTH)[:1], torch.full((1, WIDTH), WIDTH**-0.5)):
        shares = [project(vector, 3).square().sum().item() for project in many]
        assert np.mean(shares) == pytest.approx(3 / WIDTH, abs=0.03)


def test_fewer_directions_are_the_first_of_more_whatever_is_asked_for():
    for kind in DIRECTIONS.values():
        few, many = (kind.projections(FEATURES, largest, seed=4)[-1] for largest in (2, 7))
        torch.testing.assert_close(few(FEATURES, 2), many(FEATURES, 7)[:, :2])
    together = accuracies(directions="random", dimensions=[2, 7])
    assert together[:1] == accuracies(directions="random", dimensions=[2])


def test_the_mean_is_over_draws_which_differ_by_seed():
    (result,) = reduced_accuracy(*DATA, directions="random", dimensions=[3], probe=PROBE)
    assert len(result.accuracies) == RANDOM.draws and len(set(result.accuracies)) > 1
    assert result.mean == pytest.approx(sum(result.accuracies) / RANDOM.draws)
    again = accuracies(directions="random", dimensions=[3])
    assert again == [result.mean] != accuracies(directions="random", dimensions=[3], seed=1)


def test_draws_leave_the_global_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    accuracies(directions="random", dimensions=[2])
    assert torch.equal(torch.rand(3), expected)


def test_channels_are_channels_of_the_features():
    projection = CHANNELS.projections(FEATURES, WIDTH)[0]
    columns = {tuple(column.tolist()) for column in projection(FEATURES, 4).T}
    assert len(columns) == 4 and columns <= {tuple(column.tolist()) for column in FEATURES.T}


def test_directions_of_your_own_are_data():
    def last(features, largest, generator):
        return lambda rows, k: rows[:, -k:]

    expected = LinearProbe([1e-3]).fit(DATA[0][:, -2:], DATA[1]).score(DATA[2][:, -2:], DATA[3])
    assert accuracies(directions=Directions("last", last), dimensions=[2]) == [expected]


def test_more_channels_than_rows_have_no_more_principal_directions_than_rows():
    few = FEATURES[:10].double()
    many = few @ orthonormal(40, WIDTH).T
    (narrow,), (wide,) = PRINCIPAL.projections(few, 8), PRINCIPAL.projections(many, 8)
    torch.testing.assert_close(narrow(few, 8).abs(), wide(many, 8).abs())
    assert wide(many, 40).shape == (10, 10)


def test_words_and_unlabelled_rows_are_taken_as_a_probe_takes_them():
    words = np.array(["", *"abcd"])[np.where(np.arange(200) < 20, 0, CLASSES[:200].numpy() + 1)]
    numbers = CLASSES[:200].clone()
    numbers[:20] = -1
    tested = np.array(list("abcd"))[CLASSES[200:].numpy()]
    expected = reduced_accuracy(DATA[0], numbers, *DATA[2:], dimensions=[4])
    assert reduced_accuracy(DATA[0], words, DATA[2], tested, dimensions=[4]) == expected


@pytest.mark.parametrize("sizes", [[0], [3, WIDTH + 1], []])
def test_numbers_of_directions_outside_the_width_are_refused(sizes):
    with refuses(UsageError, "dimensions", 1, WIDTH):
        accuracies(dimensions=sizes)


def test_unknown_directions_and_one_class_are_refused():
    with refuses(UsageError, "principl", "principal", "random", "channels"):
        accuracies(directions="principl")
    with refuses(DataError, 1, 2):
        reduced_accuracy(DATA[0], torch.zeros(200, dtype=torch.int64), DATA[2], DATA[3])


@pytest.mark.parametrize(("width", "sizes"), [(1, [1]), (2, [1, 2]), (3, [1, 2]), (8, [1, 2, 4, 8])])
def test_powers_of_two_stay_within_the_width(width, sizes):
    assert powers_of_two(width) == sizes
