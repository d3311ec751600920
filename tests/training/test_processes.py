"""Two processes train as one: the same loss and the same weights."""

import csv
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

from fullrank import train
from fullrank.errors import TerminatedRunError, UsageError
from fullrank.runs.folders import checkpoints_in
from fullrank.training.callbacks.curves import Monitor

# A net without batch norm: torch's SyncBatchNorm refuses CPUs, so each process would have its own statistics.
RECIPE = {
    "data": "digits",
    "image_size": 32,
    "encoder": "vit_tiny_patch16_224",
    "head": "subvector:24",
    "epochs": 1,
    "limit": 64,
    "batch_size": 32,
    "monitor_every": 1,
    "optimizer.name": "sgd",
    "optimizer.lr": 0.05,
}


def losses(folder):
    return [float(row["loss"]) for row in csv.DictReader((folder / "metrics.csv").open())]


def in_two_processes(folder, *more, status=0):
    """What torchrun's processes print together, on standard error where they fail."""
    settings = [part for key, value in RECIPE.items() for part in ("--set", f"{key}={value}")]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "fullrank", "train", "--devices", "2", "--out", str(folder), *settings, *more]
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}
    finished = subprocess.run(command, capture_output=True, text=True, check=False, env=one_thread)
    assert finished.returncode == status, finished.stderr
    return finished.stderr if status else finished.stdout


def assert_alike(folder, other):
    assert losses(folder) == pytest.approx(losses(other), rel=1e-5)
    one, two = (load_file(each / "encoder.safetensors") for each in (other, folder))
    for key, tensor in one.items():
        torch.testing.assert_close(two[key], tensor, rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    return train("digits", out=tmp_path_factory.mktemp("one") / "run", **RECIPE).path


def test_two_processes_train_as_one(one_process, tmp_path):
    printed = in_two_processes(tmp_path / "two")
    assert printed.count("record.json") == 1  # one process speaks
    assert_alike(tmp_path / "two", one_process)


def test_a_step_that_is_not_finite_is_left_out_by_both(tmp_path):
    """At this rate all steps after the first are not; the third of them ends the run of both."""
    runaway = ("--set", "optimizer.lr=1e38", "--set", "epochs=3", "--skip-nonfinite", "2")
    said = in_two_processes(tmp_path / "run", *runaway, status=1)
    assert said.count("is not finite after 2 that were skipped") == 2


def started(program, folder, epochs=2000):
    """Two processes of a run, long by default, which a test can signal one by one."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    quick = {
        "limit": 200,
        "batch-size": 40,
        "encoder": "tiny-resnet,width=4",
        "head": "none",
        "epochs": epochs,
    }
    options = [part for key, value in quick.items() for part in (f"--{key}", str(value))]
    command = [sys.executable, *program, "train", "--devices", "2", *options, "--out", str(folder)]
    workers = []
    for rank in range(2):
        names = {"RANK": str(rank), "LOCAL_RANK": str(rank), "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "none"}
        names |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
        environment = os.environ | names | {"MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
        workers.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE))
    return workers


def assert_both_stopped(workers):
    try:
        said = [worker.communicate(timeout=100)[1].decode() for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert [worker.returncode for worker in workers] == [143, 143], said
    assert all("--resume" in each and "Traceback" not in each for each in said)
    return said


def test_a_stop_that_reaches_one_process_stops_both(tmp_path):
    """The other would wait for it forever."""
    workers = started(["-m", "fullrank"], tmp_path / "run")
    waited = 0.0
    while not checkpoints_in(tmp_path / "run") and waited < 120:
        time.sleep(0.2)
        waited += 0.2
    workers[1].send_signal(signal.SIGTERM)
    assert_both_stopped(workers)


STOPPED_WHILE_ASKING = """
import os, signal, sys
from lightning.pytorch.strategies import DDPStrategy
from fullrank.cli import main

reduce, told = DDPStrategy.reduce, []

def reduce_and_be_told(self, *args, reduce_op="mean", **kwargs):
    answer = reduce(self, *args, reduce_op=reduce_op, **kwargs)
    if reduce_op == "max":  # Lightning asks for sums and means
        told.append(self.global_rank)
        if told == [1] * WHEN:
            os.kill(os.getpid(), signal.SIGTERM)
    return answer

DDPStrategy.reduce = reduce_and_be_told
sys.exit(main())
"""


@pytest.mark.parametrize(
    ("when", "step"), [(1, "Stopped at step 2 of 5"), (5, "Stopped after the last step")]
)
def test_a_stop_that_comes_while_the_processes_ask_about_one_is_heard_the_next_time(tmp_path, when, step):
    program = STOPPED_WHILE_ASKING.replace("WHEN", str(when))
    said = assert_both_stopped(started(["-c", program], tmp_path / "run", epochs=1))
    assert all(step in each for each in said)


def test_a_run_of_one_process_goes_on_in_two_from_the_middle_of_an_epoch(one_process, tmp_path, monkeypatch):
    plain = Monitor.on_train_batch_end

    def stop(self, trainer, *args):
        plain(self, trainer, *args)
        if trainer.global_step == 1:  # of two an epoch
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch, pytest.raises(TerminatedRunError, match="step 1 of 2"):
        patch.setattr(Monitor, "on_train_batch_end", stop)
        train("digits", out=tmp_path / "run", **RECIPE)
    in_two_processes(tmp_path / "run", "--resume")
    assert_alike(tmp_path / "run", one_process)


def test_torchrun_and_devices_must_agree(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(
        UsageError, match=r"torchrun started 2 processes, but devices x nodes is 1.*--devices"
    ):
        train("digits", out=tmp_path / "run")


def test_a_sweep_under_a_launcher_is_many_runs_of_one_process(tmp_path, monkeypatch, quick_run):
    monkeypatch.setenv("SLURM_PROCID", "1")
    with pytest.raises(UsageError, match="is not empty"):
        train(quick_run.recipe, out=quick_run.path)


def test_a_batch_that_cannot_be_shared_is_refused_before_anything_starts(tmp_path):
    with pytest.raises(UsageError, match="batch size 32 cannot be shared by 3 processes; choose a multiple"):
        train("digits", out=tmp_path / "run", devices=3, batch_size=32)


def test_several_processes_need_a_folder_that_all_know():
    with pytest.raises(UsageError, match="need --out DIR"):
        train("digits", devices=2)


def test_devices_and_nodes_are_one_or_more(tmp_path):
    with pytest.raises(UsageError, match="1 or more, but got 0 and 1"):
        train("digits", out=tmp_path / "run", devices=0)
