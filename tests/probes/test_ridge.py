"""Ridge regression and AUROC, against scikit-learn's."""

import numpy as np
import pytest
from refusals import refuses
from sklearn.linear_model import Ridge as TheirRidge
from sklearn.metrics import r2_score, roc_auc_score

from fullrank.errors import DataError, UsageError
from fullrank.probes import Ridge, auroc, ridge_r2
from fullrank.probes.ridge import RELATIVE_PENALTIES


def rows(count, width, seed, noise=0.3):
    """Features (N, D) of unlike scales, and two targets (N, 2) that three channels give with noise."""
    random = np.random.default_rng(seed)
    features = random.normal(size=(count, width)) * 10.0 ** np.linspace(-2, 1, width) + 3
    exact = np.stack([features[:, -1] - features[:, -2] + 5, 20 * features[:, 0]], 1)
    return features, exact + noise * random.normal(size=exact.shape)


@pytest.mark.parametrize(("count", "width"), [(50, 6), (12, 30), (12, 12)])
@pytest.mark.parametrize("penalty", [1e-3, 1.0])
def test_the_shares_are_those_of_scikit_learn(count, width, penalty):
    (train, targets), (test, truth) = rows(count, width, 0), rows(40, width, 1)
    theirs = TheirRidge(alpha=count * penalty).fit(train, targets).predict(test)
    assert Ridge.of(train).predict(targets, penalty, test).numpy() == pytest.approx(theirs, abs=1e-8)
    expected = r2_score(truth, theirs, multioutput="raw_values")
    assert ridge_r2(train, targets, test, truth, penalty).numpy() == pytest.approx(expected, abs=1e-9)


def test_the_penalty_is_the_best_of_the_candidates_on_the_held_out_rows():
    (train, targets), (held_out, truth) = rows(30, 20, 0, noise=8.0), rows(60, 20, 1, noise=8.0)
    chosen = Ridge.of(train).best_penalty(targets, held_out, truth)
    candidates = [relative * train.var(0).mean() for relative in RELATIVE_PENALTIES]
    shares = [
        r2_score(truth, TheirRidge(alpha=len(train) * each).fit(train, targets).predict(held_out))
        for each in candidates
    ]
    assert chosen == pytest.approx(candidates[int(np.argmax(shares))])
    assert 0 < int(np.argmax(shares)) < len(candidates) - 1


def test_a_rotation_a_shift_and_the_order_of_rows_change_nothing():
    (train, targets), (test, truth) = rows(40, 5, 0), rows(40, 5, 1)
    turn = np.linalg.qr(np.random.default_rng(2).normal(size=(5, 5)))[0]
    order = np.random.default_rng(3).permutation(40)
    expected = ridge_r2(train, targets, test, truth, 0.1).numpy()
    turned = ridge_r2((train @ turn + 7)[order], targets[order], test @ turn + 7, truth, 0.1)
    assert turned.numpy() == pytest.approx(expected, abs=1e-9)


def test_more_noise_lowers_the_share():
    shares = [
        float(ridge_r2(*rows(200, 4, 0, noise), *rows(200, 4, 1, noise), 1e-8).mean())
        for noise in (0.01, 2.0, 30.0)
    ]
    assert shares[0] > 0.99 and shares == sorted(shares, reverse=True)


def test_constant_features_explain_nothing_and_collinear_ones_are_no_obstacle():
    (train, targets), (test, truth) = rows(40, 4, 0), rows(40, 4, 1)
    constant = ridge_r2(np.ones((40, 3)), targets, np.ones((40, 3)), truth, 0.0)
    assert ((constant <= 0) & (constant > -0.5)).all()
    twice = ridge_r2(np.hstack([train, train]), targets, np.hstack([test, test]), truth, 0.0)
    assert twice.numpy() == pytest.approx(ridge_r2(train, targets, test, truth, 0.0).numpy(), abs=1e-6)


def test_auroc_is_that_of_scikit_learn_with_ties():
    random = np.random.default_rng(0)
    scores, hits = random.integers(0, 6, 80) / 5, random.random(80) < 0.3
    assert auroc(scores, hits) == pytest.approx(roc_auc_score(hits, scores), abs=1e-12)
    assert auroc(-scores, hits) == pytest.approx(1 - auroc(scores, hits))
    assert auroc(np.ones(80), hits) == 0.5


def test_what_has_no_score_is_refused():
    features, targets = rows(20, 3, 0)
    with refuses(UsageError, -1.0):
        ridge_r2(features, targets, features, targets, -1.0)
    with refuses(UsageError, 1, "R^2"):
        ridge_r2(features, targets, features, np.stack([targets[:, 0], np.ones(20)], 1), 0.1)
    with refuses(UsageError, "20", "19"):
        ridge_r2(features, targets[1:], features, targets, 0.1)
    with refuses(UsageError, 2, 1):
        ridge_r2(features, targets, features, targets[:, :1], 0.1)
    with refuses(UsageError, 3, 2):
        ridge_r2(features, targets, features[:, :2], targets, 0.1)
    with refuses(DataError, "finite"):
        ridge_r2(features, targets * np.inf, features, targets, 0.1)
    with refuses(DataError, 1):
        Ridge.of(features[:1])
    with refuses(UsageError, 0, 20):
        auroc(features[:, 0], np.zeros(20))
    with refuses(UsageError, "hits"):
        auroc(features[:, 0], np.zeros(19))
    with refuses(DataError, "finite"):
        auroc([np.nan, 1.0], [0, 1])
