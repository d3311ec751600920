"""Files: paths that users type, and writing whole or not at all."""

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
# A file that is being written has such a name in its own folder, until it is whole.
PART_PREFIX, PART_SUFFIX = ".fullrank-", ".part"
# What NumPy and zipfile raise where a byte is wrong: in the data, in an array's header, or in the archive's;
# a wrong length asks for more memory than there is.
DAMAGED_ARRAYS = (
    *(OSError, ValueError, EOFError, RuntimeError, ArithmeticError, MemoryError, AttributeError),
    *(zipfile.BadZipFile, zlib.error, TokenError),
)


def expanded(path: str) -> Path:
    """A path in a spec, with `~` as the user's home; UsageError for the home of nobody, and for no path."""
    try:
        return Path(path).expanduser()
    except ValueError:  # a byte that no path can hold
        raise UsageError(f"{path!r} is no path; write one without zero bytes.") from None
    except RuntimeError:
        raise UsageError(f"There is no home folder for {path!r}; write the path out.") from None


def is_file(path: Path) -> bool:
    """Whether text that may be a path names a file; what no path can be, such as 300 letters, does not."""
    try:
        return path.is_file()
    except OSError:
        return False


def result_folder(out: str | Path | None, name: str) -> Path:
    """The folder asked for, or a fresh one of this second under runs/; UsageError where it is a file."""
    folder = Path(out) if out is not None else Path("runs") / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"
    if folder.is_file():
        raise UsageError(f"{folder} is a file; name a folder with --out.")
    return folder


def save_arrays(folder: Path, arrays: "dict[str, np.ndarray]") -> None:
    """Write `arrays.npz` into `folder`, whole or not at all."""
    import numpy as np

    content = io.BytesIO()
    np.savez_compressed(content, **arrays)  # type: ignore[arg-type]
    write_whole(folder / ARRAYS_FILE, content.getbuffer())


def load_arrays(folder: Path) -> "dict[str, np.ndarray]":
    """Read `folder`/arrays.npz; nothing in it is unpickled. A missing or damaged one raises DataError."""
    import numpy as np

    path = Path(folder) / ARRAYS_FILE
    if not path.is_file():
        raise DataError(f"{folder} holds no {ARRAYS_FILE}; name the folder of a finished run.")
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except DAMAGED_ARRAYS as error:
        reason = " ".join(str(error).split())[:160]
        raise DataError(
            f"{ARRAYS_FILE} cannot be read ({reason}); run the command of {folder} again to write a new one."
        ) from None


def write_whole(path: Path, content: bytes | memoryview) -> None:
    """Write a file so that a crash or a power cut leaves the old one or the new one, never half of either.

    What the system refuses is an OSError with the file's name, and leaves nothing beside it.
    """
    try:
        descriptor, part = tempfile.mkstemp(PART_SUFFIX, PART_PREFIX, path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(descriptor)
            # A temporary file is readable by its owner alone; what we leave is as readable as any other file.
            Path(part).chmod(0o644)
            Path(part).replace(path)
        except BaseException:
            Path(part).unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)
    except OSError as error:
        # A write that fails does not say of which file, and a temporary name tells nobody anything.
        raise OSError(error.errno, error.strerror, str(path)) from None


def shown_path(path: Path) -> str:
    """A path for a command that is run here: relative where it is below this folder, else as it is.

    >>> shown_path(Path("runs") / "digits"), shown_path(Path.cwd() / "mine.py"), shown_path(Path("/a/b"))
    ('runs/digits', 'mine.py', '/a/b')
    """
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_absolute() and path.is_relative_to(here) else path)


def typed_path(path: Path) -> str:
    """A path as it is typed in a shell.

    >>> typed_path(Path("my runs/digits"))
    "'my runs/digits'"
    """
    return shlex.quote(str(path))


def parts_in(folder: Path) -> list[Path]:
    """What a process that was killed in the middle of `write_whole` left in `folder`."""
    return sorted(folder.glob(f"{PART_PREFIX}*{PART_SUFFIX}"))


def _sync_folder(folder: Path) -> None:
    """Make a renaming last; not every file system and system can, and a folder may be closed to readers."""
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
