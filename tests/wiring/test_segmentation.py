"""The attention of a net that looks at bright patches alone, from its weights to the record and the page."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from refusals import refuses
from transparent import STILL
from typer.testing import CliRunner

from fullrank import probe, train
from fullrank.cli.commands import app
from fullrank.data import ImageSet, Source
from fullrank.encoders.tiny_vit import TinyViT
from fullrank.errors import DataError
from fullrank.evaluation.segmentation import segmentation
from fullrank.files import load_arrays
from fullrank.record.scores import (
    ABOVE,
    ALL_HEADS,
    AREA_SHARE,
    GRADIENT_SHARE,
    JACCARD,
    PERMUTED,
    UNTRAINED,
)
from fullrank.reports.page import page_of

SIDE, PATCH = 16, 4
BRIGHT = 4  # patches of a square of 8 x 8 pixels
# The fewest of four equal patches that hold 0.6 and 0.9 of the attention are three and four.
EXPECTED = {"0.6": 3 / BRIGHT, "0.9": 1.0}


def squares(count: int, split: str) -> ImageSet:
    """A bright square on a dark ground, whose place is the class; the mask of the last image is empty."""
    images, masks = np.zeros((2, count, SIDE, SIDE), np.uint8)
    label = np.arange(count) % 4
    for row, place in enumerate(label):
        at = (row, slice(place // 2 * 8, place // 2 * 8 + 8), slice(place % 2 * 8, place % 2 * 8 + 8))
        images[at], masks[at] = 255, 1
    masks[-1] = 0
    names = {"label": tuple("abcd")}
    return ImageSet(images[..., None], {"label": label}, names, split=split, masks=masks)


class Squares(Source):
    def read(self, split: str, image_size: int | None) -> ImageSet:
        return squares({"train": 32, "test": 17}[split], split)


class Seer(TinyViT):
    """A net whose class token attends to bright patches, equally to each, whatever is trained."""

    def __init__(self, in_chans: int, image_size: int):
        super().__init__(PATCH, 1, 6, 3, image_size=image_size, in_chans=in_chans, mean=(0.5,), std=(0.5,))
        sign = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0, -1.0])
        with torch.no_grad():
            for weights in self.parameters():
                weights.zero_()
            for norm in (self.norm, self.blocks[0].norm1, self.blocks[0].norm2):
                norm.weight.fill_(1)
            self.embed.weight[:] = (sign / PATCH**2)[:, None, None, None]
            self.blocks[0].qkv.bias[:6] = 9.0  # every query
            self.blocks[0].qkv.weight[6:12] = sign  # keys are 6 for bright patches and -6 for dark ones
            self.blocks[0].qkv.weight[12:] = torch.eye(6)
            self.blocks[0].proj.weight[:] = torch.eye(6)
        self.requires_grad_(False)


SETTINGS = {"encoder": Seer, "views": STILL, "epochs": 15, "batch_size": 32, "head": "linear:4"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train("digits", data=Squares, out=tmp_path_factory.mktemp("seer") / "run", **SETTINGS)


def values(scores, statistic):
    return {one.subject: one for one in scores if one.statistic == statistic}


def test_attention_that_is_the_object_has_the_known_overlap_everywhere(run):
    for scores in (run.record.runs[0].scores, probe(run, ["h"], measures=["segmentation"]).scores):
        for name in (JACCARD, ALL_HEADS, UNTRAINED):  # the net does not change in training
            found = values(scores, name)
            assert {share: one.value for share, one in found.items()} == pytest.approx(EXPECTED)
            assert all(one.low == pytest.approx(one.value) for one in found.values())
        for share, one in values(scores, ABOVE).items():
            assert one.value == pytest.approx(EXPECTED[share] - values(scores, PERMUTED)[share].value)
            assert one.value > 0.3 and one.low < one.value < one.high
        assert values(scores, AREA_SHARE)[""].value == pytest.approx(0.25)  # the empty mask is left out


def test_the_examples_are_the_images_their_objects_and_the_attention_beside_them(run):
    arrays = load_arrays(run.path)
    images, objects, attention = (
        arrays[f"segmentation.{name}"] for name in ("images", "objects", "attention")
    )
    assert ((images[..., 0] == 255) == objects).all() and len(images) == 6
    assert (attention <= objects).all() and (attention.sum((1, 2)) == 48).all()
    assert arrays["segmentation.overlaps"] == pytest.approx(0.75)
    text = page_of(run.path).text
    assert text.count("Example 6: overlap") == 1 and "75.0" in text


def test_a_net_without_attention_gets_shares_and_a_note_that_says_why():
    convolution = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3, padding=1), torch.nn.ReLU())
    net = torch.nn.Sequential(convolution, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    found = segmentation(net, squares(9, "test"))
    assert {one.statistic for one in found.scores} == {GRADIENT_SHARE, AREA_SHARE} and not found.examples
    assert any("Jaccard" in note for note in found.notes)


def test_the_command_needs_masks_and_no_labels(run, tmp_path):
    result = CliRunner().invoke(
        app, ["probe", str(run.path), "--data", "digits", "--measure", "segmentation"]
    )
    assert result.exit_code == 1 and "masks" in str(result.exception) + result.output
    unlabelled = replace(squares(8, "test"), labels={"label": np.full(8, -1)})
    found = segmentation(run.encoder, unlabelled)
    assert values(found.scores, JACCARD)["0.6"].value == pytest.approx(EXPECTED["0.6"])
    with refuses(DataError, 8):
        segmentation(run.encoder, replace(unlabelled, masks=np.zeros((8, SIDE, SIDE), np.uint8)))
