"""Two targets of one kind side by side, with the verdict: files of embeddings, and models."""

from collections.abc import Sequence
from typing import Literal

from rich.progress import Progress

from fullrank.diagnosis.beside.file_scores import scores_of_files
from fullrank.diagnosis.beside.lost import lost_directions
from fullrank.diagnosis.beside.of_files import files_beside
from fullrank.diagnosis.beside.order import related
from fullrank.diagnosis.beside.pair import PlaceBeside, measure_changes, new_alarms
from fullrank.diagnosis.beside.rows import match_rows, named_apart, same_numbers, share_labels
from fullrank.diagnosis.beside.verdict import conclude
from fullrank.diagnosis.of_file import examine_file
from fullrank.embeddings.files import EmbeddingFile
from fullrank.record import DiagnosisEntry, LostDirection, PairedScore, SideBySide, SimilarityMap


def compare_files(
    now: EmbeddingFile,
    before: EmbeddingFile,
    positives: EmbeddingFile | None = None,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> DiagnosisEntry:
    """The diagnosis of a file of embeddings, with another file beside it.

    Args:
        now: The file that is diagnosed.
        before: The file that it is compared with.
        positives: Another view of each row of `now`.
        seed: The seed of samples.
        progress: Shows the part that is done; None shows nothing.

    Raises:
        UsageError: It cannot be told which rows belong together.
        DataError: A file cannot be read.
    """
    now, before, notes = same_numbers(now, before)
    named = named_apart(now, before)
    matched = related(match_rows(*named), *named)
    now, before, shared = share_labels(matched, now, before)
    this = examine_file(now, positives, seed=seed, progress=progress)
    other = examine_file(before, seed=seed, progress=progress)
    beside = files_beside(matched, this, other, seed=seed, progress=progress)
    is_matched = matched.how != "none"
    scores, limits = scores_of_files(beside.now, beside.before, matched=is_matched, seed=seed)
    together = side_by_side(
        this.entry,
        other.entry,
        [beside.place],
        matched=matched.how,
        rows=beside.now.rows if is_matched else 0,
        scores=scores,
        not_compared=limits,
    )
    of_rows = {
        "only_here": matched.only_now,
        "only_there": matched.only_before,
        "about": [*matched.notes, *notes, *shared, *beside.notes],
    }
    return this.entry.model_copy(update={"beside": together.model_copy(update=of_rows)})


def side_by_side(
    now: DiagnosisEntry,
    before: DiagnosisEntry,
    places: Sequence[PlaceBeside],
    *,
    matched: Literal["id", "order", "none"],
    rows: int,
    scores: Sequence[PairedScore] = (),
    maps: Sequence[SimilarityMap] = (),
    not_compared: Sequence[str] = (),
) -> SideBySide:
    """Everything that was compared, with the verdict.

    Args:
        now: The diagnosis of this target.
        before: The diagnosis of the other target.
        places: The places that were compared.
        matched: How rows were matched.
        rows: How many rows were.
        scores: The scores of both.
        maps: Maps of places.
        not_compared: A sentence for everything that could not be compared.
    """
    named = [(one.at, one.against) for one in places]
    measures, limits = measure_changes(now, before, named)
    alarms = new_alarms(now, before, named)
    pairs = [one.pair for one in places if one.pair is not None]
    final = [one for one in places if one.at in ("h", "z")] or places[-1:]
    lost = [direction for one in final for direction in _lost(one)]
    end = conclude(pairs, scores, measures, matched=matched, new_alarms=alarms, lost=lost)
    return SideBySide(
        target=before.target,
        matched=matched,
        rows=rows,
        verdict=end.verdict,
        sentence=end.sentence,
        reasons=end.reasons,
        worse=end.worse,
        pairs=pairs,
        scores=list(scores),
        measures=measures,
        lost=lost,
        new_alarms=[f"{alarm.cause} at {alarm.place}" for alarm in alarms],
        maps=list(maps),
        not_compared=[*not_compared, *limits],
        spectrum=before.spectrum,
    )


def _lost(beside: PlaceBeside) -> list[LostDirection]:
    if beside.moments is None:
        return []
    # Coordinates of wide rows are no channels, so their classes are not named.
    channels = len(beside.moments.first.origin) == beside.before.shape[1]
    return lost_directions(
        beside.moments,
        beside.at,
        features=beside.before if channels else None,
        labels=beside.labels_before,
        classes=beside.classes,
    )
