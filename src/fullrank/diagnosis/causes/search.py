"""The search for causes: place by place from the image to z, in three stages at each place."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from fullrank.diagnosis.causes import CAUSES
from fullrank.diagnosis.causes.contract import Cause, Stage
from fullrank.diagnosis.evidence import Evidence, PlaceEvidence
from fullrank.diagnosis.shape import Cut
from fullrank.errors import FullrankError, FullrankWarning, UsageError
from fullrank.record import Finding

# A rank of at least this share of the rank at the previous place has not fallen further.
_SAME_RANK = 0.8


def find_causes(
    evidence: Evidence, causes: Sequence[Cause] | None = None, seed: int | None = None
) -> list[Finding]:
    """The causes of collapse that `evidence` shows, from the image to z. An empty list means healthy.

    At each place the causes are checked in three stages, in the order of the catalogue:

    1. ROWS: images that a finding names are left out of the features at that place for the other stages. If
       fewer than 2 rows remain, no further checks run there.
    2. SHAPE: a finding of a cause that is `final`, such as `complete-collapse`, ends the checks at that
       place.
    3. EXPLANATION: checked if the spectrum drops sharply, dead channels aside, until one cause finds
       something. The last resort (`unexplained-low-rank`) comes last. This stage runs at the place where the
       low rank first appears, and again only if the rank falls further. It does not run if a later place
       of the same part, encoder or head, has a higher rank again: that rank was not lost.

    Where the objective has switched off what keeps it from collapse (`unguarded` of the evidence), the alarms
    of causes that are `of_objective` name that, with its remedy.

    Alarms before the end of the encoder become notes if that end is healthy, and all alarms do if the weights
    are untrained. A rank that a head imposes is never a finding. A cause whose `needs` are missing is not
    checked.

    Args:
        evidence: Features at places, and what else is known of the model.
        causes: The causes to check. By default all registered ones, with their default thresholds.
        seed: Replaces the seed of the evidence.

    Raises:
        UsageError: If a cause needs an unknown kind of evidence, or names rows that the features lack.

    >>> import torch
    >>> x = torch.randn(500, 16)
    >>> find_causes(Evidence((PlaceEvidence("z", x),)))
    []
    >>> x[:, 4:] = x[:, :4].repeat(1, 3)
    >>> [finding.cause for finding in find_causes(Evidence((PlaceEvidence("z", x),)))]
    ['unexplained-low-rank']
    """
    if seed is not None:
        evidence = replace(evidence, seed=seed)
    checked = registered_causes() if causes is None else causes
    stages = {stage: [cause for cause in checked if cause.stage is stage] for stage in Stage}
    stages[Stage.EXPLANATION].sort(key=lambda cause: cause.last_resort)
    found: list[list[Finding]] = []
    judged: list[bool] = []
    for index in range(len(evidence.places)):
        evidence, findings, ended = _check_rows_and_shape(stages, index, evidence)
        found.append(findings)
        judged.append(not ended)
    below: Cut | None = None
    for index, place in enumerate(evidence.places):
        cut = evidence.cut(place) if judged[index] else None
        # A map cannot restore a rank by itself, so the finding of the previous place is not repeated.
        new = cut is not None and (below is None or cut.rank < _SAME_RANK * below.rank)
        if cut is not None and new and not _comes_back(cut, index, evidence, judged):
            _check(stages[Stage.EXPLANATION], place, evidence, found[index], until_found=True)
        below = cut
    return _levelled(found, evidence, judged)


def registered_causes() -> list[Cause]:
    """Every registered cause and those of installed packages. A warning names one that fails to import."""
    causes = [checked_cause(CAUSES.build(entry.name), entry.name) for entry in CAUSES]
    for name in CAUSES.installed():
        try:
            causes.append(checked_cause(CAUSES.build(name), name))
        except UsageError as error:
            warnings.warn(f"{error} The other causes are checked without it.", FullrankWarning, stacklevel=3)
    return causes


def checked_cause(built: object, name: str) -> Cause:
    """`built`, if it is a cause called `name`. Otherwise raises UsageError."""
    if not isinstance(built, Cause):
        raise UsageError(f"The cause {name!r} is a {type(built).__name__}; it must derive from Cause.")
    if getattr(built, "name", None) != name:
        raise UsageError(
            f"The cause {name!r} must have name = {name!r}, the name that it is registered under."
        )
    if not isinstance(getattr(built, "stage", None), Stage):
        raise UsageError(f"The cause {name!r} must have a stage of fullrank.diagnosis.causes.Stage.")
    return built


def _check(
    causes: Iterable[Cause],
    place: PlaceEvidence,
    evidence: Evidence,
    findings: list[Finding],
    until_found: bool = False,
) -> bool:
    """Add what `causes` find at a place to `findings`, and return whether one of them ended the checks."""
    for cause in causes:
        if evidence.lacks(cause.needs, place):
            continue
        new = [_with_reason(each, cause, evidence) for each in _findings_of(cause, place, evidence)]
        findings += new
        if cause.ends(new) or (new and until_found):
            return True
    return False


def _with_reason(finding: Finding, cause: Cause, evidence: Evidence) -> Finding:
    """An alarm with what the objective has switched off, where this may be its reason, and the remedy."""
    missing = evidence.unguarded
    if not missing or not cause.of_objective or finding.level != "alarm":
        return finding
    said = f"{finding.evidence} A likely reason is the objective ({'; '.join(map(str, missing))})."
    remedy = "; ".join(each.remedy for each in missing)
    return finding.model_copy(update={"evidence": said, "remedy": f"{remedy[:1].upper()}{remedy[1:]}."})


def _check_rows_and_shape(
    stages: Mapping[Stage, Sequence[Cause]], index: int, evidence: Evidence
) -> tuple[Evidence, list[Finding], bool]:
    """The first two stages at a place: the evidence without the rows left out, findings, whether they end."""
    place, findings = evidence.places[index], list[Finding]()
    ended = _check(stages[Stage.ROWS], place, evidence, findings)
    rows = _rows_of(findings, place)
    if ended or len(place.features) - len(rows) < 2:
        return evidence, findings, True
    evidence = evidence.without(place, rows)
    return evidence, findings, _check(stages[Stage.SHAPE], evidence.places[index], evidence, findings)


def _comes_back(cut: Cut, index: int, evidence: Evidence, judged: Sequence[bool]) -> bool:
    """Whether a later place of the same part, encoder or head, has a higher rank than `cut` leaves here."""
    end = evidence.end_of_encoder
    for later in range(index + 1, end + 1 if index <= end else len(evidence.places)):
        place = evidence.places[later]
        other = evidence.cut(place)
        possible = min(len(place.shape.eigenvalues), place.imposed_rank or place.shape.width)
        if judged[later] and cut.rank < _SAME_RANK * (possible if other is None else other.rank):
            return True
    return False


def _levelled(found: Sequence[list[Finding]], evidence: Evidence, judged: Sequence[bool]) -> list[Finding]:
    """All findings. Alarms are notes in an untrained net, and before a healthy end of the encoder."""
    end = evidence.end_of_encoder
    alarmed = any(finding.level == "alarm" for finding in found[end])
    lost = alarmed or (judged[end] and evidence.cut(evidence.places[end]) is not None)

    def level(finding: Finding, index: int) -> str:
        return finding.level if evidence.trained and (lost or index >= end) else "note"

    return [
        finding.model_copy(update={"level": level(finding, index)})
        for index, findings in enumerate(found)
        for finding in findings
    ]


def _rows_of(findings: Sequence[Finding], place: PlaceEvidence) -> set[int]:
    """The rows of the features whose images the findings name. UsageError for an image that there is not."""
    rows = {number: row for row, number in enumerate(place.images)}
    named = {number for finding in findings for number in finding.rows}
    total = len(rows) if place.sample_of is None else place.sample_of
    if place.numbers is None and (unknown := named - rows.keys()):
        limits = f"{place.place} has rows 0 to {total - 1}"
        raise UsageError(f"{limits}, but a cause names row {min(unknown)}; name images of the place.")
    return {rows[number] for number in named if number in rows}


def _findings_of(cause: Cause, place: PlaceEvidence, evidence: Evidence) -> list[Finding]:
    """The findings of a cause. If a user's cause fails or returns anything else, UsageError names it."""
    if type(cause).__module__.startswith("fullrank."):
        return cause.check(place, evidence)
    try:
        findings = cause.check(place, evidence)
    except FullrankError:
        raise
    except Exception as error:  # whatever it raises
        reason = f"{type(error).__name__}: {error}"
        raise UsageError(f"The cause {cause.name!r} failed at {place.place}: {reason}; fix it.") from error
    if not isinstance(findings, list) or not all(isinstance(each, Finding) for each in findings):
        gave = f"at {place.place}, but returned {findings!r:.80}"
        raise UsageError(f"The cause {cause.name!r} must return a list of findings {gave}.")
    return findings
