"""The base of all probes: check features and labels, learn, predict labels, compute accuracy."""

from abc import ABC, abstractmethod
from collections.abc import Sequence, Sized
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from fullrank.errors import DataError, UsageError, count_of
from fullrank.labels import are_words, class_numbers, plain_labels
from fullrank.probes.estimator import Estimator


class Probe(Estimator, ABC):
    """A classifier of frozen features (N, D); it never touches the encoder.

    Features and labels may be tensors, NumPy arrays, lists or columns of pandas, and are never changed.
    Labels are whole numbers, and -1 means unlabelled; or words, and None or the empty word means unlabelled.
    `fit` keeps the values of whole labels in `classes`, ascending. `classes_` and `n_features_in_` are those
    of scikit-learn. A subclass implements `_learn` and `_decide`.

    Probes are estimators for scikit-learn: `clone`, `Pipeline`, `cross_val_score` and `GridSearchCV` take
    them.

    Raises:
        UsageError: Shapes do not fit, labels are neither whole numbers nor words, or the probe is not fitted.
        DataError: Features are not finite, or there are fewer than two classes.
    """

    classes: Tensor
    _width: int | None = None
    _names: tuple[str, ...] | None = None

    @abstractmethod
    def _learn(self, features: Tensor, targets: Tensor, num_classes: int) -> None:
        """Learn from finite features (N, D) and class numbers (N,), 0 to num_classes - 1, all present."""

    @abstractmethod
    def _decide(self, features: Tensor) -> Tensor:
        """The class numbers (N,) of finite features (N, D)."""

    def fit(self, features: Any, labels: Any) -> Self:
        """Learn from labelled rows; unlabelled rows are left out.

        Args:
            features: Features (N, D).
            labels: Labels (N,), whole numbers or words.

        Returns:
            The probe itself.
        """
        names = None
        if are_words(labels):
            numbers, names = class_numbers({"fit": plain_labels(labels, "Labels")}, "Labels")
            labels = numbers["fit"]
        features, labels = labelled_rows(features, labels)
        classes, targets = torch.unique(labels, return_inverse=True)
        check_classes(classes, len(labels), "A probe")
        self._learn(features, targets, len(classes))
        self.classes, self._width, self._names = classes, features.shape[1], names
        return self

    @property
    def classes_(self) -> np.ndarray:
        """The labels that `fit` has seen, ascending: whole numbers, or words where the labels were words."""
        numbers: np.ndarray = self.classes.cpu().numpy()
        return numbers if self._names is None else np.array(self._names)[numbers]

    @property
    def n_features_in_(self) -> int:
        """The width D of the features of `fit`."""
        if self._width is None:
            raise AttributeError(f"This {type(self).__name__} is not fitted and has no n_features_in_.")
        return self._width

    def predict(self, features: Any) -> Any:
        """Predict the labels of rows.

        Args:
            features: Features (N, D), from the place that the probe was fitted on.

        Returns:
            The labels (N,): an int64 tensor, or an array of words if the labels of `fit` were words.
        """
        decided = self._decide(self._checked(features))
        return self.classes[decided] if self._names is None else self.classes_[decided.cpu().numpy()]

    def score(self, features: Any, labels: Any) -> float:
        """The accuracy on labelled rows, 0 to 1; a label that was not in `fit` counts as an error.

        Args:
            features: Features (N, D).
            labels: Labels (N,), of the kind that `fit` got; unlabelled rows are left out.
        """
        features, labels = labelled_rows(features, self._as_in_fit(labels))
        if not len(labels):
            raise DataError("No row is labelled (all labels are -1); score needs at least 1 labelled row.")
        return float((self.classes[self._decide(self._checked(features))] == labels).double().mean())

    def _checked(self, features: Any) -> Tensor:
        """Finite features (N, D) of the width of `fit`."""
        matrix = feature_matrix(features)
        if self._width is None:
            raise UsageError(f"This {type(self).__name__} is not fitted; call fit first.")
        if matrix.shape[1] != self._width:
            widths = f"{self._width}, but got width {matrix.shape[1]}"
            raise UsageError(f"This probe was fitted on features of width {widths}; use the same place.")
        return matrix

    def _as_in_fit(self, labels: Any) -> Any:
        """Labels as the numbers that `fit` gave them; a word that `fit` has not seen has the next number."""
        words = are_words(labels)
        if self._width is not None and words != (self._names is not None):
            kinds = ("numbers", "words") if words else ("words", "numbers")
            raise UsageError(f"The labels of fit were {kinds[0]}, but these are {kinds[1]}; use one kind.")
        if not words or self._names is None:
            return labels
        plain = plain_labels(labels, "Labels")
        return class_numbers({"score": plain}, "Labels", first=self._names)[0]["score"]


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


def joint_numbers(*labels: Any) -> tuple[list[Any], tuple[str, ...] | None]:
    """Labels as they are, and None; of words their class numbers, alike in all of them, and the words."""
    if not any(map(are_words, labels)):
        return list(labels), None
    plain = {str(place): plain_labels(each, "Labels") for place, each in enumerate(labels)}
    numbers, names = class_numbers(plain, "Labels")
    return list(numbers.values()), names


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
    if isinstance(values, Tensor):
        return values.detach()
    try:
        tensor: Tensor = torch.tensor(np.asarray(values) if hasattr(values, "__array__") else values)
        return tensor
    except (TypeError, ValueError, RuntimeError) as error:
        what = f"a {type(values).__name__} that is no table of numbers ({' '.join(str(error).split())[:80]})"
        raise UsageError(f"Features and labels must be numbers, but got {what}; convert it.") from None
