"""Groups and cues of images, and the accuracy of a probe in them."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from fullrank.data import ImageSet
from fullrank.data.image_set import UNLABELLED
from fullrank.errors import DataError, UsageError
from fullrank.probes import CueGaps, cue_gaps, partners

GROUP = "group"


@dataclass(frozen=True)
class Grouping:
    """Groups of training and test images (N,), -1 where unknown, their names, and the cues (train, test)."""

    train: np.ndarray
    test: np.ndarray
    names: tuple[str, ...]
    train_labels: np.ndarray
    cues: dict[str, tuple[np.ndarray, np.ndarray]]

    def empty_in_test(self) -> list[str]:
        """The names of the groups without a test image."""
        return [name for number, name in enumerate(self.names) if not (self.test == number).any()]

    def smallest_in_training(self) -> tuple[int, int]:
        """The size of the smallest group that occurs in training, and the number of groups that occur."""
        counts = np.unique(self.train[self.train != UNLABELLED], return_counts=True)[1]
        return int(counts.min()), len(counts)

    def unpaired(self) -> list[str]:
        """The cues without a gap: for some label, training prefers none of their values."""
        pairs = {name: np.stack([self.train_labels, train]) for name, (train, _) in self.cues.items()}
        return [name for name, rows in pairs.items() if partners(*rows[:, (rows >= 0).all(0)]) is None]

    def gaps(self, predicted: Any, labels: Any) -> CueGaps | None:
        """UrbanCars' gaps of predictions (N,) for the test images; None if there is no cue."""
        if not self.cues:
            return None
        train, test = ({name: pair[at] for name, pair in self.cues.items()} for at in (0, 1))
        return cue_gaps(predicted, labels, test, self.train_labels, train)


def grouping(train: ImageSet, test: ImageSet, label: str) -> Grouping:
    """The groups of the training and test images, and their cues.

    The name of a group lists the values of the labels that define it ("low/lines/disc"). Each of these labels
    except `label` is a cue, unless its value follows from that of `label`.

    Args:
        train: The training images.
        test: The test images.
        label: The name of the labels that are predicted.

    Raises:
        UsageError: If a set has no groups.
    """
    for images in (train, test):
        if GROUP not in images.labels:
            raise UsageError(
                f"Accuracy by group needs the label {GROUP!r}, but {images} has {', '.join(images.labels)}; "
                "use images with groups (composite, urbancars, waterbirds), or leave out the measure."
            )
    shared = [key for key in test.labels if key in train.labels and key not in (GROUP, label)]
    cues = {
        key: (train.labels[key], test.labels[key])
        for key in shared
        if all(_is_part(images, key) for images in (train, test)) and not _decided(train, test, label, key)
    }
    names = test.class_names[GROUP]
    return Grouping(train.labels[GROUP], test.labels[GROUP], names, train.labels[label], cues)


def check_balance(groups: Grouping, measure: str = "group-balanced") -> None:
    """Raise DataError unless the training images have every group of the test images, as `measure` needs."""
    if len(empty := np.setdiff1d(groups.test, [*groups.train, UNLABELLED])):
        raise DataError(
            f"{len(empty)} of {len(groups.names)} groups have no training image, the first is "
            f"{groups.names[empty[0]]!r}; raise the limit or the fraction, lower the correlation, or leave "
            f"out the measure {measure}."
        )
    if (count := groups.smallest_in_training()[1]) < 2:
        raise DataError(
            f"The measure {measure} needs 2 groups or more among the training images, but got {count}; "
            "use images of more groups, or leave it out."
        )


def _is_part(images: ImageSet, key: str) -> bool:
    """Whether the name of every image's group includes its value of the label `key`."""
    groups, values = images.labels[GROUP], images.labels[key]
    pairs = np.unique(np.stack([groups, values], 1)[(groups != UNLABELLED) & (values != UNLABELLED)], axis=0)
    group_names, names = images.class_names[GROUP], images.class_names[key]
    return all(f"/{names[value]}/" in f"/{group_names[group]}/" for group, value in pairs.tolist())


def _decided(train: ImageSet, test: ImageSet, label: str, key: str) -> bool:
    """Whether the value of `key` follows from the label in all images."""
    pairs = np.concatenate([np.stack([s.labels[label], s.labels[key]], 1) for s in (train, test)])
    pairs = np.unique(pairs[(pairs != UNLABELLED).all(1)], axis=0)
    return len(pairs) == len(np.unique(pairs[:, 0]))
