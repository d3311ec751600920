"""The errors that users can get: one sentence each, with the value, the limit and the remedy."""

import errno
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches


class FullrankError(Exception):
    """A failure that the user can fix. The command line prints it and exits with `exit_status`.

    The message is one printable line of at most 1500 characters, whatever values it quotes.
    """

    exit_status = 1

    def __init__(self, message: str):
        super().__init__(one_line(message))


class UsageError(FullrankError, ValueError):
    """The request itself cannot be carried out: an unknown name, an impossible width, a bad option."""

    exit_status = 2


class DataError(FullrankError):
    """Images, labels or files are missing, unreadable or inconsistent."""


class DivergedError(FullrankError):
    """The loss is no longer a finite number."""


class OutOfMemoryError(FullrankError):
    """A training step needs more memory than is available."""


class DisagreementError(FullrankError):
    """One process and several processes compute different numbers."""


class ContractError(FullrankError):
    """A part violates a clause of its contract; see `fullrank.testing`."""


class FullDiskError(FullrankError):
    """The disk is full, or a quota is reached. The message says what is saved and how to continue."""


class InterruptedRunError(FullrankError):
    """Ctrl-C. The work so far is saved, and the message says how to continue."""

    exit_status = 130


class TerminatedRunError(InterruptedRunError):
    """The same for SIGTERM, which schedulers send before they end a program."""

    exit_status = 143


class FullrankWarning(UserWarning):
    """Something that a user should know. The command continues and prints it as one line."""


@contextmanager
def explained(what: str) -> Iterator[None]:
    """An error of foreign code in the block becomes a UsageError that begins with `what`."""
    try:
        yield
    except FullrankError:
        raise
    except (RuntimeError, TypeError, ValueError, AttributeError, LookupError) as error:
        raise UsageError(f"{what}: {error}.") from error


def disk_is_full(error: OSError) -> bool:
    """Whether a file does not fit on the disk, in the quota or in the limit on file sizes."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def one_line(text: str, longest: int = 1500) -> str:
    r"""Escape what is not printable, and shorten the text in its middle to `longest` characters.

    Otherwise names and values from files could move the cursor of a terminal, or fill it.

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


def few_of(names: Sequence[str], most: int = 4) -> str:
    """The first names of a list, and how many more there are.

    >>> few_of(["a", "b"]), few_of(["a", "b", "c", "d"], most=2)
    ('a, b', 'a, b and 2 more')
    """
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def unknown_name(kind: str, name: str, names: Iterable[str], remedy: str) -> UsageError:
    """The error for an unknown name, with the most similar names that exist.

    >>> print(unknown_name("head", "linaer", ["linear", "mlp"], "`fullrank list heads` shows all"))
    Unknown head 'linaer': did you mean 'linear'? `fullrank list heads` shows all.
    """
    near = get_close_matches(name[:100], list(names), n=3, cutoff=0.5)
    guess = f"did you mean {' or '.join(repr(n) for n in near)}? " if near else "no name is similar; "
    return UsageError(f"Unknown {kind} {name!r}: {guess}{remedy}.")
