"""SIGINT (Ctrl-C) and SIGTERM: the step under way is finished and saved; a second SIGINT leaves at once."""

import os
import signal
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any, Self, final

from fullrank.errors import InterruptedRunError, TerminatedRunError
from fullrank.files import typed_path

# torchrun passes on the Ctrl-C that a terminal has already sent to all processes.
_ECHO = 1.0


@final
class Stop:
    """Whether a run in `folder` was told to stop, and by which signal: its number, or 0.

    As a context it listens to SIGINT and SIGTERM; a second SIGINT raises InterruptedRunError at once.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.signal = 0
        self._heard = 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # no other thread gets signals
            self._before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        self.listen()
        return self

    def __exit__(self, *_: object) -> None:
        before, self._before = self._before, {}
        for number, handler in before.items():
            signal.signal(number, handler)

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
        for number in self._before:
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self.is_set():
            self.set(number)
            return
        echo = "TORCHELASTIC_RUN_ID" in os.environ and time.monotonic() - self._heard < _ECHO
        if number == signal.SIGINT and not echo:
            remedy = f"with --out {typed_path(self.folder)} --resume the same command continues"
            raise self.error(f"Stopped at once; {remedy}.")
