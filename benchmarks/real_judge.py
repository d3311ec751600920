"""The verdict of the present code on written real cases, beside what is known of them."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from real_sample import evidence_of

from fullrank.diagnosis import Evidence, PlaceEvidence, find_causes
from fullrank.diagnosis.norms import norm_shifts
from fullrank.diagnosis.rows import survey_file
from fullrank.embeddings.files import open_embeddings
from fullrank.errors import FullrankError
from fullrank.record import Finding

# Notes that only count what is there cannot be false.
# Rules were changed while the first two halves were seen.
_PARTS = {"fix+held": ("fix", "held"), "fresh": ("fresh",)}
_COUNTS = frozenset({"zero-rows", "duplicate-rows", "dead-channels", "too-few-samples"})


@dataclass(frozen=True)
class Truth:
    """What is known of a case: a row of `truth.tsv`."""

    file: str
    half: str
    expected: frozenset[str]
    level: str
    accepted: frozenset[str]
    measured: str

    @property
    def family(self) -> str:
        return self.file.partition("-")[0]


@dataclass(frozen=True)
class Judged:
    """The findings on one case. An error of the diagnosis is kept as a sentence."""

    truth: Truth
    findings: tuple[Finding, ...]
    error: str = ""

    @property
    def faulty(self) -> bool:
        return self.truth.level in ("alarm", "note", "any")

    @property
    def named(self) -> bool:
        """Whether an expected cause was found, as an alarm where an alarm is due."""
        levels = {"alarm"} if self.truth.level == "alarm" else {"alarm", "note"}
        return self.faulty and any(
            f.cause in self.truth.expected and f.level in levels for f in self.findings
        )

    @property
    def false_alarms(self) -> list[Finding]:
        """Alarms of causes that are not true, and all alarms where nothing has collapsed."""
        may = (
            self.truth.expected | self.truth.accepted
            if self.truth.level in ("alarm", "any", "ambiguous")
            else ()
        )
        return [f for f in self.findings if f.level == "alarm" and f.cause not in may]

    @property
    def false_notes(self) -> list[Finding]:
        """Notes of causes that are not true."""
        may = self.truth.expected | self.truth.accepted | _COUNTS
        return [f for f in self.findings if f.level == "note" and f.cause not in may]

    @property
    def said(self) -> str:
        """The findings in short."""
        each = (f"{f.cause}:{f.level}@{f.place}={f.value:.3g}" for f in self.findings)
        return self.error or "; ".join(each) or "nothing"


def truths(folder: Path) -> list[Truth]:
    """The rows of `truth.tsv`."""
    with (folder / "truth.tsv").open(newline="") as file:
        return [
            Truth(
                row["file"],
                row["half"],
                frozenset(row["expected"].split(",")) - {"healthy", ""},
                row["level"],
                frozenset((row["accepted"] or "").split(",")) - {""},
                row["measured"] or "",
            )
            for row in csv.DictReader(file, delimiter="\t")
        ]


def judge(folder: Path, truth: Truth) -> Judged:
    """Diagnose one written case: a file as `fullrank diagnose` does it, places of a net by `find_causes`."""
    try:
        return Judged(truth, tuple(_findings(folder / truth.file)))
    except FullrankError as error:
        return Judged(truth, (), f"{type(error).__name__}: {error}")


def _findings(path: Path) -> Sequence[Finding]:
    model = path.with_suffix(".pt")
    if model.exists():
        net, images = torch.load(model, weights_only=False)
        return find_causes(replace(evidence_of(path), norms=norm_shifts(net, images)))
    with np.load(path) as file:
        of_file = not any(name.startswith("at/") for name in file.files) and bool(file["fact/trained"])
    return find_causes(_evidence_of_file(path) if of_file else evidence_of(path))


def _evidence_of_file(path: Path) -> Evidence:
    """The evidence that `fullrank diagnose` takes from a small file, without probes."""
    file = open_embeddings(path)
    survey = survey_file(file)
    second = path.with_suffix(".positives.npy")
    rows = file.take(np.arange(file.rows))
    views = None if not second.exists() else (rows, torch.from_numpy(np.load(second)))
    labels = None if file.labels is None else torch.from_numpy(file.labels)
    return Evidence((PlaceEvidence("embedding", rows, views),), labels=labels, survey=survey)


def write_verdicts(rows: Sequence[Judged], path: Path) -> None:
    """One line per case: the truth, the findings, and what is wrong."""
    with path.open("w", newline="") as file:
        out = csv.writer(file, delimiter="\t", lineterminator="\n")
        out.writerow(("wrong", "file", "expected", "level", "found", "measured"))
        for row in sorted(rows, key=lambda row: (not _wrong(row), row.truth.file)):
            expected = ",".join(sorted(row.truth.expected)) or "healthy"
            out.writerow(
                (_wrong(row), row.truth.file, expected, row.truth.level, row.said, row.truth.measured)
            )


def _wrong(row: Judged) -> str:
    """What is wrong, in words; empty if nothing is."""
    faults = ["error"] if row.error else []
    faults += ["not named"] if row.faulty and not row.named else []
    faults += [f"false alarm {f.cause}" for f in row.false_alarms[:1]]
    faults += [f"false note {f.cause}" for f in row.false_notes[:1]]
    return ", ".join(faults)


def table(rows: Sequence[Judged]) -> str:
    """Named cases and false alarms by family and half, as a Markdown table."""
    lines = [
        "| family | half | named | healthy | unclear | false alarms | false notes |",
        "|---|---|---|---|---|---|---|",
    ]
    for family in dict.fromkeys(row.truth.family for row in rows):
        for name, halves in _PARTS.items():
            some = [r for r in rows if r.truth.family == family and r.truth.half in halves]
            lines += [_line(family, name, some)] if some else []
    for name, halves in _PARTS.items():
        lines.append(_line("**all**", name, [r for r in rows if r.truth.half in halves]))
    return "\n".join(lines)


def _line(family: str, half: str, rows: Sequence[Judged]) -> str:
    faulty = [row for row in rows if row.faulty]
    named = f"{sum(row.named for row in faulty)} of {len(faulty)}" if faulty else "-"
    healthy = sum(row.truth.level == "none" for row in rows)
    unclear = sum(row.truth.level == "ambiguous" for row in rows)
    alarms, notes = (
        sum(bool(each) for each in some)
        for some in ([r.false_alarms for r in rows], [r.false_notes for r in rows])
    )
    cells = (family, half, named, healthy, unclear, f"{alarms} of {len(rows)}", notes)
    return f"| {' | '.join(map(str, cells))} |"
