"""Rows with their classes and the values of cues, as corrections of features take them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fullrank.errors import DataError, UsageError
from fullrank.probes.balanced import balanced_probe
from fullrank.probes.groups import group_accuracy
from fullrank.probes.probe import feature_matrix, label_table, labelled_rows

# The penalties to choose from when a cue is read.
_PENALTIES = (1e-1, 1e-2, 1e-3)


@dataclass(frozen=True, eq=False)
class CuedRows:
    """Rows of which the class and every cue are known.

    Attributes:
        rows: Features (N, D), float64.
        classes: Classes (N,); all 0 if there are none.
        cues: Name of a cue -> its values (N,).
    """

    rows: Tensor
    classes: Tensor
    cues: dict[str, Tensor]

    @classmethod
    def of(cls, features: Any, labels: Any, cues: Any) -> "CuedRows":
        """The rows that are not -1 in labels (N,), or None, or in cues: values (N,), or name -> values.

        Raises:
            UsageError: If shapes do not fit, or there is no cue.
            DataError: If no row is left, features are not finite, or a cue has one value.
        """
        named = dict(cues) if isinstance(cues, Mapping) else {"cue": cues}
        if not named:
            raise UsageError("A correction needs 1 cue or more, but got none; name the values to remove.")
        columns = [*named.values()] if labels is None else [labels, *named.values()]
        table = label_table("Labels and cues", *columns)
        known = (table != -1).all(1)
        rows, _ = labelled_rows(features, torch.where(known, 0, -1))
        table = table[known].to(rows.device)
        if not len(table):
            raise DataError("No row has both a label and every cue; a correction needs such rows.")
        classes = table[:, 0] if labels is not None else torch.zeros_like(table[:, 0])
        found = dict(zip(named, table.T[len(columns) - len(named) :], strict=True))
        for name, values in found.items():
            if len(torch.unique(values)) < 2:
                raise DataError(
                    f"The cue {name!r} has one value, {int(values[0])}, in all {len(values)} rows, so there "
                    "is nothing to remove; leave it out or give rows of another value."
                )
        return cls(rows.double(), classes, found)

    def check_classes_of_values(self, least: int) -> None:
        """Refuse cues that decide the class, and those without `least` rows of two values in some class.

        Raises:
            UsageError: If every value of a cue occurs in one class only: removing it removes the class.
            DataError: If no class has `least` rows of each of two values of a cue.
        """
        for name, values in self.cues.items():
            pairs, counts = torch.unique(torch.stack([self.classes, values]), dim=1, return_counts=True)
            if len(torch.unique(self.classes)) > 1 and len(torch.unique(pairs[1])) == pairs.shape[1]:
                raise UsageError(
                    f"The cue {name!r} contains the class: each of its {pairs.shape[1]} values occurs in one "
                    "class only, so to remove it would remove the class; name a cue that varies in a class."
                )
            enough = pairs[0][counts >= least]
            if not len(enough) or int(torch.unique(enough, return_counts=True)[1].max()) < 2:
                raise DataError(
                    f"No class has {least} rows or more of each of two values of the cue {name!r}; give more "
                    "rows, or leave the cue out."
                )


def of_width(features: Any, width: int) -> Tensor:
    """Finite features (N, D) in float64; UsageError if D is not `width`."""
    matrix = feature_matrix(features)
    if matrix.shape[1] != width:
        raise UsageError(
            f"This correction was fitted on features of width {width}, but got width {matrix.shape[1]}; "
            "use the same place."
        )
    return matrix.double()


def cue_accuracy(
    features: Any,
    labels: Any,
    cue: Any,
    test_features: Any,
    test_labels: Any,
    test_cue: Any,
    *,
    seed: int = 0,
) -> float:
    r"""How well a linear probe reads a cue within a class: the mean over classes of its balanced accuracy.

    .. math:: \operatorname*{mean}_c \operatorname*{mean}_v
              \frac{|\{i : y_i = c,\ z_i = v,\ \hat z_i = v\}|}{|\{i : y_i = c,\ z_i = v\}|}

    For each class, a `balanced_probe` with three draws and three penalties learns the values z of the cue
    from the training rows of the class. Chance is 1 over the number of values. Classes in which the training
    or the test rows have fewer than two values are left out.

    Args:
        features: Features of the training rows (N, D).
        labels: Their classes (N,); rows of -1 are left out.
        cue: Their values of the cue (N,); rows of -1 are left out.
        test_features: Features of the test rows (M, D).
        test_labels: Their classes (M,).
        test_cue: Their values of the cue (M,).
        seed: Seed of the draws.

    Raises:
        UsageError: If shapes do not fit.
        DataError: If no class has two values in both.

    >>> y, cue = torch.arange(40) % 2, torch.arange(40) // 2 % 2
    >>> x = torch.stack([y, y + 3 * cue], 1).double()
    >>> cue_accuracy(x, y, cue, x, y, cue), cue_accuracy(x[:, :1], y, cue, x[:, :1], y, cue)
    (1.0, 0.5)

    What it cannot see: what only a nonlinear probe reads. With few rows of a rare value, it is a noisy lower
    bound.
    """
    train = label_table("Labels and cue of the training rows", labels, cue)
    test = label_table("Labels and cue of the test rows", test_labels, test_cue)
    rows, test_rows, found = feature_matrix(features), feature_matrix(test_features), []
    for label in torch.unique(train[train[:, 0] != -1, 0]).tolist():
        inside, tested = ((table[:, 0] == label) & (table[:, 1] != -1) for table in (train, test))
        values, test_values = train[inside, 1], test[tested, 1]
        if min(len(torch.unique(values)), len(torch.unique(test_values))) > 1:
            how: dict[str, Any] = {"draws": 3, "penalties": _PENALTIES, "seed": seed}
            probe = balanced_probe(rows[inside], values, values, **how)
            found.append(group_accuracy(probe.predict(test_rows[tested]), test_values, test_values).mean)
    if not found:
        raise DataError(
            f"None of the {len(torch.unique(train[:, 0]))} classes has two values of the cue among its "
            "training and among its test rows; give more rows."
        )
    return float(np.mean(found))
