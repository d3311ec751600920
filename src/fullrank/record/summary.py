"""A result in a few lines, for a Python prompt. Torch-free."""

from fullrank.errors import one_line
from fullrank.record.combining import is_study
from fullrank.record.schema import Record, Result
from fullrank.record.tidy import Row, study_rows

# A prompt shows so many rows and so many characters of a line.
MOST_ROWS, MOST_LETTERS = 6, 200


def summary(result: Result) -> str:
    """Kind and folder on the first line; then the accuracies at h, or what came out, in at most 7 lines."""
    name, record = type(result).__name__, result.record
    lines = [f"{name}({str(result.path)!r}): {_what(record)}"]
    if is_study(record):
        rows = [row for row in study_rows([result]) if row["place"] == "h"]
        lines += [f"  {_accuracy(row)}" for row in rows[:MOST_ROWS]]
        if len(rows) > MOST_ROWS:
            lines[-1] = f"  ... and {len(rows) - MOST_ROWS + 1} more rows; to_frame() has all"
    return "\n".join(one_line(line, MOST_LETTERS) for line in lines)


def _what(record: Record) -> str:
    """What the record holds, in a few words."""
    if record.table is not None:
        return f"{record.table.title}, {len(record.table.rows)} rows"
    if record.diagnosis is not None:
        return record.diagnosis.headline
    if record.choice is not None:
        return record.choice.headline
    if record.theory is not None:
        return f"{record.theory.theorem}: {record.theory.verdict}"
    if not record.runs:
        return "no runs"
    rows, seeds = len({run.row for run in record.runs}), len({run.seed for run in record.runs})
    what = f"{record.runs[0].row}, seed {record.runs[0].seed}" if len(record.runs) == 1 else f"{rows} rows"
    over = f", {seeds} seeds" if seeds > 1 else ""
    return f"{what}{over}, on {record.recipe.get('data', 'data of the user')}"


def _accuracy(row: Row) -> str:
    mean, low, high = (row[f"linear{end}_points"] for end in ("", "_low", "_high"))
    if not isinstance(mean, float):
        return f"{row['row']}: no probe on h"
    half = f" ± {(high - low) / 2:.1f}" if isinstance(low, float) and isinstance(high, float) else ""
    return f"{row['row']}: linear on h {mean:.1f}{half} points"
