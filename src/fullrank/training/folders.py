"""The folder of a run or study: which one, and whether a recipe may write into it."""

import sys
from collections.abc import Sequence
from pathlib import Path

from fullrank.errors import UsageError
from fullrank.record import result_folder, write_whole
from fullrank.training.monitor import CHECKPOINT
from fullrank.training.recipe import RECIPE_FILE, Recipe


def claim_folder(out: str | Path | None, name: str, resume: bool) -> Path:
    """The folder asked for, or a fresh one under runs/; `resume` needs one that is named."""
    if out is None and resume:
        raise UsageError("--resume needs --out DIR, the folder to go on with.")
    return result_folder(out, slug(name))


def slug(text: str) -> str:
    """A spec as a folder name: letters, digits, dots and dashes."""
    return "".join(c if c.isalnum() or c in ".-" else "-" for c in text)[:100]


def check_folder(folder: Path, recipe: Recipe, resume: bool, free: Sequence[str] = ()) -> None:
    """Raise UsageError unless `recipe` may write into `folder`: an empty one, or with `resume` its own.

    Its own is one whose recipe is the same in all keys but those that are `free`.
    """
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    if not resume:
        raise UsageError(
            f"{folder} exists and is not empty; add --resume to go on with it, or name another --out."
        )
    stored = folder / RECIPE_FILE
    if not stored.is_file():
        raise UsageError(f"{folder} holds files but no {RECIPE_FILE}, so no run; name another --out.")
    old, new = Recipe.resolve(stored).model_dump(), recipe.model_dump()
    if key := next((key for key in new if new[key] != old[key] and key not in free), None):
        raise UsageError(
            f"{folder} was started with {key}={old[key]!r}, but this recipe says {new[key]!r}; "
            "resume with the same recipe, or name another --out."
        )


def open_folder(folder: Path, recipe: Recipe, resume: bool) -> None:
    """Make the folder of a run, with its recipe in it."""
    checkpoint = folder / CHECKPOINT
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    if not (folder / RECIPE_FILE).is_file():
        write_whole(folder / RECIPE_FILE, recipe.dump().encode())
    if resume and not checkpoint.is_file():
        print(f"{folder} has no checkpoint yet; starting from the beginning.", file=sys.stderr)
