"""From the keys of a recipe to images and modules: classes, fractions, weights to start from."""

import numpy as np
import pytest
import timm
import torch
from refusals import refuses
from safetensors.torch import save_file

from fullrank import export, train
from fullrank.encoders import encoder, load_weights
from fullrank.errors import DataError, UsageError
from fullrank.runs.build import build, check_plan, load_data
from fullrank.runs.recipe import Recipe

SMALL = {"encoder": "tiny-resnet,width=4", "head": "none"}


def test_classes_go_from_both_splits_and_limit_from_training_alone():
    plan = Recipe.resolve("digits", {**SMALL, "classes": "3+8", "fraction": 0.5, "limit": 60})
    train_set, test_set = load_data(plan)
    assert train_set.class_names["label"] == test_set.class_names["label"] == ("3", "8")
    assert len(train_set) == 60 and np.bincount(train_set.labels["label"]).min() > 20
    assert len(test_set) == sum(
        (load_data(Recipe.resolve("digits", SMALL))[1].labels["label"] == k).sum() for k in (3, 8)
    )


def test_a_fraction_is_of_each_class_and_the_same_for_every_seed():
    sets = [
        load_data(Recipe.resolve("digits", {**SMALL, "fraction": 0.1, "seed": seed}))[0] for seed in (0, 1)
    ]
    assert np.array_equal(sets[0].images, sets[1].images)
    assert np.bincount(sets[0].labels["label"]).tolist() == pytest.approx([13] * 10, abs=1)


@pytest.mark.parametrize(
    ("overrides", "error", "names"),
    [
        ({"classes": "3+banana"}, UsageError, ["banana"]),
        ({"fraction": 0.001}, DataError, [0.001, "10 of 10"]),
        ({"init": "no/such/file.safetensors"}, DataError, ["no/such/file.safetensors"]),
        ({"init_prefix": "teacher"}, UsageError, ["init_prefix=teacher", "init"]),
    ],
)
def test_what_does_not_fit_the_data_is_one_sentence(tmp_path, overrides, error, names):
    with refuses(error, *names) as raised:
        train("digits", out=tmp_path / "run", **SMALL, **overrides)
    assert "\n" not in str(raised.value) and not (tmp_path / "run").exists()


def test_a_run_starts_from_the_weights_of_another(quick_run, tmp_path):
    plan = Recipe.resolve(quick_run.recipe, {"init": str(quick_run.path / "encoder.safetensors"), "seed": 5})
    module = build(plan, load_data(plan)[0])
    started = module.encoder.state_dict()
    assert all(torch.equal(started[key], value) for key, value in quick_run.encoder.state_dict().items())
    short = Recipe.resolve(quick_run.recipe, {"epochs": 1, "limit": 40, "batch_size": 20})
    run = train(short, out=tmp_path / "run", init=quick_run.path / "encoder.safetensors")
    assert run.recipe.init == str(quick_run.path / "encoder.safetensors")


def test_weights_of_another_width_say_how_many_tensors_do_not_fit(quick_run):
    narrow = Recipe.resolve(quick_run.recipe, {**SMALL, "init": str(quick_run.path / "encoder.safetensors")})
    with refuses(UsageError, 55, "shape", "tiny-resnet"):
        build(narrow, load_data(narrow)[0])


def test_two_kinds_of_weights_to_start_from_are_refused():
    plan = Recipe.resolve("digits", {"encoder": "resnet10t,pretrained=true", "init": "w.safetensors"})
    with refuses(UsageError, "init=w.safetensors", "resnet10t,pretrained=true"):
        check_plan(plan, load_data(Recipe.resolve("digits", {"limit": 40}))[0])


def test_an_exported_encoder_brings_its_mean_and_spread(quick_run, tmp_path):
    export(quick_run, tmp_path / "e.safetensors")
    other = encoder("tiny-resnet,width=8", image_size=8, in_chans=1, mean=(0.9,), std=(0.9,))
    load_weights(other, tmp_path / "e.safetensors")
    torch.testing.assert_close(other.mean, quick_run.encoder.mean)
    torch.testing.assert_close(other.std, quick_run.encoder.std)


def test_the_remedy_for_colour_weights_on_small_grey_images_works_at_once(tmp_path):
    save_file(timm.create_model("resnet10t", num_classes=0).state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(UsageError) as raised:
        load_weights(
            encoder("resnet10t,drop_path=0.1", image_size=32, in_chans=1), tmp_path / "w.safetensors"
        )
    spec = str(raised.value).split("write ")[1].split(" ")[0]
    assert "drop_path=0.1" in spec
    load_weights(encoder(spec, image_size=32, in_chans=1), tmp_path / "w.safetensors")
