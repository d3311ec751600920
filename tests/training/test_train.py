"""Runs end to end: the same seed, the same record; cut off and resumed, the same run bit for bit."""

import os
import signal
import threading

import numpy as np
import pytest
import torch
from refusals import assert_names, refuses
from runs import fingerprint

from fullrank import load, train
from fullrank.data import write_miniature
from fullrank.errors import DataError, DivergedError, InterruptedRunError, UsageError
from fullrank.evaluation.probe import probe
from fullrank.files import load_arrays
from fullrank.training.callbacks.checkpoints import load_state, newest_whole

FILES = ["arrays.npz", "encoder.safetensors", "head.safetensors", "metrics.csv", "recipe.yaml", "record.json"]


def test_the_same_seed_gives_the_same_run_and_another_seed_another(unbroken, drawing, tmp_path):
    again = train("digits", out=tmp_path / "again", **drawing)
    assert fingerprint(again) == fingerprint(unbroken)
    assert {p.name for p in unbroken.path.iterdir() if p.is_file()} == set(FILES)
    other = train("digits", out=tmp_path / "other", **drawing, seed=1)
    assert fingerprint(other)[0] != fingerprint(unbroken)[0]


@pytest.mark.parametrize(("epoch", "batch"), [(0, 0), (0, 4), (1, 1), (2, 4)])  # also the ends
def test_ctrl_c_saves_and_resume_continues_bit_for_bit(unbroken, drawing, tmp_path, at_batch, epoch, batch):
    out, before = tmp_path / "run", signal.getsignal(signal.SIGINT)
    at_batch(epoch, batch, signal.SIGINT)
    with refuses(InterruptedRunError, 5 * epoch + batch + 1, "of 15", f"--out {out} --resume") as error:
        train("digits", out=out, **drawing)
    assert error.value.exit_status == 130 and signal.getsignal(signal.SIGINT) is before
    assert not (out / "record.json").exists()
    torch.manual_seed(99)  # whatever the new process's generator holds
    assert fingerprint(train("digits", out=out, resume=True, **drawing)) == fingerprint(unbroken)


def test_a_streamed_run_resumes_bit_for_bit_with_its_online_probes(quick, tmp_path, at_batch):
    """Images decoded ahead, gradients accumulated, features queued for a probe: all of it goes on."""
    data = write_miniature("imagenet,canvas=40", tmp_path / "images", images=48, classes=4, size=40)
    recipe = quick | {"data": data, "image_size": 32, "batch_size": 8, "epochs": 2, "online_every": 1}
    recipe |= {"engine.accumulate": 2}
    whole = train("digits", out=tmp_path / "whole", **recipe)
    assert len(load_arrays(whole.path)["online_linear"]) == 2
    at_batch(1, 2, signal.SIGINT)  # half a step: the stop waits for the other half
    with refuses(InterruptedRunError, "step 5 of 6"):
        train("digits", out=tmp_path / "cut", **recipe)
    again = train("digits", out=tmp_path / "cut", resume=True, **recipe)
    assert fingerprint(again) == fingerprint(whole)


def test_a_crash_between_epochs_resumes_from_the_last_one_bit_for_bit(unbroken, drawing, tmp_path, at_batch):
    def crash(module):
        raise ArithmeticError

    at_batch(2, 1, crash)
    with pytest.raises(ArithmeticError):
        train("digits", out=tmp_path / "run", **drawing)
    assert fingerprint(train("digits", out=tmp_path / "run", resume=True, **drawing)) == fingerprint(unbroken)


def test_the_rate_of_a_run_counts_both_views_of_each_image_in_the_seconds_of_its_training(plain_run):
    (entry,) = plain_run.record.runs
    assert entry.views_per_second * entry.seconds == pytest.approx(3 * 5 * 40 * 2)


def test_resume_where_nothing_is_saved_starts_and_says_so(quick, tmp_path, capsys):
    run = train("digits", out=tmp_path / "run", resume=True, **quick | {"epochs": 1})
    assert_names(capsys.readouterr().err, tmp_path / "run", "checkpoint")
    assert run.record.runs[0].steps == 5


def test_resuming_a_finished_run_returns_it_unchanged(quick_run):
    before = {p: p.read_bytes() for p in quick_run.path.rglob("*") if p.is_file()}
    again = train(quick_run.recipe, out=quick_run.path, resume=True)
    assert again.record == quick_run.record
    assert {p: p.read_bytes() for p in quick_run.path.rglob("*") if p.is_file()} == before


def test_a_folder_in_use_is_left_alone(quick_run):
    before = {p: p.read_bytes() for p in quick_run.path.rglob("*") if p.is_file()}
    with refuses(UsageError, quick_run.path, "--resume"):
        train("digits", out=quick_run.path)
    with refuses(UsageError, "head='mlp:16'", "'none'"):
        train(quick_run.recipe, out=quick_run.path, resume=True, head="none")
    with refuses(UsageError, f"optimizer.lr={quick_run.recipe.optimizer.lr}", 0.5):
        train(quick_run.recipe, out=quick_run.path, resume=True, **{"optimizer.lr": 0.5})
    assert {p: p.read_bytes() for p in quick_run.path.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        ({"head": "subvector:400"}, [400, 1, 16]),
        ({"batch_size": 1}, [1, 2]),
        ({"batch_size": 5000}, [5000, 200]),
        ({"data": "digits", "limit": 5000}, [5000, 1297]),
        ({"data": "folder:/nowhere"}, ["/nowhere"]),
        ({"objective": "infonce:0.2,groups=3"}, ["groups=3", 16]),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_written(quick, tmp_path, overrides, parts):
    with pytest.raises((UsageError, DataError)) as error:
        train("digits", out=tmp_path / "run", **quick | overrides)
    assert_names(str(error.value), *parts)
    assert "\n" not in str(error.value) and not (tmp_path / "run").exists()


def spoil(module):
    """Put a NaN into the first weights."""
    with torch.no_grad():
        next(module.encoder.parameters()).fill_(torch.nan)


def assert_finite_after_an_epoch(folder):
    saved = load_state(newest_whole(folder))
    assert saved["global_step"] == 5
    assert all(t.isfinite().all() for t in saved["state_dict"].values())


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_epoch(quick, tmp_path, at_batch):
    at_batch(1, 1, spoil)
    with refuses(DivergedError, "Step 8", "epoch 1", "nan", "--set optimizer.lr") as error:
        train("digits", out=tmp_path / "run", **quick)
    assert error.value.exit_status == 1
    assert_finite_after_an_epoch(tmp_path / "run")


@pytest.mark.parametrize(
    "actions",
    [(spoil, signal.SIGINT), (spoil,)],
    ids=["Ctrl-C", "end of epoch"],
)
def test_weights_that_are_not_finite_are_never_saved(quick, tmp_path, at_batch, actions):
    at_batch(1, 4 - (len(actions) - 1), *actions)
    with refuses(DivergedError, "weight", 10 - (len(actions) - 1), "epoch 1", "--set optimizer.lr"):
        train("digits", out=tmp_path / "run", **quick | {"monitor_every": 100})
    assert_finite_after_an_epoch(tmp_path / "run")


def test_the_callers_random_state_is_left_alone(quick, tmp_path):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    train("digits", out=tmp_path / "run", **quick | {"epochs": 1})
    assert torch.equal(torch.get_rng_state(), before)
    assert "PL_GLOBAL_SEED" not in os.environ


def test_a_folder_of_somebody_elses_is_not_resumed(quick, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with refuses(UsageError, tmp_path, "recipe.yaml"):
        train("digits", out=tmp_path, resume=True, **quick)
    with refuses(UsageError, "--resume", "--out"):
        train("digits", resume=True, **quick)


def test_load_gives_back_what_train_gave(quick_run):
    run = load(quick_run.path)
    images = torch.rand(3, 1, 8, 8)
    assert torch.equal(run.encoder(images), quick_run.encoder(images))
    assert not run.encoder.training and not run.head.training
    assert run.recipe == quick_run.recipe


def test_damaged_weights_are_one_sentence(quick_run, tmp_path):
    for file in FILES:
        (tmp_path / file).write_bytes((quick_run.path / file).read_bytes())
    (tmp_path / "encoder.safetensors").write_bytes(b"not weights")
    with refuses(DataError, tmp_path, "record.json"):
        load(tmp_path)


def test_probing_changes_nothing_in_the_encoder_and_repeats_the_record(quick_run):
    run = load(quick_run.path)
    before = {k: v.clone() for k, v in (run.encoder.state_dict() | run.head.state_dict()).items()}
    evaluation = probe(run, ["h", "z", "h[:5]", "stage1.1"])
    after = run.encoder.state_dict() | run.head.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert not any(p.grad is not None for p in run.encoder.parameters())
    assert evaluation.probes["h"] == run.record.runs[0].probes["h"]
    assert len(evaluation.spectrum["h[:5]"].singular_values) == 5


def npz(quick, folder, **arrays):
    rng = np.random.default_rng(0)
    shapes = {
        name: rng.integers(0, 256, shape, dtype=np.uint8) for name, shape in arrays.items() if "im" in name
    }
    labels = {name: np.arange(count) % 4 for name, count in arrays.items() if "labels" in name}
    np.savez(folder / "images.npz", **shapes, **labels)
    return quick | {"data": f"npz:{folder}/images.npz", "epochs": 1, "out": folder / "run"}


@pytest.mark.parametrize(
    "arrays",
    [
        {"images": (80, 8, 8)},
        {"train_images": (80, 8, 8), "train_labels": 80, "test_images": (20, 8, 8)},
    ],
    ids=["no labels", "no test labels"],
)
def test_images_that_cannot_be_probed_train_and_have_spectra(quick, tmp_path, arrays):
    run = train("digits", **npz(quick, tmp_path, **arrays))
    assert run.record.runs[0].probes == {} and set(run.record.runs[0].spectrum) == {"h", "z"}
    with refuses(DataError, 2, "classes"):
        probe(run)


@pytest.mark.parametrize(
    ("arrays", "sizes"),
    [
        ({"images": (80, 8, 12)}, ["8x12"]),
        ({"train_images": (80, 8, 8, 3), "test_images": (20, 8, 8)}, ["8x8", 3, 1]),
    ],
    ids=["not square", "colour and grey"],
)
def test_images_of_unlike_shapes_are_refused_before_anything_is_written(quick, tmp_path, arrays, sizes):
    with refuses(DataError, *sizes):
        train("digits", **npz(quick, tmp_path, **arrays))
    assert not (tmp_path / "run").exists()


def test_training_off_the_main_thread_leaves_signals_alone(quick, tmp_path):
    failures = []

    def work():
        try:
            train("digits", out=tmp_path / "run", **quick | {"epochs": 1})
        except Exception as error:  # noqa: BLE001 - whatever it is, the test must see it
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert failures == []
