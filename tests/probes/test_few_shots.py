"""Few-shot accuracy: which rows are drawn, what is reported, what is refused."""

import numpy as np
import pytest
import torch
from refusals import refuses
from scipy import stats

from fullrank.errors import DataError, UsageError
from fullrank.probes import LinearProbe, NearestProbe, few_shot, shot_probe
from fullrank.probes.probe import Probe


class Recorder(Probe):
    """Says class 0 always, and keeps the first feature of each row it was given: the row's number."""

    fits: list

    def _learn(self, features, targets, num_classes):
        self.fits.append((features[:, 0].int().tolist(), targets.tolist()))

    def _decide(self, features):
        return torch.zeros(len(features), dtype=torch.int64)


def rows_of_fits(labels, features=None, **how):
    """The row numbers and the targets of each fit."""
    numbers = torch.arange(len(labels))[:, None].float() if features is None else features
    Recorder.fits = []
    few_shot(numbers, labels, numbers, labels, probe=Recorder, **how)
    return Recorder.fits


LABELS = torch.arange(60) % 3 * 10


def test_each_draw_has_so_many_rows_of_each_class():
    for rows, targets in rows_of_fits(LABELS, shots=(4,), episodes=3):
        assert len(set(rows)) == 12 and np.bincount(targets).tolist() == [4, 4, 4]
        assert [LABELS[row].item() // 10 for row in rows] == targets


def test_more_shots_hold_the_fewer_and_episodes_differ():
    (one, _), (five, _), (other, _), _ = rows_of_fits(LABELS, shots=(1, 5), episodes=2)
    assert set(one) < set(five) and set(one) != set(other)


def test_draws_depend_on_labels_and_seed_alone():
    first = rows_of_fits(LABELS, shots=(2, 3), episodes=2, seed=4)
    wide = torch.cat([torch.arange(60)[:, None].float(), torch.randn(60, 7)], 1)
    torch.manual_seed(9)
    assert rows_of_fits(LABELS, wide, shots=(2, 3), episodes=2, seed=4) == first
    assert rows_of_fits(LABELS, shots=(2, 3), episodes=3, seed=4)[:4] == first
    assert rows_of_fits(LABELS, shots=(3,), episodes=2, seed=4) == first[1::2]
    assert rows_of_fits(LABELS, shots=(2, 3), episodes=2, seed=5) != first


def test_draws_leave_the_global_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    rows_of_fits(LABELS, shots=(2,))
    assert torch.equal(torch.rand(3), expected)


def test_unlabelled_rows_are_never_drawn():
    partly = torch.where(torch.arange(60) < 30, LABELS, -1)
    assert all(max(rows) < 30 for rows, _ in rows_of_fits(partly, shots=(5,)))


def clusters(n, seed, spread=1.0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 4
    return 2 * torch.eye(6)[labels] + spread * torch.randn(n, 6, generator=generator), labels


def test_accuracies_are_those_of_the_probe_on_the_whole_test_set_and_grow_with_the_rows():
    train, test = clusters(120, 0), clusters(200, 1)
    one, many = few_shot(*train, *test, shots=(1, 30), episodes=2)
    whole = shot_probe().fit(*train).score(*test)
    assert many.accuracies == (whole,) * 2 and one.mean < many.mean
    assert len(set(one.accuracies)) > 1


def test_mean_and_interval_are_scipys():
    (found,) = few_shot(*clusters(80, 0), *clusters(100, 1), shots=(2,), episodes=3)
    mean = np.mean(found.accuracies)
    low, high = stats.t.interval(0.95, 2, loc=mean, scale=stats.sem(found.accuracies))
    assert len(found.accuracies) == 3
    assert (found.mean, found.low, found.high) == pytest.approx((mean, low, high))


def test_one_draw_has_no_interval():
    (found,) = few_shot(*clusters(40, 0), *clusters(40, 1), shots=(3,), episodes=1)
    assert found.low is None and found.high is None and found.mean == found.accuracies[0]


def test_any_probe_may_be_used():
    train, test = clusters(40, 0), clusters(40, 1)
    (one,) = few_shot(*train, *test, shots=(10,), probe=lambda: NearestProbe(k=1))
    assert set(one.accuracies) == {NearestProbe(k=1).fit(*train).score(*test)}
    assert isinstance(shot_probe(), LinearProbe) and shot_probe().penalties == (1e-4,)


def test_a_class_with_too_few_rows_is_named():
    labels = torch.tensor([0] * 9 + [7] * 4 + [8] * 6)
    with refuses(DataError, "Class 7", "4 labelled", "5 shots", "4 shots"):
        few_shot(torch.eye(19), labels, torch.eye(19), labels, shots=(1, 5))
    words = ["ant" if label == 7 else "owl" for label in labels]
    with refuses(DataError, "Class 'ant'", "4 labelled"):
        few_shot(torch.eye(19), words, torch.eye(19), words, shots=(1, 5))
    with refuses(DataError, "2 classes", "got 0"):
        few_shot(torch.eye(4), [-1] * 4, torch.eye(4), [0] * 4, shots=(1,))


def test_other_errors():
    x, y = clusters(20, 0)
    for shots in ((), (0,), (1, -2)):
        with refuses(UsageError, 1, list(shots), "1, 5, 10"):
            few_shot(x, y, x, y, shots=shots)
    with refuses(UsageError, "1 episode", "got 0", 5):
        few_shot(x, y, x, y, shots=(1,), episodes=0)
    with refuses(UsageError, "width 6", "width 4"):
        few_shot(x, y, x[:, :4], y, shots=(1,))
