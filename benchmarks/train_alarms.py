"""The alarms of `fullrank train`: which runs raise one, at which step, and what became of the run.

    uv run python benchmarks/train_alarms.py
    uv run python benchmarks/train_alarms.py --quick
    uv run python benchmarks/train_alarms.py --half held --epochs 40 --objectives vicreg "vicreg,variance=0"

Each run trains a tiny-resnet of width 8 on 600 images of 8 pixels. Half `fix` is digits, half `held` is
Fashion-MNIST; limits of the rules were chosen on `fix` alone. HEALTHY are objectives as they are published.
UNGUARDED lack what keeps them from collapse. What became of a run is measured at its last look. A place has
collapsed where the mean cosine of two images is above 0.95. It has also collapsed where its effective rank is
below a quarter of that of the same net and head trained with InfoNCE. Trainings with labels count as healthy.
"""

import argparse
import tempfile
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import lightning.pytorch as pl
import torch
from real_training import COLLAPSED, HALVES

from fullrank import train
from fullrank.objectives import needs
from fullrank.training.callbacks.collapse import PLACES, CollapseWatch

POINT = 0.95
TWIN = "infonce:0.2"
HEALTHY = (TWIN, "ntxent:0.5", "vicreg", "barlow-twins", "spectral", "supcon:0.1", "cross-entropy")
UNGUARDED = (
    "vicreg,variance=0",
    "vicreg,variance=0,covariance=0",
    "barlow-twins,redundancy=0",
    "align",
    "simsiam,stop_gradient=false",
    "byol,predictor=none",
    "sigreg:0",
)
HEADS = ("none", "linear:32", "subvector:8", "mlp:32")
SETTINGS = {
    "encoder": "tiny-resnet,width=8",
    "limit": 600,
    "image_size": 8,
    "batch_size": 128,
    "monitor_every": 5,
}


@dataclass(frozen=True)
class Outcome:
    """A run: its accuracy at h and z, the last look at each place, and its alarms as step, place and rule."""

    linear: tuple[float, float]
    last: dict[str, dict[str, float]]
    alarms: list[tuple[int, str, str]]


class Seen(pl.Callback):
    """Keeps the watch of a run."""

    watch: CollapseWatch

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.watch = next(each for each in trainer.callbacks if isinstance(each, CollapseWatch))


def outcome(data: str, objective: str, head: str, **more: Any) -> Outcome:
    """Train, and say what became of the run."""
    seen, how = Seen(), SETTINGS | {"objective": objective, "head": head} | more
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run = train(data, out=f"{folder}/run", callbacks=[seen], **how)
    probes, watch = run.record.runs[0].probes, seen.watch
    last = {place: watch.looks[place].last or watch.looks["h"].last for place in PLACES}
    alarms = [(alert.step, alert.module, alert.rule) for alert in watch.alerts]
    return Outcome((probes["h"].linear, probes["z"].linear), last, alarms)


def collapsed(run: Outcome, twin: Outcome) -> list[str]:
    """The places that end collapsed."""
    return [
        place
        for place, last in run.last.items()
        if last["mean_cosine"] > POINT
        or last["effective_rank"] < COLLAPSED * twin.last[place]["effective_rank"]
    ]


def row(name: str, run: Outcome, fallen: Sequence[str]) -> str:
    """A line of the table."""
    end = run.last.values()
    ranks = "/".join(f"{last['effective_rank']:.1f}" for last in end)
    cosines = "/".join(f"{last['mean_cosine']:.3f}" for last in end)
    accuracies = "/".join(f"{value:.3f}" for value in run.linear)
    raised = "; ".join(f"{rule} of {place} at {step}" for step, place, rule in run.alarms[:2]) or "-"
    return f"{name:50} {accuracies:12} {ranks:10} {cosines:12} {'+'.join(fallen) or '-':9} {raised}"


def report(data: str, objectives: Sequence[str], heads: Sequence[str], seeds: int, epochs: int) -> None:
    """Print a line for each run, and how many of the collapsed and of the healthy ones raised an alarm."""
    titles = f"{'linear h/z':12} {'rank':10} {'cosine':12} {'collapsed':9} alarms"
    print(f"{data}, {epochs} epochs\n{'objective, head, seed':50} {titles}")
    counts: Counter[tuple[bool, bool]] = Counter()
    for head, seed in product(heads, range(seeds)):
        twin = outcome(data, TWIN, head, seed=seed, epochs=epochs)
        for objective in objectives:
            run = twin
            if objective != TWIN:
                run = outcome(data, objective, head, seed=seed, epochs=epochs)
            fallen = [] if "labels" in needs(objective) else collapsed(run, twin)
            counts[bool(fallen), bool(run.alarms)] += 1
            print(row(f"{objective} {head} {seed}", run, fallen), flush=True)
    for state, name in ((True, "collapsed"), (False, "other")):
        print(f"alarms in {counts[state, True]} of {counts[state, True] + counts[state, False]} {name} runs")


def main() -> None:
    """Train and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="three short runs with one head")
    parser.add_argument("--half", choices=HALVES, help="one half instead of both")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--heads", nargs="+", default=HEADS)
    parser.add_argument("--objectives", nargs="+", default=(*HEALTHY, *UNGUARDED))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    objectives, heads = arguments.objectives, arguments.heads
    if arguments.quick:
        objectives, heads = (TWIN, *UNGUARDED[:1]), HEADS[:1]
    for half in [arguments.half] if arguments.half else HALVES:
        report(HALVES[half], objectives, heads, arguments.seeds, arguments.epochs)


if __name__ == "__main__":
    main()
