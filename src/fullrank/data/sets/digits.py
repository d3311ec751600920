"""The included data: scikit-learn's 1797 handwritten digits."""

from typing import final

import numpy as np

from fullrank.data.image_set import ImageSet
from fullrank.data.sources import Source, Split

_TEST_IMAGES = 500


@final
class Digits(Source):
    """1797 grey images of 8 x 8 pixels, ten classes, in a fixed split: 1297 to train, 500 to test.

    Values 0 to 16 become 0 to 255. Nothing is downloaded.

    >>> len(Digits().load("train")), len(Digits().load("test"))
    (1297, 500)

    Source: UCI "Optical Recognition of Handwritten Digits", as in `sklearn.datasets.load_digits`.
    """

    grey = True

    def __init__(self) -> None:
        super().__init__("digits")

    def read(self, split: Split, image_size: int | None) -> ImageSet:
        """Read the images of `split`."""
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        images, labels = load_digits().images, load_digits().target.astype(np.int64)
        images = np.rint(images * (255 / 16)).astype(np.uint8)[..., None]
        names = {"label": tuple(map(str, range(10)))}
        train, test = train_test_split(
            np.arange(len(labels)), test_size=_TEST_IMAGES, stratify=labels, random_state=0
        )
        index = train if split == "train" else test
        return ImageSet(images[index], {"label": labels[index]}, names, self.name, split)
