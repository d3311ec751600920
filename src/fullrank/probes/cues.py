"""How much a probe relies on cues that correlate with the label: UrbanCars' gaps, for any number of cues."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fullrank.errors import DataError, UsageError
from fullrank.probes.groups import group_accuracy
from fullrank.probes.probe import label_table, label_vector


@dataclass(frozen=True)
class CueGaps:
    """Accuracy in the distribution of training, and its change if cues are uncommon.

    Attributes:
        in_distribution: The accuracy in the distribution of training, 0 to 1.
        gaps: Uncommon cues -> difference of accuracies, negative if the accuracy falls. The key names all
            uncommon cues, such as "background" or "background and object"; all others are common.
        unpaired: The cues that correlate with no label in training, so that no value is common or uncommon.
    """

    in_distribution: float
    gaps: dict[str, float]
    unpaired: tuple[str, ...] = ()


def partners(labels: Any, cue: Any) -> dict[int, int] | None:
    """The most frequent value of a cue for each label.

    A label prefers a value if it has at least two rows more than every other value: a balanced draw can
    already give a difference of one.

    Args:
        labels: Labels (N,), without -1.
        cue: Values of the cue (N,), without -1.

    Returns:
        Label -> value, or None if a label prefers no value.

    >>> partners([0, 0, 0, 1, 1], [5, 5, 5, 6, 6]), partners([0, 0, 0, 1, 1], [5, 5, 6, 5, 6])
    ({0: 5, 1: 6}, None)
    """
    truth, shown = label_vector(labels), label_vector(cue)
    preferred = {}
    for label in torch.unique(truth).tolist():
        (value, count), *others = Counter(shown[truth == label].tolist()).most_common(2)
        if others and count - others[0][1] < 2:
            return None
        preferred[label] = value
    return preferred


def cue_gaps(
    predicted: Any,
    labels: Any,
    cues: Mapping[str, Any],
    train_labels: Any,
    train_cues: Mapping[str, Any],
) -> CueGaps:
    r"""UrbanCars' in-distribution accuracy, and the gaps if one or several cues are uncommon.

    A cue's value is common for a label if it is the label's partner in training (`partners`). A group is a
    label with a value of every cue, and :math:`a_g` its accuracy on the test rows. With the shares of groups,
    :math:`p_g`, and of labels, :math:`p_y`, in training,

    .. math:: \mathrm{I.D.} = \sum_g p_g a_g, \qquad
              \mathrm{gap}(U) = \sum_y p_y\, \overline{a}_{y, U} - \mathrm{I.D.}

    where the bar is the mean over the groups of label y in which exactly the cues U are uncommon. Groups
    without a test row are left out. A gap without any such group is omitted.

    With two cues of two values and equally frequent labels, these are the authors' numbers. Their code gives
    equal weight to the labels of a cell, and its shares are the products of the nominal ratios (0.95 and
    0.05).

    Args:
        predicted: Predicted labels of the test rows (N,).
        labels: Labels of the test rows (N,). Rows with -1 as label or cue are left out.
        cues: Name of a cue -> its values on the test rows (N,).
        train_labels: Labels of the training rows (M,).
        train_cues: Name of a cue -> its values on the training rows (M,).

    Raises:
        UsageError: If there is no cue, training has other cues, or shapes do not fit.
        DataError: If no row is left, or no group has both training and test rows.

    >>> label, cue = [0, 0, 1, 1], [0, 1, 0, 1]
    >>> train_label, train_cue = [0] * 10 + [1] * 10, [0] * 9 + [1] * 10 + [0]
    >>> cue_gaps(cue, label, {"scene": cue}, train_label, {"scene": train_cue})
    CueGaps(in_distribution=0.9, gaps={'scene': -0.9}, unpaired=())

    Source: Li et al. 2023 (arXiv 2212.04825), Section 3; facebookresearch/Whac-A-Mole,
    urbancars_trainers/base_trainer.py.
    """
    if not cues or set(cues) != set(train_cues):
        raise UsageError(
            f"Gaps need 1 cue or more, the same in test and training, but got {', '.join(cues) or 'none'} "
            f"and {', '.join(train_cues) or 'none'}; give them the same names."
        )
    names = list(cues)
    test, labelled = _table(labels, [cues[name] for name in names], "test")
    train, _ = _table(train_labels, [train_cues[name] for name in names], "training")
    guess = label_table("Predictions and labels", predicted, labels)[:, 0]
    groups, numbers = torch.unique(torch.cat([test, train]), dim=0, return_inverse=True)
    by_group = group_accuracy(guess[labelled], test[:, 0], numbers[: len(test)])
    inside = by_group.weighted(numbers[len(test) :])
    columns = enumerate(train.T[1:])
    paired = {at: pairs for at, cue in columns if (pairs := partners(train[:, 0], cue)) is not None}
    cells: dict[tuple[int, ...], dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for number, (label, *shown) in enumerate(groups.tolist()):
        if number in by_group.accuracy and all(label in partner for partner in paired.values()):
            uncommon = tuple(at for at, partner in paired.items() if shown[at] != partner[label])
            cells[uncommon][label].append(by_group.accuracy[number])
    values, counts = torch.unique(train[:, 0], return_counts=True)
    shares = dict(zip(values.tolist(), (counts / len(train)).tolist(), strict=True))
    gaps = {}
    for size in range(1, len(paired) + 1):
        for uncommon in combinations(paired, size):
            cell = cells[uncommon]
            if weight := sum(shares[label] for label in cell):
                outside = sum(shares[label] * float(np.mean(cell[label])) for label in cell) / weight
                gaps[" and ".join(names[at] for at in uncommon)] = outside - inside
    return CueGaps(inside, gaps, tuple(name for at, name in enumerate(names) if at not in paired))


def _table(labels: Any, cues: list[Any], split: str) -> tuple[Tensor, Tensor]:
    """Label and cues (n, 1 + cues) of the rows in which none is -1, and a mask (N,) of these rows."""
    table = label_table(f"Labels and cues of the {split} rows", labels, *cues)
    complete = (table != -1).all(1)
    if not complete.any():
        raise DataError(f"No {split} row has both a label and every cue; gaps need 1 such row.")
    return table[complete], complete
