"""Where a step's time goes: every part is named, and the parts are all of the time."""

import time

import pytest

from fullrank import train
from fullrank.training.profile import StepClock

PARTS = ["loader", "upload", "views", "encoder", "head", "objective", "backward", "optimizer", "rest"]


@pytest.fixture(scope="module")
def clocked(quick, tmp_path_factory):
    clock = StepClock()
    start = time.perf_counter()
    train("digits", out=tmp_path_factory.mktemp("profile") / "run", profiler=clock, **quick)
    return clock, time.perf_counter() - start


def test_every_part_of_every_step_is_seen(clocked):
    clock, _ = clocked
    assert list(clock.seconds()) == PARTS
    assert clock.batches == 3 * 5


def test_the_parts_are_the_time_of_the_epochs_and_no_more_than_the_run_took(clocked):
    clock, wall = clocked
    parts = clock.seconds()
    assert all(seconds > 0 for seconds in parts.values())
    assert sum(parts.values()) < wall
    assert parts["encoder"] + parts["backward"] > parts["head"]


def test_the_table_has_a_line_a_part_and_fits_80_columns(clocked):
    clock, _ = clocked
    lines = clock.summary().splitlines()
    assert [line.split()[0] for line in lines[1:-1]] == PARTS
    assert max(map(len, lines)) <= 80
    assert lines[-1].endswith("of 15 batches")
    shares = [float(line.split()[-2]) for line in lines[1:-1]]
    assert sum(shares) == pytest.approx(100, abs=1)


def test_a_clock_that_saw_nothing_says_so():
    assert StepClock().seconds() == {"rest": 0.0}
    assert "0 batches" in StepClock().summary()


def test_what_is_timed_inside_another_part_is_counted_once(monkeypatch):
    # The clock is read at each beginning and end: 0 whole, 1 outer, 3 views; 10 views, 15 outer, 21 whole.
    monkeypatch.setattr(time, "perf_counter", iter([0.0, 1.0, 3.0, 10.0, 15.0, 21.0]).__next__)
    clock = StepClock()
    outer = "[LightningModule]JointEmbedding.optimizer_step"
    with clock.profile("run_training_epoch"), clock.profile(outer), clock.profile("views"):
        pass
    assert clock.seconds() == {"views": 7.0, "optimizer": 7.0, "rest": 7.0}


def test_batches_that_are_accumulated_take_no_time_from_the_optimizer(quick, tmp_path):
    clock = StepClock()
    train("digits", out=tmp_path / "run", profiler=clock, **quick | {"epochs": 1, "engine.accumulate": 2})
    assert clock.batches == 5
    assert all(seconds >= 0 for seconds in clock.seconds().values())


def test_an_action_that_never_ends_ends_with_the_one_around_it():
    clock = StepClock()
    clock.start("run_training_epoch")
    clock.start("[_TrainingEpochLoop].train_dataloader_next")
    clock.stop("run_training_epoch")
    clock.stop("views")  # never began
    assert list(clock.seconds()) == ["rest"]
