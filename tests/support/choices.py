"""Choices without labels of many shapes, made up; their numbers are drawn, so that no two are equal."""

import numpy as np

from fullrank.record import (
    CandidateRow,
    ChoiceEntry,
    LabelsChoice,
    Machine,
    Record,
    RuleRegret,
    Shortlisted,
)

PLACES = ("encoder.stages.2.blocks.0", "encoder.stages.3.blocks.1", "h", "head.1", "head.2", "z")
PARTS = ("structure", "dimension", "dimension in its run")
CRITERIA = ("rankme", "effective_rank", "alpha_req", "gride", "infonce", "lidar", "alignment")
VETO = "The effective rank is 1.7, below 5."
REGRET = RuleRegret(
    cases=37,
    first=0.61,
    first_low=0.32,
    first_high=0.94,
    shortlist=0.12,
    shortlist_low=0.03,
    shortlist_high=0.27,
    mean_first=1.42,
    mean_shortlist=0.55,
    worst_first=7.13,
    worst_shortlist=2.26,
    within_first=0.46,
    within_shortlist=0.81,
    source="12 heads on Fashion-MNIST and composites",
)


def run_names(count: int) -> list[str]:
    """Names as `reproduce` gives them: long, and different in their middle."""
    return [
        f"digits-mlp-48-norm-batch-{7919 * number:08x}-seed{number % 3}" for number in range(1, count + 1)
    ]


def choice_entry(
    runs: list[str],
    places: tuple[str, ...] = PLACES,
    *,
    vetoed: tuple[int, ...] = (),
    parts: tuple[str, ...] = PARTS,
    tied: bool = True,
    labels: bool = True,
    regret: RuleRegret | None = REGRET,
    samples: int = 200,
) -> ChoiceEntry:
    """A choice among all places of all runs; candidates of the numbers in `vetoed` have a veto."""
    generator = np.random.default_rng(len(runs) * len(places))
    rows = []
    for number, (run, place) in enumerate((run, place) for run in runs for place in places):
        if number in vetoed:
            rows.append(CandidateRow(run=run, place=place, width=96, vetoes=[VETO]))
            continue
        ranks = dict(zip(parts, generator.random(len(parts)).tolist(), strict=True))
        score = float(np.mean(list(ranks.values())))
        low, high = (max(score - 0.07, 0.0), min(score + 0.05, 1.0)) if samples else (None, None)
        first, listed = (score**6, score**2) if samples else (None, None)
        values = {name: float(value) for name, value in zip(CRITERIA, generator.gamma(3, 4, 7), strict=True)}
        trained = ["infonce", "alignment"] if place == "z" and number % 4 else []
        rows.append(
            CandidateRow(
                run=run,
                place=place,
                width=48 + number,
                values=values,
                parts=ranks,
                score=score,
                low=low,
                high=high,
                first=first,
                listed=listed,
                trained_on=trained,
            )
        )
    kept = sorted((row for row in rows if row.score is not None), key=lambda row: -(row.score or 0.0))[:3]
    if tied and len(kept) > 1:
        rows = [row.model_copy(update={"tied": row in kept[:2]}) for row in rows]
    accuracies = [None if row.vetoes else float(generator.uniform(0.7, 0.96)) for row in rows]
    return ChoiceEntry(
        rule="sie-1",
        candidates=rows,
        shortlist=[
            Shortlisted(
                run=row.run,
                place=row.place,
                score=row.score or 0.0,
                parts=row.parts,
                low=(row.score or 0.0) - 0.07,
                high=(row.score or 0.0) + 0.05,
                tied=tied and rank < 2,
                reason="h comes before other places" if tied and rank < 2 else "",
            )
            for rank, row in enumerate(kept)
        ],
        regret=regret,
        images=5000,
        viewed=1024 if "dimension in its run" in parts else 0,
        views="simclr:0.5,flip=false" if "dimension in its run" in parts else None,
        samples=samples,
        labels=_with_labels(rows, accuracies) if labels and kept else None,
        theory={run: float(share) for run, share in zip(runs, generator.random(len(runs)), strict=True)}
        if {"h", "z"} <= {*places}
        else {},
        notes=["The test images of digits are fewer than 5,000, so training images were added."],
    )


def file_entry(count: int) -> ChoiceEntry:
    """A choice among files of embeddings: no places, no views, nothing known of the regret."""
    names = [f"embeddings-of-model-number-{number}.npy" for number in range(count)]
    return choice_entry(names, ("embedding",), parts=("structure", "dimension"), labels=False, regret=None)


def choice_record(entry: ChoiceEntry) -> Record:
    """The record of a choice."""
    machine = Machine(processor="AMD EPYC 7B13", threads=2, device="cpu", python="3.12.3", torch="2.15.0")
    return Record(
        kind="choice",
        fullrank="0.2.0",
        created="2026-12-01T12:30:00+00:00",
        machine=machine,
        recipe={"limit": 5000, "seed": 0},
        runs=[],
        choice=entry,
    )


def _with_labels(rows: list[CandidateRow], accuracies: list[float | None]) -> LabelsChoice:
    best = max(range(len(rows)), key=lambda number: accuracies[number] or 0.0)
    near = [
        row.name
        for number, row in enumerate(rows)
        if number != best and (accuracies[number] or 0.0) > (accuracies[best] or 0.0) - 0.02
    ]
    return LabelsChoice(
        labels=100,
        run=rows[best].run,
        place=rows[best].place,
        accuracies=accuracies,
        standard_error=0.02,
        tied=near,
    )
