"""SIGINT and SIGTERM, sent for real: the step is finished and saved, and the status says which it was."""

import os
import signal

import pytest
from refusals import refuses

from fullrank import train
from fullrank.errors import InterruptedRunError, TerminatedRunError
from fullrank.files import load_arrays
from fullrank.runs.folders import checkpoints_in, number_of
from fullrank.training.callbacks.stopping import Stop


def saved(folder):
    return [number_of(path) for path in checkpoints_in(folder)]


@pytest.mark.parametrize("signals", [[signal.SIGTERM], [signal.SIGTERM, signal.SIGTERM]])
def test_sigterm_saves_the_step_under_way_and_the_run_goes_on(quick, tmp_path, at_batch, signals):
    """A second one, as schedulers send it, changes nothing."""
    before = signal.getsignal(signal.SIGTERM)
    at_batch(1, 1, *signals)
    with refuses(TerminatedRunError, "step 7 of 15", f"--out {tmp_path / 'run'} --resume") as error:
        train("digits", out=tmp_path / "run", **quick)
    assert error.value.exit_status == 143 and signal.getsignal(signal.SIGTERM) is before
    assert saved(tmp_path / "run") == [7, 5]
    run = train("digits", out=tmp_path / "run", resume=True, **quick)
    assert load_arrays(run.path)["step"].tolist() == list(range(1, 16))


def test_sigterm_in_the_middle_of_a_step_waits_for_the_rest_of_its_gradients(quick, tmp_path, at_batch):
    """Lightning's own handler would end the run after the half step, unsaved."""
    at_batch(1, 2, signal.SIGTERM)
    with refuses(TerminatedRunError, "step 5 of 9"):
        train("digits", out=tmp_path / "run", **quick | {"engine.accumulate": 2})
    assert saved(tmp_path / "run") == [5, 3]


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_a_second_ctrl_c_leaves_at_once(quick, tmp_path, at_batch, first):
    at_batch(1, 1, first, signal.SIGINT)
    with refuses(InterruptedRunError, "at once", f"--out {tmp_path / 'run'} --resume"):
        train("digits", out=tmp_path / "run", **quick)
    assert saved(tmp_path / "run") == [5]


def test_the_ctrl_c_that_torchrun_passes_on_is_no_second_one(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    with Stop(tmp_path) as stop:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.is_set() and stop.error("x").exit_status == 130


def test_who_stops_listening_takes_no_signals_back(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    with Stop(tmp_path) as stop:
        pass
    stop.listen()
    assert signal.getsignal(signal.SIGTERM) is before
