"""A theorem with settings, predicted and simulated, as a record and its arrays. Torch-free."""

from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import Progress

from fullrank.errors import DataError
from fullrank.files import result_folder, save_arrays
from fullrank.record import Result, TheoryEntry
from fullrank.record.making import machine_of_numpy, new_record
from fullrank.theory import THEOREMS, Outcome, SteppedTheorem, theorem_named
from fullrank.theory.common.flow import Array


class TheoryRun(Result):
    """A theorem that was run: its folder and its record."""

    @property
    def entry(self) -> TheoryEntry:
        """What the numbers of `record.predicted` and `record.simulated` are, and what came out."""
        if self.record.theory is None:
            raise DataError(f"{self.path} holds a {self.record.kind}, not a theory run; run it again.")
        return self.record.theory


def run_theorem(
    name: str,
    *,
    full: bool = False,
    out: str | Path | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> TheoryRun:
    """Run the theorem `name` with settings, and leave record and arrays in `out`, by default under runs/.

    `full` takes the paper's own step counts. Raises UsageError for an unknown name or a bad setting.

    >>> import tempfile
    >>> run = run_theorem("feature-weighting", strengths=(1, 2), keep=(1, 0.5), out=tempfile.mkdtemp())
    >>> [round(weight, 4) for weight in run.record.predicted[-1]]
    [1.0, 0.5]
    """
    entry = THEOREMS[name]
    theorem = theorem_named(entry.name, full=full, **settings)
    folder = result_folder(out, f"theory-{entry.name}")
    if progress is not None and isinstance(theorem, SteppedTheorem):
        task = progress.add_task("step", total=theorem.total_steps, status="")
        outcome = theorem.outcome(lambda done: progress.update(task, completed=done))
    else:
        outcome = theorem.outcome()
    values = theorem.model_dump(mode="json")
    return write_theory(folder, entry.name, entry.summary, entry.source, values, outcome)


def write_theory(
    folder: Path, name: str, statement: str, source: str, settings: dict[str, Any], outcome: Outcome
) -> TheoryRun:
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
        {"theorem": name, **settings},
        [],
        machine_of_numpy(),
        theory=TheoryEntry(theorem=name, statement=statement, source=source, **shared),
        predicted=_finite(outcome.predicted),
        simulated=_finite(outcome.simulated),
    )
    record.save(folder)
    return TheoryRun(folder, record)


def _finite(table: Array) -> list[list[float | None]]:
    """The table as a record holds it: None for what is not finite."""
    return [[float(value) if np.isfinite(value) else None for value in row] for row in table]
