"""Compare one, two and four processes: are loss, gradient, run, spectrum and probe the same?

    uv run python benchmarks/processes.py
    uv run python benchmarks/processes.py --processes 2 --without-runs

Every objective of the catalogue is checked as in `fullrank check-distributed` (float64, 2400 images, so that
all processes have tiles). A whole run on real digits goes through torchrun in float32. Its encoder has no
batch norm, because CPUs do not share batch statistics. Its result is compared with that of one process. The
table has the largest difference of a weight, of a probe's accuracy, and of a singular value (relative). If a
loss or gradient differs by more than 1e-6, the exit status is 1.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file

from fullrank import load
from fullrank.objectives import OBJECTIVES
from fullrank.objectives.agreement import check_agreement

RUN = {
    "data": "digits",
    "image_size": 32,
    "encoder": "vit_tiny_patch16_224",
    "head": "subvector:24",
    "epochs": 1,
    "limit": 256,
    "batch_size": 64,
    "optimizer.name": "sgd",
    "optimizer.lr": 0.05,
}


def compare_objectives(counts: list[int]) -> bool:
    """Print a row for each objective and number of processes; return whether all agree."""
    print("| objective | processes | loss apart | gradient apart |\n|---|---|---|---|")
    agree = []
    for name in (entry.name for entry in OBJECTIVES):
        for count in counts:
            agreement = check_agreement(name, count, images=2400, width=32)
            agree.append(agreement.agrees)
            print(
                f"| {name} | {count} | {agreement.loss_apart:.1e} | {agreement.gradient_apart:.1e} |",
                flush=True,
            )
    return all(agree)


def run_with(processes: int, folder: Path) -> None:
    """Train a whole run by torchrun in `processes` processes."""
    settings = [part for key, value in RUN.items() for part in ("--set", f"{key}={value}")]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command += ["-m", "fullrank", "train", "--devices", str(processes), "--out", str(folder), *settings]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, capture_output=True, env=environment)


def compare_runs(counts: list[int], folder: Path) -> None:
    """Print a row for each number of processes."""
    print("\n| a run | processes | weights apart | probes apart | spectra apart |\n|---|---|---|---|---|")
    run_with(1, folder / "1")
    one, weights = load(folder / "1").record.runs[0], load_file(folder / "1" / "encoder.safetensors")
    for count in counts:
        out = folder / str(count)
        run_with(count, out)
        many, others = load(out).record.runs[0], load_file(out / "encoder.safetensors")
        apart = max(float((others[name] - weights[name]).abs().max()) for name in weights)
        probes = max(abs(many.probes[place].linear - one.probes[place].linear) for place in one.probes)
        spectra = 0.0
        for place, spectrum in one.spectrum.items():
            values, other_values = (
                torch.tensor(each.singular_values) for each in (spectrum, many.spectrum[place])
            )
            spectra = max(spectra, float((values - other_values).abs().max() / values.max()))
        print(f"| {RUN['encoder']} | {count} | {apart:.1e} | {probes:.4f} | {spectra:.1e} |", flush=True)


def main() -> int:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--without-runs", action="store_true", help="the objectives alone")
    arguments = parser.parse_args()
    agree = compare_objectives(arguments.processes)
    if not arguments.without_runs:
        with tempfile.TemporaryDirectory() as folder:
            compare_runs(arguments.processes, Path(folder))
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
