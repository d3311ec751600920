"""Checkpoints: whole or not there, checked before use, the last few kept; a resume goes on bit for bit."""

import resource
import signal
import time
from pathlib import Path

import forked
import pytest
import torch
from filelock import FileLock
from hypothesis import HealthCheck, given, settings, strategies as st
from refusals import assert_names, refuses
from runs import fingerprint

from fullrank import train
from fullrank.errors import DataError, FullDiskError, UsageError
from fullrank.reports.page import write_page
from fullrank.runs.folders import CHECKPOINTS, checkpoint_path, checkpoints_in, number_of, sole_writer
from fullrank.runs.recipe import Recipe
from fullrank.studies.compare import compare
from fullrank.training.callbacks.checkpoints import is_whole, keep_last, load_state, newest_whole, save_state


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
    assert len(said) == 2
    for line, damaged in zip(said, (third, second), strict=True):
        assert_names(line, damaged, "damaged", first)
    newest_whole(tmp_path, rank=1)
    assert capsys.readouterr().err == ""


def test_where_all_are_damaged_one_sentence_says_so(tmp_path):
    paths = saved(tmp_path, 1, 2)
    for path in paths:
        damage(path)
    with refuses(DataError, paths[1], 2, "remove") as error:
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


def without_record(run, folder):
    """The folder of a run that was killed after training, and its checkpoints, newest first."""
    (folder / CHECKPOINTS).mkdir(parents=True)
    for path in [run.path / "recipe.yaml", *checkpoints_in(run.path)]:
        (folder / path.relative_to(run.path)).write_bytes(path.read_bytes())
    return checkpoints_in(folder)


def test_a_run_keeps_as_many_as_its_recipe_says(unbroken, quick, tmp_path):
    assert [number_of(path) for path in checkpoints_in(unbroken.path)] == [15, 10]
    train("digits", out=tmp_path / "run", **quick | {"engine.keep_checkpoints": 1, "epochs": 2})
    assert [number_of(path) for path in checkpoints_in(tmp_path / "run")] == [10]


def test_a_damaged_newest_one_costs_an_epoch_and_changes_nothing(unbroken, drawing, tmp_path, capsys):
    newest, _ = without_record(unbroken, tmp_path / "run")
    damage(newest)
    run = train("digits", out=tmp_path / "run", resume=True, **drawing)
    assert_names(capsys.readouterr().err, newest, "damaged")
    assert fingerprint(run) == fingerprint(unbroken)
    assert all(map(is_whole, checkpoints_in(run.path)))
    assert [number_of(path) for path in checkpoints_in(run.path)] == [15, 10]


def test_a_run_of_damaged_checkpoints_is_refused(unbroken, drawing, tmp_path):
    newest, older = without_record(unbroken, tmp_path / "run")
    damage(newest)
    damage(older)
    with refuses(DataError, newest, 2):
        train("digits", out=tmp_path / "run", resume=True, **drawing)


@pytest.mark.parametrize("resume", [True, False])
def test_what_a_kill_leaves_before_the_recipe_is_written_is_no_obstacle(unbroken, drawing, tmp_path, resume):
    (tmp_path / CHECKPOINTS).mkdir(parents=True)
    (tmp_path / CHECKPOINTS / ".lock").touch()
    parts = [tmp_path / ".fullrank-1x.part", tmp_path / CHECKPOINTS / ".fullrank-2x.part"]
    for part in parts:
        part.write_bytes(b"half")
    run = train("digits", out=tmp_path, resume=resume, **drawing)
    assert fingerprint(run) == fingerprint(unbroken) and not any(part.exists() for part in parts)


def test_a_training_that_starts_anew_forgets_the_sgd_probe_of_the_old_one(quick, tmp_path):
    (stale,) = saved(tmp_path / "run", 1, kind="sgd-probe")
    recipe = Recipe.resolve("digits", quick | {"epochs": 1})
    (tmp_path / "run" / "recipe.yaml").write_text(recipe.dump())
    train(tmp_path / "run" / "recipe.yaml", out=tmp_path / "run", resume=True)
    assert not stale.exists()


def hold(path):
    """Hold a lock until killed."""
    with FileLock(path):
        print("held", flush=True)
        time.sleep(600)


def test_two_runs_never_write_into_one_folder(unbroken, drawing, tmp_path):
    """Another process holds the lock: a resume and a study are refused, and change nothing until it ends."""
    alone, study = tmp_path / "run", tmp_path / "study" / "random-subvector-8-dropout-0.25-seed0"
    for folder in (alone, study):
        without_record(unbroken, folder)
    (study.parent / "recipe.yaml").write_bytes((study / "recipe.yaml").read_bytes())
    plan = {"seeds": 1} | {key: value for key, value in drawing.items() if key != "head"}
    attempts = {
        alone: lambda: train("digits", out=alone, resume=True, **drawing),
        study: lambda: compare("digits", heads=drawing["head"], out=study.parent, resume=True, **plan),
    }
    for folder, attempt in attempts.items():
        before, output = names(folder), tmp_path / f"{folder.name}.txt"
        output.touch()
        other = forked.start(output, hold, folder / CHECKPOINTS / ".lock")
        try:
            while other.is_alive() and "held" not in output.read_text():
                time.sleep(0.01)
            with refuses(UsageError, folder, "another process"):
                attempt()
        finally:
            other.kill()
            other.join()
        assert set(names(folder)) == {*before, ".lock"}
        with sole_writer(folder):  # free again
            pass


def test_a_run_that_was_finished_while_this_one_loaded_its_images_is_left_alone(
    unbroken, drawing, tmp_path, monkeypatch
):
    """Both found the folder empty; the other one was quicker."""
    from fullrank.training import train as module

    plain = module.load_data

    def loaded_while_another_finished(recipe, given):
        images = plain(recipe, given)
        if not (tmp_path / "run").exists():
            without_record(unbroken, tmp_path / "run")
            (tmp_path / "run" / "record.json").write_bytes((unbroken.path / "record.json").read_bytes())
        return images

    monkeypatch.setattr(module, "load_data", loaded_while_another_finished)
    with refuses(UsageError, tmp_path / "run"):
        train("digits", out=tmp_path / "run", **drawing)
    (tmp_path / "run").rename(tmp_path / "first")
    with refuses(UsageError, tmp_path / "run", "--resume"):
        train("digits", out=tmp_path / "run", resume=True, **drawing)


def fill_disk(module):
    """From now on the system refuses files of more than 1000 bytes, as it does on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


@pytest.fixture
def empty_disk():
    """Puts the limit on the size of files back, when it is called and after the test."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, before)
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    ("batch", "actions", "parts"),
    [((0, 0), [fill_disk], []), ((1, 0), [fill_disk, signal.SIGINT], ["step-00000005"])],
    ids=["at the end of an epoch", "after Ctrl-C"],
)
def test_a_disk_without_room_is_one_sentence_and_what_was_saved_stays(
    unbroken, drawing, tmp_path, at_batch, empty_disk, batch, actions, parts
):
    out = tmp_path / "run"
    at_batch(*batch, *actions)
    with refuses(FullDiskError, "checkpoint", *parts, f"--out {out} --resume") as error:
        train("digits", out=out, **drawing)
    empty_disk()
    assert error.value.exit_status == 1 and f"{out}/" in str(error.value) and "\n" not in str(error.value)
    assert all(map(is_whole, checkpoints_in(out))) and not list(out.rglob("*.part"))
    assert fingerprint(train("digits", out=out, resume=True, **drawing)) == fingerprint(unbroken)


def test_a_page_without_room_says_how_to_write_it(unbroken, tmp_path, empty_disk):
    for name in ("record.json", "arrays.npz"):
        (tmp_path / name).write_bytes((unbroken.path / name).read_bytes())
    fill_disk(None)
    with refuses(FullDiskError, "report.html", "fullrank report") as error:
        write_page(tmp_path)
    empty_disk()
    assert "\n" not in str(error.value) and not list(tmp_path.glob("*.part"))


def test_a_lock_is_free_again_after_an_error(tmp_path):
    with pytest.raises(FullDiskError), sole_writer(tmp_path):
        raise FullDiskError("x")
    with sole_writer(tmp_path):
        pass
