"""What folders of image files hold, listed once: a cache, renewed where a folder changed. Torch-free."""

import hashlib
import json
import os
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import astuple, dataclass
from pathlib import Path, PurePosixPath
from typing import final, overload

import numpy as np

from fullrank.errors import DataError
from fullrank.files import write_whole

FORMATS = ("png", "jpg", "jpeg", "bmp", "webp", "tif", "tiff", "gif", "ppm", "pgm")
CACHED_FROM = 1000
"""Images; what holds fewer is listed in no time, and no cache is written for it."""

_FIRST_LINE = b"fullrank listings 1"
# A file system may count time in steps as long as this, so a change right after a listing may leave the
# folder's times as they were: a listing that is not older than its folder by more is not trusted.
_STEP_NS = 2_000_000_000
_ENDINGS = tuple(f".{ending}" for ending in FORMATS)


@dataclass(frozen=True, slots=True)
class Listing:
    """What one folder holds that is not hidden: its folders, and its image files, both sorted by name.

    `names` are the files' names joined by `/`, which stands in no name. `changed` are the folder's times of
    change in ns and its number in the file system, `seen` is the time just before it was listed.
    """

    folders: tuple[str, ...]
    names: str
    changed: tuple[int, int, int]
    seen: int

    @property
    def count(self) -> int:
        """How many image files there are."""
        return self.names.count("/") + 1 if self.names else 0

    @property
    def files(self) -> list[str]:
        """The names of the image files."""
        return self.names.split("/") if self.names else []

    def holds(self, now: tuple[int, int, int]) -> bool:
        """Whether the folder is as it was when it was listed, as far as its times `now` can tell."""
        return self.changed == now and max(now[:2]) + _STEP_NS < self.seen


@dataclass(frozen=True, slots=True)
class Piece:
    """Image files of one folder, whose names follow each other in the order of a whole tree."""

    folder: str
    names: str


@final
class Listings:
    """What folders below `root` hold, taken from the cache where a folder did not change since it was listed.

    The cache is a file of text in the user's cache folder, named by a digest of the root's path. A folder's
    times say whether anything in it was added, removed or renamed. A cache that is damaged or cannot be
    written is as good as none.
    """

    def __init__(self, root: Path):
        self.root = root
        digest = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()
        self._path = cache_folder() / f"{digest[:32]}.listings"
        self._cached = _read(self._path)
        self._used: dict[str, Listing] = {}

    def __getitem__(self, folder: str) -> Listing:
        """What `folder` holds, relative to the root, "" for the root; OSError where it cannot be listed."""
        if folder not in self._used:
            path = self.root / folder
            status = path.stat()
            now = status.st_mtime_ns, status.st_ctime_ns, status.st_ino
            known = self._cached.get(folder)
            self._used[folder] = known if known is not None and known.holds(now) else _listed(path, now)
        return self._used[folder]

    def walk(self, folder: str = "") -> list[Piece]:
        """All image files at any depth below `folder`, in the order of the names of files and folders.

        A link back to a folder above is not followed. Raises DataError for a folder that cannot be listed
        and where there is no image.
        """
        root = self.root / folder
        try:
            pieces = list(self._walk(folder, ()))
        except OSError as error:
            raise DataError(f"{root} cannot be listed ({error}); check its permissions.") from error
        if not pieces:
            raise DataError(f"{root} holds no image ({', '.join(FORMATS)}); check the path.")
        return pieces

    def _walk(self, folder: str, above: tuple[tuple[int, int], ...]) -> Iterator[Piece]:
        status = (self.root / folder).stat()
        here = status.st_dev, status.st_ino
        if here in above:
            return
        listing = self[folder]
        start, files = 0, listing.files if listing.folders else []
        for name in listing.folders:
            stop = next((row for row in range(start, len(files)) if files[row] > name), len(files))
            if stop > start:
                yield Piece(folder, "/".join(files[start:stop]))
            start = stop
            yield from self._walk(f"{folder}/{name}" if folder else name, (*above, here))
        rest = "/".join(files[start:]) if listing.folders else listing.names
        if rest:
            yield Piece(folder, rest)

    def save(self) -> None:
        """Write the cache, whole or not at all, where there are enough images and any listing is new."""
        kept = {folder: each for folder, each in self._cached.items() if self._stands(folder)} | self._used
        if sum(each.count for each in kept.values()) >= CACHED_FROM and kept != self._cached:
            with suppress(OSError):
                self._path.parent.mkdir(parents=True, exist_ok=True)
                write_whole(self._path, _packed(kept))

    def _stands(self, folder: str) -> bool:
        """Whether no folder that was looked at says that this one is gone."""
        parents = [str(parent) for parent in PurePosixPath(folder).parents]
        names = PurePosixPath(folder).parts[::-1]
        listed = ((self._used.get("" if p == "." else p), n) for p, n in zip(parents, names, strict=True))
        return all(listing is None or name in listing.folders for listing, name in listed)


@final
class Names(Sequence[str]):
    """Paths of files relative to one folder, in a few bytes each.

    >>> names = Names([Piece("cat", "0.png/1.png"), Piece("", "z.png")])
    >>> list(names), names.counts.tolist()
    (['cat/0.png', 'cat/1.png', 'z.png'], [2, 1])
    """

    def __init__(self, pieces: Sequence[Piece]):
        self.folders = tuple(piece.folder for piece in pieces)
        self.counts = np.array([piece.names.count("/") + 1 for piece in pieces], np.int64)
        self._content = os.fsencode("/".join(piece.names for piece in pieces))
        ends = np.flatnonzero(np.frombuffer(self._content, np.uint8) == ord("/"))
        self._ends = np.append(ends, len(self._content)) if pieces else ends
        self._pieces_end = np.cumsum(self.counts)
        self._rows: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self._ends) if self._rows is None else len(self._rows)

    def at(self, rows: np.ndarray) -> "Names":
        """The names at `rows`, in that order; what all of them are held in is shared."""
        found = copy(self)
        found._rows = rows if self._rows is None else self._rows[rows]
        return found

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> list[str]: ...
    def __getitem__(self, row: int | slice) -> str | list[str]:
        if isinstance(row, slice):
            return [self[i] for i in range(len(self))[row]]
        row = range(len(self))[row]
        row = row if self._rows is None else int(self._rows[row])
        start = int(self._ends[row - 1]) + 1 if row else 0
        name = os.fsdecode(self._content[start : int(self._ends[row])])
        folder = self.folders[int(np.searchsorted(self._pieces_end, row, "right"))]
        return f"{folder}/{name}" if folder else name


def cache_folder() -> Path:
    """Where listings are kept: XDG_CACHE_HOME/fullrank/listings, or ~/.cache/fullrank/listings."""
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # The variable's specification says that a relative path counts as none.
    base = given if given.is_absolute() else Path("~/.cache").expanduser()
    return base / "fullrank" / "listings"


def _listed(path: Path, changed: tuple[int, int, int]) -> Listing:
    seen = time.time_ns()  # what changes while the listing goes on is seen the next time
    folders, files = [], []
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                folders.append(entry.name)
            elif entry.name.lower().endswith(_ENDINGS):
                files.append(entry.name)
    return Listing(tuple(sorted(folders)), "/".join(sorted(files)), changed, seen)


def _packed(listings: dict[str, Listing]) -> bytes:
    """A line with the CRC-32 of what follows: JSON, in which names that are no UTF-8 are escaped."""
    content = json.dumps({folder: astuple(each) for folder, each in listings.items()}).encode()
    return b"%s %08x\n%s" % (_FIRST_LINE, zlib.crc32(content), content)


def _read(path: Path) -> dict[str, Listing]:
    """The listings of a cache; none where it is missing, damaged or of another version."""
    try:
        first, _, content = path.read_bytes().partition(b"\n")
    except OSError:
        return {}
    if first != b"%s %08x" % (_FIRST_LINE, zlib.crc32(content)):
        return {}
    return {
        folder: Listing(tuple(folders), names, tuple(changed), seen)
        for folder, (folders, names, changed, seen) in json.loads(content).items()
    }
