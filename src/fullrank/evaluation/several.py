"""Images with several labels: which labels can be scored, and their means over labels at each place."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from torch import Tensor

from fullrank.data import ImageSet
from fullrank.data.image_set import UNLABELLED
from fullrank.errors import DataError, UsageError, count_of
from fullrank.evaluation.scores import PlaceScores, Request
from fullrank.record import Score

_ALLOWED = ("per-class", "factors", "baselines", "views", "segmentation")


def several_of(train: ImageSet, test: ImageSet, label: str) -> tuple[str, ...]:
    """The several labels that stand for `label` in both sets; none if each image has one class."""
    shared = tuple(name for name in train.several if name in test.several)
    return shared if label == "label" else ()


def can_be_ranked(train: ImageSet, test: ImageSet, names: Sequence[str]) -> bool:
    """Whether some label is 0 and 1 among the training images, and also among the test images."""
    return any({0, 1} <= set(train.labels[name]) and {0, 1} <= set(test.labels[name]) for name in names)


def check_ranked(train: ImageSet, test: ImageSet, names: Sequence[str]) -> None:
    """Raise DataError unless `can_be_ranked`."""
    if not can_be_ranked(train, test, names):
        raise DataError(
            f"None of the {len(names)} labels of {train} is both 0 and 1 among the training images and among "
            "the test images; give more images, or label them."
        )


def check_possible(request: Request, shifts: Iterable[str], train: ImageSet, names: Sequence[str]) -> None:
    """Raise UsageError if what is requested of images with several labels needs one class for each image."""
    impossible = [measure for measure in request.measures if measure not in _ALLOWED]
    impossible += [*(["few-shot accuracy"] if request.shots else []), *shifts]
    if impossible:
        raise UsageError(
            f"{', '.join(impossible)} needs one class for each image, but {train} has {len(names)} labels an "
            f"image; choose one of them (--label {names[0]}), or leave it out."
        )


def with_any_label(images: ImageSet, names: Sequence[str]) -> ImageSet:
    """The images that have a value for one or more of the labels."""
    return images.subset(np.flatnonzero((_table(images, names) != UNLABELLED).any(1)))


def score_several(
    train: tuple[ImageSet, Mapping[str, Tensor]],
    test: tuple[ImageSet, Mapping[str, Tensor]],
    names: Sequence[str],
    request: Request,
) -> tuple[list[Score], list[str]]:
    """The scores of all places, and a sentence about the labels behind the means.

    Args:
        train: The training images, and place -> their features (N, D).
        test: The test images, and place -> their features (M, D).
        names: The several labels, each named "label:NAME".
        request: The treatment of features, the seed, and the measures.
    """
    learnt, tested = _table(train[0], names), _table(test[0], names)
    short = [name.partition(":")[2] for name in names]
    scores = []
    for place, features in test[1].items():
        of_place = PlaceScores(place, request)
        result = of_place.several((train[1][place], learnt), (features, tested), short)
        scores += of_place.scores
    scored = tested[:, [name in result.auroc for name in short]]
    share = np.mean(np.ma.masked_equal(scored, UNLABELLED).mean(0))
    notes = [f"Test: {count_of(len(tested), 'image')}; probes learn from {count_of(len(learnt), 'image')}."]
    counted = f"The means are over {len(result.auroc)} of {count_of(len(names), 'label')}"
    chance = f"Chance is 50.0 for AUROC and {100 * share:.1f} for average precision."
    notes.append(f"{counted}. {chance}")
    if left_out := result.left_out:
        some = ", ".join(f"label:{name}" for name in left_out[:3]) + (
            " and others" if len(left_out) > 3 else ""
        )
        notes.append(f"Left out, because training or test images lack a 0 or a 1: {some}.")
    return scores, notes


def _table(images: ImageSet, names: Sequence[str]) -> np.ndarray:
    """The labels of these names as columns (N, L)."""
    return np.stack([images.labels[name] for name in names], 1)
