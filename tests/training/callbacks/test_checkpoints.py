"""Checkpoints: whole or not there, checked before use, the last few kept; a resume goes on bit for bit."""

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st
from safetensors.torch import load_file

from fullrank import train
from fullrank.errors import DataError, FullDiskError, UsageError
from fullrank.files import load_arrays
from fullrank.reports.page import write_page
from fullrank.runs.folders import CHECKPOINTS, checkpoint_path, checkpoints_in, number_of, sole_writer
from fullrank.studies.compare import compare
from fullrank.training.callbacks.checkpoints import is_whole, keep_last, load_state, newest_whole, save_state
from fullrank.training.callbacks.curves import Monitor

QUICK = {
    "encoder": "tiny-resnet,width=4",
    "head": "random-subvector:8",
    "objective": "infonce:0.2,groups=2",
    "limit": 200,
    "batch_size": 40,
    "epochs": 3,
    "monitor_every": 1,
}


def saved(folder, *numbers, kind="step"):
    return [save_state(checkpoint_path(folder, n, kind), {"a": torch.arange(n)}) for n in numbers]


def names(folder):
    return sorted(path.name for path in (folder / CHECKPOINTS).iterdir())


def damage(path: Path, where: int = 500) -> None:
    """One bit is no longer what it was; torch.load does not see it."""
    content = bytearray(path.read_bytes())
    content[where % len(content)] ^= 1
    path.write_bytes(content)


def test_a_state_reads_back_and_nothing_is_left_beside_it(tmp_path):
    (path,) = saved(tmp_path, 7)
    assert is_whole(path) and number_of(path) == 7 and names(tmp_path) == [path.name]
    assert torch.equal(load_state(path)["a"], torch.arange(7))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=st.integers(0, 10**6), cut=st.booleans())
def test_any_flipped_bit_and_any_cut_is_seen(tmp_path, where, cut):
    (path,) = saved(tmp_path, 3)
    content = path.read_bytes()
    if cut:
        path.write_bytes(content[: where % len(content)])
    else:
        damage(path, where)
    assert not is_whole(path)
    path.write_bytes(content)
    assert is_whole(path)


def test_the_newest_whole_one_is_found_and_a_damaged_newer_one_is_named(tmp_path, capsys):
    assert newest_whole(tmp_path) is None
    first, second, third = saved(tmp_path, 9, 10, 100)
    saved(tmp_path, 5000, kind="sgd-probe")
    (tmp_path / CHECKPOINTS / "step-notes.txt").write_text("no checkpoint")
    assert checkpoints_in(tmp_path) == [third, second, first] and newest_whole(tmp_path) == third
    assert capsys.readouterr().err == ""
    damage(third)
    second.unlink()
    second.mkdir()  # cannot be read at all
    assert newest_whole(tmp_path) == first
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2 and str(third) in said[0] and str(second) in said[1]
    assert all("is damaged" in line and f"going on from {first}" in line for line in said)
    newest_whole(tmp_path, rank=1)
    assert capsys.readouterr().err == ""


def test_where_all_are_damaged_one_sentence_says_so(tmp_path):
    for path in saved(tmp_path, 1, 2):
        damage(path)
    with pytest.raises(DataError, match=r"step-00000002.*cannot be read.*2 in all; remove them") as error:
        newest_whole(tmp_path)
    assert "\n" not in str(error.value)


def test_the_last_few_are_kept_and_what_is_of_no_use_goes(tmp_path):
    old = saved(tmp_path, 1, 2, 3, 4)
    others = saved(tmp_path, 1, kind="sgd-probe")
    damage(old[-1])
    keep_last(old[2], keep=2)  # the run went on from 2 and stopped at 3: the damaged 4 goes
    assert names(tmp_path) == sorted(path.name for path in [*others, *old[1:3]])
    keep_last(old[2], keep=1)
    assert names(tmp_path) == sorted(path.name for path in [*others, old[2]])


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    return train("digits", out=tmp_path_factory.mktemp("unbroken") / "run", **QUICK)


def without_record(run, folder):
    """The folder of a run that was killed after training, and its checkpoints, newest first."""
    (folder / CHECKPOINTS).mkdir(parents=True)
    for path in [run.path / "recipe.yaml", *checkpoints_in(run.path)]:
        (folder / path.relative_to(run.path)).write_bytes(path.read_bytes())
    return checkpoints_in(folder)


def left(folder):
    """Weights and curves, byte for byte."""
    weights = load_file(folder / "encoder.safetensors") | load_file(folder / "head.safetensors")
    arrays = load_arrays(folder)
    return {name: tensor.numpy().tobytes() for name, tensor in weights.items()} | {
        name: array.tobytes() for name, array in arrays.items()
    }


def test_a_run_keeps_as_many_as_its_recipe_says(unbroken, tmp_path):
    assert [number_of(path) for path in checkpoints_in(unbroken.path)] == [15, 10]
    train("digits", out=tmp_path / "run", **QUICK | {"engine.keep_checkpoints": 1, "epochs": 2})
    assert [number_of(path) for path in checkpoints_in(tmp_path / "run")] == [10]


def test_a_damaged_newest_one_costs_an_epoch_and_changes_nothing(unbroken, tmp_path, capsys):
    newest, _ = without_record(unbroken, tmp_path / "run")
    damage(newest)
    run = train("digits", out=tmp_path / "run", resume=True, **QUICK)
    assert f"{newest} is damaged" in capsys.readouterr().err
    assert left(run.path) == left(unbroken.path)
    assert all(map(is_whole, checkpoints_in(run.path)))
    assert [number_of(path) for path in checkpoints_in(run.path)] == [15, 10]


def test_a_run_of_damaged_checkpoints_is_refused_in_one_sentence(unbroken, tmp_path):
    for path in without_record(unbroken, tmp_path / "run"):
        damage(path)
    with pytest.raises(DataError, match="cannot be read"):
        train("digits", out=tmp_path / "run", resume=True, **QUICK)


def test_what_a_kill_leaves_before_the_recipe_is_written_is_no_obstacle(unbroken, tmp_path):
    for name, resume in (("a", True), ("b", False)):
        folder = tmp_path / name
        (folder / CHECKPOINTS).mkdir(parents=True)
        (folder / CHECKPOINTS / ".lock").touch()
        parts = [folder / ".fullrank-1x.part", folder / CHECKPOINTS / ".fullrank-2x.part"]
        for part in parts:
            part.write_bytes(b"half")
        run = train("digits", out=folder, resume=resume, **QUICK)
        assert left(run.path) == left(unbroken.path) and not any(part.exists() for part in parts)


def test_a_training_that_starts_anew_forgets_the_sgd_probe_of_the_old_one(tmp_path):
    (stale,) = saved(tmp_path / "run", 1, kind="sgd-probe")
    (tmp_path / "run" / "recipe.yaml").write_text("data: digits\nepochs: 1\nlimit: 200\nbatch_size: 40\n")
    train(tmp_path / "run" / "recipe.yaml", out=tmp_path / "run", resume=True)
    assert not stale.exists()


HOLD = (
    "import sys, time\n"
    "from pathlib import Path\n"
    "from filelock import FileLock\n"
    "with FileLock(sys.argv[1]):\n"
    "    print('held', flush=True)\n"
    "    time.sleep(600)\n"
)


def test_two_runs_never_write_into_one_folder(unbroken, tmp_path):
    """Another process holds the lock: a resume and a study are refused, and change nothing."""
    alone, study = tmp_path / "run", tmp_path / "study" / "random-subvector-8-seed0"
    for folder in (alone, study):
        without_record(unbroken, folder)
    (study.parent / "recipe.yaml").write_bytes((study / "recipe.yaml").read_bytes())
    plan = {key: value for key, value in QUICK.items() if key != "head"}
    attempts = {
        alone: lambda: train("digits", out=alone, resume=True, **QUICK),
        study: lambda: compare("digits", heads=QUICK["head"], seeds=1, out=study.parent, resume=True, **plan),
    }
    for folder, attempt in attempts.items():
        before = names(folder)
        lock = str(folder / CHECKPOINTS / ".lock")
        other = subprocess.Popen([sys.executable, "-c", HOLD, lock], stdout=subprocess.PIPE, text=True)
        try:
            assert other.stdout.readline() == "held\n"
            with pytest.raises(UsageError, match="is being written by another process"):
                attempt()
        finally:
            other.kill()
            other.wait()
        assert set(names(folder)) == {*before, ".lock"}


def test_a_run_that_was_finished_while_this_one_loaded_its_images_is_left_alone(
    unbroken, tmp_path, monkeypatch
):
    """Both found the folder empty; the other one was quicker."""
    from fullrank.training import train as module

    plain = module.load_data

    def loaded_while_another_finished(recipe, given):
        found = plain(recipe, given)
        if not (tmp_path / "run").exists():
            without_record(unbroken, tmp_path / "run")
            (tmp_path / "run" / "record.json").write_bytes((unbroken.path / "record.json").read_bytes())
        return found

    monkeypatch.setattr(module, "load_data", loaded_while_another_finished)
    with pytest.raises(UsageError, match="exists and is not empty"):
        train("digits", out=tmp_path / "run", **QUICK)
    (tmp_path / "run").rename(tmp_path / "first")
    with pytest.raises(UsageError, match="finished by another process just now; add --resume"):
        train("digits", out=tmp_path / "run", resume=True, **QUICK)


def no_room(monkeypatch, step, interrupts):
    """From a step on the system refuses files of more than 1000 bytes, as it does on a full disk."""
    plain = Monitor.on_train_batch_end

    def limit(self, trainer, *args):
        plain(self, trainer, *args)
        if trainer.global_step == step:
            hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
            if interrupts:
                os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Monitor, "on_train_batch_end", limit)


@pytest.mark.parametrize(
    ("step", "kept", "interrupts"),
    [(1, "no checkpoint was written yet", False), (6, "the checkpoint step-00000005-.* is kept", True)],
    ids=["at the end of an epoch", "after Ctrl-C"],
)
def test_a_disk_without_room_is_one_sentence_and_what_was_saved_stays(
    unbroken, tmp_path, monkeypatch, step, kept, interrupts
):
    out, before = tmp_path / "run", resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with (
            monkeypatch.context() as patch,
            pytest.raises(FullDiskError, match=f"{kept}, and .* --out {out} --resume goes on") as error,
        ):
            no_room(patch, step, interrupts)
            train("digits", out=out, **QUICK)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert str(error.value).startswith(f"The disk has no room for {out}/") and error.value.exit_status == 1
    assert all(map(is_whole, checkpoints_in(out))) and not list(out.rglob("*.part"))
    assert left(train("digits", out=out, resume=True, **QUICK).path) == left(unbroken.path)


def test_a_page_without_room_says_how_to_write_it(unbroken, tmp_path):
    for name in ("record.json", "arrays.npz"):
        (tmp_path / name).write_bytes((unbroken.path / name).read_bytes())
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(
            FullDiskError, match=r"report\.html; the record is kept.*fullrank report"
        ) as error:
            write_page(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "\n" not in str(error.value) and not list(tmp_path.glob("*.part"))


def test_a_lock_is_free_again_after_an_error(tmp_path):
    with pytest.raises(FullDiskError), sole_writer(tmp_path):
        raise FullDiskError("x")
    with sole_writer(tmp_path):
        pass
