"""Runs end to end: the same seed, the same record; cut off and resumed, the same run bit for bit."""

import json
import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fullrank import load, train
from fullrank.data import write_miniature
from fullrank.errors import DataError, DivergedError, InterruptedRunError, UsageError
from fullrank.evaluation.probe import probe
from fullrank.files import load_arrays
from fullrank.runs.folders import sole_writer
from fullrank.training.callbacks import curves as monitor
from fullrank.training.callbacks.checkpoints import load_state, newest_whole

QUICK = {
    "encoder": "tiny-resnet,width=4",
    "head": "none",
    "limit": 200,
    "batch_size": 40,
    "epochs": 3,
    "monitor_every": 1,
}
# The parts that draw at each step, from torch's own generator, are the hard case for a resume.
DRAWING = QUICK | {"head": "random-subvector:8", "objective": "infonce:0.2,groups=2"}
FILES = ["arrays.npz", "encoder.safetensors", "head.safetensors", "metrics.csv", "recipe.yaml", "record.json"]


def fingerprint(run):
    """Everything a run leaves but times."""
    weights = load_file(run.path / "encoder.safetensors") | load_file(run.path / "head.safetensors")
    arrays = load_arrays(run.path)
    record = json.loads((run.path / "record.json").read_text())
    for key in ("created", "machine"):
        record.pop(key)
    for entry in record["runs"]:
        entry.pop("seconds"), entry.pop("views_per_second")
    return (
        {name: tensor.numpy().tobytes() for name, tensor in weights.items()},
        {name: array.tobytes() for name, array in arrays.items()},
        record,
    )


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    return train("digits", out=tmp_path_factory.mktemp("unbroken") / "run", **DRAWING)


def interrupt_after(monkeypatch, step: int) -> None:
    """Send this process SIGINT, as Ctrl-C does, while a given step is under way."""
    plain = monitor.Monitor.on_train_batch_end

    def send(self, trainer, *args):
        plain(self, trainer, *args)
        if trainer.global_step == step:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(monitor.Monitor, "on_train_batch_end", send)


def interrupt_at_batch(monkeypatch, epoch: int, batch: int) -> None:
    """The same, while a given batch is under way."""
    plain = monitor.Monitor.on_train_batch_end

    def send(self, trainer, module, outputs, images, batch_idx):
        plain(self, trainer, module, outputs, images, batch_idx)
        if (trainer.current_epoch, batch_idx) == (epoch, batch):
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(monitor.Monitor, "on_train_batch_end", send)


def test_the_same_seed_gives_the_same_run(unbroken, tmp_path):
    again = train("digits", out=tmp_path / "again", **DRAWING)
    assert fingerprint(again) == fingerprint(unbroken)
    assert {p.name for p in unbroken.path.iterdir() if p.is_file()} == set(FILES)


def test_another_seed_gives_another(unbroken, tmp_path):
    other = train("digits", out=tmp_path / "other", **DRAWING, seed=1)
    assert fingerprint(other)[0] != fingerprint(unbroken)[0]


@pytest.mark.parametrize("step", [1, 5, 7, 10, 15])  # in an epoch, at its end, at the end of all
def test_ctrl_c_saves_and_resume_continues_bit_for_bit(unbroken, tmp_path, monkeypatch, step):
    out, before = tmp_path / "run", signal.getsignal(signal.SIGINT)
    with (
        monkeypatch.context() as patch,
        pytest.raises(InterruptedRunError, match=f"step {step} of 15") as error,
    ):
        interrupt_after(patch, step)
        train("digits", out=out, **DRAWING)
    assert error.value.exit_status == 130 and "--resume" in str(error.value)
    assert signal.getsignal(signal.SIGINT) is before
    assert not (out / "record.json").exists()
    torch.manual_seed(99)  # whatever the new process's generator holds
    assert fingerprint(train("digits", out=out, resume=True, **DRAWING)) == fingerprint(unbroken)


def test_a_streamed_run_resumes_bit_for_bit_with_its_online_probes(tmp_path, monkeypatch):
    """Images decoded ahead, gradients accumulated, features queued for a probe: all of it goes on."""
    data = write_miniature("imagenet,canvas=40", tmp_path / "images", images=48, classes=4, size=40)
    recipe = QUICK | {"data": data, "image_size": 32, "limit": None, "batch_size": 8, "online_every": 1}
    recipe |= {"engine.accumulate": 2}
    whole = train("digits", out=tmp_path / "whole", **recipe)
    assert len(load_arrays(whole.path)["online_linear"]) == 3
    interrupt_at_batch(monkeypatch, epoch=1, batch=2)  # half a step: the stop waits for the other half
    with pytest.raises(InterruptedRunError, match="step 5 of 9"):
        train("digits", out=tmp_path / "cut", **recipe)
    monkeypatch.undo()
    again = train("digits", out=tmp_path / "cut", resume=True, **recipe)
    assert fingerprint(again) == fingerprint(whole)


def test_a_crash_between_epochs_resumes_from_the_last_one_bit_for_bit(unbroken, tmp_path, monkeypatch):
    out = tmp_path / "run"
    plain = monitor.Monitor.on_train_batch_end

    def crash(self, trainer, *args):
        if trainer.global_step == 12:
            raise ArithmeticError
        plain(self, trainer, *args)

    with monkeypatch.context() as patch, pytest.raises(ArithmeticError):
        patch.setattr(monitor.Monitor, "on_train_batch_end", crash)
        train("digits", out=out, **DRAWING)
    assert fingerprint(train("digits", out=out, resume=True, **DRAWING)) == fingerprint(unbroken)


def test_resume_where_nothing_is_saved_starts_and_says_so(tmp_path, capsys):
    run = train("digits", out=tmp_path / "run", resume=True, **QUICK | {"epochs": 1})
    assert "has no checkpoint yet; starting from the beginning" in capsys.readouterr().err
    assert run.record.runs[0].steps == 5


def test_resuming_a_finished_run_returns_it_unchanged(quick_run):
    before = {p: p.read_bytes() for p in quick_run.path.rglob("*") if p.is_file()}
    again = train(quick_run.recipe, out=quick_run.path, resume=True)
    assert again.record == quick_run.record
    assert {p: p.read_bytes() for p in quick_run.path.rglob("*") if p.is_file()} == before


def test_a_folder_in_use_is_left_alone(quick_run):
    before = {p: p.read_bytes() for p in quick_run.path.rglob("*") if p.is_file()}
    with pytest.raises(UsageError, match="exists and is not empty; add --resume"):
        train("digits", out=quick_run.path)
    with pytest.raises(UsageError, match="was started with head='mlp:16', but this recipe says 'none'"):
        train(quick_run.recipe, out=quick_run.path, resume=True, head="none")
    lr = quick_run.recipe.optimizer.lr
    with pytest.raises(UsageError, match=rf"was started with optimizer\.lr={lr}, but this recipe says 0\.5;"):
        train(quick_run.recipe, out=quick_run.path, resume=True, **{"optimizer.lr": 0.5})
    assert {p: p.read_bytes() for p in quick_run.path.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize(
    ("overrides", "part"),
    [
        ({"head": "subvector:400"}, "outside 1 to 16"),
        ({"batch_size": 1}, "at least 2"),
        ({"batch_size": 5000}, "more than the 200 images"),
        ({"limit": 5000}, "outside 1 to 1297"),
        ({"data": "folder:/nowhere"}, "/nowhere"),
        ({"objective": "infonce:0.2,groups=3"}, "groups=3 does not divide the 16 channels"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_written(tmp_path, overrides, part):
    with pytest.raises((UsageError, DataError)) as error:
        train("digits", out=tmp_path / "run", **QUICK | overrides)
    assert part in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_epoch(tmp_path, monkeypatch):
    plain = monitor.Monitor.on_train_batch_end

    def poison(self, trainer, module, *args):
        if trainer.global_step == 7:
            with torch.no_grad():
                next(module.encoder.parameters()).fill_(torch.nan)
        plain(self, trainer, module, *args)

    words = r"Step 8 \(epoch 1.* the loss is nan"
    with monkeypatch.context() as patch, pytest.raises(DivergedError, match=words) as error:
        patch.setattr(monitor.Monitor, "on_train_batch_end", poison)
        train("digits", out=tmp_path / "run", **QUICK)
    assert "--set optimizer.lr" in str(error.value) and error.value.exit_status == 1
    saved = load_state(newest_whole(tmp_path / "run"))
    assert saved["global_step"] == 5
    assert all(t.isfinite().all() for t in saved["state_dict"].values())


@pytest.mark.parametrize("step", [4, 5])  # Ctrl-C before the loss is looked at again; the end of an epoch
def test_weights_that_are_not_finite_are_never_saved(tmp_path, monkeypatch, step):
    plain = monitor.Monitor.on_train_batch_end

    def poison(self, trainer, module, *args):
        plain(self, trainer, module, *args)
        if trainer.global_step == 5 + step:  # after the loss was seen to be finite
            with torch.no_grad():
                next(module.encoder.parameters()).fill_(torch.nan)
            if step == 4:
                os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch, pytest.raises(DivergedError, match="A weight is no longer finite"):
        patch.setattr(monitor.Monitor, "on_train_batch_end", poison)
        train("digits", out=tmp_path / "run", **QUICK | {"monitor_every": 100})
    saved = load_state(newest_whole(tmp_path / "run"))
    assert saved["global_step"] == 5
    assert all(t.isfinite().all() for t in saved["state_dict"].values())


def test_the_callers_random_state_is_left_alone(tmp_path):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    train("digits", out=tmp_path / "run", **QUICK | {"epochs": 1})
    assert torch.equal(torch.get_rng_state(), before)
    assert "PL_GLOBAL_SEED" not in os.environ


def test_a_folder_of_somebody_elses_is_not_resumed(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match=r"holds files but no recipe\.yaml"):
        train("digits", out=tmp_path, resume=True, **QUICK)
    with pytest.raises(UsageError, match="--resume needs --out"):
        train("digits", resume=True, **QUICK)


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
    with pytest.raises(DataError, match="cannot be read"):
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


def npz(folder, **arrays):
    rng = np.random.default_rng(0)
    shapes = {
        name: rng.integers(0, 256, shape, dtype=np.uint8) for name, shape in arrays.items() if "im" in name
    }
    labels = {name: np.arange(count) % 4 for name, count in arrays.items() if "labels" in name}
    np.savez(folder / "images.npz", **shapes, **labels)
    return QUICK | {"data": f"npz:{folder}/images.npz", "limit": None, "epochs": 1, "out": folder / "run"}


@pytest.mark.parametrize(
    "arrays",
    [
        {"images": (80, 8, 8)},
        {"train_images": (80, 8, 8), "train_labels": 80, "test_images": (20, 8, 8)},
    ],
    ids=["no labels", "no test labels"],
)
def test_images_that_cannot_be_probed_train_and_have_spectra(tmp_path, arrays):
    run = train("digits", **npz(tmp_path, **arrays))
    assert run.record.runs[0].probes == {} and set(run.record.runs[0].spectrum) == {"h", "z"}
    with pytest.raises(DataError, match="needs 2 classes or more"):
        probe(run)


@pytest.mark.parametrize(
    "arrays",
    [
        {"images": (80, 8, 12)},
        {"train_images": (80, 8, 8, 3), "test_images": (20, 8, 8)},
    ],
    ids=["not square", "colour and grey"],
)
def test_images_of_unlike_shapes_are_refused_before_anything_is_written(tmp_path, arrays):
    with pytest.raises(DataError, match="must be the same square"):
        train("digits", **npz(tmp_path, **arrays))
    assert not (tmp_path / "run").exists()


def test_training_off_the_main_thread_leaves_signals_alone(tmp_path):
    failures = []

    def work():
        try:
            train("digits", out=tmp_path / "run", **QUICK | {"epochs": 1})
        except Exception as error:  # noqa: BLE001 - whatever it is, the test must see it
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert failures == []


def test_a_folder_that_another_process_writes_into_is_refused_and_free_again_when_that_ends(tmp_path):
    folder = tmp_path / "run"
    script = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from fullrank.runs.folders import sole_writer\n"
        "with sole_writer(Path(sys.argv[1])):\n"
        "    print('held', flush=True)\n"
        "    time.sleep(600)\n"
    )
    other = subprocess.Popen([sys.executable, "-c", script, str(folder)], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(UsageError, match="is being written by another process"), sole_writer(folder):
            pass
    finally:
        other.kill()
        other.wait()
    with sole_writer(folder):
        pass
