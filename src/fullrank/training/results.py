"""The results of a trained run: weights, example views, scores, and the entry of its record."""

from pathlib import Path
from typing import cast

import numpy as np
import torch
from safetensors.torch import save

from fullrank.data import ImageSet
from fullrank.data.streaming import StreamedImages
from fullrank.encoders import Encoder
from fullrank.errors import DataError
from fullrank.evaluation.evaluate import Evaluation, check_probeable, default_places
from fullrank.evaluation.factors import factor_scores
from fullrank.evaluation.segmentation import Segmentation, attends, initial_net, segmentation
from fullrank.files import write_whole
from fullrank.heads import Head
from fullrank.objectives import chance_of
from fullrank.objectives.contract import levels_of
from fullrank.progress import progress_bar
from fullrank.record import Baseline, RunEntry, Score
from fullrank.record.making import new_record
from fullrank.runs.baselines import LEAST_EPOCHS, kind_of, run_baselines, unmeasured
from fullrank.runs.folders import TEACHER
from fullrank.runs.recipe import RECIPE_FILE, Recipe
from fullrank.runs.run import ENCODER_FILE, HEAD_FILE
from fullrank.runs.view_readout import LEAST_IMAGES, ReadModel, view_readout
from fullrank.training.callbacks.curves import Monitor
from fullrank.training.callbacks.stopping import Stop
from fullrank.training.module import OBJECTIVE, JointEmbedding
from fullrank.training.session import Session
from fullrank.training.sgd_probe import sgd_probe
from fullrank.training.teacher import Teacher
from fullrank.version import __version__
from fullrank.views import Views, step_generator, view_pipeline

EXAMPLES = 8


def finished_parts(module: JointEmbedding) -> tuple[Encoder, Head]:
    """Encoder and head as `load` returns them: on the CPU, in eval mode, not compiled, without gradients."""
    module.zero_grad(set_to_none=True)
    encoder, head = cast(Encoder, module.encoder), cast(Head, module.head)
    encoder._compiled_call_impl = None
    return encoder.cpu().eval(), head.cpu().eval()


def save_weights(module: JointEmbedding | Teacher, folder: Path, recipe: Recipe, train: ImageSet) -> None:
    """Write encoder and head, each with a description in its metadata."""
    metadata = {key: str(getattr(recipe, key)) for key in ("encoder", "head", "objective", "data")} | {
        "image_size": str(train.image_size),
        "in_chans": str(train.channels),
        "input": "images in 0 to 1",
        "fullrank": __version__,
    }
    for part, file in ((module.encoder, ENCODER_FILE), (module.head, HEAD_FILE)):
        # Cloned, since safetensors does not accept two names for one tensor.
        weights = {name: tensor.clone().contiguous() for name, tensor in part.state_dict().items()}
        write_whole(folder / file, save(weights, metadata))


def save_teacher(
    teacher: Teacher, folder: Path, recipe: Recipe, train: ImageSet, entry: RunEntry, measured: Evaluation
) -> None:
    """Write the teacher of a run into a folder below it, as a run of its own with the same training.

    Args:
        teacher: The teacher.
        folder: The folder of the run.
        recipe: The recipe of the run.
        train: The training images.
        entry: The entry of the student.
        measured: What was measured of the teacher.
    """
    place = folder / TEACHER
    place.mkdir(exist_ok=True)
    save_weights(teacher, place, recipe, train)
    write_whole(place / RECIPE_FILE, recipe.dump().encode())
    own = {"probes": measured.probes, "scores": measured.scores, "spectrum": measured.spectrum}
    taught = entry.model_copy(update=own | {"images": measured.images, "corrections": []})
    new_record("run", recipe.model_dump(mode="json"), [taught]).save(place)


def entry_of(
    module: JointEmbedding, recipe: Recipe, monitor: Monitor, skipped: int, batches: int, measured: Evaluation
) -> RunEntry:
    """The scores of the trained parts, and a summary of the training."""
    views = module.views.count * recipe.epochs * batches * recipe.batch_size
    seconds = monitor.elapsed()
    return RunEntry(
        head=recipe.head,
        seed=recipe.seed,
        folder=".",
        epochs=recipe.epochs,
        steps=recipe.epochs * -(-batches // recipe.engine.accumulate),
        skipped_steps=skipped,
        loss=monitor.curves["loss"][-1],
        chance=chance_level(module, recipe),
        levels={f"{OBJECTIVE}: {part}": each for part, each in part_levels(module, recipe).items()},
        caution=getattr(module.objective, "caution", ""),
        seconds=seconds,
        views_per_second=views / seconds,
        parameters=_parameters(module),
        probes=measured.probes,
        scores=measured.scores,
        spectrum=measured.spectrum,
        scales_channels=getattr(module.head, "scales_channels", False),
        conditioned="views" in getattr(module.head, "needs", ()),
        images=measured.images,
    )


def baselines_of(recipe: Recipe, images: tuple[ImageSet, ImageSet], measured: Evaluation) -> list[Baseline]:
    """The baselines of a run's accuracies; a short run does not measure them."""
    if measured.images is None or recipe.epochs >= LEAST_EPOCHS:
        return run_baselines(recipe, *images)
    length = "1 epoch" if recipe.epochs == 1 else f"{recipe.epochs} epochs"
    remedy = "`fullrank probe --measure baselines` adds them"
    reason = f"the run has {length}, fewer than {LEAST_EPOCHS}; {remedy}"
    return [unmeasured(kind, reason) for kind in ("pixels", kind_of(recipe))]


def further_scores(
    module: JointEmbedding, recipe: Recipe, folder: Path, images: tuple[ImageSet, ImageSet], session: Session
) -> list[Score]:
    """The weights of known factors, if the images have enough of them, and the papers' SGD probe.

    A run that is long enough for baselines also measures what its features know of the views.
    """
    encoder, head = cast(Encoder, module.encoder), cast(Head, module.head)
    try:
        scores = factor_scores(recipe, encoder, head, *images)
    except DataError:
        # The probes have already refused features that are not finite. What remains is too few images for the
        # factors, which must not cost the run.
        scores = []
    scores += _view_scores(encoder, head, recipe, images)
    if recipe.sgd_probe is None:
        return scores
    check_probeable(*images, "label")
    with Stop(folder) as stop, session.progress or progress_bar() as shown:
        scores += sgd_probe(
            encoder, *images, recipe.sgd_probe, folder=folder, progress=shown, stop=stop, seed=recipe.seed
        )
    return scores


def _view_scores(
    encoder: Encoder, head: Head, recipe: Recipe, images: tuple[ImageSet, ImageSet]
) -> list[Score]:
    """What the features know of the views; nothing for short runs and images that are decoded on demand."""
    on_demand = any(isinstance(each.images, StreamedImages) for each in images)
    if recipe.epochs < LEAST_EPOCHS or on_demand or min(map(len, images)) < LEAST_IMAGES:
        return []
    views = view_pipeline(recipe.views, image_size=images[1].image_size, channels=images[1].channels)
    model = ReadModel(encoder, head, default_places(head), views.pair, str(recipe.views), recipe.seed)
    try:
        return view_readout(model, *images).scores
    except DataError:  # features of views that are not finite, which must not cost the run
        return []


def segmentation_of(
    module: JointEmbedding, recipe: Recipe, images: tuple[ImageSet, ImageSet]
) -> Segmentation | None:
    """What the attention knows of the objects; None without attention or masks, and for short runs."""
    encoder, test = cast(Encoder, module.encoder), images[1]
    on_demand = isinstance(test.images, StreamedImages)
    if recipe.epochs < LEAST_EPOCHS or on_demand or not test.has_masks or not attends(encoder, test):
        return None
    try:
        return segmentation(encoder, test, initial_net(recipe, images[0]), seed=recipe.seed)
    except DataError:  # no object, or a mask that does not fit, which must not cost the run
        return None


def chance_level(module: JointEmbedding, recipe: Recipe) -> float | None:
    """The loss for embeddings that do not depend on the images, if the objective knows it."""
    width, views = cast(Head, module.head).out_dim, (module.views.global_count, module.views.local)
    return chance_of(module.objective, recipe.batch_size, width, *views)


def part_levels(module: JointEmbedding, recipe: Recipe) -> dict[str, dict[str, float]]:
    """For parts of the objective, named values to compare them with."""
    return levels_of(module.objective, recipe.batch_size, cast(Head, module.head).out_dim)


def _parameters(module: JointEmbedding) -> dict[str, int]:
    """The number of weights of each part; the objective and its terms are listed only if they have any."""
    parts = {"encoder": module.encoder, "head": module.head, "objective": module.objective}
    parts["terms"] = module.terms
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}
    return {name: count for name, count in counts.items() if count or name in ("encoder", "head")}


def example_views(views: Views, images: ImageSet, seed: int) -> np.ndarray:
    """A few images, each with its first two views: (n, 3, H, W, C) uint8."""
    views = views.pair
    rows = np.linspace(0, len(images) - 1, EXAMPLES).astype(int)
    batch = images.batch(rows)
    height, width = batch.images.shape[-2:]
    parameters = views.sample(len(rows), step_generator(seed, 0, 0), (height, width), batch.sizes)
    pair = ((view * 255).round().to(torch.uint8) for view in views.apply(batch, parameters))
    shown = [images.subset(rows).tensor(), *pair]
    return torch.stack(shown, 1).permute(0, 1, 3, 4, 2).numpy()
