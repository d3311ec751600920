"""The base of all probes: check features and labels, learn, predict labels, compute accuracy."""

from abc import ABC, abstractmethod
from collections.abc import Sequence, Sized
from typing import Any, Self

import torch
from torch import Tensor

from fullrank.errors import DataError, UsageError, count_of


class Probe(ABC):
    """A classifier of frozen features (N, D); it never touches the encoder.

    Features and labels may be tensors, NumPy arrays or lists, and are never changed. The label -1 means
    unlabelled. `fit` keeps the label values in `classes`, ascending. A subclass implements `_learn` and
    `_decide`.

    Raises:
        UsageError: Shapes do not fit, labels are not whole numbers, or the probe is not fitted.
        DataError: Features are not finite, or there are fewer than two classes.
    """

    classes: Tensor
    _width: int | None = None

    @abstractmethod
    def _learn(self, features: Tensor, targets: Tensor, num_classes: int) -> None:
        """Learn from finite features (N, D) and class numbers (N,), 0 to num_classes - 1, all present."""

    @abstractmethod
    def _decide(self, features: Tensor) -> Tensor:
        """The class numbers (N,) of finite features (N, D)."""

    def fit(self, features: Any, labels: Any) -> Self:
        """Learn from labelled rows; rows with the label -1 are left out.

        Args:
            features: Features (N, D).
            labels: Labels (N,), whole numbers.

        Returns:
            The probe itself.
        """
        features, labels = labelled_rows(features, labels)
        classes, targets = torch.unique(labels, return_inverse=True)
        check_classes(classes, len(labels), "A probe")
        self._learn(features, targets, len(classes))
        self.classes, self._width = classes, features.shape[1]
        return self

    def predict(self, features: Any) -> Tensor:
        """Predict the labels of rows.

        Args:
            features: Features (N, D), from the place that the probe was fitted on.

        Returns:
            The labels (N,), int64.
        """
        features = feature_matrix(features)
        if self._width is None:
            raise UsageError(f"This {type(self).__name__} is not fitted; call fit first.")
        if features.shape[1] != self._width:
            widths = f"{self._width}, but got width {features.shape[1]}"
            raise UsageError(f"This probe was fitted on features of width {widths}; use the same place.")
        return self.classes[self._decide(features)]

    def score(self, features: Any, labels: Any) -> float:
        """The accuracy on labelled rows, 0 to 1; a label that was not in `fit` counts as an error.

        Args:
            features: Features (N, D).
            labels: Labels (N,), whole numbers; rows with the label -1 are left out.
        """
        features, labels = labelled_rows(features, labels)
        if not len(labels):
            raise DataError("No row is labelled (all labels are -1); score needs at least 1 labelled row.")
        return float((self.predict(features) == labels).double().mean())


def labelled_rows(features: Any, labels: Any) -> tuple[Tensor, Tensor]:
    """The labelled rows: finite features (N, D) and labels (N,), int64, on the features' device.

    Args:
        features: Features (N, D).
        labels: Labels (N,); -1 means no label.

    Raises:
        UsageError: If shapes do not fit, or labels are not whole numbers.
        DataError: If features of labelled rows are not finite.
    """
    features, labels = _tensor(features), label_vector(labels)
    if len(features) != len(labels):
        lengths = f"{count_of(len(features), 'row')} and {count_of(len(labels), 'label')}"
        raise UsageError(
            f"Features and labels must have equal lengths, but got {lengths}; -1 means no label."
        )
    labels = labels.to(features.device)
    labelled = labels != -1
    if not labelled.all():
        features, labels = features[labelled], labels[labelled]
    return feature_matrix(features), labels


def label_vector(labels: Any) -> Tensor:
    """Labels as an int64 tensor (N,); UsageError for another shape or numbers that are not whole."""
    vector = _tensor(labels)
    if vector.is_floating_point() or vector.is_complex() or vector.ndim != 1:
        what = f"{vector.dtype} of shape {tuple(vector.shape)}"
        raise UsageError(f"Labels must be whole numbers of shape (N,), but got {what}; give one a row.")
    return vector.long()


def label_table(names: str, *columns: Any) -> Tensor:
    """Columns of whole numbers as a table (N, C) on the CPU; UsageError unless their lengths are equal."""
    vectors = [label_vector(column).cpu() for column in columns]
    lengths = [str(len(vector)) for vector in vectors]
    if len(set(lengths)) > 1:
        got = f"{', '.join(lengths[:-1])} and {lengths[-1]}"
        raise UsageError(f"{names} must have equal lengths, but got {got}; give one of each for every row.")
    return torch.stack(vectors, 1)


def feature_matrix(features: Any) -> Tensor:
    """Features as a finite tensor (N, D); UsageError for another shape, DataError for NaN or infinity."""
    matrix = _tensor(features)
    if matrix.ndim != 2 or matrix.shape[1] == 0:
        raise UsageError(
            f"Features must have shape (N, D) with D of 1 or more, but got {tuple(matrix.shape)}; "
            "pool or flatten them to one vector a row."
        )
    ends = matrix.aminmax() if matrix.is_floating_point() and matrix.numel() else ()
    if not all(end.isfinite() for end in ends):
        broken = int((~torch.isfinite(matrix)).any(1).sum())
        remedy = "drop them, or find the layer that diverged"
        raise DataError(
            f"NaN or infinity in {broken} of {count_of(len(matrix), 'row')} of features; {remedy}."
        )
    return matrix


def check_classes(classes: Sized, rows: int, what: str) -> None:
    """Raise DataError if the labelled rows have fewer than two classes."""
    if len(classes) < 2:
        raise DataError(
            f"{what} needs labels of at least 2 classes, but got {len(classes)} in "
            f"{count_of(rows, 'labelled row')}; give more."
        )


def rows_by_value(labels: Tensor) -> list[Tensor]:
    """The row numbers of each value of labels (N,), values and rows ascending."""
    return [(labels == value).nonzero()[:, 0] for value in torch.unique(labels)]


def shuffled(members: Sequence[Tensor], generator: torch.Generator) -> list[Tensor]:
    """Each list of row numbers in a random order."""
    return [rows[torch.randperm(len(rows), generator=generator).to(rows.device)] for rows in members]


def _tensor(values: Any) -> Tensor:
    tensor: Tensor = values if isinstance(values, Tensor) else torch.tensor(values)
    return tensor.detach()
