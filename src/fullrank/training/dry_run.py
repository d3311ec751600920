"""A dry run: two steps and the probes of any recipe, on generated images in the right layout."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import numpy as np
import torch

from fullrank.data import ImageSet, class_list, source, write_miniature
from fullrank.data.made.miniature import LAYOUTS
from fullrank.door import import_modules
from fullrank.heads import GROUP
from fullrank.objectives.terms.contract import cues_of
from fullrank.record import RunEntry
from fullrank.runs.build import build, check_plan, check_rows, load_data
from fullrank.runs.recipe import Recipe
from fullrank.specs import Spec
from fullrank.training.train import carry_out

BATCH_SIZE, STEPS, CLASSES = 4, 2, 4
# Terms that compare rows with equal labels need several of them in a batch.
LABELLED_BATCH = 16
# Composites have layers that views may drop, but no layout on a disk.
COMPOSITE, TWO_CUES = "composite:digits-on-textures,n=40", "composite:two-cues,n=40"


@dataclass(frozen=True)
class Rehearsal:
    """What a dry run did: the recipe as given, the replaced keys, and the entry of the run."""

    recipe: Recipe
    replaced: dict[str, Any]
    entry: RunEntry


def dry_run(
    recipe: str | Path | Recipe, *, imports: Sequence[str | Path | ModuleType] = (), **overrides: Any
) -> Rehearsal:
    """Train two steps of a recipe and probe, on generated images in the layout of its data; nothing is kept.

    Encoder, head, objective, views, optimizer and image size are those of the recipe; data, lengths, batch
    size, and with it the groups of norm=whiten, are replaced. A mistake in a recipe thus shows within
    seconds. The numbers mean nothing: the images are coloured shapes, or grey ones for sets that are grey.

    Args:
        recipe: The name of a shipped recipe, a YAML file, or a recipe.
        imports: Modules or files that register your own parts, as `--import` does.
        overrides: Keys of the recipe to replace, as in `train`.

    Returns:
        The recipe as given, the keys that were replaced, and the entry of the run.

    Raises:
        FullrankError: Whatever `train` raises.

    >>> dry_run("digits", head="linear:8").entry.steps
    2
    """
    import_modules(imports)
    plan = Recipe.resolve(recipe, overrides)
    with tempfile.TemporaryDirectory() as folder:
        replaced = replacements(plan, Path(folder) / "images")
        rehearsed = Recipe.resolve(plan, replaced)
        train, test = _generated(rehearsed)
        if "head" in replaced:
            own = Recipe.resolve(rehearsed, {"head": plan.head})
            check_rows(build(own, train), plan)
        run = carry_out(rehearsed, Path(folder) / "run", train, test)
        return Rehearsal(plan, replaced, run.record.runs[0])


def check_on_generated(recipe: Recipe) -> None:
    """Build the parts of a recipe on generated images; raises what `check_plan` raises."""
    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng(devices=()):
        plan = Recipe.resolve(recipe, replacements(recipe, Path(folder) / "images"))
        check_plan(plan, _generated(plan)[0])


def _generated(plan: Recipe) -> tuple[ImageSet, ImageSet]:
    """The generated images of a rehearsed plan, with the labels that its terms read."""
    train, test = load_data(plan)
    if not plan.objective.terms:
        return train, test
    cues = cues_of(build(plan, train).terms)
    return _with_cues(train, cues), _with_cues(test, cues)


def _with_cues(images: ImageSet, cues: Sequence[str]) -> ImageSet:
    """The images with labels of these names, whose two values alternate within each class."""
    classes, values = images.labels["label"], np.zeros(len(images), np.int64)
    for number in np.unique(classes):
        rows = np.flatnonzero(classes == number)
        values[rows] = np.arange(len(rows)) % 2
    labels = images.labels | dict.fromkeys(cues, values)
    return replace(images, labels=labels, class_names=images.class_names | dict.fromkeys(cues, ("0", "1")))


def replacements(plan: Recipe, folder: Path) -> dict[str, Any]:
    """The keys of `plan` that a dry run replaces, after writing its images into `folder`."""
    size, images = plan.image_size or 32, source(plan.data)
    batch_size = LABELLED_BATCH if plan.objective.terms else BATCH_SIZE
    count = batch_size * STEPS
    names = None if plan.classes is None else class_list(plan.classes)[:CLASSES]
    # A user's folder, archive or hub data set is replaced by a folder of colour images.
    layout = plan.data if plan.data.name in LAYOUTS else "folder"
    composite = TWO_CUES if plan.objective.terms else COMPOSITE
    replaced: dict[str, Any] = {"data": composite, "limit": count}
    if not images.layered:
        kinds: dict[str, Any] = {"class_names": names, "channels": 1 if images.grey else 3}
        data = write_miniature(layout, folder, images=count, size=size, classes=CLASSES, **kinds)
        replaced = {"data": data, "limit": None}
    replaced |= {"batch_size": batch_size, "epochs": 1, "monitor_every": 1}
    replaced |= {"fraction": None, "held_out": None}
    if (head := _in_small_groups(plan.head, batch_size // plan.encoder_passes)) != plan.head:
        replaced["head"] = head
    if plan.engine.chunk is not None:
        replaced["engine.chunk"] = min(plan.engine.chunk, batch_size)  # half of the views, so two chunks
    replaced |= {"engine.accumulate": 1, "engine.logger": None, "engine.compile": False}
    if layout == "folder":
        replaced |= {"image_size": size, "label": "label"}  # a folder has only one kind of label
    if images.layered:
        replaced["classes"] = None
    elif names is not None:
        replaced["classes"] = "+".join(names)
    if plan.online_every is not None:
        replaced["online_every"] = 1
    if plan.sgd_probe is not None:
        replaced |= {"sgd_probe.epochs": 1, "sgd_probe.batch_size": BATCH_SIZE}
    return replaced


def _in_small_groups(head: Spec, most: int) -> Spec:
    """A head whose norm=whiten has at most `most` channels in a group; other heads as they are."""
    options = dict(head.options)
    if options.get("norm") != "whiten" or cast(int, options.get("group", GROUP)) <= most:
        return head
    return Spec(head.name, head.value, tuple(sorted((options | {"group": most}).items())), head.family)
