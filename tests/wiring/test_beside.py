"""Which of two models stands on which side of a comparison, and what both are shown."""

import numpy as np
import pytest
from refusals import refuses
from torch import nn
from torch.nn.functional import avg_pool2d
from transparent import LOUD, QUIET, SIDE, TEST, Coded, Pixels, coded_images, pixel_rows
from typer.testing import CliRunner

from fullrank import diagnose, target
from fullrank.cli.commands import app
from fullrank.diagnosis.beside.of_models import find_subjects
from fullrank.errors import UsageError
from fullrank.record import Record
from fullrank.spectrum import linear_cka


class Quiet(Pixels):
    """h is the pixels without the loud code; `quiet` is all of them."""

    def __init__(self):
        super().__init__(1, SIDE)
        self.feature_dim -= 4

    def features(self, x, places):
        return {place: x.flatten(1)[:, 4 if place == "h" else 0 :] for place in places}


@pytest.fixture(scope="module")
def quiet_beside_loud(tmp_path_factory):
    """The net that shows the quiet code alone, beside the one that shows both."""
    out = tmp_path_factory.mktemp("beside") / "d"
    return diagnose(Quiet(), data=Coded, against=Pixels(1, SIDE), out=out).entry


def test_the_model_that_is_diagnosed_is_now_and_the_other_before(quiet_beside_loud):
    beside = quiet_beside_loud.beside
    scores = {(one.place, one.against, one.name): (one.before, one.now, one.tested) for one in beside.scores}
    assert scores["h", "h", "linear"] == scores["h", "h", "nearest"] == (LOUD, QUIET, TEST)
    assert {row.place: row.linear for row in quiet_beside_loud.layers} == {"h": QUIET, "quiet": LOUD}
    assert (beside.target, beside.rows, beside.matched) == ("Pixels", TEST, "id")
    widths = {(one.place, one.against): one.widths for one in beside.pairs}
    assert widths == {("h", "h"): (12, 16), ("quiet", "quiet"): (16, 12)}
    kept = {one.place: one.kept for one in beside.pairs}
    assert kept["quiet"] == pytest.approx(1, abs=1e-6) and kept["h"] < 0.6  # the loud code is lost at h
    lost = [direction.place for direction in beside.lost]
    assert lost and set(lost) == {"h"}


def test_pairs_and_the_map_are_of_the_same_images_in_the_same_order(quiet_beside_loud):
    beside, rows = quiet_beside_loud.beside, pixel_rows("test")
    expected = linear_cka(rows[:, 4:], rows)
    assert {one.place: one.cka for one in beside.pairs} == pytest.approx({"h": expected, "quiet": expected})
    (made,) = beside.maps
    values = dict(zip(made.places, made.values, strict=True))
    columns = {place: made.against.index(place) for place in made.against}
    assert values["quiet"][columns["h"]] == pytest.approx(1) == values["h"][columns["quiet"]]
    assert values["h"][columns["h"]] == pytest.approx(expected)


class Pooled(nn.Module):
    """The pixels again, of images that were enlarged."""

    def forward(self, x):
        return avg_pool2d(x, x.shape[-1] // SIDE).flatten(1)


def test_each_model_gets_the_same_images_at_its_own_size():
    enlarged = target(Pooled(), image_size=4 * SIDE)
    now, before = find_subjects(target(Pixels(1, SIDE)), enlarged, Coded, None)
    assert (now.test.image_size, before.test.image_size) == (SIDE, 4 * SIDE)
    assert now.test.ids == before.test.ids and now.train.ids == before.train.ids
    shown = [one.encoder(one.test.tensor().float() / 255).detach() for one in (now, before)]
    assert linear_cka(*shown) > 0.9


def test_a_run_beside_itself_is_the_same(transparent_run, tmp_path):
    beside = diagnose(
        transparent_run, against=transparent_run, places=["h", "z"], out=tmp_path / "d"
    ).entry.beside
    assert beside.verdict == "same" and not beside.worse
    assert {one.difference for one in beside.scores} == {0.0}
    assert {(one.place, one.against) for one in beside.scores} == {("h", "h"), ("z", "z")}
    assert all(one.now == one.before for one in beside.measures)


def test_a_place_that_one_model_lacks_is_named_with_the_model(tmp_path):
    with refuses(UsageError, "Sequential", "quiet"):
        diagnose(
            Pixels(1, SIDE), data=Coded, against=nn.Sequential(nn.Flatten()), places=["quiet"], out=tmp_path
        )


class Fewer(Coded):
    """The same images without the last of those to test on."""

    def read(self, split, image_size):
        return coded_images(split, TEST - 1) if split == "test" else coded_images(split)


def test_runs_on_different_images_need_images_for_both(transparent_run, quick_run):
    with refuses(UsageError, "data", "digits"):
        find_subjects(target(transparent_run), target(quick_run), None, None)


def test_images_that_differ_between_the_two_are_refused(monkeypatch):
    import fullrank.diagnosis.beside.of_models as of_models

    own = of_models.images_of
    sources = iter([Coded, Fewer])
    monkeypatch.setattr(of_models, "images_of", lambda model, data: own(model, next(sources)))
    with refuses(UsageError, TEST, TEST - 1):
        find_subjects(target(Pixels(1, SIDE)), target(Pixels(1, SIDE)), Coded, None)


def accuracies(folder, now, before, fails):
    """What `diagnose NOW --against BEFORE` records: the linear accuracies before and now, and the verdict."""
    out = folder / f"{now.stem}-{before.stem}"
    options = ["--out", str(out), "--no-report", "--map", "none", "--fail-on", "worse"]
    result = CliRunner().invoke(app, ["diagnose", str(now), "--against", str(before), *options])
    assert result.exit_code == (3 if fails else 0), result.output
    beside = Record.load(out).diagnosis.beside
    (linear,) = (one for one in beside.scores if one.name == "linear")
    return linear.before, linear.now, beside.verdict


def test_the_command_keeps_both_files_and_their_labels_apart(tmp_path):
    """One file shows the classes and the other does not; their rows, ids and labels are in unlike orders."""
    generator = np.random.default_rng(0)
    labels, order = np.arange(150) % 3, generator.permutation(150)
    noise = generator.normal(size=(2, 150, 6)).astype(np.float32)
    shows, ids = (
        noise[0] + 30 * np.eye(6, dtype=np.float32)[labels],
        np.array([f"r{row}" for row in range(150)]),
    )
    np.savez(tmp_path / "shows.npz", features=shows, labels=labels, ids=ids)
    np.savez(tmp_path / "noise.npz", features=noise[1][order], labels=labels[order], ids=ids[order])
    np.savez(tmp_path / "again.npz", features=shows[order], labels=labels[order], ids=ids[order])
    one, other, again = (tmp_path / f"{name}.npz" for name in ("shows", "noise", "again"))
    before, now, verdict = accuracies(tmp_path, other, one, fails=True)
    assert before == 1 and now < 0.6 and verdict == "worse"
    before, now, verdict = accuracies(tmp_path, one, other, fails=False)
    assert before < 0.6 and now == 1 and verdict == "better"
    assert accuracies(tmp_path, again, one, fails=False) == (1, 1, "same")
