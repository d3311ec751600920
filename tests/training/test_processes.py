"""Two processes train as one: the same loss and the same weights."""

import csv
import os
import signal
import subprocess
import sys
import time

import forked
import pytest
import torch
from refusals import assert_names, refuses
from safetensors.torch import load_file

from fullrank import train
from fullrank.cli import main
from fullrank.errors import TerminatedRunError, UsageError
from fullrank.runs.folders import checkpoints_in

# A net without batch norm: torch's SyncBatchNorm refuses CPUs, so each process would have its own statistics.
RECIPE = {
    "image_size": 16,
    "encoder": "vit_tiny_patch16_224",
    "head": "subvector:24",
    "objective": "infonce:0.2 + augself:1,hidden=8 + sdssl:0.8,hidden=8",
    "epochs": 1,
    "batch_size": 40,
    "monitor_every": 1,
    "optimizer.name": "sgd",
    "optimizer.lr": 0.05,
}


@pytest.fixture(scope="module")
def recipe(quick):
    return {"data": quick["data"], "fraction": 0.5} | RECIPE


def losses(folder):
    """The losses of the objective and of each term, step by step."""
    rows = list(csv.DictReader((folder / "metrics.csv").open()))
    return [float(row[name]) for name in rows[0] if name.startswith("loss") for row in rows]


def command(folder, settings, *more):
    """The arguments of `fullrank train` in two processes."""
    options = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    return ["train", "--recipe", "digits", "--devices", "2", "--out", str(folder), *options, *more]


def run_command(arguments):
    """What each process carries out, as the console script does."""
    sys.argv = ["fullrank", *arguments]
    return main()


def started(tmp_path, arguments, function=run_command, **more):
    """Two processes, as torchrun starts them, and the files that they print to."""
    outputs = [tmp_path / f"rank{rank}.txt" for rank in range(2)]
    environments = zip(outputs, forked.launched(2), strict=True)
    return [
        forked.start(output, function, arguments, **each, **more) for output, each in environments
    ], outputs


def finished(tmp_path, arguments, status, function=run_command, **more):
    """What each of two processes printed, once both have ended with `status`."""
    processes, outputs = started(tmp_path, arguments, function, **more)
    statuses, said = forked.finish(processes), [output.read_text() for output in outputs]
    assert statuses == [status, status], said
    return said


def assert_alike(folder, other):
    assert losses(folder) == pytest.approx(losses(other), rel=1e-5)
    one, two = (load_file(each / "encoder.safetensors") for each in (other, folder))
    for key, tensor in one.items():
        torch.testing.assert_close(two[key], tensor, rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def one_process(recipe, tmp_path_factory):
    return train("digits", out=tmp_path_factory.mktemp("one") / "run", **recipe).path


def test_two_processes_of_torchrun_train_as_one(one_process, recipe, tmp_path):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    call = [*torchrun, "-m", "fullrank", *command(tmp_path / "two", recipe)]
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}
    run = subprocess.run(call, capture_output=True, text=True, check=False, env=one_thread)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("record.json") == 1  # one process speaks
    assert_alike(tmp_path / "two", one_process)


def test_a_step_that_is_not_finite_is_left_out_by_both(recipe, tmp_path):
    """At this rate all steps after the first are not; the third of them ends the run of both."""
    runaway = command(tmp_path / "run", recipe | {"optimizer.lr": 1e38, "epochs": 3}, "--skip-nonfinite", "2")
    for said in finished(tmp_path, runaway, status=1):
        assert_names(said, "Step 4", "after 2", "--skip-nonfinite 7")


def assert_stopped(said, *parts):
    for each in said:
        assert_names(each, "--resume", *parts)
        assert "Traceback" not in each


def test_a_stop_that_reaches_one_process_stops_both(quick, tmp_path):
    """The other would wait for it forever."""
    processes, outputs = started(tmp_path, command(tmp_path / "run", quick | {"epochs": 2000}))
    deadline = time.monotonic() + 120
    while not checkpoints_in(tmp_path / "run") and processes[1].is_alive() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(processes[1].pid, signal.SIGTERM)
    assert forked.finish(processes) == [143, 143]
    assert_stopped([output.read_text() for output in outputs])


def stopped_while_asking(arguments):
    """SIGTERM reaches the second process after its WHEN-th question whether anybody was told to stop."""
    from lightning.pytorch.strategies import DDPStrategy

    reduce, ranks = DDPStrategy.reduce, []

    def reduce_and_be_told(self, *args, reduce_op="mean", **kwargs):
        answer = reduce(self, *args, reduce_op=reduce_op, **kwargs)
        if reduce_op == "max":  # Lightning asks for sums and means
            ranks.append(self.global_rank)
            if ranks == [1] * int(os.environ["WHEN"]):
                os.kill(os.getpid(), signal.SIGTERM)
        return answer

    DDPStrategy.reduce = reduce_and_be_told
    return run_command(arguments)


@pytest.mark.parametrize(("when", "parts"), [(1, ["step 2 of 5"]), (5, ["after", "step"])])
def test_a_stop_that_comes_while_the_processes_ask_about_one_is_heard_the_next_time(
    quick, tmp_path, when, parts
):
    arguments = command(tmp_path / "run", quick | {"epochs": 1})
    said = finished(tmp_path, arguments, 143, stopped_while_asking, WHEN=str(when))
    assert_stopped(said, *parts)
    assert len(losses(tmp_path / "run")) == (2 if when == 1 else 5)


def test_a_run_of_one_process_goes_on_in_two_from_the_middle_of_an_epoch(
    one_process, recipe, tmp_path, at_batch
):
    at_batch(0, 0, signal.SIGTERM)
    with refuses(TerminatedRunError, "step 1 of 2"):
        train("digits", out=tmp_path / "run", **recipe)
    finished(tmp_path, command(tmp_path / "run", recipe, "--resume"), status=0)
    assert_alike(tmp_path / "run", one_process)


def test_torchrun_and_devices_must_agree(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with refuses(UsageError, "torchrun", 2, 1, "--devices", "--nodes"):
        train("digits", out=tmp_path / "run")


def test_a_sweep_under_a_launcher_is_many_runs_of_one_process(plain_run, monkeypatch):
    monkeypatch.setenv("SLURM_PROCID", "1")
    with refuses(UsageError, plain_run.path, "--resume"):
        train(plain_run.recipe, out=plain_run.path)


def test_what_several_processes_cannot_do_is_refused_before_anything_starts(tmp_path):
    with refuses(UsageError, "batch size 32", 3):
        train("digits", out=tmp_path / "run", devices=3, batch_size=32)
    with refuses(UsageError, "--out"):
        train("digits", devices=2)
    with refuses(UsageError, "devices", "nodes", 0, 1):
        train("digits", out=tmp_path / "run", devices=0)
    assert not (tmp_path / "run").exists()
