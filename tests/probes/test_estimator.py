"""Probes as estimators of scikit-learn, which is the oracle here: its own tools must take them."""

import numpy as np
import pytest
import torch
from refusals import refuses
from sklearn.base import clone, is_classifier
from sklearn.exceptions import NotFittedError
from sklearn.metrics import accuracy_score, roc_auc_score
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import check_is_fitted

from fullrank.errors import UsageError
from fullrank.probes import ClassMeanProbe, LinearProbe, NearestProbe

PROBES = [LinearProbe((1e-2,), seed=2), NearestProbe(k=3, temperature=0.2), ClassMeanProbe()]
NAMES = np.array(["ash", "elm", "oak"])


@pytest.fixture(scope="module")
def rows():
    random = np.random.default_rng(0)
    numbers = np.arange(60) % 3
    return 2 * np.eye(3)[numbers] + random.normal(size=(60, 3)), numbers


@pytest.mark.parametrize("probe", PROBES)
def test_clone_has_the_same_settings_and_nothing_learnt(probe, rows):
    copied = clone(clone(probe).fit(*rows))
    assert copied is not probe and copied.get_params() == probe.get_params()
    assert is_classifier(copied)
    with pytest.raises(NotFittedError):
        check_is_fitted(copied)
    with pytest.raises(AttributeError):
        _ = copied.n_features_in_


@pytest.mark.parametrize("probe", PROBES)
@pytest.mark.parametrize("scoring", [None, "accuracy"])
def test_cross_val_score_is_the_mean_over_its_own_folds(probe, scoring, rows):
    features, numbers = rows
    folds = list(StratifiedKFold(3).split(features, numbers))
    expected = [clone(probe).fit(features[a], numbers[a]).score(features[b], numbers[b]) for a, b in folds]
    for kind in (numbers, NAMES[numbers]):
        assert cross_val_score(probe, features, kind, cv=3, scoring=scoring).tolist() == expected
    tensors = torch.from_numpy(features), torch.from_numpy(numbers)
    assert cross_val_score(probe, *tensors, cv=3).tolist() == expected


@pytest.mark.parametrize("probe", PROBES)
def test_a_pipeline_ends_in_a_probe(probe, rows):
    features, numbers = rows
    fitted = make_pipeline(StandardScaler(), clone(probe)).fit(features, NAMES[numbers])
    scaled = StandardScaler().fit_transform(features)
    alone = clone(probe).fit(scaled, NAMES[numbers])
    assert fitted.predict(features).tolist() == alone.predict(scaled).tolist()
    assert accuracy_score(NAMES[numbers], fitted.predict(features)) == fitted.score(features, NAMES[numbers])
    assert fitted.classes_.tolist() == NAMES.tolist() and alone.n_features_in_ == 3


def test_a_search_chooses_settings(rows):
    search = GridSearchCV(NearestProbe(), {"k": [1, 20]}, cv=3).fit(*rows)
    scores = {k: cross_val_score(NearestProbe(k), *rows, cv=3).mean() for k in (1, 20)}
    assert search.best_params_["k"] == max(scores, key=scores.get)
    penalties = GridSearchCV(LinearProbe(), {"penalties": [[1e-1, 1.0]]}, cv=3).fit(*rows)
    assert penalties.best_estimator_.penalty in (1e-1, 1.0)


def test_settings_change_by_name_and_are_checked():
    probe = NearestProbe(k=3).set_params(k=7)
    assert probe.get_params() == {"k": 7, "temperature": 0.07} and repr(probe) == "NearestProbe(k=7)"
    with refuses(UsageError, "neighbours", "k"):
        probe.set_params(neighbours=2)
    with refuses(UsageError, 0):
        probe.set_params(k=0)
    assert probe.k == 7


def test_logits_decide_and_rank(rows):
    features, numbers = rows
    probe = LinearProbe([1e-2]).fit(features, numbers)
    logits = probe.decision_function(features)
    assert logits.shape == (60, 3) and torch.equal(logits.argmax(1), probe.predict(features))
    two = LinearProbe([1e-2]).fit(features, numbers == 2)
    scores = two.decision_function(features)
    assert torch.equal(scores > 0, two.predict(features) == 1)
    expected = roc_auc_score(numbers == 2, features @ (two.weight[1] - two.weight[0]).numpy())
    assert cross_val_score(clone(two), features, numbers == 2, cv=2, scoring="roc_auc").min() > 0.7
    assert roc_auc_score(numbers == 2, scores) == pytest.approx(expected)
