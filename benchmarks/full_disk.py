"""Fill the disk at each write of a run in turn: check the message, the files that remain, and the resume.

    uv run python benchmarks/full_disk.py

The run's folder is a small file system in memory, mounted in this process's own namespace. If the system does
not allow that, a limit on the size of files takes its place; writing beyond it fails with a similar error.
When the run opens a file in its folder for writing for the n-th time, all remaining space is taken. The run
must then end with exit status 1 and one sentence that names the file. It must leave no temporary file and no
damaged checkpoint. Once there is space again, `--resume` must end with the same weights and curves, bit for
bit, as an undisturbed run. The exit status is 1 if any of this fails.
"""

import argparse
import ctypes
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # set before torch is loaded, because a fork has only its first thread

import torch
from kills import RECIPE, fingerprint, load_alike, tell_loaded

from fullrank import cli
from fullrank.files import parts_in
from fullrank.runs.folders import CHECKPOINTS, checkpoints_in
from fullrank.training.callbacks.checkpoints import is_whole

SETTINGS = RECIPE | {"epochs": 3}
SIZE = 16 << 20
BALLAST = "ballast"
_NEW_USER, _NEW_MOUNTS, _DETACH = 0x10000000, 0x00020000, 2


@contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """Mount a small file system on `folder`; yield False if the system does not allow it."""
    system = ctypes.CDLL(None, use_errno=True)
    user, group = os.getuid(), os.getgid()
    if system.unshare(_NEW_USER | _NEW_MOUNTS):
        yield False
        return
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    if system.mount(b"none", os.fsencode(folder), b"tmpfs", 0, f"size={SIZE}".encode()):
        yield False
        return
    try:
        yield True
    finally:
        system.umount2(os.fsencode(folder), _DETACH)


@contextmanager
def large_disk(folder: Path) -> Iterator[bool]:
    """Use the ordinary disk."""
    yield False


def fill(disk: Path) -> None:
    """Take all the space that is left on a disk."""
    with (disk / BALLAST).open("ab", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue


def allow_no_bytes() -> None:
    """Forbid every file of this process to grow."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


class FillAt:
    """An audit hook that takes all space when a file in `run` is opened for writing for the n-th time."""

    def __init__(self, run: Path, number: int, disk: Path | None):
        self.run, self.number, self.disk = str(run), number, disk
        self.opened = 0

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event != "open" or self.opened >= self.number:
            return
        path, _, flags = arguments
        if (
            not isinstance(path, str)
            or not path.startswith(self.run)
            or not flags & (os.O_WRONLY | os.O_RDWR)
        ):
            return
        self.opened += 1
        if self.opened == self.number:
            fill(self.disk) if self.disk is not None else allow_no_bytes()


def session(run: Path, *, number: int | None, disk: Path | None) -> tuple[int, str]:
    """Run `train --resume` in a fork of this process; return its exit status and its last words."""
    said = run.parent.parent / "said.txt"
    if pid := os.fork():
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        return status, said.read_text()
    try:
        # A pipe always has space, whatever the limit on files is.
        output = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=said.open("wb")).stdin
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
        torch.set_num_threads(1)
        settings = [part for key, value in SETTINGS.items() for part in ("--set", f"{key}={value}")]
        sys.argv = ["fullrank", "train", "--data", "digits", *settings, "--out", str(run), "--resume"]
        if number is not None:
            sys.addaudithook(FillAt(run, number, disk))
        cli.main()
    except SystemExit as exit_:
        if number is None:
            tell_loaded(run)
        sys.stdout.flush()
        os._exit(int(exit_.code or 0))
    except BaseException:  # noqa: BLE001 - the fork must end here whatever is raised
        traceback.print_exc()
    os._exit(99)


def faults(status: int, said: str, run: Path) -> list[str]:
    """What a run without space did wrong."""
    wrong = []
    sentence = said.strip().splitlines()[-1] if said.strip() else ""
    if status != 1:
        wrong.append(f"exit status {status}")
    if not re.fullmatch(r"fullrank: The disk has no room for \S+[; ].*\.", sentence) or "Traceback" in said:
        wrong.append(f"said {said!r}")
    if left := [*parts_in(run), *parts_in(run / CHECKPOINTS)]:
        wrong.append(f"left {left}")
    if damaged := [path for path in checkpoints_in(run) if not is_whole(path)]:
        wrong.append(f"damaged {damaged}")
    return wrong


def main() -> None:
    """Fill the disk at each write in turn and print a row of the table in docs/reliability.md."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--every", type=int, default=1, help="Test only every N-th write.")
    parser.add_argument("--limit-only", action="store_true", help="Limit file sizes; mount no small disk.")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        disk = Path(name) / "disk"
        disk.mkdir()
        with (large_disk if arguments.limit_only else small_disk)(disk) as small:
            named, wrong = failures(disk, small, arguments.every)
    kinds = sorted({re.sub(r"step-\d+-\w+", "step-*", name) for name in named})
    print(
        f"| `benchmarks/full_disk.py` | {'a tmpfs' if small else 'a limit on the size of files'}, no space "
        f"at each of {len(named)} writes ({', '.join(kinds)}): {wrong} without one sentence, exit status 1, "
        "whole checkpoints and a bit-identical resume |"
    )
    sys.exit(bool(wrong) or not named)


def failures(disk: Path, small: bool, every: int) -> tuple[list[str], int]:
    """The files that the run had no space for, and how many times it did something wrong."""
    unbroken, run = disk / "unbroken", disk / "run"
    status, said = session(unbroken, number=None, disk=None)
    if status:
        sys.exit(said)
    load_alike(unbroken)
    expected = fingerprint(unbroken)
    named: list[str] = []
    wrong, number = 0, 1
    while True:
        status, said = session(run, number=number, disk=disk if small else None)
        (disk / BALLAST).unlink(missing_ok=True)
        if status == 0:
            return named, wrong
        problems = faults(status, said, run)
        if match := re.search(r"no room for ([^\s;]+)", said):
            named.append(Path(match[1]).name)
        status, said = session(run, number=None, disk=None)
        if status or fingerprint(run) != expected:
            problems.append(f"resumed with status {status}: {said!r}")
        for fault in problems:
            print(f"write {number}: {fault}", file=sys.stderr)
        wrong += bool(problems)
        shutil.rmtree(run)
        number += every


if __name__ == "__main__":
    main()
