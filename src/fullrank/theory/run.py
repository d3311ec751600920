"""Run a theorem, or sweep one of its settings, and write record and arrays. Torch-free."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import Progress

from fullrank.errors import DataError
from fullrank.files import result_folder, save_arrays
from fullrank.record import Result, TheoryEntry
from fullrank.record.making import machine_of_numpy, new_record
from fullrank.theory import THEOREMS, Outcome, theorem_named
from fullrank.theory.common.flow import Array
from fullrank.theory.common.theorem import Statement, Theorem
from fullrank.theory.sweep import run_outcome, sweep, theorems_to_sweep, values_to_sweep


class TheoryRun(Result):
    """A theorem that was run: the folder of its results, and its record."""

    @property
    def entry(self) -> TheoryEntry:
        """What the numbers in `record.predicted` and `record.simulated` are, and the result in words."""
        if self.record.theory is None:
            raise DataError(
                f"{self.path} holds a {self.record.kind}, not a theory run; name the folder of a theory run."
            )
        return self.record.theory


def run_theorem(
    name: str,
    *,
    full: bool = False,
    out: str | Path | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> TheoryRun:
    """Run the theorem `name` with settings; write record and arrays into `out`, by default under runs/.

    A setting that takes one number may have several, as a sequence or as text with commas; the record then
    has the results for each value. `full` takes the paper's own settings for those that are not given. Raises
    UsageError for an unknown name, a bad setting, or several settings with several values.

    >>> import tempfile
    >>> run = run_theorem("feature-weighting", strengths=(1, 2), keep=(1, 0.5), out=tempfile.mkdtemp())
    >>> [round(weight, 4) for weight in run.record.predicted[-1]]
    [1.0, 0.5]
    >>> run = run_theorem("weight-decay", decay=(0.01, 1), out=tempfile.mkdtemp())
    >>> run.entry.sweep, run.record.simulated[0]
    ('decay', [5.0, 1.0])
    """
    entry = THEOREMS[name]
    theorems = chosen_theorems(name, full=full, **settings)
    folder = result_folder(out, f"theory-{entry.name}")
    values = theorems[0].model_dump(mode="json")
    run = partial(run_outcome, progress=progress)
    if several := values_to_sweep(entry.load(), settings):
        (key,) = several
        values[key] = [getattr(theorem, key) for theorem in theorems]
        outcome = sweep(theorems, key, run)
    else:
        outcome = run(theorems[0])
    about = TheoremSource(entry.name, entry.summary, entry.source, theorems[0].STATEMENT)
    return write_theory(folder, about, values, outcome)


def chosen_theorems(name: str, *, full: bool = False, **settings: Any) -> list[Theorem]:
    """The theorem with these settings, once for each value of a setting that has several.

    Raises UsageError as `run_theorem` does.
    """
    entry = THEOREMS[name]
    several = values_to_sweep(entry.load(), settings)
    if several:
        return theorems_to_sweep(entry.name, several, full=full, **settings)
    return [theorem_named(entry.name, full=full, **settings)]


@dataclass(frozen=True)
class TheoremSource:
    """The name of what was run, its statement in a line with its source, and the statement in full."""

    name: str
    summary: str
    source: str
    statement: Statement


def write_theory(folder: Path, about: TheoremSource, settings: dict[str, Any], outcome: Outcome) -> TheoryRun:
    """Write an outcome as record and arrays into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    points = {
        f"curves/{number}/{axis}": np.asarray(getattr(curve, axis), np.float64)
        for number, curve in enumerate(outcome.curves)
        for axis in ("x", "y")
    }
    save_arrays(folder, points)
    shared = {key: value for key, value in vars(outcome).items() if key in TheoryEntry.model_fields}
    record = new_record(
        "theory",
        {"theorem": about.name, **settings},
        [],
        machine_of_numpy(),
        theory=TheoryEntry(
            theorem=about.name,
            statement=about.summary,
            source=about.source,
            explained=about.statement,
            **shared,
        ),
        predicted=_finite(outcome.predicted),
        simulated=_finite(outcome.simulated),
    )
    record.save(folder)
    return TheoryRun(folder, record)


def _finite(table: Array) -> list[list[float | None]]:
    """The table as a record holds it: None for a number that is not finite."""
    return [[float(value) if np.isfinite(value) else None for value in row] for row in table]
