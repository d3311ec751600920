"""Dropping a layer of a composite: how often, what is seen then, replay, and what is refused."""

import pytest
import torch
from refusals import refuses
from scipy.stats import binom, binomtest

from fullrank.batch import Batch, as_float
from fullrank.data import BatchLoader, source
from fullrank.errors import UsageError
from fullrank.views import VIEWS, Drop, step_generator, view_pipeline

NAMES = [entry.name for entry in VIEWS]
BARE = "weak,scale=1,flip=0"


@pytest.fixture(scope="module")
def batch() -> Batch:
    """The first batch of a composite with three layers, its foreground opaque."""
    images = source("composite:two-cues,n=300").load("train")
    return next(iter(BatchLoader(images, 64, seed=0)))


def sampled(spec: str, batch: Batch, step: int = 0):
    views = view_pipeline(spec, image_size=12)
    return views, views.sample(len(batch), step_generator(0, 0, step), (12, 12))


@pytest.mark.parametrize("layer", ["foreground", "object", "background"])
def test_what_is_dropped_is_the_image_without_the_layer_bit_for_bit(layer, batch):
    views, drawn = sampled(f"{BARE},drop=0.5,layer={layer}", batch)
    assert views.operations == (("drop",), ("drop",)) and drawn.names == ("drop",)
    without, whole = as_float(batch.layers[layer]), as_float(batch.images)
    pair = views.apply(batch, drawn)
    for view, values in zip(pair, (drawn.first, drawn.second), strict=True):
        hit = values["drop"]
        assert 0 < hit.sum() < len(batch)
        assert torch.equal(view[hit], without[hit]) and torch.equal(view[~hit], whole[~hit])
    assert not torch.equal(drawn.first["drop"], drawn.second["drop"])
    assert torch.equal(views.apply_first(batch, drawn), pair[0])


@pytest.mark.parametrize("name", NAMES)
def test_a_drop_stands_first_and_what_follows_acts_on_the_composed_image(name, batch):
    views, drawn = sampled(f"{name},drop=1", batch)
    assert {names[0] for names in views.operations} == {"drop"} and drawn.names[0] == "drop"
    background = Batch(batch.layers["foreground"], batch.labels, batch.index)
    dropped = views.apply(batch, drawn)
    for one, other in zip(dropped, views.apply(background, drawn.without("drop")), strict=True):
        assert torch.equal(one, other)
    kept = views.apply(batch, drawn.without("drop"))
    bare = Batch(batch.images, batch.labels, batch.index)
    for one, other in zip(kept, views.apply(bare, drawn.without("drop")), strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(kept[0], dropped[0])


@pytest.mark.parametrize("probability", [0.1, 0.25, 0.75])
def test_the_probability_is_of_dropping_and_not_of_keeping(probability):
    """The trap of P2.5: a digit restored where it should be gone makes it 1 - p."""
    views = view_pipeline(f"weak,drop={probability}", image_size=8)
    drawn = views.sample(4000, step_generator(0, 0, 0))
    first, second = drawn.first["drop"], drawn.second["drop"]
    for hits in (first, second):
        assert binomtest(int(hits.sum()), 4000, probability).pvalue > 1e-4
    low, high = binom.interval(0.9999, 4000, probability**2)
    assert low <= int((first & second).sum()) <= high  # the views are drawn apart


def test_a_draw_is_of_its_step_and_can_be_sliced_and_replayed(batch):
    views, drawn = sampled("simclr,drop=0.5", batch)
    again, other = sampled("simclr,drop=0.5", batch)[1], sampled("simclr,drop=0.5", batch, step=1)[1]
    assert torch.equal(drawn.first["drop"], again.first["drop"])
    assert not torch.equal(drawn.first["drop"], other.first["drop"])
    whole = views.apply(batch, drawn)
    rows = slice(10, 30)
    layers = {name: layer[rows] for name, layer in batch.layers.items()}
    part = Batch(batch.images[rows], batch.labels[rows], batch.index[rows], layers)
    for some, every in zip(views.apply(part, drawn[rows]), whole, strict=True):
        torch.testing.assert_close(some, every[rows], atol=1e-6, rtol=0)


def test_views_without_a_drop_draw_what_they_always_drew():
    plain, zero = view_pipeline("simclr", image_size=8), view_pipeline("simclr,drop=0", image_size=8)
    assert plain == zero and "drop" not in plain.operations[0]
    assert str(VIEWS.parse("weak,drop=0,layer=foreground")) == "weak"
    one, other = (views.sample(9, step_generator(0, 0, 0)) for views in (plain, zero))
    assert all(torch.equal(one.second[name], other.second[name]) for name in one.second)


@pytest.mark.parametrize("name", NAMES)
def test_a_drop_without_layers_is_refused(name, batch):
    views, drawn = sampled(f"{name},drop=0.5", batch)
    bare = Batch(batch.images, batch.labels, batch.index)
    for applied in (lambda: views.check_layers([]), lambda: views.apply(bare, drawn)):
        with refuses(UsageError, "drop=0.5", "foreground", "composite:PRESET"):
            applied()
    views.apply(bare, drawn.without("drop"))
    view_pipeline(name, image_size=8).check_layers([])
    views.check_layers(batch.layers)


def test_an_unknown_layer_names_the_known(batch):
    views, drawn = sampled("weak,drop=0.5,layer=forground", batch)
    for refused in (lambda: views.check_layers(batch.layers), lambda: views.apply(batch, drawn)):
        with refuses(UsageError, "'forground'", "'foreground'", "background, object"):
            refused()


@pytest.mark.parametrize("probability", [-0.1, 1.5, float("nan")])
def test_what_is_no_probability_is_refused(probability):
    with refuses(UsageError, f"drop={probability}", 0, 1):
        Drop(probability)


def test_a_drop_reaches_the_training_step_and_the_views_of_a_diagnosis():
    from fullrank.diagnosis.features import collect
    from fullrank.diagnosis.subject import Subject
    from fullrank.encoders import encoder
    from fullrank.heads import head

    images = source("composite:digits-on-textures,n=60").load("train")
    views = view_pipeline("weak,drop=0.5,scale=1,flip=0", image_size=12)
    tiny = encoder("tiny-resnet,width=4", image_size=12)
    subject = Subject("tiny", tiny, head("none", in_dim=16), None, images, views)
    (h,) = collect(subject, ["h"]).evidence.places
    assert list(h.operations) == ["drop"]
    first, second = h.operations["drop"]
    differ = (first != second).any(1).double().mean()
    assert 0.25 < differ < 0.75  # 2 p (1 - p) of the pairs see one digit and one bare background


def test_a_composite_trains_and_its_background_is_probed(tmp_path):
    from fullrank import train
    from fullrank.evaluation.probe import probe

    quick = {"encoder": "tiny-resnet,width=8", "head": "none", "batch_size": 64, "epochs": 1}
    data = "composite:digits-on-textures,n=600"
    run = train("digits", data=data, out=tmp_path / "run", monitor_every=5, **quick)
    assert probe(run, ["h"], label="background").probes["h"].linear > 0.2  # chance is 0.1
    assert set(probe(run, ["h", "z"], label="group").probes) == {"h", "z"}
