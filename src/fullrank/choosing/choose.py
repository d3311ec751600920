"""Choose a run and a place without labels: read, veto, score, shortlist, and say how far off it may be."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import numpy as np

from fullrank.choosing.candidates import CHAIN, Pool, Reading
from fullrank.choosing.frozen import RuleSettings, known_regret, settings
from fullrank.choosing.labels import choose_with_labels
from fullrank.choosing.parts import Part, dimension, structure
from fullrank.choosing.reading import read_pool
from fullrank.choosing.rule import Ranking, default_order, in_order, rank, shortlist
from fullrank.choosing.theory import shares_for_h
from fullrank.choosing.vetoes import find_vetoes
from fullrank.door import import_modules
from fullrank.errors import UsageError
from fullrank.files import result_folder
from fullrank.progress import progress_bar
from fullrank.record import CandidateRow, ChoiceEntry, Result, Shortlisted
from fullrank.record.making import new_record

# Structure is an accuracy less chance; below this it is noise.
NO_STRUCTURE = 0.05


@dataclass(frozen=True, repr=False)
class Choice(Result):
    """A choice: its folder and its record.

    Args:
        path: The folder.
        record: The record, whose `choice` has the candidates.
    """

    @property
    def entry(self) -> ChoiceEntry:
        """The candidates, the shortlist, and the regret of the rule."""
        return cast(ChoiceEntry, self.record.choice)

    @property
    def shortlist(self) -> list[Shortlisted]:
        """The candidates to keep, the best first; empty if every one has a veto."""
        return self.entry.shortlist


def choose(
    targets: "Sequence[Any] | Any",
    data: Any = None,
    *,
    places: Sequence[str] | None = None,
    views: str | None = None,
    labels: str | None = None,
    labels_for: int | None = None,
    limit: int = 5000,
    seed: int = 0,
    out: str | Path | None = None,
    imports: Sequence[str | Path | ModuleType] = (),
) -> Choice:
    """Choose among runs and places, or among files of embeddings, without labels.

    Args:
        targets: Runs, anybody's models, or files of embeddings; one run is compared at its places.
        data: The images: the spec of a source, or a torch Dataset or a pair of them. None means the runs'
            own images.
        places: The places to compare; None is the last three of each encoder, h, the head's layers and z.
        views: The spec of the views that all candidates see; None is a chain of middle strength.
        labels: Which labels of the images `labels_for` takes, if there are several kinds.
        labels_for: Also say what so many labelled images would choose.
        limit: At most this many images.
        seed: The seed of samples and views.
        out: The folder for the result; None makes one under runs/.
        imports: Modules or files that register parts of yours, as `--import` does.

    Returns:
        The choice; `record.json` is in its folder.

    Raises:
        UsageError: There is one candidate, kinds are mixed, or images differ.
        DataError: There are too few images or labels, or something cannot be read.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> x = np.random.default_rng(0).normal(size=(300, 8)).astype(np.float32)
    >>> np.save(folder + "/a.npy", x), np.save(folder + "/b.npy", x[:, :6] + x[:, 2:])
    (None, None)
    >>> made = choose([folder + "/a.npy", folder + "/b.npy"], out=folder + "/choice")
    >>> sorted(each.run for each in made.shortlist)
    ['a.npy', 'b.npy']
    """
    if labels is not None and labels_for is None:
        raise UsageError(
            f"The labels {labels!r} serve --labels-for alone; say how many to use, or leave them out."
        )
    import_modules(imports)
    folder = result_folder(out, "choice")
    given = targets if isinstance(targets, list | tuple) else [targets]
    reading = Reading(data, places, views or CHAIN, limit, seed=seed, label=labels or "label")
    with progress_bar() as progress:
        pool = read_pool(given, reading, progress)
    if len(pool.candidates) < 2:
        raise UsageError("A choice needs two candidates or more, but got one; name more runs or places.")
    entry = choose_among(pool, seed=seed)
    if labels_for is not None and entry.shortlist:
        vetoed = {number for number, row in enumerate(entry.candidates) if row.vetoes}
        found = choose_with_labels(pool, labels_for, settings().heads, vetoed=vetoed, seed=seed)
        entry = entry.model_copy(update={"labels": found})
    record = new_record("choice", {}, [], choice=entry)
    folder.mkdir(parents=True, exist_ok=True)
    record.save(folder)
    return Choice(folder, record)


def choose_among(pool: Pool, *, seed: int = 0) -> ChoiceEntry:
    """The choice among the candidates of a pool, by the frozen rule."""
    rule = settings()
    vetoes = find_vetoes(pool)
    kept = [number for number, found in enumerate(vetoes) if not found]
    left = replace(pool, candidates=[pool.candidates[number] for number in kept])
    rows = [
        CandidateRow(
            run=each.run,
            place=each.place,
            width=each.clean.shape[1],
            vetoes=found,
            trained_on=sorted(each.trained_on),
        )
        for each, found in zip(pool.candidates, vetoes, strict=True)
    ]
    listed: list[Shortlisted] = []
    shared: list[str] = []
    if kept:
        parts = measured_parts(left, rule, seed)
        if len(kept) > 1 and (most := float(parts[0].values.max())) < NO_STRUCTURE:
            shared = [
                f"The candidates share no structure: the best value is {most:.2f}, chance 0. Their order "
                "means nothing; check that all have the same images in the same order."
            ]
        ranking = rank(parts, rule.weights, left.candidates, len(pool.ids), samples=rule.samples, seed=seed)
        listed, chosen = _listed(left, ranking, rule)
        for at, number in enumerate(kept):
            rows[number] = rows[number].model_copy(update=_scored(parts, ranking, chosen, at))
    return ChoiceEntry(
        rule=rule.name,
        candidates=rows,
        shortlist=listed,
        regret=known_regret(pool),
        images=len(pool.ids),
        viewed=len(pool.viewed),
        views=pool.views,
        seed=seed,
        samples=rule.samples,
        theory=shares_for_h(left),
        notes=[*pool.notes, *shared, *_notes(pool, rule)],
    )


def measured_parts(pool: Pool, rule: RuleSettings, seed: int = 0) -> list[Part]:
    """The parts of the score."""
    clusters = rule.clusters_of(len(pool.ids))
    found = structure(pool, clusters=clusters, few=rule.few, penalty=rule.penalty, seed=seed)
    return [found, dimension(pool, rows=rule.rows, seed=seed)]


def _listed(pool: Pool, ranking: Ranking, rule: RuleSettings) -> tuple[list[Shortlisted], set[int]]:
    """The shortlist, and the numbers of its candidates."""
    defaults = default_order(pool.candidates, rule.heads)
    numbers = shortlist(in_order(ranking, defaults).tolist(), pool.candidates)
    best = int(ranking.scores.argmax())
    several = int(ranking.tied.sum()) > 1
    reason = "h, and heads that lead on average, come first"
    low, high = np.quantile(ranking.drawn, [0.025, 0.975], axis=0)
    listed = [
        Shortlisted(
            run=pool.candidates[number].run,
            place=pool.candidates[number].place,
            score=float(ranking.scores[number]),
            parts={name: float(ranks[number]) for name, ranks in ranking.parts.items()},
            low=float(low[number]),
            high=float(high[number]),
            tied=bool(ranking.tied[number]) and several,
            reason=reason if ranking.tied[number] and number != best else "",
        )
        for number in numbers
    ]
    return listed, set(numbers)


def _scored(parts: Sequence[Part], ranking: Ranking, chosen: set[int], at: int) -> dict[str, Any]:
    """What a row says of the kept candidate number `at`."""
    threshold = -np.sort(-ranking.drawn, axis=1)[:, min(len(chosen), ranking.drawn.shape[1]) - 1]
    return {
        "values": {part.criterion: float(part.values[at]) for part in parts},
        "parts": {name: float(ranks[at]) for name, ranks in ranking.parts.items()},
        "score": float(ranking.scores[at]),
        "low": float(np.quantile(ranking.drawn[:, at], 0.025)),
        "high": float(np.quantile(ranking.drawn[:, at], 0.975)),
        "first": float((ranking.drawn.argmax(1) == at).mean()),
        "listed": float((ranking.drawn[:, at] >= threshold).mean()),
        "tied": bool(ranking.tied[at]) and int(ranking.tied.sum()) > 1,
    }


def _notes(pool: Pool, rule: RuleSettings) -> list[str]:
    """What to mind about this choice."""
    notes = []
    if len(pool.ids) < rule.rows:
        notes.append(f"{len(pool.ids)} images are few; with {rule.rows} or more the score is surer.")
    notes.append("Without labels nothing can know which of two structures your labels follow.")
    return notes
