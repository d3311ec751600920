"""What features know of the views, where the images and the encoder show the parameters themselves."""

import numpy as np
import pytest
import torch
from refusals import refuses
from torch import nn

from fullrank import probe
from fullrank.data import ImageSet, Source
from fullrank.errors import DataError, UsageError
from fullrank.record import ViewReadout
from fullrank.record.scores import measures_for
from fullrank.reports.view_readout import readout_table
from fullrank.runs.view_readout import ReadModel, default_views, read_views, view_readout
from fullrank.studies.table import Column, ScoreKey
from fullrank.views import view_pipeline

SIDE = 12


def ramps(count, split="train", noise=0):
    """Images (N, 12, 12, 2): one channel rises from left to right, the other from top to bottom."""
    ramp = np.broadcast_to(20 * np.arange(SIDE, dtype=np.uint8), (count, SIDE, SIDE))
    pixels = np.stack([ramp, ramp.transpose(0, 2, 1)], -1)
    random = np.random.default_rng(count).integers(0, 256, pixels.shape).astype(np.uint8)
    labels = np.arange(count) % 2
    return ImageSet(random if noise else pixels, {"label": labels}, {"label": ("even", "odd")}, split=split)


class Ramps(Source):
    """The images above as a source."""

    def read(self, split, image_size):
        return ramps(60 if split == "train" else 40, split)


class Shown(nn.Module):
    """h is where the crop is and how large, as a ramp shows both: the means and the rises of the channels."""

    places, feature_dim = ("pixels.all",), 4

    def __init__(self):
        super().__init__()
        self.idle = nn.Parameter(torch.zeros(1))

    def features(self, x, places):
        middle = x[..., 2:-2, 2:-2]  # the border of a resized image is no ramp
        rises = [middle[:, 0, :, -1] - middle[:, 0, :, 0], middle[:, 1, -1, :] - middle[:, 1, 0, :]]
        h = torch.cat([middle.mean((2, 3)), *(rise.mean(1, keepdim=True) for rise in rises)], 1)
        return {place: h if place == "h" else x.flatten(1) for place in places}

    def forward(self, x):
        return self.features(x, ("h",))["h"]


class Sizes(nn.Module):
    """A head that keeps the rises alone."""

    in_dim, out_dim = 4, 2

    def forward(self, h):
        return h[:, 2:]


def read(views, places=("h", "z"), train=None, test=None, seed=0):
    pipeline = view_pipeline(views, image_size=SIDE, channels=2)
    model = ReadModel(Shown(), Sizes(), list(places), pipeline, views, seed)
    return view_readout(model, train or ramps(60), test or ramps(40, "test"))


def values(readout, place):
    return {score.subject: score.value for score in readout.scores if score.place == place}


@pytest.fixture(scope="module")
def crops():
    return read("weak,scale=0.3")


def test_features_that_show_the_crop_have_all_of_it_and_a_head_only_what_it_keeps(crops):
    at_h, at_z = values(crops, "h"), values(crops, "z")
    assert list(at_h) == ["crop", "crop row", "crop column", "crop height", "crop width", "flip"]
    assert min(at_h.values()) > 0.97
    assert min(at_z[f"crop {name}"] for name in ("height", "width")) > 0.97
    assert max(abs(at_z[f"crop {name}"]) for name in ("row", "column")) < 0.05
    parts = [at_z[f"crop {name}"] for name in ("row", "column", "height", "width")]
    assert at_z["crop"] == pytest.approx(np.mean(parts))
    assert crops.left_out == ["drop", "colour", "grey", "blur", "solarize"]


def test_a_flip_is_seen_where_a_rise_has_its_sign(crops):
    assert values(crops, "h")["flip"] == values(crops, "z")["flip"] == 1.0
    (means,) = (values(read("weak,scale=0.3", ["h[:2]"]), place) for place in ["h[:2]"])
    assert means["flip"] == pytest.approx(0.5, abs=0.08) and means["crop column"] > 0.97


def test_a_score_depends_on_its_place_and_the_seed_alone(crops):
    again = read("weak,scale=0.3", ["z"])
    assert values(again, "z") == values(crops, "z") and values(again, "h") == {}
    assert values(read("weak,scale=0.3", ["z"], seed=1), "z") != values(crops, "z")


def test_nothing_is_read_from_images_that_show_nothing_although_wide_features_could_learn_them():
    noise = ramps(60, noise=1), ramps(40, "test", noise=1)
    pixels = values(read("weak,scale=0.9,flip=0.5", ["pixels.all"], *noise), "pixels.all")
    assert pixels["crop"] < 0.2 and abs(pixels["flip"] - 0.5) < 0.1


class Grey(nn.Module):
    """h is the mean of each channel."""

    places, feature_dim = (), 3

    def features(self, x, places):
        return dict.fromkeys(places, x.mean((2, 3)))


def test_colours_blur_and_grey_are_read_in_plain_images():
    def plain(count, split):
        pixels = np.broadcast_to(np.array([120, 60, 40], np.uint8), (count, 4, 4, 3))
        return ImageSet(pixels, {"label": np.zeros(count, int)}, {"label": ("one",)}, split=split)

    spec = "simclr,scale=1,flip=0,contrast=0,saturation=0,hue=0,grey=0.3,blur=0.5"
    views = view_pipeline(spec, image_size=4, channels=3)
    model = ReadModel(Grey(), nn.Identity(), ["h"], views, spec)
    found = values(view_readout(model, plain(50, "train"), plain(50, "test")), "h")
    assert list(found) == ["colour", "blur", "grey"]  # one colour is on, so it has no numbers of its own
    assert found["colour"] > 0.99 and found["grey"] > 0.99 and abs(found["blur"]) < 0.1


def test_an_operation_of_one_view_alone_is_asked_of_that_view():
    """Every first view is blurred, so a blurred view would tell that it was not solarized."""
    images = ramps(40)
    images = ImageSet(images.images[..., :1].repeat(3, -1), images.labels, images.class_names, split="train")

    class Side(nn.Module):
        places = ()

        def features(self, x, places):
            return dict.fromkeys(places, (torch.arange(len(x))[:, None] >= len(x) // 2).float())

    views = view_pipeline("directclr,scale=1", image_size=SIDE, channels=3)
    found = values(view_readout(ReadModel(Side(), nn.Identity(), ["h"], views, ""), images, images), "h")
    assert found["solarize"] == 0.5


def test_rounds_draw_anew_and_keep_the_number_of_the_image():
    views = view_pipeline("weak", image_size=SIDE, channels=2)
    rows = read_views(ReadModel(Shown(), Sizes(), ["h"], views, "weak"), ramps(20), 3, stream=2)
    assert rows.images.tolist() == 3 * list(range(20)) and len(rows.features["h"]) == 2 * 60
    crop = rows.numbers.first["crop"]
    assert len(torch.unique(crop, dim=0)) > 40
    assert torch.corrcoef(torch.stack([rows.features["h"][:60, 0], crop[:, 1]]))[0, 1] > 0.99


def test_views_that_change_nothing_have_no_scores():
    still = read("weak,scale=1,flip=0")
    assert (still.scores, still.train) == ([], 0) and len(still.left_out) == 7


def test_too_few_images_are_refused():
    with refuses(DataError, 10, 9):
        read("weak", test=ramps(9, "test"))


def test_a_probe_of_any_model_says_which_views_it_read():
    found = probe(Shown(), data=Ramps, measures=["views"], views="weak,scale=0.3")
    of_views = [score for score in found.scores if score.probe == "views"]
    assert {score.place for score in of_views} == {"pixels", "h"}
    assert any("weak,scale=0.3" in note for note in found.notes)
    column = Column(title="crop", probe="views", statistic="R2", subject="crop")
    key = ScoreKey(place="h", label="label", split="test", probe="views", statistic="R2", subject="crop")
    assert key in map(ScoreKey.of, of_views) and column.unit == "number"
    assert measures_for([("views", "R2"), ("linear", "accuracy")]) == ["views"]


def test_a_model_without_views_takes_those_that_its_channels_allow():
    found = probe(Shown(), data=Ramps, measures=["views"])
    assert any(default_views(2) in note for note in found.notes)
    assert {"colour", "blur"} <= {score.subject for score in found.scores}


def test_views_need_their_measure_and_a_model(tmp_path):
    with refuses(UsageError, "views", "weak"):
        probe(Shown(), data=Ramps, views="weak")
    np.savez(tmp_path / "x.npz", features=np.eye(4).repeat(5, 0), labels=np.arange(4).repeat(5))
    with refuses(UsageError, "views"):
        probe(tmp_path / "x.npz", measures=["views"])


def test_the_table_names_what_falls_from_h_to_z(crops):
    table = readout_table(crops.scores)
    assert table.places == ("pixels", "h", "z")
    assert [row.operation for row in table.rows if not row.is_part] == ["crop", "flip"]
    (sentence,) = table.sentences
    assert "crop" in sentence and "flip" not in sentence
    assert readout_table([]) is None


def test_a_readout_survives_its_json(crops):
    assert ViewReadout.model_validate_json(crops.model_dump_json()) == crops
