"""Every error that a user can fix, and the exit code that its kind owns.

    FewvitError
    ├── UsageError 2            the command or the call is wrong
    │   ├── UnknownName         a name that no table holds; carries the nearest ones
    │   ├── LicenseRequired     weights whose licence must be accepted first
    │   ├── Unobtainable        weights that are neither here nor downloadable now
    │   │   └── NotInRepository  a file that a repository of the hub has not
    │   └── MissingExtra        an optional dependency that is not installed
    ├── DataError 3             the input images, labels or tables are wrong or missing
    │   ├── BadImages           more undecodable images than allowed
    │   └── UnlabelledNeighbor  a vote over rows that have no label
    ├── IntegrityError 4        bytes are not what they should be
    │   ├── CheckpointError     a weights file: damaged, hostile, foreign or of another architecture
    │   ├── CacheError          a stored shard does not match its manifest
    │   └── FingerprintMismatch features of two backbones or transforms meet
    ├── NumericalError 5        NaN or Inf where numbers must be
    └── ResourceError 6         disk or memory is exhausted

An interruption (Ctrl-C, SIGTERM) is no error of this tree: it ends with 130 or 143.
"""

from __future__ import annotations

import difflib
import errno
import os
from collections.abc import Iterable, Sequence


class FewvitError(Exception):
    """What was wrong, in which file, and what to do next: at most two lines."""

    exit_code = 1
    among_processes = False  # raised while the others that torchrun started wait for this one

    def __init__(self, what: str, *, file: str | os.PathLike[str] | None = None, fix: str | None = None):
        what, fix = _told(what, 1 if fix else 2), _told(fix, 1) if fix else fix
        self.what, self.file, self.fix = what, file, fix
        where = f"{printable(file)}: " if file is not None else ""
        super().__init__(where + what + (f"\n  {fix}" if fix else ""))


class UsageError(FewvitError):
    """The command or the call is wrong; exit code 2."""

    exit_code = 2


class UnknownName(UsageError):
    """A name that is in no table. Names the nearest known ones, or all of them when they are few."""

    def __init__(self, kind: str, name: str, known: Iterable[str], *, fix: str | None = None):
        known = list(known)
        near = nearest_names(name, known)
        hint = (
            f"Did you mean {', '.join(near)}?"
            if near
            else f"Known: {', '.join(known[:12])}{' …' if len(known) > 12 else ''}"
        )
        super().__init__(f"unknown {kind} {name!r}. {hint}", fix=fix)
        self.name, self.near = name, near


def nearest_names(name: str, known: Iterable[str]) -> list[str]:
    """The names, three at most, that `name` may be a slip of; upper and lower case are the same."""
    spelled: dict[str, str] = {}
    for one in known:
        spelled.setdefault(one.casefold(), one)
    return [spelled[one] for one in difflib.get_close_matches(name.casefold(), spelled, n=3, cutoff=0.6)]


class LicenseRequired(UsageError):
    """Weights whose licence must be accepted first."""


class Unobtainable(UsageError):
    """Weights that are neither here nor to be downloaded now."""


class NotInRepository(Unobtainable):
    """A file that a repository of the hub has not, whoever asks and whenever."""


class MissingExtra(UsageError):
    """An optional dependency that is not installed."""


class DataError(FewvitError):
    """The input images, labels or tables are wrong or missing; exit code 3."""

    exit_code = 3


class BadImages(DataError):
    """More images cannot be decoded than are allowed."""

    skipped: Sequence[dict[str, str]] = ()  # `id`, `class` and `reason` of each


class UnlabelledNeighbor(DataError):
    """A vote over rows of which one has no label."""


class IntegrityError(FewvitError):
    """Bytes are not what they should be; exit code 4."""

    exit_code = 4


class CheckpointError(IntegrityError):
    """A weights file that is damaged, hostile, foreign or of another architecture."""


class CacheError(IntegrityError):
    """A stored shard that is not what its manifest says."""


class FingerprintMismatch(IntegrityError):
    """Features of two backbones or transforms that meet."""


class NumericalError(FewvitError):
    """NaN or Inf where numbers must be; exit code 5."""

    exit_code = 5


class ResourceError(FewvitError):
    """Disk or memory is exhausted; exit code 6."""

    exit_code = 6


_NO_BYTES = ("not enough memory", "can't allocate memory", "Cannot allocate memory", "bad_alloc")
# what no file can be the reason of, however large it says it is
_NO_ROOM = ("can't start new thread", "could not create a primitive", "Resource temporarily unavailable")
_SYSTEM_LACKS = (errno.ENOMEM, errno.EMFILE, errno.ENFILE)  # memory, or handles of files


def is_out_of_memory(error: BaseException) -> bool:
    """Whether there was no memory, or no room for another thread; Python, torch, oneDNN and FAISS each say it so."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    # a SafetensorError is of no other kind, and carries the system's words
    speaks = isinstance(error, RuntimeError) or type(error).__name__ == "SafetensorError"
    return speaks and any(word in str(error) for word in (*_NO_BYTES, *_NO_ROOM))


def refuse_out_of_memory(error: BaseException, doing: str, size: int = 0) -> None:
    """Raise ResourceError where memory ran out, or handles of files, so that a whole file is not called damaged.

    A damaged file may ask for any number of bytes: with `size`, those of a file, only what is too short for so many is
    memory's fault. No file is at fault where there is no room for a thread.
    """
    if isinstance(error, ResourceError):
        raise error
    if isinstance(error, OSError) and error.errno in _SYSTEM_LACKS:
        raise from_os_error(error, doing) from error
    if not is_out_of_memory(error):
        return
    if size and not any(word in str(error) for word in _NO_ROOM) and _is_to_be_had(2 * size):
        return
    raise ResourceError(
        f"out of memory while {doing}", fix="Close other programs, or use a machine with more."
    ) from error


def _is_to_be_had(size: int) -> bool:
    try:
        bytearray(size)
    except MemoryError:
        return False
    return True


def printable(name: object) -> str:
    """The text of a path or id as it may be shown: bytes that are not UTF-8 and control characters are escaped."""
    text = os.fspath(name) if isinstance(name, os.PathLike) else str(name)
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def in_one_line(error: object) -> str:
    """What an error, or its text, says in two lines or more, as whole sentences in one."""
    parts = [part.strip() for part in str(error).splitlines() if part.strip()]
    return " ".join(part if part[-1] in ".!?:" else f"{part}." for part in parts)


_LONGEST = 1000  # characters of an error: what a file says may be quoted in it, however long


def _told(text: str, lines: int) -> str:
    """A text as it may be shown in so many lines: words out of a file bring neither lines nor control codes."""
    text = str(text)
    if text.count("\n") >= lines:
        text = in_one_line(text)
    if len(text) > _LONGEST:
        text = f"{text[: _LONGEST // 2]} … {text[-_LONGEST // 2 :]}"
    return text if text.isprintable() else "\n".join(map(printable, text.split("\n")))


def counted(number: int, noun: str, plural: str = "") -> str:
    """`1 class`, `3 classes`: a number before its noun, with the noun's plural where it is not made by an s."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def some(names: Sequence[str], limit: int = 5) -> str:
    """`a, b, c and 4 more`: the first names, as they may be shown, and how many more there are."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(map(printable, names[:limit])) + more


def are(number: int) -> str:
    """`is` for one, `are` for any other number."""
    return "is" if number == 1 else "are"


def from_os_error(
    error: OSError, doing: str, *, fix: str | None = None, place: str = "--cache-dir or --out"
) -> FewvitError:
    """The error of the tree that an OSError is: a full disk is a matter of resources, anything else of input.

    `place`: the flag that names another disk.
    """
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return ResourceError(
            f"disk full while {doing}",
            file=error.filename,
            fix=f"Free some space, or choose another folder with {place}; finished work is kept.",
        )
    if error.errno in _SYSTEM_LACKS:
        return ResourceError(f"{error.strerror} while {doing}", file=error.filename, fix=fix)
    return DataError(f"{error.strerror or error} while {doing}", file=error.filename, fix=fix)
