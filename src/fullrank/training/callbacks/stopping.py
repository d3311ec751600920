"""SIGINT (Ctrl-C) and SIGTERM: the step under way is finished and saved; a second SIGINT leaves at once."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import final

from fullrank.errors import InterruptedRunError, TerminatedRunError

# torchrun passes on the Ctrl-C that a terminal has already sent to all processes.
_ECHO = 1.0


@final
class Stop:
    """Whether a run in `folder` was told to stop, and by which signal: its number, or 0."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.signal = 0
        self._heard = 0.0
        self._listens = False

    def is_set(self) -> bool:
        """Whether to stop after the step under way."""
        return self.signal != 0

    def set(self, by: int = signal.SIGINT) -> None:
        """Stop after the step under way."""
        self.signal, self._heard = by, time.monotonic()

    def error(self, message: str) -> InterruptedRunError:
        """The error that ends the run, whose exit status says which signal did."""
        return (TerminatedRunError if self.signal == signal.SIGTERM else InterruptedRunError)(message)

    def listen(self) -> None:
        """Take the signals back from a library that has put a handler of its own in place."""
        if self._listens:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self.is_set():
            self.set(number)
            return
        echo = "TORCHELASTIC_RUN_ID" in os.environ and time.monotonic() - self._heard < _ECHO
        if number == signal.SIGINT and not echo:
            raise self.error(
                f"Stopped at once; with --out {self.folder} --resume the same command goes on from its last "
                "checkpoint."
            )


@contextmanager
def stop_on_signal(folder: Path) -> Iterator[Stop]:
    """A `Stop` that SIGINT and SIGTERM set; a second SIGINT raises InterruptedRunError at once."""
    stop = Stop(folder)  # signals reach the main thread only
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    stop._listens = True
    stop.listen()
    try:
        yield stop
    finally:
        stop._listens = False
        for number, handler in before.items():
            signal.signal(number, handler)
