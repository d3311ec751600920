"""Views: two random variations of each image, drawn on the CPU and computed one batch at a time."""

from typing import TYPE_CHECKING

from fullrank.bibliography import P1
from fullrank.lazy import attach
from fullrank.registry import Entry, Registry
from fullrank.specs import Parameter, Spec

if TYPE_CHECKING:
    from fullrank.views.colour import (
        brightness as brightness,
        contrast as contrast,
        grey as grey,
        hue as hue,
        saturation as saturation,
        solarize as solarize,
        turn_hue as turn_hue,
    )
    from fullrank.views.operations import (
        Blur as Blur,
        Crop as Crop,
        Drop as Drop,
        Grey as Grey,
        Jitter as Jitter,
        Operation as Operation,
        Solarize as Solarize,
    )
    from fullrank.views.pipeline import (
        Pipeline as Pipeline,
        ViewParameters as ViewParameters,
        Views as Views,
        step_generator as step_generator,
    )
    from fullrank.views.spatial import blur as blur, crop_resize as crop_resize, hflip as hflip

__getattr__, __dir__, __all__ = attach(__name__)
__all__ += ["VIEWS", "view_pipeline"]

_FLIP = Parameter("flip", float, "probability of a horizontal flip", 0.5)
_DROP = (
    Parameter("drop", float, "probability that a composite loses a layer, before all other operations", 0.0),
    Parameter("layer", str, "the layer that drop removes", "foreground"),
)
_COLOUR = Parameter(
    "colour",
    str,
    "exact: step by step, as torchvision; composed: one map, clamped at the end; linear: hue too",
    "exact",
    choices=("exact", "composed", "linear"),
)


def _scale(default: float) -> Parameter:
    return Parameter("scale", float, "smallest share of the area that a crop keeps; 1 is no crop", default)


VIEWS = Registry("views", "views")
for _entry in [
    Entry(
        "simclr",
        "fullrank.views.presets:simclr",
        "crop, flip, colour jitter, grey, blur; the same for both views",
        "Chen et al. 2020 (SimCLR), Appendix A, jitter at half its strength, as commonly used",
        options=(
            _scale(0.08),
            _FLIP,
            Parameter("brightness", float, "strength; 0 leaves it out", 0.4),
            Parameter("contrast", float, "strength; 0 leaves it out", 0.4),
            Parameter("saturation", float, "strength; 0 leaves it out", 0.4),
            Parameter("hue", float, "largest shift, as a share of the circle; 0 leaves it out", 0.1),
            Parameter("jitter", float, "probability of the four above, together", 0.8),
            Parameter("grey", float, "probability of conversion to grey", 0.2),
            Parameter("blur", float, "probability of a Gaussian blur, 0.1 to 2 pixels", 0.5),
            _COLOUR,
            *_DROP,
        ),
        citations=("chen2020simple",),
    ),
    Entry(
        "directclr",
        "fullrank.views.presets:directclr",
        "P1's two different pipelines: view 1 always blurred; view 2 rarely blurred, sometimes solarized",
        "P1, the authors' released code (ImageNet)",
        options=(_scale(0.08), _FLIP, _COLOUR, *_DROP),
        citations=(P1,),
    ),
    Entry(
        "multicrop",
        "fullrank.views.presets:multicrop",
        "global views of most of the image, and local crops of another size of a small part of it",
        "Caron et al. 2020 (SwAV), 2021 (DINO); shares and changes as in LeJEPA's published recipe",
        options=(
            Parameter("global", int, "number of global views, 2 or more", 2, keyword="global_views"),
            Parameter("local", int, "number of local crops; 0 has global views only", 6),
            Parameter("size", int, "pixels of a local crop; 3/7 of a global view"),
            Parameter("split", float, "area of the smallest global view and largest local crop", 0.3),
            Parameter("smallest", float, "area of the smallest local crop, as a share", 0.05),
            _FLIP,
            Parameter("blur", float, "probability of a Gaussian blur, 0.1 to 2 pixels", 0.5),
            Parameter("solarize", float, "probability of inverting bright values", 0.2),
            _COLOUR,
            *_DROP,
        ),
        citations=("caron2020unsupervised", "caron2021emerging", "balestriero2025lejepa"),
    ),
    Entry(
        "weak",
        "fullrank.views.presets:weak",
        "a mild crop and a flip; the same for both views",
        "fullrank; the weak end of a comparison of augmentations",
        options=(_scale(0.5), _FLIP, *_DROP),
    ),
]:
    VIEWS.register(_entry)


def view_pipeline(spec: str | Spec, *, image_size: int, channels: int = 3) -> "Views":
    """Build the pair of pipelines that a spec names.

    Args:
        spec: A spec such as `simclr,blur=0` (`fullrank list views`).
        image_size: The side of the views in pixels.
        channels: The number of channels of the images. Operations that mix colours need 1 or 3.

    Returns:
        The pipelines: `sample` draws the parameters of a batch, `apply` makes both views with them.

    Raises:
        UsageError: The name is unknown, a probability is outside 0 to 1, a scale is outside (0, 1], a
            strength is negative, or an operation needs colours and `channels` is not 1 or 3.

    >>> view_pipeline("simclr,blur=0,grey=0,hue=0", image_size=32).operations[0]
    ('crop', 'flip', 'brightness', 'contrast', 'saturation')
    """
    built: Views = VIEWS.build(spec, image_size=image_size, channels=channels)
    return built
