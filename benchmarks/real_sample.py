"""A case with known truth: its features at places, and which causes a diagnosis should name."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from fullrank.diagnosis import Evidence, PlaceEvidence

Half = Literal["fix", "held", "fresh"]
Pair = tuple[Tensor, Tensor]
# The causes that alarm when the features lie in few directions; which of them fits is a question of degree.
FEW_DIRECTIONS = ("complete-collapse", "dimensional-collapse", "dominant-direction", "unexplained-low-rank")


@dataclass
class Sample:
    """What is written of a case.

    Attributes:
        places: Features (N, D) by place, from the image to z.
        expected: The causes of which a diagnosis should name one; none for healthy features.
        level: The level at which it should be named. `any` where both are right, `none` for healthy features,
            `ambiguous` where nobody can know.
        accepted: Other causes that are true as well.
        measured: The measurement that settles the truth, in words.
        labels: The labels of the rows, if a diagnosis would have them.
        views: Features of two views by place.
        stacked: Consecutive linear maps that lead to the last place.
        trained: Whether the weights were trained.
        supervised: Whether the loss uses labels; None if a diagnosis would not know.
        temperature: The temperature of the loss.
        split: For a file, "train" or "test" for each row.
        positives: For a file, the second view of each row.
        model: A net whose batch norms are examined, with the images (N, 3, S, S) that it sees.
    """

    places: dict[str, Tensor]
    expected: tuple[str, ...] = ()
    level: str = "none"
    accepted: tuple[str, ...] = ()
    measured: str = ""
    labels: Tensor | None = None
    views: dict[str, Pair] = field(default_factory=dict)
    operations: dict[str, dict[str, Pair]] = field(default_factory=dict)
    imposed: dict[str, int] = field(default_factory=dict)
    stacked: tuple[Tensor, ...] = ()
    trained: bool = True
    supervised: bool | None = None
    temperature: float | None = None
    split: np.ndarray | None = None
    positives: Tensor | None = None
    model: tuple[nn.Module, Tensor] | None = None

    def save(self, path: Path) -> None:
        """Write a file that `fullrank diagnose` reads too, and the model and the second view beside it."""
        last = next(reversed(self.places.values()))
        arrays = {"features": last, "labels": self.labels, "split": self.split}
        arrays |= {f"at/{place}": features for place, features in self.places.items() if len(self.places) > 1}
        for side in (0, 1):
            arrays |= {f"view{side}/{place}": pair[side] for place, pair in self.views.items()}
            for name, pairs in self.operations.items():
                arrays |= {f"only{side}/{name}/{place}": pair[side] for place, pair in pairs.items()}
        arrays |= {f"stacked/{i}": matrix for i, matrix in enumerate(self.stacked)}
        arrays |= {f"imposed/{place}": np.array(rank) for place, rank in self.imposed.items()}
        facts = {"trained": self.trained, "supervised": self.supervised, "temperature": self.temperature}
        arrays |= {f"fact/{name}": value for name, value in facts.items()}
        stored = {name: np.asarray(value) for name, value in arrays.items() if value is not None}
        if self.split is not None:
            kept = {f"x_{word}": last[self.split == word].numpy() for word in ("train", "test")}
            kept |= {f"y_{word}": self.labels[self.split == word].numpy() for word in ("train", "test")}
            stored = {**kept, **{n: v for n, v in stored.items() if n.startswith("fact/")}}
        if self.positives is not None:
            np.save(path.with_suffix(".positives.npy"), self.positives.numpy())
        if self.model is not None:
            torch.save(self.model, path.with_suffix(".pt"))
        np.savez(path, **stored)


@dataclass(frozen=True)
class RealCase:
    """One case: its family, its name, its half, and what makes it."""

    family: str
    name: str
    half: Half
    build: Callable[[], Sample]

    @property
    def stem(self) -> str:
        return f"{self.family}-{self.name}-{self.half}"


def evidence_of(path: Path) -> Evidence:
    """The evidence of a written case with several places."""
    with np.load(path) as file:
        arrays = {name: torch.from_numpy(file[name]) for name in file.files if name[:5] != "fact/"}
        facts = {
            name: file[f"fact/{name}"].item()
            for name in ("trained", "supervised", "temperature")
            if f"fact/{name}" in file.files
        }
    places = [name[3:] for name in arrays if name.startswith("at/")]
    if not places:
        places, arrays["at/h"] = ["h"], arrays["features"]

    def pair(kind: str, rest: str) -> Pair:
        return arrays[f"{kind}0/{rest}"], arrays[f"{kind}1/{rest}"]

    def place_evidence(place: str) -> PlaceEvidence:
        views = pair("view", place) if f"view0/{place}" in arrays else None
        names = [n.split("/")[1] for n in arrays if n.startswith("only0/") and n.endswith(f"/{place}")]
        rank = arrays.get(f"imposed/{place}")
        return PlaceEvidence(
            place,
            arrays[f"at/{place}"],
            views,
            {n: pair("only", f"{n}/{place}") for n in names},
            None if rank is None else int(rank),
        )

    stacked = tuple(arrays[name] for name in sorted(arrays) if name.startswith("stacked/"))
    return Evidence(tuple(map(place_evidence, places)), stacked, labels=arrays.get("labels"), **facts)
