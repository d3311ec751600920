"""The search for causes: by place from the image to z, and at each place in three stages."""

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace

from fullrank.diagnosis.causes import CAUSES
from fullrank.diagnosis.causes.contract import Cause, Stage
from fullrank.diagnosis.evidence import Evidence, PlaceEvidence
from fullrank.diagnosis.shape import Cut
from fullrank.errors import FullrankError, FullrankWarning, UsageError
from fullrank.record import Finding

# A rank of this share of the one at the place below, or more, has not fallen further.
_SAME_RANK = 0.8


def find_causes(
    evidence: Evidence, causes: Sequence[Cause] | None = None, seed: int | None = None
) -> list[Finding]:
    """The causes of collapse that `evidence` shows, by place from the image to z; empty where all is healthy.

    `causes` are all registered ones unless given, each with its default thresholds; `seed` replaces that of
    the evidence. At each place the causes are checked in three stages, in the order of the catalogue. Rows
    that a finding of the stage ROWS names are left out of the features there for the other stages. A finding
    of a cause that is `final`, such as `complete-collapse`, ends the place, and so do rows to leave out that
    leave fewer than 2. Where the spectrum breaks off beyond its dead channels, explanations are checked until
    one finds something, the last resort (`unexplained-low-rank`) last: at the place where the low rank first
    appears, and again only where the rank falls further. A rank that a head imposes is never a finding. A
    cause whose `needs` are missing is not checked. Raises UsageError for a cause that needs an unknown kind
    of evidence, or finds fault with rows that the features do not have.

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
    findings: list[Finding] = []
    below: Cut | None = None
    for index in range(len(evidence.places)):
        place, before = evidence.places[index], len(findings)
        ended = _check(stages[Stage.ROWS], place, evidence, findings)
        rows = {row for finding in findings[before:] for row in finding.rows}
        ended = ended or len(place.features) - len(rows) < 2
        if not ended:
            evidence = evidence.without(place, rows)
            place = evidence.places[index]
        if ended or _check(stages[Stage.SHAPE], place, evidence, findings):
            below = None
            continue
        cut = evidence.cut(place)
        # A map cannot bring a rank back by itself, so what the place below reported is not reported again.
        if cut is not None and (below is None or cut.rank < _SAME_RANK * below.rank):
            _check(stages[Stage.EXPLANATION], place, evidence, findings, until_found=True)
        below = cut
    return findings


def registered_causes() -> list[Cause]:
    """Every registered cause and those of installed packages; a warning names one that fails to import."""
    causes = [checked_cause(CAUSES.build(entry.name), entry.name) for entry in CAUSES]
    for name in CAUSES.installed():
        try:
            causes.append(checked_cause(CAUSES.build(name), name))
        except UsageError as error:
            warnings.warn(f"{error} The other causes are checked without it.", FullrankWarning, stacklevel=3)
    return causes


def checked_cause(built: object, name: str) -> Cause:
    """`built` if it is a cause called `name`; otherwise UsageError."""
    if not isinstance(built, Cause):
        raise UsageError(f"The cause {name!r} is a {type(built).__name__}; it must derive from Cause.")
    if getattr(built, "name", None) != name:
        raise UsageError(f"The cause {name!r} must have name = {name!r}, as it is registered.")
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
    """Add to `findings` what the causes find at a place; whether one of them ended it."""
    for cause in causes:
        if evidence.lacks(cause.needs, place):
            continue
        new = _findings_of(cause, place, evidence)
        findings += new
        if new and (cause.final or until_found):
            return True
    return False


def _findings_of(cause: Cause, place: PlaceEvidence, evidence: Evidence) -> list[Finding]:
    """What a cause finds; where somebody else's fails, or gives anything else, UsageError names it."""
    if type(cause).__module__.startswith("fullrank."):
        return cause.check(place, evidence)
    try:
        findings = cause.check(place, evidence)
    except FullrankError:
        raise
    except Exception as error:  # whatever it raises
        reason = f"{type(error).__name__}: {error}"
        raise UsageError(f"The cause {cause.name!r} failed at {place.place}: {reason}; mend it.") from error
    if not isinstance(findings, list) or not all(isinstance(each, Finding) for each in findings):
        gave = f"at {place.place}, but gave {findings!r:.80}"
        raise UsageError(f"The cause {cause.name!r} must give a list of findings {gave}.")
    return findings
