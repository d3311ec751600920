"""Rows before everything else: those that are zero, and those that are equal to another one."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from rich.progress import Progress
from torch import Tensor

from fullrank.embeddings.files import EmbeddingFile
from fullrank.progress import counted

if TYPE_CHECKING:
    from fullrank.data import ImageSet

# What was changed before a linear probe was fitted again, in `ProbedAgain`.
WITHOUT_EQUAL = "without equal rows"
WITHOUT_LEAKED = "without leaked rows"
# A larger share of zero rows is not left out, because the few others do not speak for the place. Nets on real
# images whose features had collapsed to zero gave zeros for 86 % of the images or more.
MOST_LEFT_OUT = 0.75
# Larger sets of images that are decoded on demand are compared in a sample of so many: decoding takes long.
MOST_DECODED = 16384
# Numbers of 32 bits that are hashed at once: 512 KiB, which fit into a processor's cache.
_BLOCK = 2**17
_DECODED_AT_ONCE = 256


def _none() -> np.ndarray:
    return np.empty(0, np.int64)


@dataclass(frozen=True, eq=False)
class RowSurvey:
    """Zero rows and equal rows of all rows of a file, or equal pixels of all images.

    Rows are equal if all their numbers are equal; -0.0 equals 0.0. A cosine is never used, because in a
    narrow cone all rows have a cosine near 1. Rows that are almost equal are not seen, such as those of one
    image in two encodings.

    Attributes:
        count: The number of rows that were compared.
        zero: The numbers of the zero rows, ascending. Images have none, since a black image is an image.
        first: For each row of the source the number of the first row that is equal, its own if none comes
            before: (N,). A row that was not compared has its own number.
        learnt: The numbers of the training rows, ascending. Empty unless the source states a split.
        tested: The numbers of the test rows, ascending.
        of: `rows` of features, or `images`, which are numbered from the training images to the test images.
        smallest: The smallest number in the rows that are not zero. None for images.

    >>> survey = survey_features(torch.tensor([[1.0, 2.0], [0.0, -0.0], [3.0, 4.0], [1.0, 2.0]]))
    >>> survey.zero.tolist(), survey.first.tolist(), survey.repeated.tolist(), survey.smallest
    ([1], [0, 1, 2, 0], [3], 1.0)
    """

    count: int
    zero: np.ndarray
    first: np.ndarray
    learnt: np.ndarray = field(default_factory=_none)
    tested: np.ndarray = field(default_factory=_none)
    of: Literal["rows", "images"] = "rows"
    smallest: float | None = None

    @cached_property
    def repeated(self) -> np.ndarray:
        """The rows that are equal to an earlier row of the same part of the split, without zero rows."""
        return np.flatnonzero((self._first_of_part != np.arange(len(self.first))) & ~self._is_zero)

    @cached_property
    def in_equal_groups(self) -> np.ndarray:
        """The rows that are equal to another row of the same part of the split, without zero rows."""
        sizes = np.bincount(self._first_of_part, minlength=len(self.first))
        return np.flatnonzero((sizes[self._first_of_part] > 1) & ~self._is_zero)

    @cached_property
    def leaked(self) -> np.ndarray:
        """The test rows that are equal to a training row, without zero rows."""
        leaks = np.isin(self.first[self.tested], self.first[self.learnt]) & ~self._is_zero[self.tested]
        return np.asarray(self.tested[leaks])

    @property
    def left_out(self) -> np.ndarray:
        """The zero rows, or none if more than 75 % of the rows are zero."""
        return self.zero if can_leave_out(len(self.zero), self.count) else _none()

    @property
    def equal_share(self) -> float:
        """The share of rows that are `in_equal_groups`."""
        return len(self.in_equal_groups) / self.count

    @property
    def leaked_share(self) -> float:
        """The share of test rows that are `leaked`, 0 without a split."""
        return len(self.leaked) / max(1, len(self.tested))

    def of_split(self, learnt: Sequence[int] | np.ndarray, tested: Sequence[int] | np.ndarray) -> "RowSurvey":
        """The same survey with the numbers of the training rows and of the test rows."""
        first, second = (np.sort(np.asarray(rows, np.int64)) for rows in (learnt, tested))
        return replace(self, learnt=first, tested=second)

    def same_as(self, rows: np.ndarray) -> np.ndarray:
        """For each of these rows the first equal row of its part of the split."""
        return np.asarray(self._first_of_part[rows])

    def learnt_same_as(self, rows: np.ndarray) -> np.ndarray:
        """For each of these `leaked` rows the first training row that is equal."""
        groups, index = np.unique(self.first[self.learnt], return_index=True)
        return np.asarray(self.learnt[index[np.searchsorted(groups, self.first[rows])]])

    @cached_property
    def _first_of_part(self) -> np.ndarray:
        """As `first`, but within the training rows, within the test rows and within the others."""
        part = np.zeros(len(self.first), np.int64)
        part[self.learnt], part[self.tested] = 1, 2
        _, index, inverse = np.unique(3 * self.first + part, return_index=True, return_inverse=True)
        return index[inverse]

    @cached_property
    def _is_zero(self) -> np.ndarray:
        mask = np.zeros(len(self.first), bool)
        mask[self.zero] = True
        return mask


def can_leave_out(rows: int, count: int) -> bool:
    """Whether so many of `count` rows can be left out: at most 75 %, and 2 must remain."""
    return rows <= MOST_LEFT_OUT * count and count - rows >= 2


def survey_features(features: Tensor, numbers: np.ndarray | None = None) -> RowSurvey:
    """The zero rows and equal rows of features (N, D), finite.

    Args:
        features: The features.
        numbers: The number of each row in its source, (N,), ascending. None numbers them from 0.
    """
    if numbers is None:
        numbers = np.arange(len(features))
    return _survey([features], len(features), numbers, int(numbers[-1]) + 1)


def survey_file(
    file: EmbeddingFile, progress: Progress | None = None, chunks: Iterable[Tensor] | None = None
) -> RowSurvey:
    """The zero rows and equal rows of a file, read once in chunks. Rows have their numbers in the file.

    Numbers are compared as float32. The training and test rows are those of the file's own split.

    Args:
        file: The file.
        progress: Shows the part of the rows that is done; None shows nothing.
        chunks: All rows of the file in order, where the same pass measures more; None reads the file.
    """
    read = counted(file.chunks() if chunks is None else chunks, progress, "equal rows", file.rows)
    survey = _survey(read, file.rows, file.kept, file.matrix.shape[0])
    if file.all_splits is None:
        return survey
    return survey.of_split(*(file.kept[rows] for rows in file.splits()))


def survey_images(
    train: "ImageSet | None",
    test: "ImageSet",
    *,
    official: bool = True,
    seed: int = 0,
    progress: Progress | None = None,
) -> RowSurvey:
    """The images with equal pixels, as the encoder sees them. Each image is read at most once.

    Images in memory are all compared. Of more than 16,384 images that are decoded on demand, a random sample
    of this size is compared.

    Args:
        train: The training images, numbered from 0. None if there are none.
        test: The test images, which are numbered after them.
        official: Whether the data state this split. If not, all images are one part.
        seed: The seed of the sample.
        progress: Shows the part of the images that is done; None shows nothing.
    """
    sets = [test] if train is None else [train, test]
    starts = [0, *np.cumsum([len(images) for images in sets]).tolist()]
    rows = [_compared(images, len(sets), seed) for images in sets]
    numbers = [chosen + start for chosen, start in zip(rows, starts, strict=False)]
    batches = (
        batch.flatten(1)
        for images, chosen in zip(sets, rows, strict=True)
        for batch in images.subset(chosen).batches(_DECODED_AT_ONCE)
    )
    count = sum(map(len, rows))
    survey = _survey(
        counted(batches, progress, "equal images", count), count, np.concatenate(numbers), starts[-1]
    )
    survey = replace(survey, zero=_none(), of="images", smallest=None)
    return survey.of_split(*numbers) if official and train is not None else survey


def _compared(images: "ImageSet", sets: int, seed: int) -> np.ndarray:
    """The rows of a set whose pixels are compared: all of those in memory, a sample of those decoded."""
    most = MOST_DECODED // sets
    if isinstance(images.images, np.ndarray) or len(images) <= most:
        return np.arange(len(images))
    return images.limited_rows(most, seed)


def _survey(chunks: Iterable[Tensor], count: int, numbers: np.ndarray, total: int) -> RowSurvey:
    """The survey of `count` rows in chunks (n, D) whose numbers in the source of `total` rows are given."""
    digests = np.empty((count, 2), np.uint64)
    lowest = np.empty(count)
    done = 0
    for chunk in chunks:
        rows = slice(done, done := done + len(chunk))
        digests[rows] = _digests(chunk)
        lowest[rows] = chunk.amin(1).double().cpu().numpy()
    zero = (digests == _digests(torch.zeros_like(chunk[:1]))).all(1)
    first = np.arange(total)
    first[numbers] = numbers[_first_equal(digests)]
    smallest = None if zero.all() else float(lowest[~zero].min())
    return RowSurvey(count, numbers[zero], first, smallest=smallest)


def _digests(rows: Tensor) -> np.ndarray:
    r"""Two hashes (n, 2) of 64 bits of each row (n, D), from its bits as words x of 32 bits.

    .. math:: \sum_i (x_i + a_i \bmod 2^{32}) \, (x_{m + i} + a_{m + i} \bmod 2^{32}) \bmod 2^{64}

    For random keys a, two unequal rows have both hashes in common with a probability of at most 2^-64: below
    1e-7 for any pair of a million rows. `hashlib` takes three times as long.

    Source: Black, Halevi, Krawczyk, Krovetz and Rogaway 1999, UMAC, Section 4 (NH).
    """
    keys = None
    digests = np.empty((len(rows), 2), np.uint64)
    width = max(1, rows[:1].numel() * rows.element_size() // 4)
    for start in range(0, len(rows), step := max(1, _BLOCK // width)):
        words = _words(rows[start : start + step])
        half = words.shape[1] // 2
        if keys is None:
            keys = np.random.default_rng(0).integers(0, 2**32, (2, 2 * half), np.uint32)
        for number, key in enumerate(keys):
            mixed = words + key
            first, second = mixed[:, :half].astype(np.uint64), mixed[:, half:].astype(np.uint64)
            digests[start : start + step, number] = np.einsum("ij,ij->i", first, second)
    return digests


def _words(rows: Tensor) -> np.ndarray:
    """The bits of rows (n, D) as an even number of uint32 each, with zeros at the end if needed."""
    if rows.is_floating_point():
        rows = rows if rows.dtype in (torch.float32, torch.float64) else rows.float()
        rows = rows + 0.0  # -0.0 becomes 0.0
    bytes_ = rows.detach().cpu().contiguous().numpy().view(np.uint8).reshape(len(rows), -1)
    if missing := -bytes_.shape[1] % 8:
        bytes_ = np.pad(bytes_, ((0, 0), (0, missing)))
    return bytes_.view(np.uint32)


def _first_equal(digests: np.ndarray) -> np.ndarray:
    """For each row of digests (N, 2) the number of the first row that is equal."""
    order = np.lexsort(digests.T)  # stable, so the first of a group comes first
    ordered = digests[order]
    begins = np.r_[True, (ordered[1:] != ordered[:-1]).any(1)]
    first = np.empty(len(order), np.int64)
    first[order] = order[begins][np.cumsum(begins) - 1]
    return first
