"""Compare `fullrank diagnose FILE` with other auditors of embeddings on the same files, in one run.

    uv run --group benchmark python benchmarks/auditors.py
    uv run python benchmarks/auditors.py --quick            (seconds; small files)
    uv run --group benchmark python benchmarks/auditors.py --words      (minutes; no times)

Prints the two tables of docs/causes.md. Some files have labels, a split or a second view of each row. A tool
that takes these gets them. In the first, each tool audits each file in its own process, with its
defaults. The time runs from reading the file to the verdict. Ours also writes its record and its page.
Before the clock starts, the tool has loaded its libraries and audited a small file.

Anonymous memory is sampled from outside every 10 ms; a mapped file does not count. Resident memory is the
growth of the system's recorded peak. A tool that is not installed has a row with that note. A tool that takes
longer than `--limit` is stopped. With `--words` all tools work in this process, on all files but the largest,
and only what they name is printed.

The second table times a measure that two tools compute, in turn, in alternating order. Before that, both
compute it from the same few rows. If their values differ, the row is marked.
"""

import argparse
import contextlib
import importlib.metadata
import importlib.util
import json
import math
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from fullrank import spectrum

if TYPE_CHECKING:
    import torch

# Each tool is imported where it is used, so that a process does not load another tool's libraries.
Array = np.ndarray[Any, np.dtype[np.float32]]

# MONAI gives a score from 0 (full rank) to 1 and no verdict. We call it an alarm if a quarter of the rank is
# lost: then a file with half of its channels dead is named, and healthy files are far below.
MONAI_LIMIT = 0.25
# A contest ends after this many rounds, or after the round in which it exceeds this many seconds.
ROUNDS, ENOUGH = 3, 30.0
EVERYTHING, QUICK = 200_000, 1000
# ssrlib gives numbers and no verdict. Here a rank below a quarter of the possible one is a warning.
# So is an NC1 below 0.01: class means are then ten times as far apart as the rows of a class.
SSRLIB_RANK, SSRLIB_NC1 = 0.25, 0.01


@dataclass(frozen=True)
class Flag:
    """A problem that a tool reports: the tool's word for it, its level, and the number behind it."""

    word: str
    level: Literal["alarm", "warning"]
    value: float

    def __str__(self) -> str:
        return f"`{self.word}` {self.value:.3g}"


@dataclass(frozen=True)
class Rows:
    """What a file holds: features (N, D), and labels, a split and a second view (N, D) where it has any."""

    features: Array
    labels: np.ndarray | None = None
    split: np.ndarray | None = None
    second: Array | None = None


@dataclass(frozen=True)
class Case:
    """A file: what is wrong with it, and which words of the tools count as naming that problem."""

    name: str
    rows: int
    width: int
    build: Callable[[np.random.Generator, int, int], Array | Rows]
    names: tuple[str, ...] = ()
    quick: bool = True

    def write(self, folder: Path) -> Path:
        """Write the file in float32, with the same numbers each time; a second view lies beside it."""
        built = self.build(np.random.default_rng(0), self.rows, self.width)
        held = built if isinstance(built, Rows) else Rows(built)
        second = folder / "second.npy"
        second.unlink(missing_ok=True)
        if held.second is not None:
            np.save(second, held.second)
        if held.labels is None:
            np.save(folder / "features.npy", held.features)
            return folder / "features.npy"
        split = {} if held.split is None else {"split": held.split}
        np.savez(folder / "features.npz", x=held.features, label=held.labels, **split)
        return folder / "features.npz"

    def at_most(self, rows: int) -> "Case":
        """The same case with at most `rows` rows."""
        return replace(self, rows=min(self.rows, rows))

    def __str__(self) -> str:
        return f"{self.name}, {self.rows:,} x {self.width}"


def healthy(rng: np.random.Generator, rows: int, width: int) -> Array:
    return rng.standard_normal((rows, width), np.float32)


def healthy_at_unit_length(rng: np.random.Generator, rows: int, width: int) -> Array:
    x = healthy(rng, rows, width)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return x


def rank_6(rng: np.random.Generator, rows: int, width: int) -> Array:
    map_: Array = np.linalg.qr(healthy(rng, width, 6))[0].T
    return healthy(rng, rows, 6) @ map_


def dead_half(rng: np.random.Generator, rows: int, width: int) -> Array:
    x = healthy(rng, rows, width)
    x[:, : width // 2] = 0
    return x


def strong_mean(rng: np.random.Generator, rows: int, width: int) -> Array:
    """The mean makes up 95 % of the second moment."""
    direction = healthy(rng, 1, width)
    x = healthy(rng, rows, width)
    x += direction * (math.sqrt(width * 0.95 / 0.05) / np.linalg.norm(direction))
    return x


def zero_rows(rng: np.random.Generator, rows: int, width: int) -> Array:
    """A tenth of the rows is zero."""
    x = healthy(rng, rows, width)
    x[::10] = 0
    return x


def equal_rows(rng: np.random.Generator, rows: int, width: int) -> Array:
    """Every row occurs twice."""
    return np.repeat(healthy(rng, (rows + 1) // 2, width), 2, axis=0)[:rows]


def classes(rng: np.random.Generator, rows: int, width: int, count: int, noise: float, apart: float) -> Rows:
    """Class means at this length in random directions, and noise around them."""
    means = healthy_at_unit_length(rng, count, width) * np.float32(apart)
    labels = np.arange(rows) % count
    return Rows(means[labels] + np.float32(noise) * healthy(rng, rows, width), labels)


def leakage(rng: np.random.Generator, rows: int, width: int) -> Rows:
    """Of the test rows, which are one half, 30 % are training rows."""
    held = classes(rng, rows, width, 10, 1.0, 6.0)
    half = rows // 2
    copied = round(0.3 * half)
    assert held.labels is not None
    held.features[half : half + copied] = held.features[:copied]
    held.labels[half : half + copied] = held.labels[:copied]
    return replace(held, split=np.where(np.arange(rows) < half, "train", "test"))


def two_groups(rng: np.random.Generator, rows: int, width: int) -> Array:
    """At plus and minus 60 along one axis."""
    x = healthy(rng, rows, width)
    x[:, 0] += 60 * (1 - 2 * (np.arange(rows) % 2))
    return x


def large_channel(rng: np.random.Generator, rows: int, width: int) -> Array:
    x = healthy(rng, rows, width)
    x[:, 3] *= 100
    return x


def rogue_channels(rng: np.random.Generator, rows: int, width: int) -> Array:
    x = healthy(rng, rows, width)
    x[:, [5, 70, 300]] *= 100
    return x


def cones(rng: np.random.Generator, rows: int, width: int) -> Rows:
    """Two views of each row, each view in a cone of its own."""
    x, offset = healthy(rng, rows, width), 2 * healthy(rng, 2, width)
    first, second = (x + np.float32(0.3) * healthy(rng, rows, width) + each for each in offset)
    return Rows(first, second=second)


def class_points(rng: np.random.Generator, rows: int, width: int) -> Rows:
    return classes(rng, rows, width, 10, 1e-3, width**0.5)


def separated_classes(rng: np.random.Generator, rows: int, width: int) -> Rows:
    """Healthy: most of the variance lies within the classes."""
    return classes(rng, rows, width, 5, 1.0, 12.0)


# Any word for a low rank also counts as naming dead channels and too few rows, though it is less specific.
LOW_RANK = ("effective_rank", "dimensionality", "effective_rank_score")
LARGE_CHANNELS = ("uneven-scale", "dominant-direction", "rogue_dimensions")
CASES = (
    Case("healthy Gaussian", 4000, 64, healthy),
    Case("the same at unit length", 4000, 64, healthy_at_unit_length, quick=False),
    Case("exact rank 6", 4000, 64, rank_6, ("unexplained-low-rank", *LOW_RANK)),
    Case("one half dead", 4000, 64, dead_half, ("dead-channels", *LOW_RANK)),
    Case("strong mean", 4000, 64, strong_mean, ("mean-dominance", "anisotropy")),
    Case("N below D", 40, 64, healthy, ("too-few-samples", *LOW_RANK)),
    Case("a tenth of the rows zero", 4000, 64, zero_rows, ("zero-rows", "near_duplicate", "outliers")),
    Case("every row twice", 4000, 64, equal_rows, ("duplicate-rows", "near_duplicate", "collapse")),
    Case(
        "30 % of the test rows leaked",
        4000,
        64,
        leakage,
        ("leakage", "near_duplicate", "collapse"),
        quick=False,
    ),
    Case("two groups at 60", 4000, 64, two_groups, ("dominant-direction", *LARGE_CHANNELS)),
    Case("one channel x 100", 4000, 64, large_channel, ("dominant-direction", *LARGE_CHANNELS)),
    Case("3 channels x 100", 4000, 768, rogue_channels, LARGE_CHANNELS, quick=False),
    Case("two views in two cones", 4000, 64, cones, ("view-gap", "ood_queries")),
    Case("classes are points", 4000, 128, class_points, ("class-collapse", "nc1", "collapse"), quick=False),
    Case("separated classes", 4000, 256, separated_classes, quick=False),
    Case("healthy Gaussian", EVERYTHING, 256, healthy, quick=False),
)


def features_of(path: Path) -> Array:
    """The features in a file."""
    held = np.load(path)
    return held if isinstance(held, np.ndarray) else held["x"]


def labels_of(path: Path) -> np.ndarray | None:
    """The labels in a file, if it has any."""
    held = np.load(path)
    return None if isinstance(held, np.ndarray) else held["label"]


def by_fullrank(path: Path) -> list[Flag]:
    """`fullrank diagnose FILE`, with its record and page."""
    from fullrank.diagnosis.diagnose import diagnose
    from fullrank.reports.page import write_page

    levels: dict[str, Literal["alarm", "warning"]] = {"alarm": "alarm", "note": "warning"}
    with tempfile.TemporaryDirectory() as folder:
        second = path.with_name("second.npy")
        diagnosis = diagnose(path, positives=second if second.exists() else None, out=folder)
        write_page(diagnosis.path)
    return [Flag(finding.cause, levels[finding.level], finding.value) for finding in diagnosis.causes]


def by_vecscope(path: Path) -> list[Flag]:
    """`vecscope audit FILE`: a `fail` is an alarm, a `warn` a warning. A second view is its queries."""
    from vecscope.evidence import audit

    levels: dict[str, Literal["alarm", "warning"]] = {"fail": "alarm", "warn": "warning"}
    second = path.with_name("second.npy")
    findings = audit(features_of(path), queries=np.load(second) if second.exists() else None).findings
    return [Flag(one.name, levels[one.verdict], one.value) for one in findings if one.verdict in levels]


def by_spectralyte(path: Path) -> list[Flag]:
    """`spectralyte audit FILE`: its grade `bad` is an alarm, `warn` a warning."""
    from spectralyte import Spectralyte
    from spectralyte.core.severity import severity

    levels: dict[str, Literal["alarm", "warning"]] = {"bad": "alarm", "warn": "warning"}
    report = Spectralyte(features_of(path).astype(np.float64)).run(verbose=False)
    results = (
        ("anisotropy", report.anisotropy, report.anisotropy.score),
        ("dimensionality", report.dimensionality, report.dimensionality.utilization),
    )
    graded = [(word, severity(result), value) for word, result, value in results]
    return [Flag(word, levels[grade], value) for word, grade, value in graded if grade in levels]


def by_monai(path: Path) -> list[Flag]:
    """MONAI's EmbeddingCollapseMetric without labels: a score above our limit is an alarm."""
    import torch
    from monai.metrics.embedding_collapse import EmbeddingCollapseMetric

    score = EmbeddingCollapseMetric()(torch.from_numpy(features_of(path)))["effective_rank_score"]
    assert score is not None  # MONAI computes it for every file
    value = float(score)
    return [Flag("effective_rank_score", "alarm", value)] if value > MONAI_LIMIT else []


def by_ssrlib(path: Path) -> list[Flag]:
    """ssrlib's NC1, which needs labels, and its effective rank: below our limits each is a warning."""
    from ssrlib.processing import EffectiveRankProcessor, NeuralCollapseProcessor

    x, labels = features_of(path), labels_of(path)
    share = float(EffectiveRankProcessor().process(x)[0]) / min(len(x) - 1, x.shape[1])
    flags = [Flag("effective_rank", "warning", share)] if share < SSRLIB_RANK else []
    if labels is not None:
        first = float(NeuralCollapseProcessor().process(x, labels=labels)[0])
        flags += [Flag("nc1", "warning", first)] if first < SSRLIB_NC1 else []
    return flags


def by_cleanlab(path: Path) -> list[Flag]:
    """cleanlab's Datalab: an issue is a warning, and its value the share of rows that have it."""
    from cleanlab import Datalab

    x, labels = features_of(path), labels_of(path)
    data = {"label": np.zeros(len(x), int) if labels is None else labels}
    lab = Datalab(data=data, label_name=None if labels is None else "label", verbosity=0)
    lab.find_issues(features=x)
    summary = lab.get_issue_summary()
    counts = zip(summary["issue_type"], summary["num_issues"], strict=True)
    return [Flag(name, "warning", int(count) / len(x)) for name, count in counts if count]


TOOLS: dict[str, Callable[[Path], list[Flag]]] = {
    "fullrank": by_fullrank,
    "vecscope": by_vecscope,
    "spectralyte": by_spectralyte,
    "monai": by_monai,
    "ssrlib": by_ssrlib,
    "cleanlab": by_cleanlab,
}


@dataclass(frozen=True)
class Contest:
    """Measures that `peer` computes too; each side uses its own number of the file's first rows.

    The values of both on one array must agree to `tolerances`. `audited` holds the number of rows that each
    tool's own audit uses. Where these differ, another contest has equal rows.
    """

    measures: str
    peer: str
    rows: tuple[int, int]
    ours: "Callable[[torch.Tensor], tuple[float, ...]]"
    theirs: Callable[[Array], tuple[float, ...]]
    tolerances: tuple[float, ...]
    audited: bool = False


def monai_rank(x: Array) -> tuple[float]:
    """Its score is 1 - rank / the largest rank."""
    import torch
    from monai.metrics.embedding_collapse import compute_embedding_collapse

    score = compute_embedding_collapse(torch.from_numpy(x))["effective_rank_score"]
    assert score is not None
    return ((1 - float(score)) * min(len(x) - 1, x.shape[1]),)


def spectralyte_ratio(x: Array) -> tuple[float]:
    """Above 10,000 rows it uses a randomised decomposition."""
    from spectralyte.metrics.dimensionality import compute

    return (compute(x).participation_ratio,)


def spectralyte_cosine(x: Array) -> tuple[float]:
    """Negative values are cut to 0; it also computes the eigenvalues of all cosines."""
    from spectralyte.metrics.anisotropy import compute

    return (compute(x).score,)


def vecscope_cone(x: Array) -> tuple[float, float]:
    """The cosine of 20,000 random pairs before and after centring, and the rank of at most 50,000 rows."""
    from vecscope.diagnostics import anisotropy

    measures = anisotropy(x)
    return measures["mean_random_cosine"], measures["effective_rank"]


def vecscope_variance(x: Array) -> tuple[float]:
    from vecscope.diagnostics import rogue_dimensions

    return (rogue_dimensions(x)["top1_dim_variance_share"],)


def vecscope_hubness(x: Array) -> tuple[float]:
    from vecscope.diagnostics import hubness

    return (hubness(x)["skewness"],)


def vecscope_duplicates(x: Array) -> tuple[float]:
    from vecscope.diagnostics import collapse

    return (collapse(x)["near_duplicate_ratio"],)


def vecscope_neighbours(x: Array) -> tuple[float, float]:
    """Both come from one search, as in its audit."""
    from vecscope._knn import exact_knn
    from vecscope.diagnostics import collapse, hubness

    index, distances = exact_knn(x, 10)
    duplicates = collapse(x, knn_dist=distances)["near_duplicate_ratio"]
    return hubness(x, knn=index)["skewness"], duplicates


def classes_of(x: Array) -> np.ndarray:
    """Labels for measures that need some: the largest of ten channels."""
    return np.argmax(x[:, :10], axis=1)


def ssrlib_collapse(x: Array) -> tuple[float]:
    from ssrlib.processing import NeuralCollapseProcessor

    return (float(NeuralCollapseProcessor().process(x, labels=classes_of(x))[0]),)


def ssrlib_ratios(x: Array) -> tuple[float, float]:
    """Each is a decomposition of its own."""
    from ssrlib.processing import NESumProcessor, ParticipationRatioProcessor

    return float(ParticipationRatioProcessor().process(x)[0]), float(NESumProcessor().process(x)[0])


def our_collapse(x: "torch.Tensor") -> tuple[float]:
    import torch

    from fullrank.spectrum.collapse import nc1

    return (nc1(x, torch.from_numpy(classes_of(x.numpy()))),)


def our_ratios(x: "torch.Tensor") -> tuple[float, float]:
    values = spectrum.singular_values(x)
    return spectrum.participation_ratio_of(values), spectrum.nesum_of(values)


def our_rank(x: "torch.Tensor") -> tuple[float]:
    return (spectrum.effective_rank(x),)


def our_ratio(x: "torch.Tensor") -> tuple[float]:
    return (spectrum.participation_ratio(x),)


def our_cosine(x: "torch.Tensor") -> tuple[float]:
    return (spectrum.mean_cosine(x),)


def our_cone(x: "torch.Tensor") -> tuple[float, float]:
    return spectrum.mean_cosine(x), spectrum.participation_ratio_of(spectrum.normalised_singular_values(x))


def our_variance(x: "torch.Tensor") -> tuple[float]:
    return (float(spectrum.rogue_dimensions(x).variance.max()),)


def our_hubness(x: "torch.Tensor") -> tuple[float]:
    return (spectrum.hubness(x, sample=len(x)),)


def our_duplicates(x: "torch.Tensor") -> tuple[float]:
    return (spectrum.near_duplicates(x, sample=len(x)),)


def our_sampled_neighbours(x: "torch.Tensor") -> tuple[float, float]:
    """With the default samples: hubs among 4,096 rows, near duplicates of 1,024 rows among all."""
    return spectrum.hubness(x), spectrum.near_duplicates(x)


ALL = (EVERYTHING, EVERYTHING)
CONE, VARIANCE = "mean cosine; participation ratio at unit length", "largest share of variance"
CONTESTS = (
    Contest("effective rank", "monai", ALL, our_rank, monai_rank, (1e-3,), audited=True),
    Contest("participation ratio", "spectralyte", ALL, our_ratio, spectralyte_ratio, (1e-3,), audited=True),
    Contest("mean cosine", "spectralyte", (5000, 5000), our_cosine, spectralyte_cosine, (1e-4,)),
    Contest(
        "mean cosine", "spectralyte", (4096, 5000), our_cosine, spectralyte_cosine, (1e-4,), audited=True
    ),
    Contest(CONE, "vecscope", (50_000, 50_000), our_cone, vecscope_cone, (0.02, 1e-3)),
    Contest(CONE, "vecscope", (EVERYTHING, 100_000), our_cone, vecscope_cone, (0.02, 1e-3), audited=True),
    Contest(VARIANCE, "vecscope", ALL, our_variance, vecscope_variance, (1e-6,)),
    Contest(VARIANCE, "vecscope", (4096, 100_000), our_variance, vecscope_variance, (1e-6,), audited=True),
    Contest("hubness", "vecscope", (10_000, 10_000), our_hubness, vecscope_hubness, (1e-3,)),
    Contest("near duplicates", "vecscope", (10_000, 10_000), our_duplicates, vecscope_duplicates, (1e-3,)),
    Contest("NC1", "ssrlib", ALL, our_collapse, ssrlib_collapse, (1e-3,), audited=True),
    Contest(
        "participation ratio; NESum", "ssrlib", ALL, our_ratios, ssrlib_ratios, (1e-3, 1e-3), audited=True
    ),
    Contest(
        "hubness; near duplicates",
        "vecscope",
        (EVERYTHING, 100_000),
        our_sampled_neighbours,
        vecscope_neighbours,
        (1e-3, 1e-3),
        audited=True,
    ),
)


def agreed_rows() -> Array:
    """Rows on which no shared measure is trivial: a mean, unequal variances, 100 near duplicates."""
    rng = np.random.default_rng(1)
    x = healthy(rng, 1000, 64)
    x *= np.arange(1, 65, dtype=np.float32) ** -0.5
    x += 0.2
    x[:50] = x[50:100] + np.float32(1e-3) * healthy(rng, 50, 64)
    return x


def anonymous_megabytes(process: int | str = "self") -> float:
    """Current anonymous memory of a process (Linux); 0 if the process has ended."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    _, label, rest = status.partition("RssAnon:")
    return int(rest.split()[0]) / 1024 if label else 0.0


def say(**what: object) -> None:
    """Print one line of JSON for the process that watches."""
    print(json.dumps(what), file=sys.__stdout__, flush=True)


def timed(job: Callable[[], Any]) -> tuple[Any, float, float]:
    """The result of a job, its wall seconds and its processor seconds."""
    wall, processor = time.perf_counter(), time.process_time()
    result = job()
    return result, time.perf_counter() - wall, time.process_time() - processor


def work_audit(tool: str, path: Path) -> None:
    """In its own process: warm up and report that, audit the file, report the flags and the cost."""
    look = TOOLS[tool]
    with tempfile.TemporaryDirectory() as folder:
        small = Path(folder) / "small.npy"
        np.save(small, healthy(np.random.default_rng(2), 300, 16))
        look(small)
    say(anonymous=anonymous_megabytes())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    flags, wall, processor = timed(lambda: look(path))
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    flag_values = [(flag.word, flag.level, flag.value) for flag in flags]
    say(wall=wall, processor=processor, resident=grown, flags=flag_values)


def work_contest(number: int, path: Path) -> None:
    """In its own process: report both sides' values on the same rows, then their times in turn."""
    import torch

    contest, small, x = CONTESTS[number], agreed_rows(), np.load(path)
    our_rows, their_rows = (x[:count] for count in contest.rows)
    ours, theirs = contest.ours(torch.from_numpy(small)), contest.theirs(small)
    say(ours=ours, theirs=theirs, rows=[len(our_rows), len(their_rows)])
    sides = {
        "ours": lambda: contest.ours(torch.from_numpy(our_rows)),
        "theirs": lambda: contest.theirs(their_rows),
    }
    spent = 0.0
    for round_ in range(ROUNDS):
        for side in list(sides) if round_ % 2 == 0 else reversed(sides):
            _, wall, processor = timed(sides[side])
            say(side=side, wall=wall, processor=processor)
            spent += wall
        if spent > ENOUGH:
            return


@dataclass
class Watched:
    """The JSON lines that a process printed, its peak anonymous memory, and whether it was stopped."""

    said: list[dict[str, Any]] = field(default_factory=list)
    anonymous: float = 0.0
    stopped: bool = False


def watch(command: list[str], limit: float) -> Watched:
    """Run a process. After its first line it has `limit` seconds, and its memory is sampled every 10 ms."""
    watched = Watched()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def listen() -> None:
        for line in process.stdout or ():
            watched.said.append(json.loads(line))

    listener = threading.Thread(target=listen)
    listener.start()
    started: float | None = None
    while process.poll() is None:
        if watched.said:
            started = started or time.perf_counter()
            watched.anonymous = max(watched.anonymous, anonymous_megabytes(process.pid))
            if time.perf_counter() - started > limit:
                process.kill()
                watched.stopped = True
                process.wait()
        time.sleep(0.01)
    listener.join()
    if process.returncode and not watched.stopped:
        raise RuntimeError(f"{' '.join(command[2:])} ended with status {process.returncode}; see above.")
    return watched


@dataclass(frozen=True)
class Look:
    """A tool's flags for a file and what the audit cost; empty if the tool was stopped."""

    case: Case
    tool: str
    limit: float
    anonymous: float
    flags: tuple[Flag, ...] | None = None
    wall: float = math.nan
    processor: float = math.nan
    resident: float = math.nan

    @property
    def named(self) -> list[Flag]:
        """The flags that name what is wrong."""
        return [flag for flag in self.flags or () if flag.word in self.case.names]

    def others(self, level: str) -> list[Flag]:
        """The flags of a level that name something else; on a healthy file such alarms are false."""
        return [flag for flag in self.flags or () if flag.word not in self.case.names and flag.level == level]

    def __str__(self) -> str:
        if self.flags is None:
            cells = ["?", "?", "?", f"> {self.limit:g}", "-", f"{self.anonymous:.0f}", "-"]
        else:
            named = ", ".join(f"{flag}{' (warning)' * (flag.level == 'warning')}" for flag in self.named)
            cells = [
                (named or "**no**") if self.case.names else "",
                *(", ".join(map(str, self.others(level))) or "-" for level in ("alarm", "warning")),
                f"{self.wall:.2f}",
                f"{self.processor:.2f}",
                f"{self.anonymous:.0f}",
                f"{self.resident:.0f}",
            ]
        return f"| {' | '.join([str(self.case), self.tool, *cells])} |"


LOOKS_HEADER = (
    "| file | tool | names it | other alarms | warnings | wall s | processor s | anonymous MB "
    "| resident MB |\n|---|---|---|---|---|---|---|---|---|"
)


def look_at(case: Case, tool: str, path: Path, limit: float) -> Look:
    """Audit one file with one tool."""
    watched = watch([sys.executable, __file__, "--work", tool, str(path)], limit)
    anonymous = max(0.0, watched.anonymous - watched.said[0]["anonymous"])
    if watched.stopped:
        return Look(case, tool, limit, anonymous)
    last = watched.said[-1]
    flags = tuple(Flag(*flag) for flag in last["flags"])
    return Look(case, tool, limit, anonymous, flags, last["wall"], last["processor"], last["resident"])


def sum_up(tool: str, looks: Iterable[Look]) -> str:
    """How many faults a tool names, and on how many healthy files it raises an alarm."""
    audits = [look for look in looks if look.tool == tool and look.flags is not None]
    ill = [look for look in audits if look.case.names]
    well = [look for look in audits if not look.case.names]
    named, false = sum(bool(look.named) for look in ill), sum(bool(look.others("alarm")) for look in well)
    warned = sum(bool(look.others("warning")) for look in well)
    return (
        f"{tool} names {named} of {len(ill)}, alarms on {false} of {len(well)} healthy files"
        f"{f' and warns on {warned}' if warned else ''}"
    )


@dataclass(frozen=True)
class Result:
    """A contest's times; empty for a side that was stopped before its first time."""

    contest: Contest
    rows: tuple[int, ...]
    values: tuple[tuple[float, ...], tuple[float, ...]]
    ours: tuple[tuple[float, float], ...]
    theirs: tuple[tuple[float, float], ...]
    limit: float

    @property
    def agree(self) -> bool:
        """Whether both sides' values are equal within the tolerances."""
        rows = zip(*self.values, self.contest.tolerances, strict=True)
        return all(math.isclose(a, b, rel_tol=tolerance, abs_tol=tolerance) for a, b, tolerance in rows)

    @property
    def seconds(self) -> tuple[float, float]:
        """Median wall seconds of ours and of theirs, or the time until theirs was stopped."""
        ours, theirs = (
            statistics.median(wall for wall, _ in times) if times else self.limit
            for times in (self.ours, self.theirs)
        )
        return ours, theirs

    def __str__(self) -> str:
        (ours, theirs), more = self.seconds, "" if self.theirs else "> "
        values = [", ".join(f"{value:.4g}" for value in side) for side in self.values]
        busy = [
            f"{statistics.median(p for _, p in times):.3g}" if times else "-"
            for times in (self.ours, self.theirs)
        ]
        cells = [
            self.contest.measures,
            self.contest.peer,
            " / ".join(f"{rows:,}" for rows in self.rows),
            f"{values[0]} / {values[1]}{'' if self.agree else ' **differ**'}",
            f"{ours:.3g} / {more}{theirs:.3g}",
            f"{more}{theirs / ours:.1f}",
            " / ".join(busy),
        ]
        return f"| {' | '.join(cells)} |"


RESULTS_HEADER = (
    "| measure | beside | rows, ours / theirs | on the same 1,000 rows | wall s | ratio | processor s |\n"
    "|---|---|---|---|---|---|---|"
)


def hold(number: int, path: Path, limit: float) -> Result:
    """Run one contest on one file; ours goes first."""
    watched = watch([sys.executable, __file__, "--work", str(number), str(path)], limit)
    first, *times = watched.said
    ours, theirs = (
        tuple((one["wall"], one["processor"]) for one in times if one["side"] == side)
        for side in ("ours", "theirs")
    )
    values = tuple(first["ours"]), tuple(first["theirs"])
    return Result(CONTESTS[number], tuple(first["rows"]), values, ours, theirs, limit)


def sum_up_times(peer: str, results: Iterable[Result]) -> str:
    """How much longer a peer takes for everything that both compute in their audits."""
    contests = [result for result in results if result.contest.peer == peer and result.contest.audited]
    ours, theirs = (sum(result.seconds[side] for result in contests) for side in (0, 1))
    more = "" if all(result.theirs for result in contests) else "more than "
    return f"{peer} takes {more}{theirs / ours:.1f} times"


def installed(tool: str) -> bool:
    """Whether a tool can be imported."""
    return importlib.util.find_spec(tool) is not None


def machine(tools: Iterable[str]) -> str:
    """Cores, threads and versions in one line."""
    versions = ", ".join(f"{tool} {importlib.metadata.version(tool)}" for tool in (*tools, "torch", "numpy"))
    threads = os.environ.get("OMP_NUM_THREADS", "all")
    return (
        f"{os.cpu_count()} cores, OMP_NUM_THREADS {threads}, Python {platform.python_version()}, {versions}."
    )


def print_words(cases: Iterable[Case], tools: list[str], folder: Path) -> None:
    """A table of what each tool names: a line for each file, a column for each tool."""
    print(f"| file | {' | '.join(tools)} |\n|{'---|' * (len(tools) + 1)}")
    looks = []
    for case in cases:
        path, cells = case.write(folder), []
        for tool in tools:
            with contextlib.redirect_stdout(sys.stderr):
                looks.append(Look(case, tool, math.inf, math.nan, tuple(TOOLS[tool](path))))
            cells.append(words_of(looks[-1]))
        print(f"| {case} | {' | '.join(cells)} |", flush=True)
    print(f"\n{'; '.join(sum_up(tool, looks) for tool in tools)}.")
    small = agreed_rows()
    import torch

    for contest in CONTESTS:
        if contest.peer in tools:
            ours, theirs = contest.ours(torch.from_numpy(small)), contest.theirs(small)
            values = " / ".join(", ".join(f"{value:.4g}" for value in side) for side in (ours, theirs))
            print(f"{contest.measures} of {len(small):,} rows: ours / {contest.peer} {values}")


def words_of(look: Look) -> str:
    """What a tool names; where it does not name the fault, **no** and its other alarms."""
    others = ", ".join(map(str, look.others("alarm")))
    if not look.case.names:
        return f"false: {others}" if others else "–"
    named = ", ".join(f"{flag}{' (w)' * (flag.level == 'warning')}" for flag in look.named)
    return named or f"**no**{f'; {others}' if others else ''}"


def main() -> None:
    """Print both tables; a process that was started for one piece of work does only that."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="use ten files of at most 1,000 rows")
    parser.add_argument("--words", action="store_true", help="only what each tool names, without times")
    parser.add_argument("--limit", type=float, default=300.0, help="most seconds that a process may take")
    parser.add_argument("--work", nargs=2, metavar=("WHAT", "FILE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work is not None:
        what, path = arguments.work[0], Path(arguments.work[1])
        with contextlib.redirect_stdout(sys.stderr):
            work_contest(int(what), path) if what.isdigit() else work_audit(what, path)
        return
    here = [tool for tool in TOOLS if installed(tool)]
    if arguments.words:
        with tempfile.TemporaryDirectory() as folder:
            print_words((case for case in CASES if case.rows < EVERYTHING), here, Path(folder))
        print(f"\n{machine(here)}")
        return
    most = QUICK if arguments.quick else EVERYTHING
    cases = [case.at_most(most) for case in CASES if case.quick or not arguments.quick]
    with tempfile.TemporaryDirectory() as folder:
        looks, results = [], []
        print(LOOKS_HEADER)
        for case in cases:
            path = case.write(Path(folder))
            for tool in TOOLS:
                if tool in here:
                    looks.append(look_at(case, tool, path, arguments.limit))
                    print(looks[-1], flush=True)
                else:
                    print(f"| {case} | {tool} | not installed | | | | | | |")
        print(f"\n{'; '.join(sum_up(tool, looks) for tool in here)}.\n\n{RESULTS_HEADER}")
        path = CASES[-1].at_most(most).write(Path(folder))
        for number, contest in enumerate(CONTESTS):
            if contest.peer in here:
                results.append(hold(number, path, arguments.limit))
                print(results[-1], flush=True)
            else:
                print(f"| {contest.measures} | {contest.peer} | not installed | | | | |")
    met = dict.fromkeys(result.contest.peer for result in results)
    if met:
        times = ", ".join(sum_up_times(peer, results) for peer in met)
        print(f"\nFor everything that both compute in their audits: {times} as long as ours.")
    print(f"\n{machine(here)}")


if __name__ == "__main__":
    main()
