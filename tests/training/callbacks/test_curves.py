import csv
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from rich.progress import Progress

from fullrank import train
from fullrank.files import load_arrays
from fullrank.training.callbacks.curves import CURVES, Monitor, ProgressLine, mean_similarities


def test_mean_similarities_against_a_loop_over_all_pairs():
    a, b = torch.randn(6, 4), torch.randn(6, 4)
    cosine = torch.nn.functional.cosine_similarity(a[:, None], b[None], dim=2)
    positive, negative = mean_similarities(a, b)
    assert positive == pytest.approx(float(cosine.diagonal().mean()), rel=1e-5)
    assert negative == pytest.approx(float(cosine[~torch.eye(6, dtype=bool)].mean()), rel=1e-4)


def test_curves_stand_in_the_csv_and_in_the_arrays(quick_run):
    arrays = load_arrays(quick_run.path)
    with (quick_run.path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(float(row["step"])) for row in rows] == arrays["step"].astype(int).tolist() == [1, 2, 4, 6, 8]
    for name in CURVES:
        np.testing.assert_allclose([float(row[name]) for row in rows], arrays[name])
    assert arrays["spectrum_h"].shape == (5, 32)
    assert arrays["examples"].shape == (8, 3, 8, 8, 1) and arrays["examples"].dtype == np.uint8
    assert arrays["learning_rate"][-1] < arrays["learning_rate"].max()
    assert arrays["epoch"][-1] == 2


@pytest.mark.parametrize(("chance", "loss"), [(4.159, "3.25/4.16"), (None, "3.25")])
def test_the_progress_line_shows_the_loss_beside_its_chance_level(tmp_path, chance, loss):
    monitor, progress = Monitor(tmp_path, every=1), Progress(disable=True)
    trainer = SimpleNamespace(max_epochs=4, current_epoch=1, num_training_batches=4)
    line = ProgressLine(progress, monitor, chance)
    line.on_train_start(trainer, None)
    line.on_train_batch_end(trainer, None, None, None, 0)
    assert progress.tasks[0].fields["status"] == ""  # no step was measured yet
    monitor.curves.add(
        dict(zip(CURVES, (6, 1.5, 3.25, 0.91, 0.12, 7.4, 1e-3), strict=True)) | {"spectrum_h": 0}
    )
    line.on_train_batch_end(trainer, None, None, None, 1)
    (task,) = progress.tasks
    assert task.fields["status"].split() == ["loss", loss, "sim", "0.91/0.12", "rank", "7"]
    assert (task.completed, task.total) == (1.5, 4)
    line.teardown(trainer, None, "fit")
    assert progress.tasks == []


def test_a_run_shows_the_chance_level_of_its_objective(quick, tmp_path):
    statuses = []

    class Recorded(Progress):
        def update(self, task, *, status, **fields):
            statuses.append(status)

    run = train("digits", out=tmp_path / "run", progress=Recorded(disable=True), **quick | {"epochs": 1})
    chance = run.record.runs[0].chance
    assert len(statuses) == 5 and all(f"/{chance:.2f} " in status for status in statuses)


@pytest.mark.parametrize("objective", ["vicreg", "infonce:0.2,groups=2"])
def test_the_parts_of_an_objective_are_curves_that_sum_to_its_loss(objective, quick, tmp_path):
    run = train("digits", out=tmp_path / "run", **quick | {"objective": objective, "epochs": 1})
    arrays = load_arrays(run.path)
    parts = [name for name in arrays if name.startswith("objective: ")]
    with (run.path / "metrics.csv").open() as file:
        assert set(parts) == {name for name in next(csv.reader(file)) if ":" in name}
    if objective == "vicreg":
        assert len(parts) == 3
        np.testing.assert_allclose(sum(arrays[name] for name in parts), arrays["loss"], rtol=1e-5)
    else:  # random groups of channels: the next step would draw others
        assert parts == []
