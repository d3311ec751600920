"""The images behind an accuracy, and the baselines beside it. NumPy is loaded only to count labels."""

from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel

from fullrank.errors import DataError

if TYPE_CHECKING:
    import numpy as np

BaselineKind = Literal["pixels", "untrained", "pretrained"]


class ProbedImages(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """The images that the probes of a label learned from and were scored on, without the unlabelled ones.

    `chance` is the accuracy, 0 to 1, of the best constant guess on the test images. `classes` counts those
    of the training images. `split` is "test", or the spec of a shift whose images were scored instead. For
    a file of embeddings, `all_rows` counts its labelled rows and `all_classes` its classes; else both are 0.
    """

    label: str
    train: int
    test: int
    classes: int
    chance: float
    split: str = "test"
    all_rows: int = 0
    all_classes: int = 0

    @classmethod
    def of(cls, label: str, train: "np.ndarray", test: "np.ndarray", split: str = "test") -> "ProbedImages":
        """Count the labels of training images (N,) and test images (M,); -1 is unlabelled.

        Args:
            label: the name of the labels.
            train: the labels (N,) that probes learned from.
            test: the labels (M,) that they were scored on.
            split: "test", or the spec of a shift.

        Raises:
            DataError: where no test image is labelled.

        >>> import numpy as np
        >>> ProbedImages.of("label", np.array([0, 1, 1, -1]), np.array([0, 0, 0, 1]))
        ProbedImages(label='label', train=3, test=4, classes=2, chance=0.75, split='test', ...)
        """
        import numpy as np

        learned, tested = train[train >= 0], test[test >= 0]
        if not len(tested):
            raise DataError(f"None of {len(test)} test images has a {label!r}; an accuracy needs 1 or more.")
        _, counts = np.unique(tested, return_counts=True)
        sizes = {"train": len(learned), "test": len(tested), "classes": len(np.unique(learned))}
        return cls(label=label, chance=float(counts.max() / len(tested)), split=split, **sizes)


class Baseline(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """Accuracies of the same probes, 0 to 1, on pixels or on h of the encoder before training.

    "pretrained" is an encoder that starts from given weights. A baseline that was not measured has None as
    its accuracies. `note` says why, or how the pixels were read.
    """

    features: BaselineKind
    linear: float | None
    nearest: float | None
    note: str = ""
