"""Kill runs at random moments, resume them until they finish, and compare them with an undisturbed run.

    uv run python benchmarks/kills.py
    uv run python benchmarks/kills.py --kills 12 --seed 3

Every kill is SIGKILL. Two of three kills come at a random moment while a checkpoint is being written, that is
while its temporary file exists. The others come at any moment of the run: before its recipe is written,
between steps, or while it is probed and recorded. A process that computes nothing loads torch once, and each
session of a run is a fork of that process. A run is lost if a session ends with an error without
being killed. A run differs if its weights, curves or scores are not bit-identical to the undisturbed run. The
exit status is 1 if any run is lost or differs.
"""

import argparse
import importlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from contextlib import suppress
from pathlib import Path

# Set before torch is loaded, because a fork has only the first thread of its parent.
os.environ["OMP_NUM_THREADS"] = "1"

import torch
from rich.progress import Progress
from safetensors.torch import load_file

from fullrank import train
from fullrank.files import PART_PREFIX, PART_SUFFIX, load_arrays
from fullrank.record import Record
from fullrank.runs.folders import CHECKPOINTS, checkpoints_in
from fullrank.training.callbacks.checkpoints import is_whole

RECIPE = {
    "encoder": "tiny-resnet,width=4",
    "head": "random-subvector:8",  # draws random numbers at each step, which a resume must continue
    "limit": 200,
    "batch_size": 40,
    "epochs": 6,
    "monitor_every": 1,
}
LOADED = "modules.txt"


def begin(folder: Path) -> int:
    """Start or resume the run in a fork of this process; return the fork's process id."""
    if pid := os.fork():
        return pid
    status = 1
    try:
        torch.set_num_threads(1)
        sys.stderr = (folder.parent / "stderr.txt").open("a")
        with Progress(disable=True) as silent:
            train("digits", out=folder, resume=True, progress=silent, **RECIPE)
        tell_loaded(folder)
        status = 0
    except BaseException:  # noqa: BLE001 - the fork must end here whatever is raised
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def tell_loaded(folder: Path) -> None:
    """Write a list of the modules that this process has loaded beside `folder`."""
    (folder.parent / LOADED).write_text("\n".join(sys.modules))


def load_alike(folder: Path) -> None:
    """Load the modules that a whole run imports, so that later forks need not."""
    for name in (folder.parent / LOADED).read_text().splitlines():
        if name not in sys.modules:
            with suppress(ImportError):
                importlib.import_module(name)


def ended(pid: int) -> int | None:
    """The exit status of a process that has ended, or None if it still runs."""
    done, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if done else None


def writing(folder: Path) -> bool:
    """Whether a checkpoint is being written now."""
    try:
        with os.scandir(folder / CHECKPOINTS) as entries:
            return any(e.name.startswith(PART_PREFIX) and e.name.endswith(PART_SUFFIX) for e in entries)
    except FileNotFoundError:
        return False


def wait_for_writes(pid: int, folder: Path, number: int, draw: random.Random) -> int | None:
    """Wait for a random moment of the `number`-th next checkpoint write; the exit status if the run ends."""
    for turn in range(number):
        while not writing(folder):
            if (status := ended(pid)) is not None:
                return status
        while turn + 1 < number and writing(folder):
            pass
    time.sleep(draw.uniform(0, 5e-4))
    return ended(pid)


def fingerprint(folder: Path) -> tuple[object, ...]:
    """Weights, curves and scores of a finished run."""
    weights = load_file(folder / "encoder.safetensors") | load_file(folder / "head.safetensors")
    entry = Record.load(folder).runs[0]
    return (
        {name: tensor.numpy().tobytes() for name, tensor in weights.items()},
        {name: array.tobytes() for name, array in load_arrays(folder).items()},
        entry.model_dump(exclude={"seconds", "views_per_second"}),
    )


def main() -> None:
    """Kill, resume and compare; print a row of the table in docs/reliability.md."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    draw = random.Random(arguments.seed)
    kinds: Counter[str] = Counter()
    lost = different = finished = 0
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        unbroken = Path(name) / "unbroken"
        start = time.monotonic()
        if os.waitpid(begin(unbroken), 0)[1]:
            sys.exit((Path(name) / "stderr.txt").read_text())
        lifetime, expected = time.monotonic() - start, fingerprint(unbroken)
        load_alike(unbroken)
        folder = Path(name) / "run"
        while kinds.total() < arguments.kills or folder.exists():
            pid, status = begin(folder), None
            if kinds.total() >= arguments.kills:
                status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            elif draw.random() < 2 / 3:
                status = wait_for_writes(pid, folder, draw.choice((1, 1, 2, 3)), draw)
            else:
                deadline = time.monotonic() + draw.uniform(0, lifetime)
                while time.monotonic() < deadline and (status := ended(pid)) is None:
                    time.sleep(1e-3)
            if status is None:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                kinds["in a write" if writing(folder) else "elsewhere"] += 1
                # A damaged checkpoint would be recognised; one appears only if a rename precedes its bytes.
                lost += not all(map(is_whole, checkpoints_in(folder)))
                continue
            if status:
                lost += 1
                print((Path(name) / "stderr.txt").read_text(), file=sys.stderr)
            else:
                finished += 1
                different += fingerprint(folder) != expected
            shutil.rmtree(folder)
    print(
        f"| `benchmarks/kills.py --kills {arguments.kills}` | {kinds.total()} kills "
        f"({kinds['in a write']} in the middle of a checkpoint's write), {finished} runs: {lost} lost, "
        f"{different} different from the unbroken run; {time.monotonic() - began:.0f} s |"
    )
    sys.exit(bool(lost or different))


if __name__ == "__main__":
    main()
