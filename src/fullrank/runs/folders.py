"""The folder of a run or study: choose it, and check whether a recipe may write into it."""

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from fullrank.errors import FullDiskError, UsageError, disk_is_full, one_line
from fullrank.files import parts_in, result_folder, typed_path, write_whole
from fullrank.record import RECORD_FILE
from fullrank.runs.recipe import RECIPE_FILE, Recipe

CHECKPOINTS = Path("checkpoints")
# The system's lock on this file ends with the process that holds it, even after a crash.
LOCK_FILE = CHECKPOINTS / ".lock"
BAD_IMAGES_FILE = "bad_images.txt"
# The folder of a run's teacher, which is a run folder of its own.
TEACHER = "teacher"


def claim_folder(out: str | Path | None, name: str, resume: bool) -> Path:
    """The folder `out`, or a new one under runs/; `resume` requires `out`."""
    if out is None and resume:
        raise UsageError("--resume needs --out DIR, the folder to continue.")
    return result_folder(out, slug(name))


def slug(text: str) -> str:
    """A spec as a folder name: letters, digits, dots and dashes; it never begins with a dot."""
    return "".join(c if c.isalnum() or c in ".-" else "-" for c in text)[:100].lstrip(".-") or "-"


def check_folder(folder: Path, recipe: Recipe, resume: bool, free: Sequence[str] = ()) -> None:
    """Raise UsageError unless `folder` is empty, or `resume` is set and only `free` keys differ."""
    if not folder.is_dir() or _is_bare(folder):
        return
    if not resume:
        remedy = "add --resume (resume=True in Python) to continue it, or name another --out"
        raise UsageError(f"{folder} is not empty; {remedy}.")
    stored = folder / RECIPE_FILE
    if not stored.is_file():
        raise UsageError(f"{folder} has files but no {RECIPE_FILE}, so it is not a run; name another --out.")
    for key, before, now in _differences(Recipe.resolve(stored).model_dump(), recipe.model_dump()):
        if key not in free and key.split(".")[0] not in free:
            remedy = "resume with the same recipe, or name another --out"
            raise UsageError(f"{folder} was started with {key}={before!r}, but now {now!r}; {remedy}.")


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Each setting that differs, with its dotted key and both values."""
    for key in {**old, **new}:
        before, value = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(value, Mapping):
            yield from ((f"{key}.{inner}", *values) for inner, *values in _differences(before, value))
        elif before != value:
            yield key, before, value


@contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Lock the folder of a run for this process; UsageError if another process is writing there."""
    lock = folder / LOCK_FILE
    lock.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(lock, blocking=False):
            yield
    except Timeout:
        remedy = "wait until it is done, or name another --out"
        raise UsageError(f"{folder} is being written by another process; {remedy}.") from None


def check_free(folder: Path, recipe: Recipe, resume: bool) -> None:
    """Check the folder again after locking it: another process may have begun or finished a run there."""
    check_folder(folder, recipe, resume)
    if (folder / RECORD_FILE).is_file():
        raise UsageError(f"Another process has just finished the run in {folder}; add --resume to take it.")


def open_folder(folder: Path, recipe: Recipe, resume: bool) -> None:
    """Create the folder of a run with its recipe, and remove leftovers of a killed process."""
    (folder / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
    for part in _parts(folder):
        part.unlink(missing_ok=True)
    stored = folder / RECIPE_FILE
    if not stored.is_file() or Recipe.resolve(stored) != recipe:  # differs in a key that may change
        write_whole(stored, recipe.dump().encode())
    if resume and not checkpoints_in(folder):
        print(f"{folder} has no checkpoint yet; starting from the beginning.", file=sys.stderr)


@contextmanager
def room_in(folder: Path) -> Iterator[None]:
    """Turn a full disk into a FullDiskError that names the newest checkpoint of the run."""
    try:
        yield
    except OSError as error:
        if not disk_is_full(error):
            raise
        newest = next((path.name for path in checkpoints_in(folder)), "none yet")
        raise FullDiskError(
            f"The disk has no room for {error.filename or folder} (newest checkpoint: {newest}); free some "
            f"space and repeat the command with --out {typed_path(folder)} --resume to continue."
        ) from None


def list_bad_images(folder: Path, bad: Mapping[str, str]) -> None:
    """Write a list of the undecodable images, with the reasons, into the folder of a run."""
    if not bad:
        return
    path = folder / BAD_IMAGES_FILE
    lines = [f"{one_line(image)}\t{one_line(why)}\n" for image, why in sorted(bad.items())]
    write_whole(path, "".join(lines).encode())
    print(f"Skipped images that cannot be decoded: {len(bad)}, listed in {path}.", file=sys.stderr)


def _parts(folder: Path) -> list[Path]:
    return [*parts_in(folder), *parts_in(folder / CHECKPOINTS)]


def _is_bare(folder: Path) -> bool:
    """Whether a folder is empty, apart from leftovers of a run that was killed before it wrote its recipe."""
    leftovers = {folder / CHECKPOINTS, folder / LOCK_FILE, *_parts(folder)}
    return leftovers.issuperset([*folder.iterdir(), *(folder / CHECKPOINTS).glob("*")])


def checkpoint_path(folder: Path, number: int, kind: str = "step") -> Path:
    """The path of the checkpoint of a step (or of another `kind`); `save_state` adds a checksum."""
    return folder / CHECKPOINTS / f"{kind}-{number:08d}.ckpt"


def checkpoints_in(folder: Path, kind: str = "step") -> list[Path]:
    """The checkpoints of one kind in the folder of a run, newest first, including damaged ones."""
    name = re.compile(rf"{re.escape(kind)}-\d+-[0-9a-f]{{8}}\.ckpt")
    paths = [path for path in (folder / CHECKPOINTS).glob(f"{kind}-*") if name.fullmatch(path.name)]
    return sorted(paths, key=lambda path: (number_of(path), path.name), reverse=True)


def number_of(path: Path) -> int:
    """The step (or epoch) of a checkpoint: 40 for `step-00000040-5f3c9a1e.ckpt`."""
    return int(path.stem.split("-")[-2])
