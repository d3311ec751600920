"""The errors a user can meet: one sentence each, with the value, the limit and the remedy."""

import errno
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches


class FullrankError(Exception):
    """Something failed that the user can mend; the command line prints it and exits with `exit_status`.

    Its message is one printable line of at most 1500 characters, whatever the values that it quotes.
    """

    exit_status = 1

    def __init__(self, message: str):
        super().__init__(one_line(message))


class UsageError(FullrankError, ValueError):
    """The request itself cannot be carried out: an unknown name, an impossible width, a bad option."""

    exit_status = 2


class DataError(FullrankError):
    """Images, labels or files are missing, unreadable or not what they say they are."""


class DivergedError(FullrankError):
    """The loss is no longer a finite number."""


class OutOfMemoryError(FullrankError):
    """A training step needs more memory than there is."""


class DisagreementError(FullrankError):
    """One process and several find different numbers."""


class ContractError(FullrankError):
    """A part breaks a clause of its contract; see `fullrank.testing`."""


class FullDiskError(FullrankError):
    """The disk is full, or a quota or a limit is reached; the message says what is kept and how to go on."""


class InterruptedRunError(FullrankError):
    """Ctrl-C: what was done is saved, and the message says how to go on."""

    exit_status = 130


class TerminatedRunError(InterruptedRunError):
    """The same after SIGTERM, which schedulers send before they end a program."""

    exit_status = 143


class FullrankWarning(UserWarning):
    """Something that a user should know and that stops nothing; the command line prints it as one line."""


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Whatever somebody else's code raises meanwhile is a UsageError that begins with `what`."""
    try:
        yield
    except FullrankError:
        raise
    except (RuntimeError, TypeError, ValueError, AttributeError, LookupError) as error:
        raise UsageError(f"{what}: {error}.") from error


def disk_is_full(error: OSError) -> bool:
    """Whether the system has no room for a file: on the disk, in the quota or the limit of a file's size."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def one_line(text: str, longest: int = 1500) -> str:
    r"""Text with what is not printable escaped, and shortened in its middle to `longest` characters.

    Names and values from files could otherwise move the cursor of a terminal, or fill it.

    >>> one_line("a\x1b[2Jb\n"), one_line("abcdefghij" * 9, longest=20)
    ('a\\x1b[2Jb\\n', 'abcdefg ... cdefghij')
    """
    if len(text) > longest:
        ahead = (longest - 5) // 2
        text = f"{text[:ahead]} ... {text[ahead + 5 - longest :]}"
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def count_of(count: int, noun: str) -> str:
    """A count with its noun, which has an `s` unless the count is 1.

    >>> count_of(1, "seed"), count_of(1200, "image")
    ('1 seed', '1200 images')
    """
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def unknown_name(kind: str, name: str, names: Iterable[str], remedy: str) -> UsageError:
    """The error for a name nobody registered, with the nearest names that exist.

    >>> print(unknown_name("head", "linaer", ["linear", "mlp"], "`fullrank list heads` shows all"))
    Unknown head 'linaer': did you mean 'linear'? `fullrank list heads` shows all.
    """
    near = get_close_matches(name[:100], list(names), n=3, cutoff=0.5)
    guess = f"did you mean {' or '.join(repr(n) for n in near)}? " if near else "no name is near it; "
    return UsageError(f"Unknown {kind} {name!r}: {guess}{remedy}.")
