"""Put faults into the functions that connect others, one at a time, and check that a test notices each.

    uv run python benchmarks/faults.py                      (a few minutes on two cores)
    uv run python benchmarks/faults.py --only floor         (faults whose name or file contains a word)

`faults.yaml` lists the faults. The name of a fault tells what goes wrong. A fault also has a file, the text
to replace, which occurs once in the file, its replacement, and the tests that must fail. The tests first run
without any fault and must pass. Each fault is applied to its own copy of the package. If no test notices a
fault, it is printed and the exit status is 1.
"""

import argparse
import contextlib
import io
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
# Packages that every test imports, none of them ours; a worker imports them before it begins.
LIBRARIES = [
    "pytest",
    "torch",
    "lightning.pytorch",
    "torchmetrics",
    "sklearn.linear_model",
    "typer.testing",
    "yaml",
]
PASSED, FAILED = 0, 1  # pytest's exit statuses; any other says that the tests did not run


@dataclass(frozen=True)
class Fault:
    """A text in a file of `src/fullrank` and its replacement; `tests` are files below `tests`."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    def apply(self, root: Path) -> None:
        """Put the fault into the tree at `root`.

        Raises:
            ValueError: If the text to replace does not occur exactly once.
        """
        path = root / "src/fullrank" / self.file
        text = path.read_text("utf-8")
        if text.count(self.old) != 1:
            raise ValueError(
                f"{self.name}: the text occurs {text.count(self.old)} times in {self.file}, not once."
            )
        changed = text.replace(self.old, self.new)
        compile(changed, self.file, "exec")
        path.write_text(changed, "utf-8")


def listed_faults() -> list[Fault]:
    """The faults of `faults.yaml`, in its order."""
    entries = yaml.safe_load((ROOT / "benchmarks/faults.yaml").read_text("utf-8"))
    return [Fault(tests=tuple(entry.pop("tests").split()), **entry) for entry in entries]


def copy_tree(folder: Path) -> Path:
    """Copy the package and the tests, with their byte code."""
    for name in ("src", "tests", "benchmarks", "examples"):
        shutil.copytree(ROOT / name, folder / name)
    for name in ("pyproject.toml", "README.md"):
        shutil.copy2(ROOT / name, folder / name)
    return folder


def run_tests(fault: Fault | None, tests: Sequence[str]) -> tuple[int, str, float]:
    """Run pytest on a copy with the fault; return its exit status, its output and the seconds it took."""
    import os

    import pytest

    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        root = copy_tree(Path(folder))
        if fault is not None:
            fault.apply(root)
        os.chdir(root)
        sys.path.insert(0, str(root / "src"))
        os.environ["PYTHONPATH"] = str(root / "src")  # for the processes that a test starts
        printed = io.StringIO()
        options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-o", "addopts="]
        options += ["--import-mode=importlib", "--basetemp", str(root / "tmp")]
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            status = pytest.main([*options, *(f"tests/{test}" for test in tests)])
        os.chdir(ROOT)
    return int(status), printed.getvalue(), time.perf_counter() - started


def first_failure(printed: str) -> str:
    """The first test that pytest names as failed."""
    lines = [line for line in printed.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return lines[0].split(" - ")[0] if lines else "no test is named"


def main() -> int:
    """Run every fault, or those selected; return 1 if one is not noticed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", metavar="WORD", help="faults whose name or file contains WORD")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="faults at a time (default 2)")
    options = parser.parse_args()
    faults = [fault for fault in listed_faults() if options.only in f"{fault.name} {fault.file}"]
    if not faults:
        parser.error(f"no fault's name or file contains {options.only!r}")
    started, survivors = time.perf_counter(), []
    context = get_context("forkserver")
    context.set_forkserver_preload(LIBRARIES)
    with ProcessPoolExecutor(options.workers, context, max_tasks_per_child=1) as pool:
        concerned = sorted({test for fault in faults for test in fault.tests})
        status, printed, _ = pool.submit(run_tests, None, concerned).result()
        if status != PASSED:
            print(f"{printed}\nThe tests do not pass without a fault.")
            return 1
        waiting = {pool.submit(run_tests, fault, fault.tests): fault for fault in faults}
        for number, future in enumerate(as_completed(waiting), start=1):
            fault, (status, printed, seconds) = waiting[future], future.result()
            if status == FAILED:
                verdict = first_failure(printed)
            else:
                verdict = "SURVIVED" if status == PASSED else "NOT RUN"
                survivors.append(fault)
            left = (time.perf_counter() - started) / number * (len(faults) - number)
            line = f"[{number}/{len(faults)}, {left:.0f} s left] {fault.name}: {verdict} ({seconds:.0f} s)"
            print(line, flush=True)
    died, elapsed = len(faults) - len(survivors), time.perf_counter() - started
    print(f"{died} of {len(faults)} faults were noticed, in {elapsed:.0f} s.")
    for fault in survivors:
        print(f"No test notices: {fault.name} ({fault.file})")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
