"""Every registered pair of pipelines, and the promises all of them keep."""

import pickle

import pytest
import torch
import torch.nn.functional as F
from refusals import refuses

from fullrank.batch import Batch, as_float
from fullrank.errors import UsageError
from fullrank.views import VIEWS, Blur, Crop, Jitter, Solarize, crop_resize, step_generator, view_pipeline
from fullrank.views.pipeline import laid_on_canvas

NAMES = [entry.name for entry in VIEWS]


def batch_of(count, channels=3, height=12, width=12):
    images = torch.randint(
        0,
        256,
        (count, channels, height, width),
        dtype=torch.uint8,
        generator=torch.Generator().manual_seed(0),
    )
    return Batch(images, torch.full((count,), -1), torch.arange(count))


def rows_of(batch, rows):
    return Batch(batch.images[rows], batch.labels[rows], batch.index[rows])


@pytest.mark.parametrize("count", [1, 9])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", NAMES)
def test_views_of_any_batch(name, channels, count):
    views = view_pipeline(name, image_size=10, channels=channels)
    batch = batch_of(count, channels, height=17, width=13)
    before = batch.images.clone()
    parameters = views.sample(count, step_generator(3, 1, 2), source=(17, 13))
    assert len(parameters) == count
    for view, size in zip(views.apply(batch, parameters), views.sizes, strict=True):
        assert view.shape == (count, channels, size, size)
        assert view.dtype == torch.float32
        assert view.min() >= 0 and view.max() <= 1
    assert torch.equal(batch.images, before)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", NAMES)
def test_names_on_paper_are_the_names_drawn(name, channels):
    views = view_pipeline(name, image_size=10, channels=channels)
    drawn = views.sample(2, step_generator(0, 0, 0))
    assert set(drawn.first) == set(views.operations[0])
    assert set(drawn.second) == set(views.operations[1])
    assert set(drawn.names) == {*views.operations[0], *views.operations[1]}


@pytest.mark.parametrize("name", NAMES)
def test_the_same_generator_gives_the_same_views_and_another_step_others(name):
    views, batch = view_pipeline(name, image_size=12), batch_of(8)
    one, again, other = (
        views.apply(batch, views.sample(8, step_generator(0, 0, step))) for step in (4, 4, 5)
    )
    assert torch.equal(one[0], again[0]) and torch.equal(one[1], again[1])
    assert not torch.equal(one[0], other[0])
    assert not torch.equal(one[0], one[1])


@pytest.mark.parametrize("name", NAMES)
def test_a_slice_of_the_draw_makes_the_slice_of_the_views(name):
    # More images than are worked on at a time, so the pieces begin at other places.
    views, batch = view_pipeline(name, image_size=32), batch_of(100, height=32, width=32)
    parameters = views.sample(100, step_generator(0, 0, 0))
    whole = views.apply(batch, parameters)
    for rows in (slice(0, 50), slice(50, 100), slice(7, 8)):
        part = views.apply(rows_of(batch, rows), parameters[rows])
        for some, all_of in zip(part, whole, strict=True):
            torch.testing.assert_close(some, all_of[rows], atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_a_stored_draw_can_be_replayed(name):
    views, batch = view_pipeline(name, image_size=12), batch_of(8)
    parameters = views.sample(8, step_generator(0, 0, 0))
    stored = pickle.loads(pickle.dumps(parameters))  # noqa: S301
    for one, other in zip(views.apply(batch, parameters), views.apply(batch, stored), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", NAMES)
def test_with_all_switched_off_a_view_is_the_resized_image(name, channels):
    views, batch = view_pipeline(name, image_size=8, channels=channels), batch_of(5, channels)
    parameters = views.sample(5, step_generator(0, 0, 0), source=(12, 12))
    bare = parameters.without(*parameters.names)
    assert bare.names == () and len(bare) == 5
    whole = torch.tensor([[0, 0, 12, 12]]).expand(5, 4)
    for view, size in zip(views.apply(batch, bare), views.sizes, strict=True):
        expected = crop_resize(as_float(batch.images), whole, size, views.first.crop.interpolation)
        torch.testing.assert_close(view, expected, atol=1e-6, rtol=0)


def test_each_operation_can_be_switched_off_alone():
    views, batch = view_pipeline("directclr", image_size=12), batch_of(64)
    parameters = views.sample(64, step_generator(0, 0, 0))
    full = views.apply(batch, parameters)
    for name in parameters.names:
        less = parameters.without(name)
        assert less.names == tuple(n for n in parameters.names if n != name)
        changed = views.apply(batch, less)
        hit = (changed[1] != full[1]).flatten(1).any(1)
        drawn = parameters.second[name]
        if name == "crop":
            continue
        # Nothing but the operation changed: an image it does not hit stays bit for bit.
        neutral = 1.0 if name in ("brightness", "contrast", "saturation") else 0.0
        assert not hit[drawn == neutral].any(), name
        assert hit[drawn != neutral].any(), name


def test_directclr_has_two_unequal_pipelines_of_the_papers_values():
    views = view_pipeline("directclr", image_size=32)
    crop, jitter = Crop(32, 0.08, 0.5, "bicubic"), Jitter(0.4, 0.4, 0.2, 0.1, 0.8)
    assert views.first.crop == views.second.crop == crop
    assert views.first.then[0] == views.second.then[0] == jitter
    assert views.first.then[2:] == (Blur(1.0),)
    assert views.second.then[2:] == (Blur(0.1), Solarize(0.2))
    drawn = views.sample(2000, step_generator(0, 0, 0))
    assert (drawn.first["blur"] > 0).all()
    assert 0.07 < (drawn.second["blur"] > 0).double().mean() < 0.13


def test_the_two_views_of_one_draw_are_independent():
    drawn = view_pipeline("simclr", image_size=32).sample(2000, step_generator(0, 0, 0))
    pair = torch.stack([drawn.first["brightness"], drawn.second["brightness"]])
    assert torch.corrcoef(pair)[0, 1].abs() < 0.08


@pytest.mark.parametrize(
    ("spec", "channels", "names"),
    [
        ("simclr", 3, "crop flip brightness contrast saturation hue grey blur"),
        ("simclr", 1, "crop flip brightness contrast blur"),
        ("simclr,blur=0,grey=0,hue=0,saturation=0,scale=0.4", 3, "crop flip brightness contrast"),
        ("simclr,jitter=0,flip=0", 3, "crop grey blur"),
        ("simclr,brightness=0,contrast=0", 1, "crop flip blur"),
        ("weak,scale=1,flip=0", 3, ""),
        ("directclr", 1, "crop flip brightness contrast blur"),
    ],
)
def test_what_does_nothing_is_not_in_the_pipeline(spec, channels, names):
    views = view_pipeline(spec, image_size=8, channels=channels)
    assert views.operations[0] == tuple(names.split())
    kinds = [type(operation) for operation in views.first.then]
    assert len(kinds) == len(set(kinds)) and all(operation.names for operation in views.first.then)


def test_options_reach_the_operations():
    spec = "simclr,scale=0.3,flip=0.1,brightness=0.2,contrast=0.3,saturation=0.5,hue=0.05,jitter=0.6"
    views = view_pipeline(spec, image_size=8)
    assert views.first.crop == Crop(8, 0.3, 0.1)
    assert views.first.then[0] == Jitter(0.2, 0.3, 0.5, 0.05, 0.6)


@pytest.mark.parametrize(
    ("spec", "parts"),
    [
        ("simclr,blur=1.5", ["blur=1.5", 0, 1]),
        ("simclr,grey=-0.1", ["grey=-0.1", 0, 1]),
        ("simclr,jitter=2", ["jitter=2.0", 0, 1]),
        ("simclr,flip=nan", ["flip=nan", 0, 1]),
        ("weak,scale=0", ["scale=0.0", 0, 1]),
        ("directclr,scale=1.5", ["scale=1.5", 0, 1]),
        ("simclr,hue=0.7", ["hue=0.7", "0 to 0.5"]),
        ("directclr,blur=0.3", ["'directclr'", "'blur'"]),
        ("simcrl", ["'simcrl'", "'simclr'"]),
    ],
)
def test_a_bad_spec_is_refused(spec, parts):
    with refuses(UsageError, *parts):
        view_pipeline(spec, image_size=8)


def test_no_channels_are_refused():
    with refuses(UsageError, "1 channel", "channels=0"):
        view_pipeline("weak", image_size=8, channels=0)


@pytest.mark.parametrize("other", [batch_of(3), batch_of(4, channels=1), batch_of(4, height=13)])
def test_parameters_of_another_batch_are_refused(other):
    views = view_pipeline("weak", image_size=12)
    parameters = views.sample(4, step_generator(0, 0, 0))
    with refuses(UsageError, tuple(other.images.shape), (4, 3, 12, 12)):
        views.apply(other, parameters)


def test_switching_off_what_is_not_on_is_refused():
    parameters = view_pipeline("weak", image_size=8).sample(2, step_generator(0, 0, 0))
    with refuses(UsageError, "'blurr'", "crop, flip"):
        parameters.without("blurr")


def test_mixed_precision_around_does_not_reach_the_views():
    views, batch = view_pipeline("simclr", image_size=12), batch_of(4)
    parameters = views.sample(4, step_generator(0, 0, 0))
    plain = views.apply(batch, parameters)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = views.apply(batch, parameters)
    assert all(torch.equal(one, other) for one, other in zip(plain, mixed, strict=True))


def test_no_images_make_no_views():
    views = view_pipeline("simclr", image_size=8)
    a, b = views.apply(batch_of(0, height=8, width=8), views.sample(0, step_generator(0, 0, 0)))
    assert a.shape == b.shape == (0, 3, 8, 8)


def test_steps_epochs_and_seeds_draw_apart():
    places = [(s, e, t) for s in (0, 1, 2**32, 2**40) for e in range(6) for t in range(6)]
    draws = {torch.randint(2**62, (), generator=step_generator(*place)).item() for place in places}
    assert len(draws) == len(places)
    with refuses(UsageError, "seed, epoch", "-1, 0"):
        step_generator(-1, 0, 0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", NAMES)
def test_the_gpu_makes_the_cpus_views(name):
    views, batch = view_pipeline(name, image_size=32), batch_of(70, height=40, width=36)
    parameters = views.sample(70, step_generator(0, 0, 0), source=(40, 36))
    expected, found = views.apply(batch, parameters), views.apply(batch.to("cuda"), parameters)
    for one, other in zip(expected, found, strict=True):
        assert other.is_cuda
        torch.testing.assert_close(other.cpu(), one, atol=1e-5, rtol=0)


def test_a_crop_of_a_squashed_canvas_is_the_crop_of_the_original():
    """Boxes are drawn in the originals, so what is cut out has its true proportions and place."""
    height, width, side = 60, 100, 48
    ramp = torch.stack(
        torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    )
    original = torch.cat([ramp, ramp.mean(0, keepdim=True)])  # linear, so that resampling keeps it
    canvas = F.interpolate(original[None], (side, side), mode="bilinear", antialias=True)
    images = (canvas * 255).round().to(torch.uint8).expand(16, -1, -1, -1)
    batch = Batch(images, torch.full((16,), -1), torch.arange(16))
    views = view_pipeline("weak,scale=0.2,flip=0", image_size=16)
    sizes = torch.tensor([[height, width]]).expand(16, 2)
    drawn = views.sample(16, step_generator(0, 0, 0), (side, side), sizes)
    boxes = views.first.crop.sample(16, step_generator(0, 0, 0), sizes)["crop"]
    for view, (top, left, tall, wide) in zip(views.apply_first(batch, drawn), boxes.tolist(), strict=True):
        cut = original[:, top : top + tall, left : left + wide]
        expected = F.interpolate(cut[None], (16, 16), mode="bilinear", antialias=True)[0]
        # One canvas pixel at the borders, where the box cuts through pixels, and rounding to 8 bits.
        assert (view - expected).abs().max() < 1 / side
        assert (view - expected).abs().mean() < 0.004


def test_what_is_drawn_does_not_depend_on_sizes():
    views = view_pipeline("weak", image_size=8)
    sizes = torch.tensor([[8, 8], [500, 300]])
    first, second = (
        views.sample(2, step_generator(0, 0, 0), (8, 8), given) for given in (sizes, sizes.flip(0))
    )
    assert torch.equal(first.second["flip"], second.second["flip"])
    alike = views.sample(2, step_generator(0, 0, 0), (8, 8), torch.tensor([[500, 300], [500, 300]]))
    assert torch.equal(first.first["crop"][1], alike.first["crop"][1])


def test_a_box_smaller_than_a_canvas_pixel_is_widened_to_one():
    boxes = laid_on_canvas(torch.tensor([[999, 999, 1, 1]]), torch.tensor([[1000, 1000]]), (10, 10))
    assert boxes.tolist() == [[9.0, 9.0, 1.0, 1.0]]


def test_the_first_view_alone_is_the_first_of_both():
    views = view_pipeline("directclr", image_size=8)
    batch = Batch(torch.randint(0, 256, (4, 3, 8, 8)).to(torch.uint8), torch.zeros(4), torch.arange(4))
    drawn = views.sample(4, step_generator(0, 0, 0))
    assert torch.equal(views.apply_first(batch, drawn), views.apply(batch, drawn)[0])
