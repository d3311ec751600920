"""Files: paths that users type, and writing a file completely or not at all."""

import errno
import io
import os
import shlex
import tempfile
import zipfile
import zlib
from datetime import datetime
from pathlib import Path
from tokenize import TokenError
from typing import TYPE_CHECKING

from fullrank.errors import DataError, UsageError

if TYPE_CHECKING:
    import numpy as np

ARRAYS_FILE = "arrays.npz"
# A file has such a temporary name, in its own folder, until it is completely written.
PART_PREFIX, PART_SUFFIX = ".fullrank-", ".part"
# Raised by NumPy and zipfile for a wrong byte in the data, in an array's header or in the archive's header.
# A wrong length can ask for more memory than the machine has.
DAMAGED_ARRAYS = (
    *(OSError, ValueError, EOFError, RuntimeError, ArithmeticError, MemoryError, AttributeError),
    *(zipfile.BadZipFile, zlib.error, TokenError),
)


def expanded(path: str) -> Path:
    """A path in a spec, with `~` as the user's home folder.

    Raises:
        UsageError: If the text cannot be a path, or the user after `~` does not exist.
    """
    try:
        return Path(path).expanduser()
    except ValueError:  # a zero byte
        raise UsageError(f"{path!r} is not a valid path; write one without zero bytes.") from None
    except RuntimeError:
        raise UsageError(f"There is no home folder for {path!r}; write the path out.") from None


def printable(name: str) -> str:
    r"""A file name that can be written as UTF-8: bytes that are not UTF-8 become escapes.

    >>> printable("caf\udce9.png"), printable("café.png")
    ('caf\\xe9.png', 'café.png')
    """
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def is_file(path: Path) -> bool:
    """Whether a text names an existing file; False for text that cannot be a path, such as 300 letters."""
    try:
        return path.is_file()
    except OSError:
        return False


def result_folder(out: str | Path | None, name: str) -> Path:
    """The folder `out`, or a new one under runs/ with the current time in its name.

    Raises:
        UsageError: If `out` is a file.
    """
    folder = Path(out) if out is not None else Path("runs") / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"
    if folder.is_file():
        raise UsageError(f"{folder} is a file; name a folder with --out.")
    return folder


def save_arrays(folder: Path, arrays: "dict[str, np.ndarray]") -> None:
    """Write `arrays.npz` into `folder`, completely or not at all."""
    import numpy as np

    content = io.BytesIO()
    np.savez_compressed(content, **arrays)  # type: ignore[arg-type]
    write_whole(folder / ARRAYS_FILE, content.getbuffer())


def load_arrays(folder: Path) -> "dict[str, np.ndarray]":
    """Read `folder`/arrays.npz without unpickling anything.

    Raises:
        DataError: If the file is missing or damaged.
    """
    import numpy as np

    path = Path(folder) / ARRAYS_FILE
    if not path.is_file():
        raise DataError(f"{folder} has no {ARRAYS_FILE}; name the folder of a finished run.")
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except DAMAGED_ARRAYS as error:
        reason = " ".join(str(error).split())[:160]
        raise DataError(
            f"{ARRAYS_FILE} cannot be read ({reason}); run the command of {folder} again to write a new one."
        ) from None


def write_whole(path: Path, content: bytes | memoryview) -> None:
    """Write a file so that a crash or a power cut leaves the old file or the new one, never a part.

    Args:
        path: The file to write or replace.
        content: Its new content.

    Raises:
        OSError: If the system refuses to write. The error names the file, and no temporary file remains.
    """
    try:
        descriptor, part = tempfile.mkstemp(PART_SUFFIX, PART_PREFIX, path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(descriptor)
            # Only its owner can read a temporary file. Give the file the usual permissions.
            Path(part).chmod(0o644)
            Path(part).replace(path)
        except BaseException:
            Path(part).unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)
    except OSError as error:
        # The system's error names no file or the temporary one; name the file that the user knows.
        raise OSError(error.errno, error.strerror, str(path)) from None


def shown_path(path: Path) -> str:
    """A path for a command that runs in the current folder: relative if it is below, else unchanged.

    >>> shown_path(Path("runs") / "digits"), shown_path(Path.cwd() / "mine.py"), shown_path(Path("/a/b"))
    ('runs/digits', 'mine.py', '/a/b')
    """
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_absolute() and path.is_relative_to(here) else path)


def typed_path(path: Path) -> str:
    """A path as one types it in a shell, quoted if necessary.

    >>> typed_path(Path("my runs/digits"))
    "'my runs/digits'"
    """
    return shlex.quote(str(path))


def parts_in(folder: Path) -> list[Path]:
    """The temporary files in `folder` of processes that were killed during `write_whole`."""
    return sorted(folder.glob(f"{PART_PREFIX}*{PART_SUFFIX}"))


def _sync_folder(folder: Path) -> None:
    """Make a renaming durable, if the system allows it: some cannot, and a folder may be unreadable."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)
