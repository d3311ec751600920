"""Two targets of one kind side by side, with the verdict: files of embeddings, and models."""

from collections.abc import Sequence
from typing import Literal

from rich.progress import Progress

from fullrank.diagnosis.beside.of_files import files_beside
from fullrank.diagnosis.beside.order import related
from fullrank.diagnosis.beside.pair import PlaceBeside, measure_changes, new_alarms
from fullrank.diagnosis.beside.rows import match_rows, named_apart, same_numbers, share_labels
from fullrank.diagnosis.beside.verdict import conclude
from fullrank.diagnosis.of_file import examine_file
from fullrank.embeddings.files import EmbeddingFile
from fullrank.record import DiagnosisEntry, SideBySide


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
    this, other = (
        examine_file(file, second, seed=seed, progress=progress)
        for file, second in zip(share_labels(matched, now, before), (positives, None), strict=True)
    )
    beside = files_beside(matched, this, other, seed=seed, progress=progress)
    together = side_by_side(
        this.entry,
        other.entry,
        [beside.place],
        matched=matched.how,
        rows=beside.now.rows if matched.how != "none" else 0,
        only=(matched.only_now, matched.only_before),
        about=(*matched.notes, *notes, *beside.notes),
    )
    return this.entry.model_copy(update={"beside": together})


def side_by_side(
    now: DiagnosisEntry,
    before: DiagnosisEntry,
    places: Sequence[PlaceBeside],
    *,
    matched: Literal["id", "order", "none"],
    rows: int,
    only: tuple[int, int] = (0, 0),
    about: Sequence[str] = (),
) -> SideBySide:
    """Everything that was compared, with the verdict.

    Args:
        now: The diagnosis of this target.
        before: The diagnosis of the other target.
        places: The places that were compared.
        matched: How rows were matched.
        rows: How many rows were.
        only: How many rows only this target has, and how many only the other.
        about: Sentences on how rows were matched.
    """
    named = [(one.at, one.against) for one in places]
    measures, limits = measure_changes(now, before, named)
    alarms = new_alarms(now, before, named)
    pairs = [one.pair for one in places if one.pair is not None]
    end = conclude(pairs, [], measures, matched=matched, new_alarms=alarms)
    return SideBySide(
        target=before.target,
        matched=matched,
        rows=rows,
        only_here=only[0],
        only_there=only[1],
        about=list(about),
        verdict=end.verdict,
        sentence=end.sentence,
        reasons=end.reasons,
        worse=end.worse,
        pairs=pairs,
        measures=measures,
        new_alarms=[f"{alarm.cause} at {alarm.place}" for alarm in alarms],
        not_compared=limits,
        spectrum=before.spectrum,
    )
