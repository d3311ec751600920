"""What a diagnosis reads of a model: the features of plain passes, at the places there are."""

import numpy as np
import pytest
import torch
from refusals import refuses
from torch import nn

from fullrank import encoder, head, source, view_pipeline
from fullrank.batch import Batch
from fullrank.data import ImageSet
from fullrank.diagnosis import features
from fullrank.diagnosis.features import (
    collect,
    imposed_rank,
    stacked_maps,
    thinned_places,
    view_batches,
)
from fullrank.diagnosis.subject import Subject
from fullrank.encoders.foreign import with_places
from fullrank.errors import UsageError
from fullrank.views import step_generator

DIGITS = source("digits").load("test")
VIEWS = view_pipeline("simclr,hue=0,saturation=0,grey=0", image_size=8, channels=1)


def collected(model, last, images, places=None, views=None, **more):
    """The sample, and what is read of it at each place."""
    result = collect(Subject("it", model, last, None, images, views), places, **more)
    return result.images, {place.place: place for place in result.evidence.places}


WEAK = view_pipeline("weak,flip=0", image_size=8, channels=1)
STILL = view_pipeline("weak,scale=1,flip=0", image_size=8, channels=1)


@pytest.fixture
def parts():
    torch.manual_seed(0)
    return encoder("tiny-resnet,width=4", image_size=8, in_chans=1), head("mlp:6,hidden=7", in_dim=16)


def test_features_are_those_of_the_modules_on_a_sample(parts):
    model, last = parts
    model.train()
    last.train()
    sample, places = collected(model, last, DIGITS, limit=300, seed=2)
    expected = DIGITS.limited(300, 2)
    np.testing.assert_array_equal(sample.images, expected.images)
    assert list(places) == [*model.places, "h", "head.1", "z"]
    assert not any(place.views or place.operations for place in places.values())
    assert model.training and last.training
    model.eval()
    last.eval()
    with torch.no_grad():
        h = model(expected.tensor() / 255)
    torch.testing.assert_close(places["h"].features, h)
    torch.testing.assert_close(places["z"].features, last(h).detach())
    assert all(p.features.dtype == torch.float32 and len(p.features) == 300 for p in places.values())


def test_views_are_drawn_by_the_seed_and_replayed_with_one_operation_each(parts):
    model, last = (part.eval() for part in parts)
    images = DIGITS.limited(40, 1)
    _, places = collected(model, last, images, ["stage2.1", "h", "z"], VIEWS, seed=5)
    drawn = VIEWS.sample(40, step_generator(5, 0, 0))
    # The images come to the views in random order: views that change nothing show in which.
    still = collected(model, last, images, ["h"], STILL, seed=5)[1]["h"]
    order = torch.cdist(still.views[0], still.features).argmin(1)
    assert sorted(order.tolist()) == list(range(40)) and not torch.equal(order, torch.arange(40))
    batch = Batch(images.tensor()[order], torch.zeros(40), torch.arange(40))

    def features_of(parameters):
        with torch.no_grad():
            return [last(model(view)) for view in VIEWS.apply(batch, parameters)]

    torch.testing.assert_close(list(places["z"].views), features_of(drawn))
    names = ["crop", "flip", "brightness", "contrast", "blur"]
    assert list(places) == ["stage2.1", "h", "z"] and list(places["z"].operations) == names
    for name in names:
        alone = drawn.without(*(other for other in names if other != name))
        torch.testing.assert_close(list(places["z"].operations[name]), features_of(alone))
    assert places["h"].operations["flip"][0].shape == (40, 16)
    without = collected(model, last, images, ["z"], VIEWS, seed=5, replay=False)[1]["z"]
    assert without.operations == {} and torch.equal(without.views[0], places["z"].views[0])


def test_operations_are_replayed_on_the_first_batch_of_the_viewed_images(parts, monkeypatch):
    monkeypatch.setattr(features, "BATCH_SIZE", 20)
    h = collected(*parts, DIGITS, ["h"], WEAK, limit=50, seed=3)[1]["h"]
    assert len(h.views[0]) == 50 and len(h.operations["crop"][0]) == 20
    # Where nothing is flipped, the crop alone is all there is to a view.
    torch.testing.assert_close(h.operations["crop"][1], h.views[1][:20])


def test_views_are_of_a_part_of_the_sample_with_every_class(parts, monkeypatch):
    monkeypatch.setattr(features, "VIEWED", 50)
    monkeypatch.setattr(features, "BATCH_SIZE", 16)
    rows = np.argsort(DIGITS.labels["label"], kind="stable")
    # Sorted by class: the first 50 of 100 would be of five classes.
    sample, places = collected(*parts, DIGITS.subset(rows), ["h"], STILL, limit=100)
    h = places["h"]
    assert len(h.features) == 100 and len(h.views[0]) == 50 and h.operations == {}
    near = torch.cdist(h.views[0], h.features).argmin(1)
    assert set(sample.labels["label"][near]) == set(range(10))


def test_batches_of_views_cover_all_images_each_with_a_draw_of_its_own():
    images = DIGITS.limited(50, 0)
    batches = list(view_batches(images, VIEWS, seed=3, batch_size=20))
    assert [len(batch) for batch, _ in batches] == [20, 20, 10] == [len(drawn) for _, drawn in batches]
    assert torch.equal(torch.cat([batch.images for batch, _ in batches]), images.tensor())
    assert not torch.equal(batches[0][1].first["crop"], batches[1][1].first["crop"])
    again = list(view_batches(images, VIEWS, seed=3, batch_size=20))
    assert torch.equal(batches[2][1].second["blur"], again[2][1].second["blur"])


def test_the_rank_that_a_head_imposes_is_evidence_at_its_places(parts):
    subject = Subject("it", parts[0], head("subvector:5", in_dim=16), None, DIGITS)
    evidence = collect(subject, limit=60).evidence
    assert [place.place for place in evidence.places][-2:] == ["h", "z"]
    assert [place.imposed_rank for place in evidence.places[-2:]] == [None, 5] and evidence.stacked == ()


def test_any_module_is_an_encoder_of_h_alone():
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 9), nn.Linear(9, 8))
    (h,) = (evidence := collect(Subject("it", net, None, None, DIGITS, VIEWS), limit=30).evidence).places
    assert h.place == "h" and h.imposed_rank is None
    with torch.no_grad():
        torch.testing.assert_close(h.features, net(DIGITS.limited(30, 0).tensor() / 255))
    assert [tuple(matrix.shape) for matrix in evidence.stacked] == [(9, 64), (8, 9)]
    headed = Subject("it", net, nn.Linear(8, 3), None, DIGITS)
    both = collect(headed, limit=30).evidence
    assert [place.place for place in both.places] == ["h", "z"] and len(both.stacked) == 3
    assert collect(headed, ["h"], limit=30).evidence.stacked == ()
    assert collected(net, None, DIGITS, ["z"], limit=30)[1]["z"].features.shape == (30, 8)


def test_what_is_no_encoder_is_said():
    with refuses(UsageError, "Linear", "1 channel and 8 x 8 pixels"):
        collected(nn.Linear(5, 2), None, DIGITS, limit=5)
    five = ImageSet(np.zeros((5, 1, 1, 1), np.uint8), {"label": np.zeros(5, int)}, {"label": ("a",)})
    with refuses(UsageError, "(N, D)", "(2,)"):
        collected(nn.Flatten(0), None, five)


def test_what_cannot_be_done_is_said(parts):
    with refuses(UsageError, "'layer7'", "h"):
        collected(*parts, DIGITS, ["layer7"])
    with refuses(UsageError, "limit", 1, 0, 4096):
        collected(*parts, DIGITS, limit=0)
    with refuses(UsageError, 1, 3):
        collected(*parts, DIGITS, ["h"], view_pipeline("weak", image_size=8, channels=3), limit=20)


# Places


def test_places_are_thinned_evenly_with_both_ends():
    class Deep(nn.Module):
        places = tuple(f"block{i}" for i in range(50))

        def features(self, x, places):
            return {}

    places = thinned_places(Deep(), head("mlp:4,layers=3", in_dim=8))
    assert places[-4:] == ["h", "head.1", "head.2", "z"] and len(places) == 16
    inner = [int(name.removeprefix("block")) for name in places[:-4]]
    assert inner[0] == 0 and inner[-1] == 49 and set(np.diff(inner)) <= {4, 5}
    assert thinned_places(Deep(), None, most=50)[:-1] == list(Deep.places)


def test_a_net_with_features_but_no_places_is_a_plain_module():
    class Vgg(nn.Module):
        def __init__(self):
            super().__init__()
            self.features = nn.Flatten()

        def forward(self, x):
            return self.features(x)

    assert thinned_places(Vgg(), None) == ["h"]
    assert with_places(Vgg(), 3, 1).features(torch.zeros(2, 1, 3, 3), ["h"])["h"].shape == (2, 9)


# What a head imposes, and what it stacks


@pytest.mark.parametrize(
    ("spec", "rank"),
    [
        ("none", None),
        ("none,norm=batch", None),
        ("subvector:24", 24),
        ("subvector:96", 96),
        ("lowrank:10", 10),
        ("random-subvector:7,norm=batch", 7),
        ("reweight:1.05", 21),  # (1 + 1.05**-2) / (1 - 1.05**-2) = 20.5
        ("reweight:1", None),
        ("reweight:1.001", 96),
        ("diagonal", None),
        ("orthogonal", None),
        ("linear:64", None),
        ("linear:96", None),
        ("linear:128", 96),
        ("linear:128,norm=batch", 96),
        ("mlp:128", 96),
        ("mlp:128,hidden=200", None),
        ("mlp:128,hidden=16", 16),
    ],
)
def test_the_rank_of_z_that_the_form_of_a_head_imposes(spec, rank):
    built = head(spec, in_dim=96)
    assert imposed_rank(built) == rank
    assert imposed_rank(built, "h") is None and imposed_rank(built, "stage1.1") is None


@pytest.mark.parametrize(
    "spec", ["subvector:5", "lowrank:5", "linear:20", "mlp:20,hidden=5", "mlp:20,hidden=16"]
)
def test_features_have_the_imposed_rank_and_no_more(spec):
    torch.manual_seed(0)
    built = head(spec, in_dim=12).eval()
    rank = imposed_rank(built) or built.out_dim
    with torch.no_grad():
        z = built(torch.randn(400, 12)).double()
    assert torch.linalg.matrix_rank(z - z.mean(0), rtol=1e-5) == rank


def test_at_a_place_in_the_head_it_is_what_came_before():
    wide = head("mlp:4,hidden=30,layers=3", in_dim=8)
    assert [imposed_rank(wide, place) for place in ("head.1", "head.2", "z")] == [None, None, None]
    assert imposed_rank(head("subvector:24", in_dim=96), "z[:10]") == 10
    stack = nn.Sequential(nn.Linear(9, 3), nn.BatchNorm1d(3), nn.Linear(3, 7, bias=False))
    assert imposed_rank(stack) == 3
    assert imposed_rank(nn.Sequential(*stack, nn.ReLU())) is None


def shapes(*modules):
    return [tuple(matrix.shape) for matrix in stacked_maps(*modules)]


def test_linear_maps_are_stacked_while_nothing_is_between_them():
    linear = [nn.Linear(a, b) for a, b in ((8, 7), (7, 6), (6, 5))]
    assert shapes(*linear) == shapes(nn.Sequential(*linear)) == [(7, 8), (6, 7), (5, 6)]
    assert shapes(nn.Sequential(linear[0], nn.Identity()), nn.Sequential(nn.Sequential(linear[1]))) == [
        (7, 8),
        (6, 7),
    ]
    assert shapes(linear[0], nn.ReLU(), linear[1], linear[2]) == [(6, 7), (5, 6)]
    for between in (nn.ReLU(), nn.BatchNorm1d(7), nn.Dropout()):
        assert shapes(linear[0], between, linear[1]) == []
    assert shapes(*linear, nn.ReLU()) == [] and shapes(linear[0]) == [] and shapes() == []


def test_only_what_surely_runs_in_order_is_stacked():
    class Hidden(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x):
            return self.b(self.a(x).relu())

    assert shapes(Hidden()) == []
    body = nn.Sequential(nn.ReLU(), nn.Linear(8, 8))
    assert shapes(body, head("linear:4", in_dim=8)) == [(8, 8), (4, 8)]
    assert shapes(body, head("linear:4,norm=batch", in_dim=8)) == []
    assert shapes(body, head("mlp:4", in_dim=8)) == [] == shapes(body, head("subvector:4", in_dim=8))
    assert shapes(body, head("orthogonal", in_dim=8)) == [(8, 8), (8, 8)]


def test_stacked_maps_multiply_to_what_the_modules_do():
    torch.manual_seed(0)
    body, last = nn.Sequential(nn.Linear(6, 5, bias=False)), head("linear:4", in_dim=5)
    first, second = stacked_maps(body, last)
    x = torch.randn(3, 6)
    torch.testing.assert_close(x @ (second @ first).T, last(body(x)).detach())
    assert not first.requires_grad
