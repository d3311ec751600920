"""Linear probes after one change, beside the plain ones."""

from collections.abc import Mapping

from torch import Tensor

from fullrank.diagnosis.layers import Labels
from fullrank.linalg import shared_coordinates
from fullrank.probes import LinearProbe
from fullrank.probes.probe import label_vector
from fullrank.record import ProbedAgain

Split = tuple[Tensor, Tensor]
"""Features to learn from (N, D), and features to score (M, D)."""


def hits(rows: Split, labels: Labels, probe: LinearProbe) -> Tensor:
    """Whether a probe reads the label of each labelled row that is scored, as 0 or 1."""
    learnt, tested = map(label_vector, labels)
    fitted, scored = shared_coordinates(*rows)
    right: Tensor = probe.fit(fitted, learnt).predict(scored) == tested
    return right[tested != -1].double()


def compared(place: str, change: str, before: Tensor, after: Tensor) -> ProbedAgain:
    """Accuracies from what is right (M,) before and after a change, with the paired standard error."""
    error = float((after - before).std() / len(before) ** 0.5) if len(before) > 1 else None
    return ProbedAgain(
        place=place,
        change=change,
        linear=float(after.mean()),
        before=float(before.mean()),
        tested=len(before),
        error=error,
    )


def probed_with(
    change: str, before: Mapping[str, Split], after: Mapping[str, Split], labels: Labels, seed: int
) -> list[ProbedAgain]:
    """Each place of `after` beside the same place of `before`, by the default linear probe."""
    return [
        compared(
            place, change, *(hits(rows, labels, LinearProbe(seed=seed)) for rows in (before[place], rows))
        )
        for place, rows in after.items()
    ]
