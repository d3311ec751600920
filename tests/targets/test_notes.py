"""The options of timm's transform for a preprocessing, beside torchvision's own transforms."""

import numpy as np
import pytest
from PIL import Image
from torchvision import transforms

from fullrank.preprocessing import Preprocessing
from fullrank.targets.notes import timm_config

MODES = {"bilinear": transforms.InterpolationMode.BILINEAR, "bicubic": transforms.InterpolationMode.BICUBIC}


def preprocessing(*steps) -> Preprocessing:
    fit = transforms.Compose(steps)
    return Preprocessing(lambda image: np.asarray(fit(image)), 32, (0.5,), (0.5,))


@pytest.mark.parametrize(("mode", "resized", "share"), [("bilinear", 36, 0.875), ("bicubic", 32, 1.0)])
def test_timm_config_finds_a_resize_of_the_shorter_side(mode, resized, share):
    steps = transforms.Resize(resized, MODES[mode]), transforms.CenterCrop(32)
    assert timm_config(preprocessing(*steps), 3) == {
        **{"input_size": [3, 32, 32], "interpolation": mode},
        **{"crop_pct": share, "crop_mode": "center"},
    }


def test_timm_config_finds_a_squashed_image():
    config = timm_config(preprocessing(transforms.Resize((32, 32), MODES["bicubic"])), 3)
    assert config["crop_mode"] == "squash" and config["interpolation"] == "bicubic"


def test_timm_config_is_none_for_other_steps():
    steps = [transforms.Resize((32, 32), MODES["bicubic"]), transforms.RandomHorizontalFlip(1.0)]
    assert timm_config(preprocessing(*steps), 3) is None
    assert timm_config(preprocessing(transforms.Resize(32)), 3) is None
    grey = Preprocessing(lambda image: np.asarray(image.convert("L"))[..., None], 32, (0.5,), (0.5,))
    assert timm_config(grey, 1) is None


def test_timm_config_leaves_a_users_own_floats_alone():
    fit = lambda image: np.asarray(image.resize((32, 32), Image.Resampling.BICUBIC), np.float32)  # noqa: E731
    assert timm_config(Preprocessing(fit, 32, (0.0,), (1.0,), "your transform"), 3) is None
