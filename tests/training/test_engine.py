"""What the engine is asked for, and what it must not change."""

import csv

import pytest
import torch
from refusals import refuses
from safetensors.torch import load_file
from torch.utils.data import DataLoader

from fullrank import devices, train
from fullrank.data import BatchLoader
from fullrank.devices import on_accelerator
from fullrank.errors import UsageError
from fullrank.files import load_arrays
from fullrank.runs.build import build, load_data
from fullrank.runs.recipe import Recipe
from fullrank.training import engine
from fullrank.training.module import JointEmbedding


def test_accumulated_batches_are_one_step_and_one_point_of_the_curves(quick, tmp_path):
    run = train("digits", out=tmp_path / "run", **quick | {"epochs": 2, "engine.accumulate": 2})
    assert run.record.runs[0].steps == 6  # five batches an epoch: two pairs and the last one
    curves = load_arrays(run.path)
    assert curves["step"].tolist() == [1, 2, 3, 4, 5, 6]
    assert curves["epoch"][-1] <= 2 and curves["epoch"][2] <= 1
    assert 0 < curves["learning_rate"][-1] < 0.4 * curves["learning_rate"].max()  # it counts steps


def test_the_gradient_of_accumulated_batches_is_their_mean(quick):
    """Two batches of one image set, alike: one step as with either."""
    weights = []
    for accumulate in (1, 2):
        plan = Recipe.resolve(
            "digits", {**quick, "optimizer.name": "sgd", "engine.accumulate": accumulate, "epochs": 1}
        )
        module = build_seeded(plan)
        batch = batch_of(plan)
        trainer = engine.build_trainer(plan, [])
        module.draw = lambda batch, generator, module=module: module.views.sample(
            len(batch), torch.Generator().manual_seed(0), (8, 8)
        )
        module.encoder.eval()  # else the second batch would see other running statistics
        module.encoder.train = lambda mode=True, module=module: module.encoder
        with engine.quiet_lightning():
            trainer.fit(module, DataLoader([batch] * accumulate, batch_size=None))
        weights.append(module.encoder.stem[0].weight.detach().clone())
    torch.testing.assert_close(*weights, rtol=1e-5, atol=1e-7)


def build_seeded(plan):
    torch.manual_seed(0)
    return JointEmbedding.of(plan, build(plan, load_data(plan)[0]))


def batch_of(plan):
    return next(iter(BatchLoader(load_data(plan)[0], plan.batch_size, 0)))


def test_memory_format_changes_nothing_but_rounding():
    plan = Recipe.resolve("digits", {"encoder": "resnet10t", "image_size": 32, "limit": 40})
    last = Recipe.resolve(plan, {"engine.channels_last": True})
    plain, other = build_seeded(plan), build_seeded(last)
    assert other.encoder.model.layer1[0].conv1.weight.is_contiguous(memory_format=torch.channels_last)
    assert not plain.encoder.model.layer1[0].conv1.weight.is_contiguous(memory_format=torch.channels_last)
    images = torch.rand(4, 1, 32, 32)
    torch.testing.assert_close(plain(images), other(images), rtol=1e-4, atol=1e-5)


def test_a_compiled_encoder_has_the_same_weights_and_the_same_run(quick, plain_run, tmp_path):
    """Tracing alone, without the minute that code generation takes."""
    with torch.compiler.set_stance("force_eager"):
        compiled = train("digits", out=tmp_path / "compiled", **quick, **{"engine.compile": True})
    one, two = (load_file(run.path / "encoder.safetensors") for run in (compiled, plain_run))
    assert one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


def test_a_lightning_logger_gets_every_curve(quick, tmp_path):
    labelled = quick | {"data": "digits", "limit": 200, "epochs": 1}
    run = train("digits", out=tmp_path / "run", **labelled, online_every=1, **{"engine.logger": "csv"})
    (logged,) = run.path.glob("lightning_logs/*/metrics.csv")
    rows = list(csv.DictReader(logged.open()))
    ours = load_arrays(run.path)
    ranks = [float(row["effective_rank"]) for row in rows if row["effective_rank"]]
    assert ranks == pytest.approx(ours["effective_rank"].tolist())
    online = [float(row["online/linear"]) for row in rows if row["online/linear"]]
    assert online == pytest.approx(ours["online_linear"].tolist()) and len(online) == 1


def test_a_tensorboard_logger_by_name(quick, tmp_path):
    pytest.importorskip("tensorboard")
    run = train("digits", out=tmp_path / "run", **quick | {"epochs": 1, "engine.logger": "tensorboard"})
    assert list(run.path.rglob("events.out.tfevents.*"))


def test_an_unknown_logger_names_the_known_ones():
    with refuses(UsageError, "tensorbord", "tensorboard"):
        Recipe.resolve("digits", {"engine.logger": "tensorbord"})


def test_a_logger_whose_library_is_missing_is_said_before_the_folder_is_made(quick, tmp_path, monkeypatch):
    monkeypatch.setattr("fullrank.runs.recipe.find_spec", lambda module: None)
    with refuses(UsageError, "comet", "comet-ml"):
        train("digits", out=tmp_path / "run", **quick, **{"engine.logger": "comet"})
    assert not (tmp_path / "run").exists()


def test_modules_come_back_to_their_device(monkeypatch):
    class Traveller(torch.nn.Linear):
        def to(self, device):
            self.journey = [*getattr(self, "journey", []), str(device)]
            return self

    monkeypatch.setattr(devices, "accelerator", lambda: "cuda")
    module = Traveller(2, 2)
    with pytest.raises(KeyError), on_accelerator(module):
        raise KeyError
    assert module.journey == ["cuda", "cpu"]


def test_a_cpu_computes_in_32_bits_whatever_the_recipe_says():
    plan = Recipe.resolve("cifar10", {"data": "digits"})
    assert plan.engine.precision == "bf16-mixed"
    if not torch.cuda.is_available():
        assert engine.build_trainer(plan, []).precision == "32-true"
