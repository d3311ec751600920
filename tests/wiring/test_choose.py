"""Candidates of a run whose features are its pixels: a swapped argument or a leak is a wrong number."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transparent import SETTINGS, Coded, WithoutLoud, coded_images

from fullrank import Run, train
from fullrank.choosing.candidates import Reading
from fullrank.choosing.reading import read_pool
from fullrank.data import ImageSet
from fullrank.errors import UsageError
from fullrank.views import step_generator, view_pipeline


def whole_images() -> ImageSet:
    return coded_images("test").joined(coded_images("train"))


class Square(torch.nn.Module):
    """Pixels times a number."""

    def __init__(self, factor: float):
        super().__init__()
        self.factor = factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.factor * x.flatten(1)


def test_clean_features_are_the_pixels_of_test_images_then_of_training_images(
    transparent_run: Run,
):
    pool = read_pool([transparent_run], Reading())
    images = whole_images()
    assert len(pool.ids) == len({image.tobytes() for image in images.images})
    images = images.subset(np.array([images.ids.index(name) for name in pool.ids]))
    assert (np.diff([whole_images().ids.index(name) for name in pool.ids]) > 0).all()
    pixels = torch.from_numpy(images.images).permute(0, 3, 1, 2).flatten(1) / 255
    h = next(each for each in pool.candidates if each.place == "h")
    torch.testing.assert_close(h.clean, pixels.float())
    assert pool.labels is not None
    assert pool.labels.tolist() == images.labels["label"].tolist()


def test_a_limit_leaves_out_training_images_before_any_test_image(transparent_run: Run):
    tests = len(coded_images("test"))
    pool = read_pool([transparent_run], Reading(limit=tests + 20, places=["h"]))
    assert sum(name.startswith("test/") for name in pool.ids) == tests
    assert 10 < sum(name.startswith("train/") for name in pool.ids) <= 20  # the same image may be there twice


def test_views_are_those_of_the_shared_chain(transparent_run: Run):
    pool = read_pool([transparent_run], Reading(views="weak"))
    images = whole_images()  # all of them have views
    rows = [images.ids.index(name) for name in pool.ids[pool.viewed]]
    views = view_pipeline("weak", image_size=images.image_size, channels=1)
    h = next(each for each in pool.candidates if each.place == "h")
    assert h.views is not None
    batch = images.batch(np.arange(len(images)))
    for pair in (0, 1):
        parameters = views.sample(len(images), step_generator(0, pair, 0), (4, 4), batch.sizes)
        for side, view in enumerate(views.apply(batch, parameters)):
            torch.testing.assert_close(h.views[2 * pair + side], view.flatten(1)[rows])


def test_places_come_from_the_image_on(transparent_run: Run):
    pool = read_pool([transparent_run], Reading())
    # The head makes z what the place "quiet" is, so the two are one candidate.
    assert [each.place for each in pool.candidates] == ["quiet", "h"]
    assert [each.depth for each in pool.candidates] == [0, 1]
    assert any("z" in note for note in pool.notes)


def test_only_what_equals_z_is_trained_whatever_places_are_read(transparent_run: Run):
    for places in (["h"], ["z", "h"], ["h", "quiet"]):
        pool = read_pool([transparent_run], Reading(places=places))
        trained = {each.place: bool(each.trained_on) for each in pool.candidates}
        assert trained == {place: place != "h" for place in places}  # z is "quiet" here


def test_without_a_head_h_is_trained(tmp_path: Path):
    run = train("digits", data=Coded, out=tmp_path / "run", head="none", **SETTINGS)
    pool = read_pool([run], Reading(places=["quiet", "h"]))
    assert [bool(each.trained_on) for each in pool.candidates] == [False, True]


def test_runs_on_unlike_pixels_with_the_same_ids_are_refused(transparent_run: Run, tmp_path: Path):
    class Inverted(Coded):
        def read(self, split, image_size):
            images = super().read(split, image_size)
            return replace(images, images=255 - images.images)

    other = train("digits", data=Inverted, out=tmp_path / "inverted", head=WithoutLoud, **SETTINGS)
    with pytest.raises(UsageError, match="--data"):
        read_pool([transparent_run, other], Reading())
    pool = read_pool([transparent_run, other], Reading(data=Coded, places=["h"]))
    assert torch.equal(pool.candidates[0].clean, pool.candidates[1].clean)


def test_a_chain_of_more_than_two_views_is_refused(transparent_run: Run):
    with pytest.raises(UsageError, match="4"):
        read_pool([transparent_run], Reading(views="multicrop,global=4,local=0"))


def test_one_run_by_two_paths_is_named_twice(transparent_run: Run):
    path = transparent_run.path
    with pytest.raises(UsageError, match="twice"):
        read_pool([path, path.parent / ".." / path.parent.name / path.name], Reading())


def test_two_modules_of_one_class_are_two_candidates():
    nets = [Square(3.0), Square(2.0)]
    pool = read_pool(nets, Reading(data=Coded, places=["h"]))
    assert len({each.run for each in pool.candidates}) == 2
    torch.testing.assert_close(pool.candidates[0].clean / 3, pool.candidates[1].clean / 2)
    with pytest.raises(UsageError, match="twice"):
        read_pool([nets[0], nets[0]], Reading(data=Coded))
    with pytest.raises(UsageError, match="Square"):
        read_pool(nets, Reading(data=Coded, places=["z"]))
