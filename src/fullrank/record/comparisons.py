"""Heads of a study against the first one, paired over seeds. Torch-free."""

from collections.abc import Iterable, Sequence

from fullrank.record.schema import Comparison, RunEntry
from fullrank.statistics import Estimate


def compare_heads(runs: Sequence[RunEntry], place: str = "h") -> list[Comparison]:
    """Each head against the first: linear accuracy at `place`, paired over the seeds both heads have.

    The interval is that of a paired t test. A head that shares no seed with the first is left out.
    """
    heads = by_head(runs)
    if not heads:
        return []
    first = next(iter(heads))
    base = {run.seed: run.probes[place].linear for run in heads[first] if place in run.probes}
    comparisons = []
    for head, entries in heads.items():
        paired = [
            100 * (run.probes[place].linear - base[run.seed])
            for run in entries
            if place in run.probes and run.seed in base
        ]
        if head != first and paired:
            estimate = Estimate.of(paired)
            comparisons.append(
                Comparison(
                    head=head,
                    against=first,
                    place=place,
                    difference=estimate.mean,
                    low=estimate.low,
                    high=estimate.high,
                )
            )
    return comparisons


def by_head(runs: Iterable[RunEntry]) -> dict[str, list[RunEntry]]:
    """The runs of each head, heads in the order in which they first appear."""
    heads: dict[str, list[RunEntry]] = {}
    for run in runs:
        heads.setdefault(run.head, []).append(run)
    return heads
