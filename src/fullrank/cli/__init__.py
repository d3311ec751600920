"""The command line: each command reads its arguments, calls one function and prints."""

import signal
import sys
import warnings
from functools import partial
from types import FrameType

from fullrank import errors
from fullrank.allocator import keep_freed_memory
from fullrank.threads import sleep_while_waiting

# The commands that have --resume.
_RESUMES = ("train", "compare", "demo", "embed")


def main() -> None:
    """Run `fullrank`; a failure is one sentence on standard error and an exit status, never a traceback."""
    from fullrank.cli.commands import app

    sleep_while_waiting()
    keep_freed_memory()
    handlers = {number: signal.signal(number, _interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    show_warning, warnings.showwarning = warnings.showwarning, partial(_warn, set())
    try:
        app()
    except errors.FullrankError as error:
        _fail(str(error), error.exit_status)
    except MemoryError as error:
        _fail(f"Not enough memory ({error}); lower --image-size, --limit or --batch-size.", 1)
    except OSError as error:
        if errors.disk_is_full(error):
            what = f"The disk has no room for {error.filename or 'what is written'}"
            _fail(f"{what}; make room and run the command again, with --resume where it has that.", 1)
        where, reason = f" {error.filename}" if error.filename else "", error.strerror or error
        _fail(f"The system refused{where}: {reason}; check the path, its permissions and the disk.", 1)
    finally:
        warnings.showwarning = show_warning
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    # Not KeyboardInterrupt, on which Typer would end the program without a message.
    kind = errors.TerminatedRunError if signum == signal.SIGTERM else errors.InterruptedRunError
    command = next(iter(sys.argv[1:]), "")
    if command in _RESUMES:
        raise kind("Interrupted. What was finished is saved; continue with the same --out and --resume.")
    if command == "reproduce":
        raise kind("Interrupted. What was finished is saved; continue with the same command.")
    raise kind("Interrupted, so the result was not written; run the command again.")


def _warn(
    printed: set[str], message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: object
) -> None:
    """Print our own warning once and on one line, and those of other libraries as Python does."""
    if issubclass(category, errors.FullrankWarning):
        if str(message) not in printed:
            printed.add(str(message))
            print(f"fullrank: note: {message}", file=sys.stderr)
    else:
        print(warnings.formatwarning(message, category, filename, lineno), file=sys.stderr, end="")


def _fail(message: str, status: int) -> None:
    print(f"fullrank: {message}", file=sys.stderr)
    sys.exit(status)
