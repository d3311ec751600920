"""Runs below a head with nested widths: what they train, record and say in a diagnosis."""

import math

import pytest
from runs import fingerprint

from fullrank import diagnose, objective, source, train, view_pipeline
from fullrank.diagnosis.layers import gradient_ranks


@pytest.fixture(scope="module")
def run(quick, tmp_path_factory):
    settings = quick | {"objective": "barlow-twins", "head": "matryoshka:4-12"}
    return train("digits", out=tmp_path_factory.mktemp("nested") / "run", **settings)


def test_one_width_trains_as_the_sub_vector(quick, tmp_path):
    settings = quick | {"objective": "infonce:0.2", "epochs": 1}
    runs = [
        train("digits", out=tmp_path / name, **settings | {"head": f"{name}:8"})
        for name in ("matryoshka", "subvector")
    ]
    (one, curves, _), (other, other_curves, _) = map(fingerprint, runs)
    assert one == other and curves == other_curves
    assert runs[0].record.runs[0].chance == pytest.approx(math.log(40))


def test_the_chance_level_of_a_run_is_the_mean_over_the_widths(run):
    assert run.record.runs[0].chance == 8  # Barlow Twins: K


def test_a_diagnosis_takes_the_gradient_of_the_nested_loss(run, tmp_path):
    layers = {row.place: row for row in diagnose(run, out=tmp_path / "diagnosis").record.diagnosis.layers}
    views = view_pipeline(run.recipe.views, image_size=8, channels=1)
    images = source(run.recipe.data).load("test")
    nested, plain = (
        gradient_ranks(run.encoder, run.head, objective("barlow-twins", nested=widths), views, images, ["z"])
        for widths in ((4, 12), ())
    )
    assert layers["z"].gradient_rank == pytest.approx(nested["z"], rel=1e-4)
    assert layers["z"].gradient_rank != pytest.approx(plain["z"], rel=1e-2)
