"""A theorem with settings, predicted and simulated, as a record and its arrays. Torch-free."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import Progress

from fullrank.errors import DataError
from fullrank.files import result_folder, save_arrays
from fullrank.record import Result, TheoryCurve, TheoryEntry, TheoryPanel
from fullrank.record.making import machine_of_numpy, new_record
from fullrank.theory import THEOREMS, Outcome, SteppedTheorem, theorem_named


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
    chosen = theorem_named(entry.name, full=full, **settings)
    folder = result_folder(out, f"theory-{entry.name}")
    if progress is not None and isinstance(chosen, SteppedTheorem):
        task = progress.add_task("step", total=chosen.total_steps, status="")
        outcome = chosen.outcome(lambda done: progress.update(task, completed=done))
    else:
        outcome = chosen.outcome()
    return write_theory(
        folder, entry.name, entry.summary, entry.source, chosen.model_dump(mode="json"), outcome
    )


def write_theory(
    folder: Path, name: str, statement: str, source: str, settings: dict[str, Any], outcome: Outcome
) -> TheoryRun:
    """Write an outcome as record and arrays into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    save_arrays(folder, curve_arrays(outcome))
    record = new_record(
        "theory",
        {"theorem": name, **settings},
        [],
        machine_of_numpy(),
        theory=TheoryEntry(theorem=name, statement=statement, source=source, **described(outcome)),
        predicted=numbers(outcome.predicted),
        simulated=numbers(outcome.simulated),
    )
    record.save(folder)
    return TheoryRun(folder, record)


def described(outcome: Outcome) -> dict[str, Any]:
    """What an outcome says beside its numbers, as fields of a `TheoryEntry`."""
    return {
        "quantity": outcome.quantity,
        "rows": list(outcome.rows),
        "columns": list(outcome.columns),
        "verdict": outcome.verdict,
        "remarks": list(outcome.remarks),
        "panels": [TheoryPanel(**asdict(panel)) for panel in outcome.panels],
        "curves": [
            TheoryCurve(panel=curve.panel, name=curve.name, dashed=curve.dashed) for curve in outcome.curves
        ],
    }


def curve_arrays(outcome: Outcome) -> dict[str, np.ndarray]:
    """The points of the curves as `arrays.npz` holds them: `curves/0/x`, `curves/0/y`, and so on."""
    arrays: dict[str, np.ndarray] = {}
    for number, curve in enumerate(outcome.curves):
        arrays |= {f"curves/{number}/x": np.asarray(curve.x, np.float64)}
        arrays |= {f"curves/{number}/y": np.asarray(curve.y, np.float64)}
    return arrays


def numbers(table: np.ndarray) -> list[list[float | None]]:
    """A table as a record holds it; what is not finite is None."""
    return [[float(value) if np.isfinite(value) else None for value in row] for row in np.asarray(table)]
