"""What equal rows are worth: the linear probe without them."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from fullrank.diagnosis.causes.duplicate_rows import DuplicateRows
from fullrank.diagnosis.causes.leakage import Leakage
from fullrank.diagnosis.entry import Probed
from fullrank.diagnosis.layers import Labels
from fullrank.diagnosis.rows import WITHOUT_EQUAL, WITHOUT_LEAKED, RowSurvey
from fullrank.linalg import shared_coordinates
from fullrank.probes import LinearProbe
from fullrank.record import ProbedAgain


def probed_without_equal(
    probed: Probed,
    survey: RowSurvey,
    numbers: tuple[np.ndarray, np.ndarray],
    train: Mapping[str, Tensor],
    test: Mapping[str, Tensor],
    labels: Labels,
    seed: int = 0,
) -> Probed:
    """Accuracies with those at h (or else the last place) without equal rows, and without leaked rows.

    Without equal rows, the probe learns from one row of each group and is scored on one row of each group.
    Without leaked rows, it is scored on the test rows that no training row equals. Either is measured only if
    `duplicate-rows` or `leakage` is a finding, and if rows of two classes remain.

    Args:
        probed: The accuracies on all rows.
        survey: Which rows are equal.
        numbers: The numbers in the source of the rows to learn from (N,) and to score (M,).
        train: Features (N, D_p) to learn from, by place.
        test: Features (M, D_p) to score, by place.
        labels: The labels of both.
        seed: The seed of the probe.
    """
    both, count = np.concatenate(numbers), len(numbers[0])
    every = np.ones(len(both), bool)
    changes: dict[str, np.ndarray] = {}
    if DuplicateRows().rule.fires(survey.equal_share):
        once = ~every
        once[np.unique(survey.same_as(both), return_index=True)[1]] = True
        changes[WITHOUT_EQUAL] = once
    if Leakage().rule.fires(survey.leaked_share):
        changes[WITHOUT_LEAKED] = (np.arange(len(both)) < count) | ~np.isin(both, survey.leaked)
    place = "h" if "h" in test else list(test)[-1]
    before = next((row.linear for row in probed.layers if row.place == place), None)
    again = list(probed.again)
    for change, kept in changes.items():
        learnt, tested = (torch.from_numpy(part) for part in np.split(kept, [count]))
        known = torch.as_tensor(labels[0])[learnt], torch.as_tensor(labels[1])[tested]
        scored = int((known[1] >= 0).sum())
        if before is None or not scored or len(torch.unique(known[0][known[0] >= 0])) < 2:
            continue
        features = shared_coordinates(train[place][learnt], test[place][tested])
        linear = LinearProbe(seed=seed).fit(features[0], known[0]).score(features[1], known[1])
        again.append(ProbedAgain(place=place, change=change, linear=linear, before=before, tested=scored))
    return replace(probed, again=again)
