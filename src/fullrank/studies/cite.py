"""BibTeX of the package, and of the papers behind the parts that results were made with. Torch-free."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from fullrank.bibliography import P1, P2, bibliography, own_entry
from fullrank.data import SOURCES
from fullrank.diagnosis.causes import CAUSES
from fullrank.door import import_modules
from fullrank.encoders import ENCODERS
from fullrank.errors import UsageError
from fullrank.heads import HEADS
from fullrank.objectives import OBJECTIVES
from fullrank.record import Record, Result
from fullrank.record.criteria import CRITERIA_TEXTS
from fullrank.record.scores import DIFFUSED, PROBE_CITATIONS, REDUNDANCY_CITATIONS, Probe
from fullrank.registry import Registry
from fullrank.runs.recipe import OWN_OPTIMIZERS
from fullrank.spectrum import MEASURE_CITATIONS
from fullrank.theory import THEOREMS
from fullrank.views import VIEWS

# The keys of a recipe that name a part.
_PARTS = {"head": HEADS, "objective": OBJECTIVES, "views": VIEWS, "encoder": ENCODERS, "data": SOURCES}
# A key of the bibliography (or BibTeX itself), and the reason for the citation.
Citation = tuple[str, str]


def cite(*targets: str | Path | Result, imports: Sequence[str | Path | ModuleType] = ()) -> str:
    """BibTeX of this package, and of the papers behind what `targets` used; without any, of its two papers.

    A line above each entry says what it is cited for; BibTeX ignores text between entries. Parts of other
    packages are cited by their attribute `bibtex`, which holds BibTeX entries.

    Args:
        *targets: Runs, studies, diagnoses, theory runs and reproduced tables, or their folders.
        imports: Modules that register the parts of yours that were used.

    Raises:
        UsageError: For a module that cannot be imported.
        DataError: For a folder without a record.

    >>> print(cite().splitlines()[0])
    % this package
    """
    import_modules(imports)
    used = [citation for target in targets for citation in _used(_record_of(target))] if targets else _PAPERS
    papers: dict[str, dict[str, None]] = {}
    for key, what in used:
        papers.setdefault(key, {})[what] = None
    known = bibliography()
    blocks = [f"% this package\n{own_entry()}"]
    for key, reasons in papers.items():
        reason = "% " + ", ".join(reasons).replace("@", " ")  # an @ would begin an entry
        blocks.append(f"{reason}\n{known.get(key, key).strip()}".strip())
    return "\n\n".join(blocks)


_PAPERS: list[Citation] = [
    (P1, "dimensional collapse and the subvector head"),
    (P2, "the benefits of projection heads"),
]


def _record_of(target: str | Path | Result) -> Record:
    return target.record if isinstance(target, Result) else Record.load(Path(target))


def _used(record: Record) -> Iterator[Citation]:
    """What the result of a record was made with."""
    yield from _of_recipe(record.recipe)
    for entry in record.runs:
        yield from _of_part(HEADS, entry.head)
        yield from _of_recipe(entry.varied)
        probes: list[Probe] = ["linear", "nearest"] if entry.probes else []
        for probe in dict.fromkeys([*probes, *(score.probe for score in entry.scores)]):
            yield from ((key, f"{probe} probe") for key in PROBE_CITATIONS[probe])
        for kind in dict.fromkeys(score.kind for score in entry.scores):
            yield from ((key, f"the measure {kind.measure}") for key in kind.citations)
        if entry.spectrum:
            yield from _of_measure("effective_rank")
    if record.diagnosis is not None:
        for measure in record.diagnosis.measures:
            yield from _of_measure(measure.name)
        if any(curve.diffused is not None for curve in record.diagnosis.dimensions):
            yield from ((key, DIFFUSED) for key in REDUNDANCY_CITATIONS)
        for finding in record.diagnosis.findings:
            yield from _of_part(CAUSES, finding.cause)
        for name in ("cka", "overlap", "angles", "rotated_distance"):
            pairs = record.diagnosis.beside.pairs if record.diagnosis.beside else []
            if any(getattr(pair, name) not in (None, []) for pair in pairs):
                yield from _of_measure(name)
    if record.choice is not None:
        measured = dict.fromkeys(name for row in record.choice.candidates for name in row.values)
        for criterion in (CRITERIA_TEXTS[name] for name in measured if name in CRITERIA_TEXTS):
            yield from ((key, criterion.title) for key in criterion.citations)
        if record.choice.theory:
            yield P2, "what the linear theory says of h and z"
    if record.theory is not None:
        yield from _of_part(THEOREMS, record.theory.theorem)
    if record.table is not None:
        named = {"P1": P1, "P2": P2}
        yield from ((key, record.table.title) for name, key in named.items() if name in record.table.source)


def _of_recipe(recipe: dict[str, Any]) -> Iterator[Citation]:
    """The parts and the optimizer that a recipe names, or some of its keys."""
    for key, registry in _PARTS.items():
        if isinstance(spec := recipe.get(key), str):
            yield from _of_part(registry, spec)
    optimizer = recipe.get("optimizer.name") or (recipe.get("optimizer") or {}).get("name")
    if isinstance(optimizer, str) and ":" not in optimizer:
        yield from (
            (key, f"the optimizer {optimizer}") for key in OWN_OPTIMIZERS.get(optimizer, ("rw2019timm",))
        )


def _of_part(registry: Registry, text: str) -> Iterator[Citation]:
    """The papers of a part and of the parts inside its spec."""
    try:
        specs = list(registry.parse(text, from_file=True).nested())
    except UsageError:
        module = text.partition(":")[0]
        yield "", f"not cited: {registry.kind} {text}; add --import {module} if it gives its BibTeX"
        return
    for spec in specs:
        entry = registry.of(spec)
        for citation in entry.cited(spec.value):
            yield citation, f"{spec.family} {entry.name}"
        values = dict(spec.options)
        for option in entry.options:
            if option.name in values:
                cited = option.cited(values[option.name])
                yield from ((key, f"{spec.family} {entry.name} with {option.name}") for key in cited)


def _of_measure(name: str) -> Iterator[Citation]:
    yield from ((key, name.replace("_", " ")) for key in MEASURE_CITATIONS.get(name, ()))
