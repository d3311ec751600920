"""Open a target: a run, or a model of anybody."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from fullrank.data import ImageSet
from fullrank.data.decoding import fit_square, to_array as _array
from fullrank.door import MODULE_NAME, import_named, imported, label_of
from fullrank.embeddings.kinds import is_embeddings
from fullrank.encoders import (
    ENCODERS,
    encoder as build_encoder,
    load_weights,
    with_options_of,
    without_download,
)
from fullrank.encoders.contract import Encoder
from fullrank.encoders.foreign import is_placed, module_encoder
from fullrank.encoders.library import preprocessing_of
from fullrank.encoders.loading import Loaded
from fullrank.encoders.programs import PROGRAMS, program_encoder
from fullrank.encoders.weights import Statistics, read_weights, statistics_in
from fullrank.errors import UsageError
from fullrank.preprocessing import Preprocessing
from fullrank.record import RECORD_FILE
from fullrank.runs.run import Run, load
from fullrank.specs import Spec

# The image on which a user's own transform is tried, to learn the size that it gives.
_TRIED = Image.new("RGB", (300, 260), (90, 120, 150))
_WEIGHT_FILES = (".safetensors", ".pth", ".pt", ".ckpt", ".bin", ".tar")
MEASURED = "the images' own statistics"
SQUARE = "shorter side to the size, bilinear; centre"

Build = Callable[[ImageSet, Preprocessing], nn.Module]


@dataclass(frozen=True)
class Given:
    """What a user says about a model beside its name. None is not said.

    Args:
        weights: A file of weights.
        prefix: Which net of the file, by the prefix of its tensors.
        image_size: The side of the net's input in pixels.
        mean: The mean of each channel that is subtracted from pixels in 0 to 1, or one number.
        std: The spread of each channel, in the same form.
        transform: A function from a Pillow image to the net's input (C, S, S), in place of the last three.
        origin: Where mean and std come from, in words.
    """

    weights: str | Path | None = None
    prefix: str | None = None
    image_size: int | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    transform: Callable[[Any], Any] | None = None
    origin: str = "your options"

    def __post_init__(self) -> None:
        if (self.mean is None) != (self.std is None):
            raise UsageError("The mean and the std of the input belong together; give both, or neither.")
        if self.transform is not None and (self.mean is not None or self.image_size is not None):
            raise UsageError("A transform sets size, mean and std itself; leave these out.")
        if self.prefix is not None and self.weights is None:
            raise UsageError(f"The prefix {self.prefix!r} names a net of a file; give the file as weights.")

    def refuse_for(self, target: str, *names: str) -> None:
        """Raise UsageError if one of `names` is given, since `target` cannot use it."""
        if name := next((name for name in names if getattr(self, name) is not None), None):
            raise UsageError(f"{target} takes no {name}; leave it out, or name a model by its spec.")


@dataclass(frozen=True)
class Target:
    """A model and what is known of it before it sees images; `target` opens one.

    Args:
        name: Its name, for messages and records.
        build: Builds the encoder for images with their preprocessing.
        weights: Where its weights come from, in words.
        trained: Whether its weights are trained.
        preprocessing: The preprocessing that belongs to the weights, if it is known.
        own: The preprocessing for given images, if none belongs to the weights.
        image_size: The size at which images are read if no preprocessing is known; None is their own.
        channels: The channels of the images that it takes, if they are known.
        head: Its head, if it has one.
        run: The run that it is, if it is one.
        rebuild: Builds the same architecture with random weights, if that is possible.
    """

    name: str
    build: Build
    weights: str
    trained: bool = True
    preprocessing: Preprocessing | None = None
    own: Callable[[ImageSet], Preprocessing] | None = None
    image_size: int | None = None
    channels: int | None = None
    head: nn.Module | None = None
    run: Run | None = None
    rebuild: Build | None = None

    def preprocessing_of(self, images: ImageSet) -> Preprocessing | None:
        """The preprocessing for images; None for a run, whose encoder normalises by itself."""
        return self.preprocessing or (self.own and self.own(images))

    def opened(self, images: ImageSet) -> nn.Module:
        """The encoder for images of this kind; it prints the weights and the preprocessing.

        A module of the user's stays in its mode.
        """
        preprocessing = self.preprocessing_of(images)
        print(self.about_weights, file=sys.stderr)
        if preprocessing is None:
            return self.build(images, _as_is(images))
        encoder = self.build(images, preprocessing)
        grey = images.channels == 1 and self.channels not in (None, 1)
        repeated = f"Grey images are repeated to {self.channels} channels." if grey else ""
        notes = [f"Input: {preprocessing}.", repeated, about_output(encoder)]
        print("\n".join(filter(None, notes)), file=sys.stderr)
        return encoder

    @property
    def about_weights(self) -> str:
        """A sentence about the weights."""
        return f"{self.name} {'has' if self.trained else 'is untrained: it has'} {self.weights}."


def about_output(encoder: nn.Module) -> str:
    """A sentence on how h is made of the output of a model; empty if h is the output."""
    note = str(getattr(encoder, "output_note", ""))
    return f"{note}." if note else ""


def target(
    model: "str | Path | nn.Module | type[nn.Module] | Run | Target",
    *,
    weights: str | Path | None = None,
    prefix: str | None = None,
    image_size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    transform: Callable[[Any], Any] | None = None,
) -> Target:
    """Open a model of anybody, for `diagnose`, `probe`, `embed` and `export`.

    The preprocessing is that of the weights: timm's configuration, the processor of a Hugging Face model, or
    what a file of ours states. Any of `image_size`, `mean` and `std` replaces it. A net with random weights
    takes images of their own size with their own statistics, and a module of yours takes pixels in 0 to 1.

    Args:
        model: One of these:
            - a run, or its folder
            - the spec of an encoder, such as a timm model (`resnet18,pretrained=true`), or `hf-hub:NAME`
            - the folder of a Hugging Face model
            - an `nn.Module`, a class that builds one, or `module:Name`
            - a program of `torch.export` (.pt2) or of ONNX (.onnx)
        weights: A file of weights for the spec of an encoder.
        prefix: Which net of that file, by the prefix of its tensors.
        image_size: The side of the net's input in pixels.
        mean: The mean of each channel that is subtracted from pixels in 0 to 1, or one number.
        std: The spread of each channel, in the same form.
        transform: A function from a Pillow image to the net's input (C, S, S), in place of the last three.

    Returns:
        The target. Its encoder is built when its images are known.

    Raises:
        UsageError: There is no such model, or an option does not apply to it.
        DataError: A file cannot be read.

    >>> target("resnet18").about_weights
    'resnet18 is untrained: it has random weights.'
    """
    if isinstance(model, Target):
        return model
    given = Given(weights, prefix, image_size, mean, std, transform)
    if isinstance(model, str | Path) and Path(model).is_dir():
        model = _in_folder(Path(model))
    if isinstance(model, str):
        model = _in_module(model) or model
    if isinstance(model, Run):
        given.refuse_for("A run", "weights", "image_size", "mean", "transform")
        return _of_run(model)
    if isinstance(model, nn.Module):
        given.refuse_for("A module", "weights")
        return _of_module(model, given)
    if isinstance(model, str | Path) and Path(model).suffix in PROGRAMS:
        given.refuse_for("An exported program", "weights")
        return _of_program(Path(model), given)
    if isinstance(model, str | Path):
        _refuse_files(str(model))
    return _of_spec(model, given)


def other_target(
    model: "str | Path | nn.Module | type[nn.Module] | Run | Target",
    image_size: int | None = None,
    **given: Any,
) -> Target:
    """Open a second model with what was said of the input of the first; a run has its own input."""
    opened = target(model)
    stated = {"image_size": image_size, **given}
    if opened.run is not None:
        return opened if stated.get("weights") is None else target(model, weights=stated["weights"])
    return opened if all(value is None for value in stated.values()) else target(model, **stated)


def _in_folder(folder: Path) -> "Run | str":
    """What a folder holds: a run, or the spec of a Hugging Face model."""
    if (folder / RECORD_FILE).is_file() or not (folder / "config.json").is_file():
        return load(folder)
    return f"hf-hub:{folder}"


def _in_module(text: str) -> nn.Module | None:
    """The net that `module:Name` names, if Name is a net and not a class that builds one."""
    if MODULE_NAME.fullmatch(text) is None:
        return None
    module, _, name = text.rpartition(":")
    import_named(module, ENCODERS.kind)
    found = vars(imported[label_of(module)].module).get(name)
    return found if isinstance(found, nn.Module) else None


def _refuse_files(text: str) -> None:
    """Raise UsageError for a file that is no model, or a path that leads nowhere."""
    path = Path(text)
    if is_embeddings(path):
        raise UsageError(f"{text} holds embeddings, but this needs a model; name a run or an encoder.")
    if path.suffix in _WEIGHT_FILES:
        raise UsageError(f"{text} holds weights only; name their model too: resnet18 with weights={text}.")
    if "/" in text and ":" not in text:
        raise UsageError(f"{text} is neither a folder nor a file; check the path, or name a timm model.")


def _of_run(run: Run) -> Target:
    return Target(
        str(run.path), lambda images, _: run.encoder, "the weights of its run", head=run.head, run=run
    )


def _of_encoder(module: nn.Module, given: Given) -> Target:
    """A module with places, which gets pixels in 0 to 1; ours normalise them by their own mean and spread."""
    name, own = type(module).__name__, partial(_plain, given)
    if isinstance(module, Encoder):
        if given.mean is not None and given.std is not None:
            module.normalise_by(given.mean, given.std)
        mean, std = (tuple(values.flatten().tolist()) for values in (module.mean, module.std))
        own = partial(_stated, mean, std, "the encoder itself")
    elif given.mean is not None:
        raise UsageError(f"{name} has places, so it normalises images itself; leave out mean and std.")
    known = _preprocessing(given, None)
    weights = "the weights that it was given with"
    return Target(name, lambda images, _: module, weights, True, known, own, given.image_size)


def _of_module(module: nn.Module, given: Given) -> Target:
    """A user's module, whose own timm configuration says its preprocessing if it has one."""
    if is_placed(module):
        return _of_encoder(module, given)
    config = getattr(module, "pretrained_cfg", None)
    known = None
    if given.transform is not None or config:
        known = _preprocessing(given, preprocessing_of(config, given.image_size) if config else None)

    def build(images: ImageSet, preprocessing: Preprocessing) -> nn.Module:
        return module_encoder(
            module,
            image_size=preprocessing.size,
            in_chans=images.channels,
            channels=channels if images.channels == 1 else None,
            mean=preprocessing.mean,
            std=preprocessing.std,
        )

    own = partial(_plain, given)
    weights = "the weights that it was given with"
    first = next((layer for layer in module.modules() if isinstance(layer, nn.Conv2d)), None)
    channels = None if first is None else first.in_channels
    return Target(type(module).__name__, build, weights, True, known, own, given.image_size, channels)


def _of_program(path: Path, given: Given) -> Target:
    program = program_encoder(path)
    known = _preprocessing(given, program.preprocessing)

    if given.mean is not None and given.std is not None:
        program.normalise_by(given.mean, given.std)
    return Target(
        path.name,
        lambda images, _: program,
        "the weights of its file",
        preprocessing=known,
        own=partial(_plain, given),
        image_size=given.image_size or program.size,
    )


def _with_stated(given: Given) -> tuple[Given, Statistics]:
    """What the user says, completed by what the file of weights states, and that."""
    if given.weights is None:
        return given, Statistics()
    stated = statistics_in(read_weights(given.weights))
    if given.transform is None and given.image_size is None:
        given = replace(given, image_size=stated.image_size)
    if given.transform is None and given.mean is None:
        given = replace(given, mean=stated.mean, std=stated.std, origin=Path(str(given.weights)).name)
    return given, stated


def _of_spec(model: "str | Path | type[nn.Module]", given: Given) -> Target:
    """An encoder by its spec, with weights from a file, from its library, or random ones."""
    spec = ENCODERS.parse(model if isinstance(model, type) else str(model))
    if given.weights is not None:
        spec = ENCODERS.parse(with_options_of(spec, given.weights))
    bare, weights = without_download(spec), "random weights"
    if given.weights is not None:
        weights = f"weights from {given.weights}"
    elif ENCODERS[spec.name].origin is not None:
        weights = "the weights that its own code gives it"
    elif bare != spec:
        weights = "the weights of its library"
    trained = weights != "random weights"
    given, stated = _with_stated(given)
    # A file of ours is read as its run was, without the crop of timm's configuration.
    known = _of_weights(spec, given) if trained and stated.mean is None else None
    channels = stated.in_chans if known is None else len(known.mean)
    return Target(
        str(spec),
        partial(_build_spec, spec, given),
        weights,
        trained,
        _preprocessing(given, known),
        partial(_measured, given),
        given.image_size,
        channels,
        rebuild=partial(_build_untrained, bare),
    )


def _of_weights(spec: Spec, given: Given) -> Preprocessing | None:
    """The preprocessing of the weights, from what a class of encoders knows about those of its library."""
    known = getattr(ENCODERS[spec.name].load(), "preprocessing_for", None)
    return None if known is None else known(spec, given.image_size)


def _preprocessing(given: Given, known: Preprocessing | None) -> Preprocessing | None:
    """The preprocessing of the weights, with what the user says in its place."""
    if given.transform is not None:
        return _of_transform(given.transform)
    if known is None:
        return None
    if given.image_size not in (None, known.size):
        size = int(given.image_size or 0)
        known = replace(
            known, fit=_square(size), size=size, steps=SQUARE, origin=f"{known.origin} at your size"
        )
    if given.mean is not None and given.std is not None:
        known = replace(known, mean=tuple(given.mean), std=tuple(given.std), origin=given.origin)
    return known


def _measured(given: Given, images: ImageSet) -> Preprocessing:
    """Images as they are, with their own statistics, unless the user says others."""
    if given.mean is not None and given.std is not None:
        return _stated(tuple(given.mean), tuple(given.std), given.origin, images)
    return _stated(*images.channel_statistics(), MEASURED, images)


def _stated(mean: tuple[float, ...], std: tuple[float, ...], origin: str, images: ImageSet) -> Preprocessing:
    """Images as they are, with statistics that somebody states."""
    return replace(_as_is(images), mean=mean, std=std, origin=origin)


def _plain(given: Given, images: ImageSet) -> Preprocessing:
    """Images as they are, in 0 to 1, unless the user says other statistics."""
    if given.mean is not None:
        return _measured(given, images)
    return replace(
        _as_is(images), origin="the rule for modules: pixels in 0 to 1 (--mean and --std set others)"
    )


def _as_is(images: ImageSet) -> Preprocessing:
    return Preprocessing(_array, images.image_size, (0.0,), (1.0,))


def _square(size: int) -> Callable[[Image.Image], np.ndarray]:
    return lambda image: _array(fit_square(image, size))


def _of_transform(transform: Callable[[Any], Any]) -> Preprocessing:
    """A user's own transform, whose size is found by trying it."""

    def fit(image: Image.Image) -> np.ndarray:
        made = torch.as_tensor(np.asarray(transform(image)))
        if made.ndim != 3 or made.shape[1] != made.shape[2]:
            got = tuple(made.shape)
            raise UsageError(
                f"The transform must return a square image (C, S, S), but returned {got}; crop it."
            )
        return made.permute(1, 2, 0).numpy()

    size = len(fit(_TRIED))
    return Preprocessing(fit, size, (0.0,), (1.0,), "your transform", "you")


def _build_spec(spec: Spec, given: Given, images: ImageSet, preprocessing: Preprocessing) -> nn.Module:
    """The encoder of a spec with its weights. They and the choice among several nets are printed."""
    built = _with_channels(spec, images, preprocessing)
    if given.weights is not None:
        loaded: Loaded = load_weights(built, given.weights, given.prefix)
        print(loaded, file=sys.stderr)
    # A library normalises by its own numbers. A class of the user's need not normalise at all.
    if isinstance(built, Encoder):
        built.normalise_by(preprocessing.mean, preprocessing.std)
    return built.eval()


def _with_channels(spec: Spec, images: ImageSet, preprocessing: Preprocessing) -> Encoder:
    """The encoder of a spec. Grey images are repeated if the weights take colour."""
    channels = dict(spec.options).get("channels")
    takes_option = any(option.name == "channels" for option in ENCODERS[spec.name].options)
    if takes_option and channels is None and len(preprocessing.mean) > images.channels == 1:
        options = tuple(sorted({**dict(spec.options), "channels": len(preprocessing.mean)}.items()))
        spec = Spec(spec.name, spec.value, options, spec.family)
    return build_encoder(
        spec,
        image_size=preprocessing.size,
        in_chans=images.channels,
        mean=preprocessing.mean,
        std=preprocessing.std,
    )


def _build_untrained(spec: Spec, images: ImageSet, preprocessing: Preprocessing) -> nn.Module:
    """The same architecture with random weights, drawn from seed 0."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(0)
        return _with_channels(spec, images, preprocessing).eval()
