"""The registered compositions, as data, and the source that composes them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypedDict, Unpack, final

import numpy as np

from fullrank.data.image_set import ImageSet
from fullrank.data.made.composite import Cue, compose, image_cue, object_cue, texture_cue
from fullrank.data.made.textures import OBJECTS, TEXTURES
from fullrank.data.masks import FOREGROUND
from fullrank.data.sources import Source, Split, canonical
from fullrank.errors import UsageError, unknown_name
from fullrank.specs import Spec

TEXTURED = "textures"
_PARTS = ("mnist", "cifar10", "foreground", "background")
_EACH_TEXTURE = tuple((name, (name,)) for name in TEXTURES)
_LINES = ("stripes-across", "stripes-upright", "stripes-diagonal", "checkers")
_CLOUDS = ("shade-downwards", "shade-sideways", "blobs")


@dataclass(frozen=True)
class Preset:
    """One composition.

    Args:
        foreground: The source of the foregrounds, or its option in the spec.
        background: The source of the backgrounds, its option in the spec, or "textures".
        size: Side of the canvas in pixels.
        scale: Side of the foreground as a share of `size`.
        strength: Opacity of the foreground.
        n: Number of training images.
        train_for_test: Number of training images for each test image.
        place: Position of the foreground.
        correlation: Correlation of each cue with the label in training; None means balanced.
        kinds: For textures: the name of each value, and the textures that show it.
        objects: The values of a further cue at the top right.
        classes: Joins classes of the foreground, which stay as the label "digit".
        needs: The sources that the spec must give as options.
    """

    foreground: str
    background: str
    size: int
    scale: float
    strength: float
    n: int
    train_for_test: int
    place: str = "centre"
    correlation: float | None = None
    kinds: tuple[tuple[str, tuple[str, ...]], ...] = _EACH_TEXTURE
    objects: tuple[str, ...] = ()
    classes: tuple[tuple[str, tuple[str, ...]], ...] = ()
    needs: tuple[str, ...] = ()


PRESETS: dict[str, Preset] = {
    # P2.5: a digit of 16 pixels, padded by 8 and copied to RGB, has the weight 0.7 where it is above 0.
    "mnist-on-cifar10": Preset(
        "mnist", "cifar10", 32, 0.5, 0.7, 50_000, train_for_test=5, needs=("mnist", "cifar10")
    ),
    "digits-on-textures": Preset("digits", TEXTURED, 12, 2 / 3, 0.7, 1500, train_for_test=3),
    "two-cues": Preset(
        "digits",
        TEXTURED,
        12,
        2 / 3,
        1.0,
        1500,
        train_for_test=3,
        place="bottom-left",
        correlation=0.95,
        kinds=(("lines", _LINES), ("clouds", _CLOUDS)),
        objects=OBJECTS,
        classes=(("low", tuple("01234")), ("high", tuple("56789"))),
    ),
    "any": Preset("", "", 32, 0.5, 0.7, 10_000, train_for_test=5, needs=("foreground", "background")),
}


class CompositeOptions(TypedDict, total=False):
    """Sources by path or spec, and fields of the preset to change; None keeps a field unchanged."""

    mnist: str | None
    cifar10: str | None
    foreground: str | None
    background: str | None
    strength: float | None
    scale: float | None
    place: str | None
    size: int | None
    n: int | None
    correlation: float | None


@final
class Composite(Source):
    """A composition of `PRESETS` with optional changes; the same spec always gives the same images.

    Training and test images use the foregrounds and cues of their sources' own splits. In training, each cue
    has its label's partner with probability `correlation`; in the test images all cues are balanced.

    Args:
        preset: The name of the composition.
        seed: Seed of the pairing of parts.
        without: A part to leave out: "foreground", "background" or "object". The images keep its labels and
            have no layers.
        options: Sources and changed fields, see `CompositeOptions`.

    Raises:
        UsageError: If the preset or part is unknown, an option is missing or belongs to another preset, or
            `compose` refuses a value.
        DataError: If `compose` refuses the images.

    >>> test = Composite("two-cues").load("test")
    >>> len(test), test.class_names["background"], test.class_names["object"]
    (500, ('lines', 'clouds'), ('disc', 'cross'))

    Source: P2, controlled data (authors' code); UrbanCars (Li et al. 2023) for two cues.
    """

    layered = True

    def __init__(
        self, preset: str, seed: int = 0, *, without: str | None = None, **options: Unpack[CompositeOptions]
    ):
        super().__init__(canonical("composite", preset, seed=seed, without=without, **options))
        if preset not in PRESETS:
            raise unknown_name("composition", preset, PRESETS, f"use {', '.join(PRESETS)}")
        changes = {key: value for key, value in options.items() if value is not None}
        self.seed, self.without = seed, without
        self.parts = {key: str(changes.pop(key)) for key in _PARTS if key in changes}
        self._check_parts(preset)
        self.preset = replace(PRESETS[preset], **changes)  # type: ignore[arg-type]
        shown = (FOREGROUND, "background", *(("object",) if self.preset.objects else ()))
        if without is not None and without not in shown:
            raise unknown_name(f"part of {preset}", without, shown, f"its parts are {', '.join(shown)}")

    def _check_parts(self, preset: str) -> None:
        needs = PRESETS[preset].needs
        for key in [need for need in needs if need not in self.parts]:
            form = "SPEC" if key in ("foreground", "background") else "PATH"
            forms = ",".join(f"{need}={form}" for need in needs)
            raise UsageError(f"{self.name} lacks {key}; write composite:{preset},{forms}.")
        for key in [part for part in self.parts if part not in needs]:
            takes = f"it takes {' and '.join(needs)}" if needs else "its parts are fixed"
            remedy = f"{takes}, and composite:any takes any source"
            raise UsageError(f"{self.name}: {key} is not a part of {preset}; {remedy}.")

    def read(self, split: Split, image_size: int | None) -> ImageSet:
        """Read the images of `split`."""
        preset = self.preset
        images = self._part(preset.foreground or self.parts["foreground"], split)
        count = preset.n if split == "train" else max(1, preset.n // preset.train_for_test)
        composed = compose(
            _joined(images, preset.classes),
            self._cues(split),
            n=count,
            size=preset.size,
            side=round(preset.scale * preset.size),
            strength=preset.strength,
            place=preset.place,
            seed=self.seed,
            name=self.name,
        )
        if self.without is None:
            return composed
        return replace(composed, images=composed.layers[self.without], layers={})

    def _cues(self, split: Split) -> list[Cue]:
        preset = self.preset
        background = preset.background or self.parts["background"]
        if background == TEXTURED:
            kinds = [(name, np.array([*map(TEXTURES.index, kinds)])) for name, kinds in preset.kinds]
            cues = [texture_cue("background", kinds, preset.size)]
        else:
            cues = [image_cue("background", self._part(background, split), preset.size)]
        if preset.objects:
            cues.append(object_cue("object", preset.objects, preset.size // 3, "top-right"))
        return [replace(cue, correlation=preset.correlation if split == "train" else None) for cue in cues]

    def _part(self, spec: str, split: Split) -> ImageSet:
        from fullrank.data import source

        return source(Spec(spec, self.parts[spec]) if spec in self.parts else spec).load(split)


def _joined(images: ImageSet, classes: Sequence[tuple[str, tuple[str, ...]]]) -> ImageSet:
    """The images with their classes joined into fewer; the original classes become the label "digit"."""
    if not classes:
        return images
    digit, names = images.labels["label"], images.class_names["label"]
    joined = {name: number for number, (_, members) in enumerate(classes) for name in members}
    labels = np.array([joined[name] for name in names])[digit]
    return replace(
        images,
        labels={**images.labels, "label": labels, "digit": digit},
        class_names={**images.class_names, "label": tuple(name for name, _ in classes), "digit": names},
    )
