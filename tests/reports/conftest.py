"""Records and arrays of realistic shapes, made up: a single run, a study of four heads, one of twelve."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fullrank.record import (
    Machine,
    ProbeScore,
    Published,
    Record,
    RunEntry,
    Score,
    Spectrum,
    save_arrays,
)

FOUR = ["none", "linear:48", "subvector:24", "mlp:48"]
TWELVE = [
    *FOUR,
    "none,norm=batch",
    "subvector:24,norm=batch",
    "lowrank:24",
    "diagonal",
    "orthogonal",
    "reweight:1.05",
    "mlp:48,hidden=192,layers=3",
    "random-subvector:24",
]
WIDTH = 96
PUBLISHED = Published(
    caption="P1 Table 1, linear-probe top-1 on ImageNet (ResNet-50, 100 epochs): another data set and scale.",
    values={"none": 51.5, "linear:48": 61.1, "subvector:24": 62.7, "mlp:48": 66.5},
)


def spectrum(generator: np.random.Generator, width: int, decay: float, dead: int = 0) -> Spectrum:
    values = np.exp(-1.5 - decay * np.arange(width) - 2 * (np.arange(width) / width) ** 6)
    values = np.sort(values * np.exp(generator.normal(0, 0.08, width)))[::-1].copy()
    if dead:
        values[-dead:] = 0
    share = np.sqrt(values) / np.sqrt(values).sum()
    share = share[share > 0]
    return Spectrum(
        singular_values=values.tolist(), effective_rank=float(np.exp(-(share * np.log(share)).sum()))
    )


def run_entry(head: str, seed: int, folder: str = ".", position: int = 0) -> RunEntry:
    generator = np.random.default_rng([seed, position])
    level = [0.948, 0.976, 0.981, 0.974, 0.965, 0.983, 0.976, 0.972, 0.95, 0.966, 0.973, 0.96][position % 12]
    level += 0.006 * generator.standard_normal() + 0.003 * np.sin(seed)
    places = {"h": level, "z": level - 0.02 - 0.01 * (position % 3)}
    if head.startswith(("linear", "mlp")):
        layers = 1 if head.startswith("linear") else 3 if "layers=3" in head else 2
        places |= {f"head.{i}": level - 0.01 * i for i in range(1, layers + 1)}
    if head.startswith("subvector"):
        places["h[:24]"] = places["z"]
    probes = {
        place: ProbeScore(linear=float(value), nearest=float(value - 0.013))
        for place, value in places.items()
    }
    scores = [
        Score(
            place=place,
            label="label",
            split="test",
            features=features,
            shots=shots,
            measure="accuracy",
            value=float(value - 0.002 * len(features)),
        )
        for place, value in places.items()
        for features, shots in (("raw", None), ("standardised", None), ("raw", 10))
    ]
    z_width = 24 if "24" in head else 48 if "48" in head else WIDTH
    return RunEntry(
        head=head,
        seed=seed,
        folder=folder,
        epochs=40,
        steps=200,
        loss=0.62 + 0.1 * position,
        chance=float(np.log(256)),
        seconds=34.6 + seed,
        views_per_second=2998.4,
        parameters={"encoder": 175_536, "head": 4608 * (position % 2)},
        probes=probes,
        scores=scores,
        spectrum={
            "h": spectrum(generator, WIDTH, 0.05 + 0.006 * position, dead=8 if head == "none" else 0),
            "z": spectrum(generator, z_width, 0.04 + 0.01 * position),
        },
    )


def arrays(seed: int, position: int = 0) -> dict[str, np.ndarray]:
    generator = np.random.default_rng([seed, position, 1])
    step = np.arange(0, 200, 2)
    epoch = step / 5
    rise = 1 - np.exp(-epoch / (6 + position))
    grid = np.linspace(-1, 1, 8)
    ring = np.exp(-((np.hypot(grid[:, None], grid[None]) - 0.6) ** 2) * 12)
    views = np.stack([np.stack([ring, np.roll(ring, k, 0), 0.6 * ring.T + 0.2]) for k in range(1, 7)])
    values = np.exp(-1 - (0.02 + 0.05 * rise[::10, None]) * np.arange(WIDTH))
    return {
        "step": step,
        "epoch": epoch,
        "loss": np.log(256) - (4.6 - 0.1 * position) * rise + generator.normal(0, 0.06, step.size),
        "positive_similarity": 0.4 + 0.5 * rise + generator.normal(0, 0.01, step.size),
        "negative_similarity": 0.3 - 0.28 * rise + generator.normal(0, 0.005, step.size),
        "effective_rank": 20 + (25 - position) * rise + generator.normal(0, 0.6, step.size),
        "learning_rate": 3e-3 * (1 - epoch / 40),
        "spectrum_step": step[::10],
        "spectrum_h": values,
        "examples": (255 * np.clip(views, 0, 1)).astype(np.uint8)[..., None],
    }


def make_record(kind: str, heads: list[str], seeds: int, published: Published | None = None) -> Record:
    runs = [
        run_entry(
            head, seed, "." if kind == "run" else f"{position:02d}-{head.partition(':')[0]}-s{seed}", position
        )
        for position, head in enumerate(heads)
        for seed in range(seeds)
    ]
    recipe = {
        "data": "digits",
        "encoder": "tiny-resnet",
        "head": heads[0],
        "objective": "infonce:0.2",
        "views": {"name": "simclr", "scale": [0.4, 1.0], "flip": True},
        "image_size": 8,
        "epochs": 40,
        "batch_size": 256,
        "optimizer": {"name": "adamw", "lr": 0.003},
        "seed": 0,
    }
    return Record.model_validate(
        {
            "kind": kind,
            "fullrank": "0.1.0",
            "created": "2026-03-01T12:30:00+00:00",
            "machine": Machine(
                processor="AMD EPYC 7B13", threads=2, device="cpu", python="3.12.3", torch="2.15.0"
            ),
            "recipe": recipe,
            "runs": runs,
            "published": published,
        }
    )


def write_run_folders(record: Record, folder: Path) -> Path:
    """Write the record and the arrays of its runs, as a finished command leaves them."""
    heads = list(dict.fromkeys(run.head for run in record.runs))
    folder.mkdir(parents=True, exist_ok=True)
    record.save(folder)
    for run in record.runs:
        (folder / run.folder).mkdir(exist_ok=True)
        save_arrays(folder / run.folder, arrays(run.seed, heads.index(run.head)))
    return folder


@pytest.fixture
def store() -> Callable[[Record, Path], Path]:
    return write_run_folders


@pytest.fixture
def make_arrays() -> Callable[[Record], dict[str, dict[str, np.ndarray]]]:
    def make(record: Record) -> dict[str, dict[str, np.ndarray]]:
        heads = list(dict.fromkeys(run.head for run in record.runs))
        return {run.folder: arrays(run.seed, heads.index(run.head)) for run in record.runs}

    return make


@pytest.fixture
def run_record() -> Record:
    return make_record("run", ["linear:48"], 1)


@pytest.fixture
def study_record() -> Record:
    return make_record("study", FOUR, 1, PUBLISHED)


@pytest.fixture
def large_record() -> Record:
    return make_record("study", TWELVE, 5)
