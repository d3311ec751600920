"""The command line: each command reads its arguments, calls one function and prints."""

import sys

from fullrank.errors import FullrankError


def main() -> None:
    """Run `fullrank`; a failure is one sentence on standard error and an exit status, never a traceback."""
    from fullrank.cli.commands import app

    try:
        app()
    except FullrankError as error:
        _fail(str(error), error.exit_status)
    except KeyboardInterrupt:
        _fail("Interrupted; with --out and --resume the same command goes on from what is saved.", 130)
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        _fail(
            f"The system refused{where}: {error.strerror or error}; check the path, its rights and the disk.",
            1,
        )


def _fail(message: str, status: int) -> None:
    print(f"fullrank: {message}", file=sys.stderr)
    sys.exit(status)
