"""Several runs and studies as one table, split where rows cannot be subtracted. Torch-free."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fullrank.errors import UsageError, count_of
from fullrank.record.comparisons import (
    REDUCED,
    TESTED,
    Tested,
    as_text,
    by_row,
    compare_heads,
    grouped,
    tested_on,
)
from fullrank.record.schema import Record, Result, RunEntry

# The values of keys that older recipes lack.
_OLDER = {**dict.fromkeys((*TESTED, *REDUCED), "null"), "label": "label"}
# Keys that change what is written down, but not what is trained. Heads and seeds are named by themselves.
SILENT = frozenset(
    ("head", "seed", "imports", "monitor_every", "online_every", "engine.logger", "engine.keep_checkpoints")
)
# Rows are named by the keys in which studies differ, up to this many; beyond it, by their folders.
MOST_KEYS, FROM = 3, "study"
# Runs that are left out are named up to this many.
MOST_DOUBLES = 3


@dataclass(frozen=True)
class Combination:
    """Runs and studies side by side: `records` has a study for each set of rows that can be subtracted.

    Each run's `folder` is its path as the results name it, and its `varied` has the keys in which the results
    differ as well. `tested` says for each record what its rows were tested on. `notes` say in a sentence each
    what could not be paired and why, and what else limits the differences.
    """

    records: tuple[Record, ...]
    tested: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def runs(self) -> list[RunEntry]:
        """Every run, record by record."""
        return [run for record in self.records for run in record.runs]


@dataclass(frozen=True)
class _PlacedRun:
    """A run with its own folder, that of its study, and its settings: dotted key -> value as text."""

    study: Path
    entry: RunEntry
    settings: Mapping[str, str]


def combine(results: Sequence[Result]) -> Combination:
    """Runs and studies as one table, with a record for each set of rows that have the same test images.

    Two runs of one folder count once, and of two runs of one row and seed the first counts. The rows of a
    single result keep their names. Raises UsageError for no result, and for one that is neither a run nor a
    study.
    """
    check_combinable(results)
    placed, nothing = _placed(results), list[str]()
    runs, notes = _merged(placed) if len(results) > 1 else (placed, nothing)
    blocks = grouped((tested_on(run.settings), run) for run in runs)
    records = tuple(_with_runs(results[0].record, block) for block in blocks.values())
    tested = tuple(map(_what, blocks))
    if len(blocks) > 1:
        notes.append(
            "Differences are computed only between rows that were tested on the same images. Each of these "
            f"sets has its own first row: {'; '.join(tested)}."
        )
    for record in records:
        notes += _unpaired(record)
    return Combination(records, tested, tuple(notes))


def _merged(runs: Sequence[_PlacedRun]) -> tuple[list[_PlacedRun], list[str]]:
    """The runs of several results under the names of their common table, and notes on what limits it."""
    by_folder = grouped((Path(run.entry.folder).resolve(), run) for run in runs)
    once = [same_folder[0] for same_folder in by_folder.values()]
    names, notes = _names(once)
    merged, doubles = _once(once, names)
    return merged, notes + doubles


def check_combinable(results: Sequence[Result]) -> None:
    """UsageError unless there is a result, and each is a run or a study with runs."""
    if not results:
        raise UsageError("One folder or more is needed, but got none; name runs or studies.")
    for result in results:
        if not is_study(result.record):
            kind = "table" if result.record.table else result.record.kind
            raise UsageError(
                f"{result.path} holds a {kind}, but only runs and studies make one table; leave it out, or "
                "write the page of every folder by itself with `fullrank report --each`."
            )


def is_study(record: Record) -> bool:
    """Whether the record has rows that combine with others: a run or a study, and no reproduced table."""
    return record.kind in ("run", "study") and bool(record.runs) and record.table is None


def _placed(results: Sequence[Result]) -> list[_PlacedRun]:
    """Every run under its whole path, with its own settings."""
    return [
        _PlacedRun(
            result.path,
            run.model_copy(update={"folder": str(result.path / run.folder)}),
            _OLDER | _flat(result.record.recipe) | {key: as_text(value) for key, value in run.varied.items()},
        )
        for result in results
        for run in result.record.runs
    ]


def _with_runs(record: Record, runs: Iterable[_PlacedRun]) -> Record:
    """A study of these runs; it compares them with the first row."""
    entries = [run.entry for run in runs]
    kind = "run" if len(entries) == 1 else "study"
    return record.model_copy(update={"kind": kind, "runs": entries, "comparisons": compare_heads(entries)})


def _names(runs: Sequence[_PlacedRun]) -> tuple[list[str], list[str]]:
    """The keys that name the rows beside the head, and notes on what studies differ in."""
    shared = set.intersection(*(set(run.settings) for run in runs)) - SILENT
    ordered = [key for key in runs[0].settings if key in shared]
    values = {key: {run.settings[key] for run in runs} for key in ordered}
    keys = [key for key, each in values.items() if len(each) > 1]
    inside = {key for run in runs for key in run.entry.varied}
    between = [key for key in keys if key not in inside]
    if len(between) <= MOST_KEYS:
        listed = f"The folders differ in several keys at once ({', '.join(between)}): a difference between "
        return keys, [f"{listed}them may come from any of these."] if len(between) > 1 else []
    note = f"Rows are named by their folders, which differ in {len(between)} keys: {', '.join(between)}."
    return [*(key for key in keys if key in inside), FROM], [note]


def _once(runs: Sequence[_PlacedRun], names: Sequence[str]) -> tuple[list[_PlacedRun], list[str]]:
    """The runs under the names of their rows, one for each row and seed, and a note on the others."""
    kept: dict[tuple[str, int], _PlacedRun] = {}
    doubles = []
    studies = {run.study for run in runs}
    unique = len({study.name for study in studies}) == len(studies)
    for run in runs:
        values = {**run.settings, FROM: run.study.name if unique else str(run.study)}
        entry = run.entry.model_copy(update={"varied": {key: values[key] for key in names if key in values}})
        if (entry.row, entry.seed) in kept:
            doubles.append(f"{entry.row}, seed {entry.seed} ({entry.folder})")
        else:
            kept[entry.row, entry.seed] = _PlacedRun(run.study, entry, run.settings)
    shown = "; ".join(doubles if len(doubles) <= MOST_DOUBLES else [*doubles[:MOST_DOUBLES], "..."])
    runs_left_out = count_of(len(doubles), "run")
    note = f"Left out {runs_left_out}, since an earlier folder has the same row and seed: {shown}."
    return list(kept.values()), [note] if doubles else []


def _unpaired(record: Record) -> list[str]:
    """Which rows share no seed with the first row, or only some of its seeds."""
    seeds = {row: {run.seed for run in runs} for row, runs in by_row(record.runs).items()}
    first, *others = seeds
    apart = [row for row in others if not seeds[row] & seeds[first]]
    partly = [row for row in others if row not in apart and seeds[row] != seeds[first]]
    notes = [f"Not paired, since no seed is shared with {first}: {'; '.join(apart)}."] if apart else []
    if partly:
        differences = "The difference uses" if len(partly) == 1 else "The differences use"
        notes.append(f"{differences} only the seeds shared with {first}: {'; '.join(partly)}.")
    return notes


def _what(tested: Tested) -> str:
    """What the probes were tested on: the data, and those other keys that are set."""
    settings = dict(tested)
    data = settings.pop("data", "data of the user")
    return ", ".join([data, *(f"{key}={value}" for key, value in settings.items())])


def _flat(recipe: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """A recipe as dotted keys and values in text."""
    flat: dict[str, str] = {}
    for key, value in recipe.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = as_text(value)
    return flat
