"""The included data: scikit-learn's 1797 handwritten digits."""

from dataclasses import replace
from typing import final

import numpy as np

from fullrank.data.image_set import ImageSet
from fullrank.data.sources import Source, Split
from fullrank.data.undecodable import BadImages

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

    @property
    def official(self) -> bool:
        """False: the split is a draw of this source."""
        return False

    def read(self, split: Split, image_size: int | None) -> ImageSet:
        """Read the images of `split`."""
        from sklearn.model_selection import train_test_split

        whole = self.read_all(image_size, BadImages())
        train, test = train_test_split(
            np.arange(len(whole)), test_size=_TEST_IMAGES, stratify=whole.labels["label"], random_state=0
        )
        return replace(whole.subset(train if split == "train" else test), split=split)

    def read_all(self, image_size: int | None, bad: BadImages) -> ImageSet:
        """Read all images, in the order of scikit-learn."""
        from sklearn.datasets import load_digits

        digits = load_digits()
        images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., None]
        names = {"label": tuple(map(str, range(10)))}
        return ImageSet(images, {"label": digits.target.astype(np.int64)}, names, self.name, "all")
