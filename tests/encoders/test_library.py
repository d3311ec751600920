"""Models of timm as encoders: what is built, and that features are timm's own at the places named."""

import copy
import re

import pytest
import timm
import torch
from refusals import assert_names, refuses
from timm.layers import resample_abs_pos_embed

from fullrank import encoder
from fullrank.encoders import LibraryEncoder, without_download
from fullrank.errors import DataError, UsageError


def build(spec: str, size: int, **more) -> LibraryEncoder:
    torch.manual_seed(0)
    return encoder(spec, image_size=size, **more).eval()


def test_h_is_what_timm_gives_for_the_normalised_image():
    net = build("test_vit", 64, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
    torch.manual_seed(0)
    theirs = timm.create_model("test_vit", num_classes=0, img_size=64).eval()
    images = torch.rand(2, 3, 64, 64)
    mean, std = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.3, 0.4])
    torch.testing.assert_close(
        net(images), theirs((images - mean[:, None, None]) / std[:, None, None]), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize(
    ("spec", "stage"),
    [
        ("resnet18,stem=standard", "layer"),
        ("swin_tiny_patch4_window7_224", "layers."),
        ("test_coatnet", "stages."),
        ("test_convnext", "stages."),
        ("test_efficientnet", "blocks."),
    ],
)
def test_maps_are_averaged_over_positions_wherever_their_channels_are(spec, stage):
    net = build(spec, 64)
    images = torch.rand(2, 3, 64, 64)
    maps = net.model.forward_intermediates(net.normalised(images), output_fmt="NCHW", intermediates_only=True)
    numbers = [re.search(r"\d+", info["module"])[0] for info in net.model.feature_info[-4:]]
    for number, stage_map in zip(numbers, maps[-4:], strict=True):
        last = [place for place in net.places if place.startswith(f"{stage}{number}.")][-1]
        torch.testing.assert_close(
            net.features(images, [last])[last], stage_map.mean((2, 3)), rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize("spec", ["test_vit", "test_vit2", "vit_tiny_r_s16_p8_224"])
def test_of_tokens_the_one_the_model_pools_by_is_read_and_otherwise_those_of_the_image(spec):
    net = build(spec, 64)
    images = torch.rand(2, 3, 64, 64)
    blocks = [f"blocks.{i}" for i in range(len(net.model.blocks))]
    expected_tokens = net.model.forward_intermediates(
        net.normalised(images), output_fmt="NLC", intermediates_only=True, return_prefix_tokens=True
    )
    for place, (tokens, prefix) in zip(blocks, expected_tokens, strict=True):
        expected = prefix[:, 0] if net.model.global_pool == "token" else tokens.mean(1)
        torch.testing.assert_close(net.features(images, [place])[place], expected)
        poolings = {f"{place}.mean": tokens.mean(1), f"{place}.max": tokens.amax(1)}
        poolings |= {f"{place}.cls": prefix[:, 0]} if net.has_place(f"{place}.cls") else {}
        torch.testing.assert_close(net.features(images, list(poolings)), poolings)


def test_register_tokens_are_left_out_of_the_mean():
    net = build("vit_pwee_patch16_reg1_gap_256", 32)
    images = torch.rand(1, 3, 32, 32)
    (tokens, prefix), *_ = net.model.forward_intermediates(
        net.normalised(images),
        indices=[3],
        output_fmt="NLC",
        intermediates_only=True,
        return_prefix_tokens=True,
    )
    assert prefix.shape[1] == 1
    torch.testing.assert_close(net.features(images, ["blocks.3"])["blocks.3"], tokens.mean(1))


def test_places_are_named_in_the_order_in_which_they_run():
    blocks = [f"layer{stage}.{block}" for stage in range(1, 5) for block in range(2)]
    assert build("resnet18", 8).places == ("stem", *blocks, "last-conv-input")
    poolings = [f"blocks.{i}.{pooling}" for i in range(6) for pooling in ("cls", "mean")]
    assert build("test_vit", 64).places == ("stem.mean", *poolings)
    assert build("pit_ti_224", 64).places[:2] == ("stem.mean", "transformers.0.blocks.0.cls")


def test_stem_and_last_conv_input_are_what_those_modules_are_given():
    net = build("resnet18", 16)
    inner = {}
    net.model.layer1[0].register_forward_pre_hook(lambda module, inputs: inner.update(stem=inputs[0].clone()))
    net.model.layer4[1].conv2.register_forward_pre_hook(lambda module, inputs: inner.update(last=inputs[0]))
    features = net.features(torch.rand(2, 3, 16, 16), ["stem", "last-conv-input"])
    assert torch.equal(features["stem"], inner["stem"].mean((2, 3)))
    assert torch.equal(features["last-conv-input"], inner["last"].mean((2, 3)))


def test_the_gates_of_a_net_are_not_its_last_convolution():
    net = build("test_efficientnet", 64)
    assert net._readings["last-conv-input"].module == "conv_head"
    assert build("seresnet18,stem=standard", 64)._readings["last-conv-input"].module == "layer4.1.conv2"


@pytest.mark.parametrize(
    ("spec", "size", "kernel", "side"),
    [
        ("resnet18", 32, 3, 32),
        ("resnet18", 64, 3, 64),
        ("resnet18", 65, 7, 17),
        ("resnet18,stem=standard", 32, 7, 8),
        ("resnet18,stem=small", 66, 3, 66),
        ("resnetblur18", 32, 3, 32),
    ],
)
def test_the_stem_of_a_residual_net_follows_the_size_of_the_images(spec, size, kernel, side):
    net = build(spec, size)
    assert net.model.conv1.kernel_size == (kernel, kernel)
    before = net.model.maxpool(net.model.conv1(torch.zeros(1, 3, size, size)))
    assert before.shape[-2:] == (side, side)


def test_the_new_stem_starts_as_timm_starts_convolutions():
    weight = build("resnet18", 32).model.conv1.weight
    expected = (2 / (weight.shape[0] * 9)) ** 0.5  # He et al. 2015, fan out
    assert abs(weight.mean()) < 0.1 * expected
    torch.testing.assert_close(weight.std(), torch.tensor(expected), rtol=0.1, atol=0)


def test_a_grey_image_is_repeated_to_the_channels_asked():
    grey = build("test_resnet,channels=3", 64, in_chans=1, mean=(0.3,), std=(0.2,))
    colour = build("test_resnet", 64, mean=(0.3,), std=(0.2,))
    images = torch.rand(2, 1, 64, 64)
    assert grey.in_chans == 1
    assert torch.equal(grey(images), colour(images.expand(-1, 3, -1, -1)))
    assert {n: t.shape for n, t in grey.state_dict().items()} == {
        n: t.shape for n, t in colour.state_dict().items()
    }


def test_drop_path_skips_branches_in_training_alone():
    net = build("resnet10t,drop_path=0.9", 32)
    images = torch.rand(4, 3, 32, 32)
    assert torch.equal(net(images), net(images))
    probabilities = [m.drop_prob for m in net.modules() if type(m).__name__ == "DropPath"]
    assert max(probabilities) == pytest.approx(0.9)


def test_an_encoder_can_be_copied():
    net = build("test_vit", 64)
    again = copy.deepcopy(net)
    images = torch.rand(1, 3, 64, 64)
    assert torch.equal(
        again.features(images, ["blocks.3"])["blocks.3"], net.features(images, ["blocks.3"])["blocks.3"]
    )


def test_building_leaves_the_model_in_training_mode_and_its_statistics_alone():
    net = encoder("test_resnet", image_size=64)
    assert net.training and all(m.training for m in net.modules())
    assert net.model.bn1.num_batches_tracked == 0


@pytest.mark.parametrize(
    ("spec", "size", "chans", "names"),
    [
        ("resnet1o8", 32, 3, ["resnet1o8", "resnet18"]),
        ("resnet18.a1_in1j", 32, 3, ["resnet18", "a1_in1j", "a1_in1k"]),
        ("vgg11,drop_path=0.1", 32, 3, ["vgg11", "drop_path", 0.1]),
        ("resnet18,drop_path=1", 32, 3, ["resnet18", "drop_path", 0, 1]),
        ("test_vit,stem=small", 64, 3, ["test_vit", "stem=small", "7x7"]),
        ("resnet10t,stem=small", 64, 3, ["resnet10t", "stem=small", "7x7"]),
        ("resnet18,channels=3", 32, 2, ["resnet18", "channels=3", "in_chans=2"]),
        ("resnet18,channels=0", 32, 1, ["resnet18", "channels=0", "in_chans=1"]),
        ("resnet18,channels=1", 32, 3, ["resnet18", "channels=1", "in_chans=3"]),
        ("vit_tiny_patch16_224", 30, 3, ["vit_tiny_patch16_224", 30, "--image-size 16", 32]),
        ("vit_tiny_patch16_224", 8, 3, ["vit_tiny_patch16_224", 8, "--image-size"]),
        ("halonet26t", 64, 3, ["halonet26t", 64, "AssertionError", "--image-size"]),
        ("inception_v3", 32, 3, ["inception_v3", 32, "--image-size"]),
    ],
)
def test_what_cannot_be_built_is_one_sentence_with_the_remedy(spec, size, chans, names):
    with refuses(UsageError, *names) as error:
        encoder(spec, image_size=size, in_chans=chans)
    assert "\n" not in str(error.value) and str(error.value).endswith(".")


def test_a_model_that_gives_a_map_is_averaged_and_says_so():
    name = "fullrank_test_map"

    @timm.models.register_model
    def fullrank_test_map(**options) -> torch.nn.Module:
        return torch.nn.Conv2d(3, 4, 3)

    assert timm.is_model(name)
    net, images = encoder(name, image_size=32), torch.rand(3, 3, 32, 32)
    torch.testing.assert_close(net(images), net.model(net.normalised(images)).mean((2, 3)))
    assert_names(net.output_note, "mean", 30)


def test_images_of_another_size_raise_where_the_model_takes_one():
    with refuses(UsageError, "test_vit", "64x64", "32x32"):
        build("test_vit", 64)(torch.rand(1, 3, 32, 32))
    assert build("resnet10t", 32)(torch.rand(1, 3, 48, 48)).shape == (1, 512)


def test_a_place_that_is_not_there_raises():
    with refuses(UsageError, "layer5.0", "layer4.0", "last-conv-input"):
        build("resnet10t", 8).features(torch.rand(1, 3, 8, 8), ["layer5.0"])


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """What timm downloads with finds nothing, and asks nobody."""
    hub = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path))


@pytest.mark.parametrize(
    ("spec", "name"),
    [("resnet10t,pretrained=true", "resnet10t"), ("lcnet_035", "lcnet_035")],  # timm has none of lcnet_035
)
def test_weights_that_cannot_be_had_are_one_sentence_with_the_remedy(offline, spec, name):
    with refuses(DataError, name, "--init FILE", "pretrained=true") as error:
        encoder(spec, image_size=64, pretrained=True)
    assert "\n" not in str(error.value)


@pytest.fixture
def stored(monkeypatch, tmp_path):
    """timm finds the weights of resnet18 in a file, as it finds downloaded ones."""
    torch.manual_seed(7)
    theirs = timm.create_model("resnet18")
    torch.save(theirs.state_dict(), tmp_path / "resnet18.pth")
    name = f"resnet18.{timm.get_pretrained_cfg('resnet18').tag}"
    config = timm.models._registry._model_pretrained_cfgs[name]
    monkeypatch.setattr(config, "file", str(tmp_path / "resnet18.pth"))
    return theirs


def test_pretrained_weights_keep_their_own_stem_mean_and_spread(stored):
    net = encoder("resnet18", image_size=32, pretrained=True, mean=(0.1,), std=(0.9,)).eval()
    assert net.model.conv1.kernel_size == (7, 7)
    assert net.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    assert net.std.flatten().tolist() == pytest.approx([0.229, 0.224, 0.225])
    images = torch.rand(2, 3, 32, 32)
    theirs = stored.eval().forward_head(stored.forward_features(net.normalised(images)), pre_logits=True)
    torch.testing.assert_close(net(images), theirs)
    grey = encoder("resnet18,pretrained=true", image_size=32, in_chans=1)
    assert grey.mean.item() == pytest.approx((0.485 + 0.456 + 0.406) / 3)
    repeated = encoder("resnet18,pretrained=true,channels=3", image_size=32, in_chans=1).eval()
    torch.testing.assert_close(repeated(images[:, :1]), net(images[:, :1].expand(-1, 3, -1, -1)))


def test_a_pretrained_architecture_is_built_again_without_its_weights(stored):
    for spec in ("resnet18,pretrained=true", "timm/resnet18,pretrained=true,stem=small,drop_path=0.1"):
        first = encoder(spec, image_size=32)
        again = encoder(without_download(spec), image_size=32)
        assert "pretrained" not in without_download(spec)
        again.load_state_dict(first.state_dict())
        images = torch.rand(2, 3, 32, 32)
        assert torch.equal(again.eval()(images), first.eval()(images))


def test_a_spec_that_downloads_nothing_stays_as_it_is():
    assert [
        without_download(s) for s in ("resnet18", "timm/resnet18,pretrained=false", "tiny-resnet,width=8")
    ] == [
        "resnet18",
        "resnet18",
        "tiny-resnet,width=8",
    ]


def test_an_encoder_that_has_no_weights_to_start_from_says_so():
    with refuses(UsageError, "tiny-resnet", "pretrained"):
        encoder("tiny-resnet", image_size=8, pretrained=True)


@pytest.mark.parametrize("spec", ["test_vit", "vit_pwee_patch16_reg1_gap_256"])
def test_any_size_reads_crops_as_a_model_of_their_size_with_interpolated_positions(spec):
    net, crops = build(f"{spec},any_size=true", 64), torch.rand(2, 3, 32, 32)
    small = build(spec, 32)
    weights = net.state_dict()
    if (positions := weights["model.pos_embed"]).shape != small.model.pos_embed.shape:
        prefix = positions.shape[1] - 4 * 4
        weights["model.pos_embed"] = resample_abs_pos_embed(positions, (2, 2), num_prefix_tokens=prefix)
    small.load_state_dict(weights)
    places = ["h", *small.places]
    assert net.places == small.places
    torch.testing.assert_close(net.features(crops, places), small.features(crops, places))


def test_any_size_changes_nothing_at_the_size_of_the_images():
    images = torch.rand(2, 3, 64, 64)
    assert torch.equal(build("test_vit,any_size=true", 64)(images), build("test_vit", 64)(images))
    assert torch.equal(build("resnet18,any_size=true", 64)(images), build("resnet18", 64)(images))


@pytest.mark.parametrize(
    ("spec", "size", "parts"),
    [
        ("test_vit", 32, ["64x64", "32x32", "any_size=true"]),
        ("test_vit,any_size=true", 24, [24, 16]),
        ("deit_tiny_distilled_patch16_224", 32, ["any_size=true"]),
    ],
)
def test_a_crop_that_the_model_does_not_take_is_refused_with_a_remedy(spec, size, parts):
    with refuses(UsageError, *parts):
        build(spec, 64)(torch.rand(1, 3, size, size))


def test_models_of_one_size_have_no_any_size():
    with refuses(UsageError, "mixer_s32_224", "any_size=true"):
        build("mixer_s32_224,any_size=true", 64)
