"""The command line: each command reads its arguments, calls one function and prints."""

import signal
import sys
from types import FrameType

from fullrank.allocator import keep_freed_memory
from fullrank.errors import FullrankError, InterruptedRunError


def main() -> None:
    """Run `fullrank`; a failure is one sentence on standard error and an exit status, never a traceback."""
    from fullrank.cli.commands import app

    keep_freed_memory()
    before = signal.signal(signal.SIGINT, _interrupt)
    try:
        app()
    except FullrankError as error:
        _fail(str(error), error.exit_status)
    except MemoryError as error:
        _fail(f"Not enough memory ({error}); lower --image-size, --limit or --batch-size.", 1)
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        _fail(
            f"The system refused{where}: {error.strerror or error}; check the path, its rights and the disk.",
            1,
        )
    finally:
        signal.signal(signal.SIGINT, before)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    # Not KeyboardInterrupt: Typer would end the program on it without a word.
    raise InterruptedRunError(
        "Interrupted; train, compare and demo go on from what is saved with --out DIR --resume, reproduce "
        "with the same command."
    )


def _fail(message: str, status: int) -> None:
    print(f"fullrank: {message}", file=sys.stderr)
    sys.exit(status)
