"""Composites through training: a layer that the views drop, in a run and in its rehearsal."""

from refusals import refuses

from fullrank import train
from fullrank.errors import UsageError
from fullrank.training.dry_run import dry_run


def test_a_layer_is_dropped_through_a_whole_run_and_its_rehearsal(tmp_path):
    settings = {
        "head": "none",
        "views": "weak,drop=0.5",
        "encoder": "tiny-resnet,width=4",
        "epochs": 1,
        "batch_size": 30,
        "image_size": 16,
    }
    data = "composite:digits-on-textures,n=60"
    run = train("digits", out=tmp_path / "run", data=data, **settings)
    assert run.record.runs[0].steps == 2
    assert dry_run("digits", data="composite:two-cues", **settings).entry.steps == 2


def test_dropping_a_layer_that_images_lack_is_said_before_training(tmp_path):
    with refuses(UsageError, "layers"):
        train("digits", out=tmp_path / "run", views="weak,drop=0.5", head="none")
    assert not (tmp_path / "run").exists()
