"""The nets of the study: each is trained, probed, and kept in a folder of its own."""

import hashlib
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import TypeAlias

import torch
from pydantic import BaseModel, ValidationError
from rich.progress import Progress
from torch import Tensor

from fullrank.data import ImageSet
from fullrank.devices import flushed_denormals
from fullrank.errors import (
    DataError,
    InterruptedRunError,
    TerminatedRunError,
    UsageError,
    count_of,
    unknown_name,
)
from fullrank.files import write_whole
from fullrank.probes import LinearProbe, NearestProbe
from fullrank.progress import counted, progress_bar
from fullrank.record import ProbedImages, ProbeScore, RunEntry
from fullrank.runs.build import load_data
from fullrank.runs.folders import slug
from fullrank.runs.recipe import Recipe
from fullrank.studies.forward_forward.layers import LayerNet
from fullrank.studies.forward_forward.pretexts import check_label_pixels, pretext_named
from fullrank.studies.forward_forward.settings import UNTRAINED, Settings
from fullrank.studies.forward_forward.training import (
    METHODS,
    Method,
    PretextImages,
    Schedule,
    features,
    learn,
    pretext_accuracy,
)
from fullrank.studies.many_runs import in_parallel, say
from fullrank.threads import limited_threads
from fullrank.training.dry_run import replacements

NET_FILE = "net.json"
Labelled: TypeAlias = tuple[Tensor, Tensor]


class TrainedNet(BaseModel, frozen=True, extra="forbid"):
    """What a finished net leaves: its accuracy at the pretext task, 0 to 1, and its entry in a record."""

    pretext_accuracy: float
    entry: RunEntry


@dataclass(frozen=True)
class PlannedNet:
    """One net of the study: its method, pretext task and seed, and the folder that keeps what it leaves."""

    settings: Settings
    method: str
    pretext: str
    seed: int
    store: Path

    @property
    def title(self) -> str:
        """Its name on the screen."""
        return f"{self.pretext}: {self.method}, seed {self.seed}"

    @property
    def folder(self) -> Path:
        """Its folder: pretext task, method, seed, and a digest of the settings that its numbers depend on."""
        alone = self.settings.model_dump_json(exclude={"methods", "pretexts"})
        digest = hashlib.sha256(alone.encode()).hexdigest()[:8]
        return self.store / f"forward-forward-{self.pretext}-{slug(self.method)}-{digest}-seed{self.seed}"

    @property
    def finished(self) -> bool:
        """Whether its folder holds what it leaves."""
        return (self.folder / NET_FILE).is_file()

    @property
    def result(self) -> TrainedNet:
        """What it left; DataError for a damaged file."""
        path = self.folder / NET_FILE
        try:
            return TrainedNet.model_validate_json(path.read_bytes())
        except ValidationError:
            raise DataError(f"{path} is damaged; remove it and run the same command again.") from None


def finish_nets(nets: Sequence[PlannedNet], workers: int) -> None:
    """Train and probe every net that is not finished yet.

    Args:
        nets: The nets.
        workers: Number of nets that are trained at a time, each by one thread.

    Raises:
        UsageError: For fewer than 1 worker.
        InterruptedRunError: On Ctrl-C; finished nets are kept. On SIGTERM it is a TerminatedRunError.
    """
    if workers < 1:
        raise UsageError(f"--workers must be 1 or more, but got {workers}.")
    waiting = [net for net in nets if not net.finished]
    with progress_bar() as progress:
        at_a_time = min(workers, len(waiting))
        parallel = at_a_time > 1
        now = (
            in_parallel(waiting, train_net, at_a_time, progress, [])
            if parallel
            else _in_turn(waiting, progress)
        )
        try:
            for net in now:
                result = net.result
                seconds = f"{result.entry.seconds:.0f} s"
                say(progress, f"{net.title}: pretext {100 * result.pretext_accuracy:.1f}, {seconds}")
        except (KeyboardInterrupt, InterruptedRunError) as stopped:
            kind = TerminatedRunError if isinstance(stopped, TerminatedRunError) else InterruptedRunError
            done = sum(net.finished for net in nets)
            raise kind(
                f"Stopped with {done} of {count_of(len(nets), 'net')} finished; they are kept, and the same "
                "command trains the others."
            ) from None


def check_settings(settings: Settings, images: ImageSet) -> None:
    """Raise UsageError for an unknown method or pretext task, or images that cannot hold the label pixels."""
    height, width = (side + 2 * settings.pad for side in images.image_shape[:2])
    for name in settings.pretexts:
        pretext_named(name).transform(torch.zeros(1, 1, *images.image_shape[:2]), 0)
        check_label_pixels(height, width, pretext_named(name).count)
    if unknown := [name for name in settings.methods if name not in METHODS]:
        raise unknown_name("method", unknown[0], METHODS, f"there are {'; '.join(METHODS)}")
    rated = {*settings.learning_rate, UNTRAINED}
    if unrated := [name for name in settings.methods if name not in rated]:
        raise UsageError(f"The method {unrated[0]!r} has no learning rate; add it to learning_rate.")


def rehearse_nets(settings: Settings) -> list[str]:
    """Train each kind of net for one epoch on a few generated images; nothing is kept.

    Args:
        settings: Its sizes and rates are used; data and lengths are replaced.

    Returns:
        The nets, in words.
    """
    recipe = Recipe.resolve(settings.recipe)
    with tempfile.TemporaryDirectory() as folder:
        train, test = load_data(Recipe.resolve(recipe, replacements(recipe, Path(folder) / "images")))
    check_settings(settings, train)
    short = settings.model_copy(update={"epochs": 1})
    titles = []
    for pretext, method in product(settings.pretexts, settings.methods):
        measured(PlannedNet(short, method, pretext, 0, Path("runs")), train, test)
        titles.append(f"{recipe.data}, {pretext}, {method}: all parts fit")
    return titles


def _in_turn(waiting: Sequence[PlannedNet], progress: Progress) -> Iterator[PlannedNet]:
    """One net after the other in this process; the progress line counts the nets, and the epochs of one."""
    task = progress.add_task("nets", total=len(waiting), status="")
    for net in waiting:
        train_net(net, progress)
        progress.advance(task)
        yield net


@flushed_denormals()
def train_net(net: PlannedNet, progress: Progress | None = None) -> None:
    """Train and probe a net with one thread, and write what it leaves into its folder."""
    with limited_threads(1):
        result = measured(net, *images_of(net.settings.recipe), progress)
    net.folder.mkdir(parents=True, exist_ok=True)
    write_whole(net.folder / NET_FILE, result.model_dump_json(indent=1).encode())


def measured(
    net: PlannedNet, train: ImageSet, test: ImageSet, progress: Progress | None = None
) -> TrainedNet:
    """Train a net on the training images, and measure pretext task and class on the test images.

    Args:
        net: The net.
        train: The images that it and the probes learn from.
        test: The images that it is measured on.
        progress: Shows the epochs.
    """
    settings, method, pretext = net.settings, METHODS[net.method], pretext_named(net.pretext)
    own, unseen = (PretextImages.of(pixels(images), pretext, settings.pad) for images in (train, test))
    module = LayerNet(own.inputs, settings.width, settings.depth, pretext.count, net.seed)
    schedule = schedule_of(settings, method)
    learning = learn(module, method, own, schedule, torch.Generator().manual_seed(net.seed))
    started = time.perf_counter()
    losses = list(counted(([loss] for loss in learning), progress, net.title, settings.epochs))
    seconds = time.perf_counter() - started
    accuracy = pretext_accuracy(module, method, unseen.first(settings.judged))
    labels = [torch.from_numpy(images.labels["label"]) for images in (train, test)]
    at_train, at_test = (_with_last_joined(features(module, each), settings.last) for each in (own, unseen))
    entry = RunEntry(
        head="none",
        seed=net.seed,
        folder=f"../{net.store.name}/{net.folder.name}",
        epochs=len(losses),
        steps=len(losses) * -(-settings.draws * len(train) // settings.batch_size),
        loss=losses[-1][0] if losses else 0.0,
        chance=None,
        seconds=seconds,
        views_per_second=len(losses) * settings.draws * len(train) / seconds,
        parameters={"encoder": sum(each.numel() for each in module.hidden.parameters())},
        probes={
            place: _probed((at_train[place], labels[0]), (at_test[place], labels[1]), net.seed)
            for place in at_train
        },
        scores=[],
        spectrum={},
        varied={"method": net.method, "pretext": net.pretext},
        images=ProbedImages.of("label", train.labels["label"], test.labels["label"]),
    )
    return TrainedNet(pretext_accuracy=accuracy, entry=entry)


def schedule_of(settings: Settings, method: Method) -> Schedule:
    """How long and how fast a method learns, and its threshold; the untrained net has neither."""
    return Schedule(
        epochs=settings.epochs,
        draws=settings.draws,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate.get(method.name, 0.0),
        level=0.0 if method.goodness is None else settings.level[method.goodness],
    )


def _with_last_joined(layers: Sequence[Tensor], last: int) -> dict[str, Tensor]:
    """The features of each layer by its name, and those of the last layers side by side."""
    named = {f"layer {number}": layer for number, layer in enumerate(layers, start=1)}
    return named | {f"layers {last}-{len(layers)}": torch.cat([*layers[last - 1 :]], 1)}


def _probed(train: Labelled, test: Labelled, seed: int) -> ProbeScore:
    """The accuracies of the two probes, by their default protocol."""
    linear, nearest = LinearProbe(seed=seed).fit(*train), NearestProbe().fit(*train)
    return ProbeScore(linear=linear.score(*test), nearest=nearest.score(*test))


@lru_cache(maxsize=1)
def images_of(recipe: str) -> tuple[ImageSet, ImageSet]:
    """The training and test images of a recipe."""
    return load_data(Recipe.resolve(recipe))


def pixels(images: ImageSet) -> Tensor:
    """The images as (N, C, H, W), uint8."""
    return torch.cat([*images.batches(1024)])
