"""SIGINT and SIGTERM, sent for real: the step is finished and saved, and the status says which it was."""

import os
import signal

import pytest

from fullrank import train
from fullrank.errors import InterruptedRunError, TerminatedRunError
from fullrank.files import load_arrays
from fullrank.runs.folders import checkpoints_in, number_of
from fullrank.training.callbacks.curves import Monitor
from fullrank.training.callbacks.stopping import stop_on_signal

QUICK = {
    "encoder": "tiny-resnet,width=4",
    "head": "none",
    "limit": 200,
    "batch_size": 40,
    "epochs": 2,
    "monitor_every": 1,
}


def send_at(monkeypatch, epoch, batch, *signals):
    plain = Monitor.on_train_batch_end

    def send(self, trainer, module, outputs, images, batch_idx):
        plain(self, trainer, module, outputs, images, batch_idx)
        if (trainer.current_epoch, batch_idx) == (epoch, batch):
            for number in signals:
                os.kill(os.getpid(), number)

    monkeypatch.setattr(Monitor, "on_train_batch_end", send)


@pytest.mark.parametrize("signals", [[signal.SIGTERM], [signal.SIGTERM, signal.SIGTERM]])
def test_sigterm_saves_the_step_under_way_and_the_run_goes_on(tmp_path, monkeypatch, signals):
    """A second one, as schedulers send it, changes nothing."""
    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch, pytest.raises(TerminatedRunError, match="step 7 of 10") as error:
        send_at(patch, 1, 1, *signals)
        train("digits", out=tmp_path / "run", **QUICK)
    assert error.value.exit_status == 143 and "--resume goes on from there" in str(error.value)
    assert signal.getsignal(signal.SIGTERM) is before
    assert [number_of(path) for path in checkpoints_in(tmp_path / "run")] == [7, 5]
    run = train("digits", out=tmp_path / "run", resume=True, **QUICK)
    assert load_arrays(run.path)["step"].tolist() == list(range(1, 11))


def test_sigterm_in_the_middle_of_a_step_waits_for_the_rest_of_its_gradients(tmp_path, monkeypatch):
    """Lightning's own handler would end the run after the half step, unsaved."""
    send_at(monkeypatch, 1, 2, signal.SIGTERM)
    with pytest.raises(TerminatedRunError, match="step 5 of 6"):
        train("digits", out=tmp_path / "run", **QUICK | {"engine.accumulate": 2})
    assert [number_of(path) for path in checkpoints_in(tmp_path / "run")] == [5, 3]


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_a_second_ctrl_c_leaves_at_once(tmp_path, monkeypatch, first):
    send_at(monkeypatch, 1, 1, first, signal.SIGINT)
    with pytest.raises(InterruptedRunError, match="Stopped at once; with --out "):
        train("digits", out=tmp_path / "run", **QUICK)
    assert [number_of(path) for path in checkpoints_in(tmp_path / "run")] == [5]


def test_the_ctrl_c_that_torchrun_passes_on_is_no_second_one(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    with stop_on_signal(tmp_path) as stop:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.is_set() and stop.error("x").exit_status == 130


def test_who_stops_listening_takes_no_signals_back(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    with stop_on_signal(tmp_path) as stop:
        pass
    stop.listen()
    assert signal.getsignal(signal.SIGTERM) is before
