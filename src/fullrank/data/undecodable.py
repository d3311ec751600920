"""Images that cannot be decoded: their list, and a limit on their number."""

from collections.abc import Iterable, Mapping
from threading import Lock
from typing import final

from fullrank.errors import DataError, UsageError, count_of
from fullrank.files import printable


@final
class BadImages:
    """The images that could not be decoded so far; several threads may add to them at once.

    Args:
        most: The largest number that is allowed.

    Raises:
        UsageError: If the number is below 0.

    >>> bad = BadImages(most=1)
    >>> bad.note("cat/3.png", "truncated", "folder:mine")
    >>> bad.found
    {'cat/3.png': 'truncated'}
    >>> bad.note("cat/7.png", "truncated", "folder:mine")
    Traceback (most recent call last):
    ...
    fullrank.errors.DataError: folder:mine: more than 1 image cannot be decoded; the last is cat/7.png \
(truncated); remove or replace them, or allow more with --max-bad.
    """

    def __init__(self, most: int = 0):
        if most < 0:
            raise UsageError(f"The bad images allowed must be 0 or more, but got {most}; 0 allows none.")
        self.most = most
        self._found: dict[str, str] = {}
        self._lock = Lock()

    @property
    def found(self) -> dict[str, str]:
        """Image -> why it cannot be decoded, sorted by name."""
        with self._lock:
            return dict(sorted(self._found.items()))

    def join(self, others: Iterable[Mapping[str, str]], source: str) -> None:
        """Add the undecodable images of `source` that other processes found."""
        for image, why in (pair for images in others for pair in images.items()):
            self.note(image, why, source)

    def note(self, image: str, why: str, source: str) -> None:
        """Add an image of `source`, once even if it is met often.

        Raises:
            DataError: If there are now more images than allowed.
        """
        image = printable(image)
        with self._lock:
            self._found[image] = why
            count = len(self._found)
        if count > self.most:
            problem = f"{image} cannot be decoded ({why})"
            if self.most:
                most = count_of(self.most, "image")
                problem = f"more than {most} cannot be decoded; the last is {image} ({why})"
            raise DataError(f"{source}: {problem}; remove or replace them, or allow more with --max-bad.")
