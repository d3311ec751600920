"""Small studies, made up: what is tested of them is arithmetic, not training."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fullrank.record import Machine, ProbeScore, Record, Result, RunEntry, Score, Spectrum

RECIPE = {
    "data": "digits",
    "label": "label",
    "classes": None,
    "held_out": None,
    "objective": "infonce:0.2",
    "epochs": 40,
    "optimizer": {"name": "adamw", "lr": 0.003},
    "monitor_every": 5,
    "head": "none",
    "seed": 0,
}
MACHINE = Machine(processor="a processor", threads=1, device="cpu", python="3.12", torch="2.15")


def small_study(
    path: str | Path,
    levels: Mapping[str, Mapping[int, float]],
    varied: Mapping[str, Mapping[str, str]] | None = None,
    **recipe: Any,
) -> Result:
    """A study in `path` with these linear accuracies on h, 0 to 1, by head and seed; z is 0.1 lower."""
    runs = [
        small_run(head, seed, level, (varied or {}).get(head, {}))
        for head, seeds in levels.items()
        for seed, level in seeds.items()
    ]
    record = Record(
        kind="study",
        fullrank="0.2.0",
        created="2026-03-01T12:30:00+00:00",
        machine=MACHINE,
        recipe={**RECIPE, **recipe},
        runs=runs,
    )
    return Result(Path(path), record)


def small_run(head: str, seed: int, level: float, varied: Mapping[str, str]) -> RunEntry:
    """A run whose h reads `level` and whose head is a part of its folder's name."""
    probes = {
        place: ProbeScore(linear=value, nearest=value - 0.05)
        for place, value in (("h", level), ("z", level - 0.1))
    }
    score = {"place": "h", "label": "label", "split": "test", "features": "raw", "shots": None}
    return RunEntry(
        head=head,
        seed=seed,
        folder=f"{head.replace(':', '-')}-seed{seed}",
        epochs=40,
        steps=200,
        loss=1.0,
        chance=2.0,
        seconds=3.0,
        views_per_second=100.0,
        parameters={"encoder": 10},
        probes=probes,
        scores=[Score(**score, probe="linear", statistic="accuracy", value=level)],
        spectrum={"h": Spectrum(singular_values=[2.0, 1.0, 0.0], effective_rank=1.9 + seed / 100)},
        varied=dict(varied),
    )
