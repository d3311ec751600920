"""Runs that learn labels: which ones, what is saved, how they resume, what is refused before they start."""

import json
import signal

import numpy as np
import pytest
import torch
from refusals import assert_names, refuses
from safetensors.torch import load_file

from fullrank import load, objective, train
from fullrank.data import write_miniature
from fullrank.errors import TerminatedRunError, UsageError
from fullrank.objectives import OBJECTIVES, needs_of
from fullrank.runs.build import build, load_data
from fullrank.runs.recipe import Recipe
from fullrank.training.callbacks.checkpoints import load_state, newest_whole

QUICK = {
    "encoder": "tiny-resnet,width=4",
    "head": "mlp:6",
    "limit": 120,
    "batch_size": 40,
    "epochs": 2,
    "monitor_every": 1,
}
LABELLED = [entry.name for entry in OBJECTIVES if "labels" in needs_of(entry.load())]


@pytest.fixture(scope="module")
def supervised(tmp_path_factory):
    return train("digits", out=tmp_path_factory.mktemp("labels") / "run", objective="cross-entropy", **QUICK)


def test_the_classifier_is_trained_and_in_the_checkpoint_and_not_in_the_head(supervised):
    saved = load_state(newest_whole(supervised.path))["state_dict"]
    weight = saved["objective.classifier.weight"]
    with torch.random.fork_rng():
        torch.manual_seed(supervised.recipe.seed)
        module = build(supervised.recipe, load_data(supervised.recipe)[0])  # as training began
    assert not torch.equal(weight, module.objective.classifier.weight)
    assert weight.shape == module.objective.classifier.weight.shape == (10, 6)
    assert set(load_file(supervised.path / "head.safetensors")) == set(module.head.state_dict())
    entry = supervised.record.runs[0]
    assert entry.parameters["objective"] == 10 * 6 + 10 and entry.chance == pytest.approx(np.log(10))
    assert set(entry.probes) == {"h", "head.1", "z"}


def test_a_supervised_run_goes_on_bit_for_bit(supervised, tmp_path, at_batch):
    at_batch(1, 0, signal.SIGTERM)
    with refuses(TerminatedRunError, "step 4 of 6"):
        train("digits", out=tmp_path / "run", objective="cross-entropy", **QUICK)
    train("digits", out=tmp_path / "run", resume=True, objective="cross-entropy", **QUICK)
    first, second = (
        load_state(newest_whole(path))["state_dict"] for path in (supervised.path, tmp_path / "run")
    )
    assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


# At sizes for which a run takes half a second.
SMALL_SIZES = {"dino": "dino,prototypes=32", "byol": "byol,hidden=16", "simsiam": "simsiam,hidden=8"}
NAMES = [SMALL_SIZES.get(entry.name, entry.name) for entry in OBJECTIVES if entry.name != "cross-entropy"]


@pytest.mark.parametrize("name", NAMES)
def test_every_objective_trains_a_run(name, quick, tmp_path):
    data = {"data": "digits", "limit": 120} if name in LABELLED else {}
    run = train("digits", out=tmp_path / "run", objective=name, **quick | {"epochs": 1} | data)
    entry = run.record.runs[0]
    loss = objective(name, in_dim=run.head.out_dim)
    assert np.isfinite(entry.loss) and ("objective" in entry.parameters) == bool(list(loss.parameters()))
    assert entry.chance == pytest.approx(loss.chance(run.recipe.batch_size, run.head.out_dim))
    assert load(run.path).recipe.objective == run.recipe.objective


def test_coarse_labels_are_learned_and_fine_ones_probed(tmp_path):
    data = write_miniature("cifar100", tmp_path / "images", images=60, classes=10, size=32)
    settings = QUICK | {"data": data, "limit": None, "batch_size": 20, "epochs": 1, "label": "coarse"}
    run = train("small-images", out=tmp_path / "run", objective="cross-entropy", **settings)
    saved = load_state(newest_whole(run.path))["state_dict"]
    assert len(saved["objective.classifier.bias"]) == 2  # of 10 fine classes
    assert {score.label for score in run.record.runs[0].scores} == {"label"}
    assert json.loads((run.path / "record.json").read_text())["recipe"]["label"] == "coarse"


def images_without_labels(folder, labels=None):
    pixels = np.random.default_rng(0).integers(0, 256, (80, 8, 8), dtype=np.uint8)
    np.savez(folder / "images.npz", images=pixels, **({} if labels is None else {"labels": labels}))
    return f"npz:{folder}/images.npz"


@pytest.mark.parametrize("objective", LABELLED)
@pytest.mark.parametrize(("labels", "classes"), [(None, 0), (np.zeros(80, np.int64), 1)])
def test_labels_that_cannot_be_learned_are_one_sentence_before_training(tmp_path, objective, labels, classes):
    data = images_without_labels(tmp_path, labels)
    with pytest.raises(UsageError) as error:
        train("digits", **QUICK | {"data": data, "limit": None}, objective=objective, out=tmp_path / "run")
    said = str(error.value)
    assert_names(said, "'label'", f"npz:{tmp_path}/images.npz", "train", classes)
    assert said.count(". ") == 0 and "\n" not in said and not (tmp_path / "run").exists()


@pytest.mark.parametrize("objective", ["infonce", "supcon"])
def test_a_label_that_the_images_do_not_have_is_refused_by_name(tmp_path, objective):
    with refuses(UsageError, "'coarse'", "digits", "train", "label"):
        train("digits", out=tmp_path / "run", objective=objective, label="coarse", **QUICK)


def test_images_without_labels_train_where_none_are_learned(tmp_path):
    settings = QUICK | {"data": images_without_labels(tmp_path), "limit": None}
    module = build(Recipe.resolve("digits", settings), load_data(Recipe.resolve("digits", settings))[0])
    assert not needs_of(module.objective)
