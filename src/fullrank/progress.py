"""The progress line of long work: the task, the part that is done, and the time that is left."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Batch = TypeVar("Batch")


def progress_bar() -> Progress:
    """A progress line on standard error that fits 80 columns and vanishes when the work is done.

    Each task has a field `status`, a few words at the end of the line. Nothing is written if standard error
    is not a terminal.
    """
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=10),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True),
        TextColumn("left  {task.fields[status]}"),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def counted(
    batches: Iterable[Batch],
    progress: Progress | None,
    what: str,
    total: int,
    rows: Callable[[Any], int] = len,
) -> Iterator[Batch]:
    """Yield the batches and count their rows on a progress line.

    Args:
        batches: The batches to yield.
        progress: The progress display; None shows no line.
        what: The words at the start of the line.
        total: Number of rows in all batches.
        rows: Gives the number of rows of a batch.

    >>> [len(batch) for batch in counted([[1, 2], [3]], None, "images", 3)]
    [2, 1]
    """
    if progress is None:
        yield from batches
        return
    task = progress.add_task(what, total=total, status="")
    try:
        for batch in batches:
            yield batch
            progress.advance(task, rows(batch))
    finally:
        progress.remove_task(task)
