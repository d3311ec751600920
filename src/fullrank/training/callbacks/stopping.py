"""SIGINT (Ctrl-C) and SIGTERM: finish and save the current step. A second SIGINT stops at once."""

import os
import signal
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any, Self, final

from fullrank.errors import InterruptedRunError, TerminatedRunError
from fullrank.files import typed_path

# torchrun repeats the Ctrl-C that a terminal has already sent to all processes; seconds.
_ECHO = 1.0


@final
class Stop:
    """Whether a run in `folder` must stop, and by which `signal`: its number, or 0.

    As a context it listens to SIGINT and SIGTERM. A second SIGINT raises InterruptedRunError at once.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.signal = 0
        self._heard = 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # only the main thread gets signals
            self._before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        self.listen()
        return self

    def __exit__(self, *_: object) -> None:
        before, self._before = self._before, {}
        for number, handler in before.items():
            signal.signal(number, handler)

    def is_set(self) -> bool:
        """Whether to stop after the current step."""
        return self.signal != 0

    def set(self, by: int = signal.SIGINT) -> None:
        """Stop after the current step."""
        self.signal, self._heard = by, time.monotonic()

    def error(self, message: str) -> InterruptedRunError:
        """The error that ends the run; its exit status depends on the signal."""
        return (TerminatedRunError if self.signal == signal.SIGTERM else InterruptedRunError)(message)

    def listen(self) -> None:
        """Install the handlers again, after another library has replaced them."""
        for number in self._before:
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self.is_set():
            self.set(number)
            return
        echo = "TORCHELASTIC_RUN_ID" in os.environ and time.monotonic() - self._heard < _ECHO
        if number == signal.SIGINT and not echo:
            where = typed_path(self.folder)
            remedy = f"the same command with --out {where} --resume continues from the last checkpoint"
            raise self.error(f"Stopped at once; {remedy}.")
