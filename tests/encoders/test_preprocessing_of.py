"""The preprocessing of timm's weights, against timm's own transform and its own forward."""

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from refusals import refuses
from timm.data import create_transform, resolve_data_config

from fullrank import encoder
from fullrank.encoders.library import preprocessing_of
from fullrank.errors import UsageError

# Crop shares from 0.8 to 1.0, bicubic and bilinear, mean and spread of 0.5, a size for tests, squash.
CONFIGS = (
    "resnet18.a1_in1k",
    "vit_tiny_patch16_224.augreg_in21k",
    "beit_base_patch16_224",
    "swin_tiny_patch4_window7_224",
    "convnext_tiny.in12k_ft_in1k",
    "efficientnet_b0",
    "mobilenetv3_small_050",
    "maxvit_tiny_rw_224",
    "inception_v3",
    "vit_base_patch16_siglip_224",
    "eva02_tiny_patch14_224",
    "regnety_002",
)


def image(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR)


def normalised(preprocessing, picture: Image.Image) -> torch.Tensor:
    pixels = torch.from_numpy(preprocessing.fit(picture)).permute(2, 0, 1) / 255
    mean, std = (torch.tensor(each)[:, None, None] for each in (preprocessing.mean, preprocessing.std))
    return (pixels - mean) / std


@pytest.mark.parametrize("name", CONFIGS)
def test_the_input_equals_that_of_timms_whole_transform(name):
    config = timm.get_pretrained_cfg(name).to_dict()
    for size, given in ((None, {}), (48, {"input_size": (3, 48, 48)})):
        theirs = create_transform(**resolve_data_config(given, pretrained_cfg=config))
        preprocessing, picture = preprocessing_of(name, size), image(90, 70)
        assert preprocessing.size == theirs(picture).shape[-1]
        torch.testing.assert_close(normalised(preprocessing, picture), theirs(picture), rtol=0, atol=1e-6)


@pytest.mark.parametrize("mode", ["squash", "border", "center"])
@pytest.mark.parametrize("share", [0.8, 1.0])
def test_each_way_to_crop_is_timms(mode, share):
    config = {"input_size": (3, 40, 40), "crop_mode": mode, "crop_pct": share, "interpolation": "bilinear"}
    theirs = create_transform(**resolve_data_config({}, pretrained_cfg=config))
    for shape in ((90, 70), (30, 64)):
        ours = normalised(preprocessing_of(config), image(*shape))
        torch.testing.assert_close(ours, theirs(image(*shape)), rtol=0, atol=1e-6)
    grey = preprocessing_of(config).fit(image(90, 70).convert("L"))
    assert grey.shape == (40, 40, 1) and grey.dtype == np.uint8


@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "test_convnext"])
def test_features_equal_timms_forward_on_timms_transform(name):
    """`benchmarks/timm_features.py` does so for twelve families."""
    torch.manual_seed(0)
    theirs = timm.create_model(name, num_classes=0).eval()
    transform = create_transform(**resolve_data_config({}, model=theirs))
    own = preprocessing_of(theirs.pretrained_cfg)
    net = encoder(name, image_size=own.size, mean=own.mean, std=own.std).eval()
    net.model.load_state_dict(theirs.state_dict())
    picture = image(200, 170)
    with torch.no_grad():
        expected = theirs(transform(picture)[None])
        features = net(torch.from_numpy(own.fit(picture)).permute(2, 0, 1)[None] / 255)
    torch.testing.assert_close(features, expected, rtol=1e-5, atol=1e-5)


def test_what_has_no_square_or_no_name_is_refused():
    with refuses(UsageError, "resnet1o8", "resnet18"):
        preprocessing_of("resnet1o8")
    with refuses(UsageError, "32 x 64", "--image-size"):
        preprocessing_of({"input_size": (3, 32, 64)})
    assert preprocessing_of({"input_size": (3, 32, 64)}, 32).size == 32
