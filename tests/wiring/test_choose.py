"""Candidates of a run whose features are its pixels: a swapped argument or a leak is a wrong number."""

import numpy as np
import torch
from transparent import coded_images

from fullrank import Run
from fullrank.choosing.reading import Reading, read_pool
from fullrank.views import step_generator, view_pipeline


def test_clean_features_are_the_pixels_of_test_images_then_of_training_images(
    transparent_run: Run,
):
    pool = read_pool([transparent_run], Reading())
    images = coded_images("test").joined(coded_images("train"))
    pixels = torch.from_numpy(images.images).permute(0, 3, 1, 2).flatten(1) / 255
    h = next(each for each in pool.candidates if each.place == "h")
    torch.testing.assert_close(h.clean, pixels.float())
    assert pool.labels is not None
    assert pool.labels.tolist() == images.labels["label"].tolist()


def test_views_are_those_of_the_shared_chain(transparent_run: Run):
    pool = read_pool([transparent_run], Reading(views="weak"))
    images = coded_images("test").joined(coded_images("train")).subset(pool.viewed)
    views = view_pipeline("weak", image_size=images.image_size, channels=1)
    h = next(each for each in pool.candidates if each.place == "h")
    assert h.views is not None
    batch = images.batch(np.arange(len(images)))
    for pair in (0, 1):
        parameters = views.sample(len(images), step_generator(0, pair, 0), (4, 4), batch.sizes)
        for side, view in enumerate(views.apply(batch, parameters)):
            torch.testing.assert_close(h.views[2 * pair + side], view.flatten(1))


def test_places_come_from_the_image_on(transparent_run: Run):
    pool = read_pool([transparent_run], Reading())
    # The head makes z what the place "quiet" is, so the two are one candidate.
    assert [each.place for each in pool.candidates] == ["quiet", "h"]
    assert [each.depth for each in pool.candidates] == [0, 1]
    assert any("z" in note for note in pool.notes)
