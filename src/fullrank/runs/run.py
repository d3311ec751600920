"""A finished run: its folder, its recipe, its trained parts and its record."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from fullrank.door import import_modules
from fullrank.encoders import Encoder, encoder as build_encoder, without_download
from fullrank.errors import DataError
from fullrank.heads import Head, head as build_head
from fullrank.record import RECORD_FILE, Record, Result
from fullrank.runs.recipe import RECIPE_FILE, Recipe
from fullrank.views import view_pipeline

ENCODER_FILE, HEAD_FILE = "encoder.safetensors", "head.safetensors"


@dataclass(frozen=True, repr=False)
class Run(Result):
    """A finished run: its folder, its record, its recipe, and the trained parts in eval mode.

    Args:
        path: The folder of the run.
        record: The results; `record.runs[0]` is the entry of this run.
        recipe: All settings, including defaults.
        encoder: The trained encoder, from images (N, C, H, W) in 0 to 1 to h (N, D).
        head: The trained head, from h (N, D) to z (N, K).
    """

    recipe: Recipe
    encoder: Encoder
    head: Head

    def fresh_head(self) -> Head:
        """A new, untrained head of the same spec."""
        dims = getattr(self.head, "view_dims", None)
        return build_head(self.recipe.head, in_dim=self.encoder.feature_dim, view_dims=dims)


def opened(run: str | Path | Run, imports: Sequence[str | Path | ModuleType] = ()) -> Run:
    """The run itself, or the run in a folder."""
    return run if isinstance(run, Run) else load(run, imports=imports)


def input_shape(folder: Path) -> tuple[int, int]:
    """The size and the number of channels of the images that the encoder in `folder` takes."""
    with safe_open(folder / ENCODER_FILE, framework="pt") as file:
        metadata = file.metadata()
    return int(metadata["image_size"]), int(metadata["in_chans"])


def load(folder: str | Path, *, imports: Sequence[str | Path | ModuleType] = ()) -> Run:
    """Read a finished run back, with encoder and head in eval mode.

    Weights are read from safetensors files, and nothing is unpickled. A file never causes an import: a run
    with your own parts needs their modules in `imports`.

    Args:
        folder: The folder of the run.
        imports: Modules or files that register your own parts, as `--import` does.

    Raises:
        DataError: The folder has no finished run, or its files are damaged.
        UsageError: A module that the run needs is missing.

    >>> import tempfile
    >>> from fullrank import train
    >>> folder = tempfile.mkdtemp() + "/run"
    >>> run = train("digits", out=folder, head="none", epochs=1, classes="3+8")
    >>> load(folder).encoder(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 96])
    """
    import_modules(imports)
    folder = Path(folder)
    record = Record.load(folder)
    if record.kind != "run":
        raise DataError(f"{folder} is a {record.kind}, not a run; name one of the run folders below it.")
    if not (folder / RECIPE_FILE).is_file():
        raise DataError(f"{folder} has no {RECIPE_FILE}; name the folder of a finished run.")
    recipe = Recipe.resolve(folder / RECIPE_FILE)
    try:
        size, in_chans = input_shape(folder)
        with torch.random.fork_rng(devices=()):
            encoder = build_encoder(without_download(recipe.encoder), image_size=size, in_chans=in_chans)
            views = view_pipeline(recipe.views, image_size=size, channels=in_chans)
            head = build_head(recipe.head, in_dim=encoder.feature_dim, view_dims=views.number_dims)
        encoder.load_state_dict(load_file(folder / ENCODER_FILE))
        head.load_state_dict(load_file(folder / HEAD_FILE))
    except (FileNotFoundError, SafetensorError, RuntimeError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        fault, remedy = "cannot be read", f"remove {RECORD_FILE} there and resume the run"
        if isinstance(error, RuntimeError) and recipe.imports:
            modules = ", ".join(origin.module for origin in recipe.imports)
            fault, remedy = f"do not fit what {modules} builds now", "use the code that it was trained with"
        raise DataError(f"The weights in {folder} {fault} ({reason}); {remedy}.") from None
    return Run(folder, record, recipe, encoder.eval(), head.eval())
