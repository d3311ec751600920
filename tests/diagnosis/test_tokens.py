"""Outlier tokens: their norms, where they are read, pooling without them, and the cause."""

import pytest
import torch
from refusals import refuses
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from fullrank import diagnose
from fullrank.diagnosis import Evidence, PlaceEvidence, find_causes
from fullrank.diagnosis.tokens import TokenNorms, pooled_without, token_norms
from fullrank.encoders import encoder, module_encoder
from fullrank.errors import UsageError

IMAGES = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))


class Louder(nn.Module):
    """A block whose patch token number 3 comes out with a norm of so many times its own, in some images."""

    def __init__(self, block: nn.Module, factor: float, prefix: int = 1):
        super().__init__()
        self.block, self.factor, self.prefix = block, factor, prefix

    def forward(self, x: torch.Tensor, *args: object, **more: object) -> torch.Tensor:
        x = self.block(x).clone()
        x[:, self.prefix + 3] *= self.factor
        return x


def transformer(factor: float = 1.0, registers: int = 0) -> VisionTransformer:
    """A tiny transformer of 16 patches, untrained, whose second and last block is `Louder`."""
    torch.manual_seed(0)
    net = VisionTransformer(
        img_size=8, patch_size=2, in_chans=1, num_classes=0, embed_dim=16, depth=2, num_heads=2,
        reg_tokens=registers,
    )  # fmt: skip
    net.blocks[1] = Louder(net.blocks[1], factor, 1 + registers)
    return net.eval()


def placed(net: nn.Module):
    return module_encoder(net, image_size=8, in_chans=1)


def before_norm(net: VisionTransformer) -> torch.Tensor:
    """The tokens after the last block: the input of the last norm."""
    kept = []
    hook = net.norm.register_forward_pre_hook(lambda _, inputs: kept.append(inputs[0]))
    net(IMAGES)
    hook.remove()
    return kept[0]


def test_outliers_are_tokens_above_five_times_the_median_norm():
    norms = torch.arange(1.0, 41).reshape(4, 10)
    norms[1, 2], norms[3, 0], norms[3, 1] = 106, 104, 400  # the median is 21
    found = TokenNorms.of("p", norms)
    assert (found.tokens, found.share, found.images) == (10, pytest.approx(2 / 40), 0.5)
    assert found.limit == 105 and found.ratio == pytest.approx(106 / 21)
    for scale in (1e-3, 1e3):
        scaled = TokenNorms.of("p", scale * norms)
        assert (scaled.share, scaled.ratio) == (found.share, pytest.approx(found.ratio))
    assert TokenNorms.of("p", norms.flip(0)).ratio == found.ratio


@pytest.mark.parametrize("norms", [torch.ones(3, 4), torch.zeros(3, 4)])
def test_equal_norms_have_no_outliers(norms):
    found = TokenNorms.of("p", norms)
    assert (found.share, found.ratio, found.images, found.stand_out) == (0, 1, 0, False)


@pytest.mark.parametrize("registers", [0, 2])
def test_class_and_register_tokens_are_no_patches(registers):
    net = transformer(registers=registers)
    with torch.no_grad():
        net.cls_token.fill_(1e3)  # a class token of a huge norm is no outlier
        tokens = before_norm(net)[:, 1 + registers :]
    (found,) = token_norms(placed(net), [IMAGES[:4], IMAGES[4:]], ["blocks.1.mean"])
    assert found == TokenNorms.of("blocks.1.mean", tokens.norm(dim=2)) and found.tokens == 16
    assert not found.stand_out


def test_only_places_that_pool_patches_have_token_norms():
    net = placed(transformer(20.0))
    places = ["stem.mean", "blocks.1.cls", "blocks.1.mean", "blocks.1.max", "h", "z"]
    found = {norms.place: norms for norms in token_norms(net, [IMAGES], places)}
    assert list(found) == ["stem.mean", "blocks.1.mean", "blocks.1.max"]
    assert [norms.stand_out for norms in found.values()] == [False, True, True]


@pytest.mark.parametrize("factor", [10.0, 30.0, 100.0])
def test_a_loud_token_is_found_with_its_share_and_its_ratio(factor):
    (found,) = token_norms(placed(transformer(factor)), [IMAGES], ["blocks.1.mean"])
    assert (found.share, found.images) == (1 / 16, 1.0)
    assert found.ratio == pytest.approx(factor, rel=0.2)


def test_features_without_outliers_are_the_mean_of_the_other_tokens():
    net = transformer(30.0)
    tokens = before_norm(net)[:, 1:].detach()
    others = torch.cat([tokens[:, :3], tokens[:, 4:]], 1)
    traced = placed(net)
    found = token_norms(traced, [IMAGES], ["blocks.1.mean", "blocks.1.max"])
    pooled = pooled_without(traced, [IMAGES[:2], IMAGES[2:]], found)
    torch.testing.assert_close(pooled["blocks.1.mean"], others.mean(1))
    torch.testing.assert_close(pooled["blocks.1.max"], others.amax(1))
    # An image of outliers alone keeps them, and so do images without outliers.
    silent = [TokenNorms("blocks.1.mean", 16, limit=0.0), TokenNorms("blocks.0.mean", 16)]
    plain = traced.features(IMAGES, ["blocks.1.mean", "blocks.0.mean"])
    torch.testing.assert_close(
        pooled_without(traced, [IMAGES], silent), {k: v.detach() for k, v in plain.items()}
    )


def test_maps_with_channels_last_are_tokens():
    torch.manual_seed(0)
    net = SwinTransformer(
        img_size=16, patch_size=2, in_chans=1, num_classes=0, embed_dim=8, depths=(1, 1), num_heads=(2, 2),
        window_size=4,
    )  # fmt: skip
    traced = module_encoder(net.eval(), image_size=16, in_chans=1)
    images = torch.rand(3, 1, 16, 16)
    place = traced.places[-1]
    kept = []
    net.get_submodule(place).register_forward_hook(lambda *values: kept.append(values[-1]))
    (found,) = token_norms(traced, [images], [place])
    assert found == TokenNorms.of(place, kept[-1].norm(dim=-1).flatten(1)) and found.tokens == 16


def test_encoders_without_tokens_have_no_token_norms():
    resnet = encoder("tiny-resnet,width=4", image_size=8, in_chans=1)
    assert token_norms(resnet, [IMAGES], ["stem", "h"]) == []
    assert token_norms(nn.Flatten(), [IMAGES], ["h"]) == []


class Dropping(nn.Module):
    """An encoder that hands out another number of tokens for each batch."""

    places, count = ("p",), 3

    def of_patches(self, x, places, of):
        self.count += 1
        return {place: of(place, torch.ones(len(x), self.count, 2)) for place in places}


def test_unlike_numbers_of_tokens_are_refused():
    with refuses(UsageError, "p", 4, 5):
        token_norms(Dropping(), [IMAGES, IMAGES], ["p"])


@pytest.mark.parametrize(("norm", "found"), [(10.0, True), (30.0, True), (100.0, True), (2.7, False)])
def test_the_cause_is_a_note_at_its_place(norm, found):
    norms = torch.ones(50, 20)
    norms[:, 4] = norm
    x = torch.randn(100, 4, generator=torch.Generator().manual_seed(0))
    places = PlaceEvidence("blocks.0.mean", x), PlaceEvidence("z", x)
    causes = find_causes(Evidence(places, tokens=(TokenNorms.of("blocks.0.mean", norms),)))
    assert [(each.cause, each.level, each.place, each.value) for each in causes] == (
        [("outlier-tokens", "note", "blocks.0.mean", norm)] if found else []
    )


def test_tokens_that_are_no_exception_are_no_finding():
    norms = torch.ones(50, 20)
    norms[:, :4] = 50  # 20 % of the tokens
    x = torch.randn(100, 4, generator=torch.Generator().manual_seed(0))
    assert find_causes(Evidence((PlaceEvidence("z", x),), tokens=(TokenNorms.of("z", norms),))) == []


def test_a_diagnosis_probes_again_without_the_outliers(tmp_path):
    g = torch.Generator().manual_seed(0)
    sets = []
    for count in (120, 80):
        labels = torch.arange(count) % 2
        images = torch.rand(count, 1, 8, 8, generator=g) * 0.5
        images[:, :, 4:] += 0.4 * labels[:, None, None, None]
        sets.append([(image, int(label)) for image, label in zip(images, labels, strict=True)])
    healthy, ill = (
        diagnose(transformer(factor), data=tuple(sets), out=tmp_path / str(factor)).entry
        for factor in (1.0, 50.0)
    )
    named = {(each.place, each.level) for each in ill.findings if each.cause == "outlier-tokens"}
    assert named == {("blocks.1.mean", "note")}
    (again,) = [each for each in ill.probed_again if each.change == "without outlier tokens"]
    linear = {row.place: row.linear for row in ill.layers}
    assert (again.place, again.before, again.tested) == ("blocks.1.mean", linear["blocks.1.mean"], 80)
    assert again.error >= 0 and again.linear >= again.before
    measured = {(each.place, each.name): each.value for each in ill.measures}
    assert measured["blocks.1.mean", "outlier_token_share"] == pytest.approx(1 / 16)
    assert measured["blocks.0.mean", "outlier_token_norm_ratio"] == 1
    assert ("h", "outlier_token_share") not in measured
    assert not [each for each in healthy.findings if each.cause == "outlier-tokens"]
    assert not healthy.probed_again
