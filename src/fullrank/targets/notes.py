"""What an exported file says about its model: its parts, its input, and how others prepare images."""

import json
from importlib import import_module
from typing import Any

import numpy as np
from PIL import Image

from fullrank.places import Place, head_places
from fullrank.preprocessing import Preprocessing
from fullrank.targets.reader import FeatureReader
from fullrank.version import __version__

_PIXELS = "images in 0 to 1; mean and std are applied inside"
_OWN_PIXELS = "images as your transform returns them"
# timm's usual shares of the image that are kept.
_SHARES = (1.0, 0.875, 0.9, 0.95, 0.96)


def describe_model(reader: FeatureReader, preprocessing: Preprocessing, width: int) -> dict[str, str]:
    """The metadata of every exported file: strings.

    Args:
        reader: The exported model.
        preprocessing: How an image becomes its input.
        width: The number of features.
    """
    place = Place.parse(reader.place)
    encoder: Any = reader.encoder
    of_encoder = place.name not in ("z", *head_places(reader.head)) and hasattr(encoder, "pooling_of")
    channels = reader.image_shape[0]
    settings = preprocessing.settings
    if (config := timm_config(preprocessing, channels)) is not None:
        settings |= {"timm": config}
    return {
        "fullrank": __version__,
        "place": str(place),
        "pooling": (encoder.pooling_of(place.name) if of_encoder else "") or "none",
        "image_size": str(preprocessing.size),
        "image_channels": str(channels),
        "feature_dim": str(width),
        "mean": json.dumps(list(preprocessing.mean)),
        "std": json.dumps(list(preprocessing.std)),
        "preprocessing": json.dumps(settings),
        "input": _OWN_PIXELS if preprocessing.steps == "your transform" else _PIXELS,
    }


def timm_config(preprocessing: Preprocessing, channels: int) -> dict[str, Any] | None:
    """The options of timm's `create_transform` that prepare images in the same way; None if none do.

    They are found by trying timm's usual ones on an image of random pixels, to within one grey level.

    Args:
        preprocessing: The preprocessing.
        channels: The channels of the images. Only those of 3 are tried.
    """
    if channels != 3:
        return None
    create_transform: Any = import_module("timm.data").create_transform

    size = preprocessing.size
    noise = np.random.default_rng(0).integers(0, 256, (size + 29, size + 71, 3), np.uint8)
    image = Image.fromarray(noise)
    expected = np.asarray(preprocessing.fit(image))
    # Images that are taken as they are, or normalised by a user's own transform, have no such options.
    if expected.shape != (size, size, 3) or expected.dtype != np.uint8:
        return None
    for interpolation in ("bicubic", "bilinear", "lanczos"):
        for crop, share in (("squash", 1.0), *(("center", share) for share in _SHARES)):
            config: dict[str, Any] = {"input_size": [3, size, size], "interpolation": interpolation}
            config |= {"crop_pct": share, "crop_mode": crop}
            made = create_transform(**config, mean=(0.0,) * 3, std=(1.0,) * 3)(image)
            difference = np.abs(made.permute(1, 2, 0).numpy() * 255 - expected).max()
            if difference < 1.5:  # libraries round their pixels differently
                return config
    return None
