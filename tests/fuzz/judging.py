"""What a reader may do with a file that somebody damaged: the only place that knows."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import random
import signal
import traceback
import warnings
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import numpy as np

from fewvit.errors import FewvitError, ResourceError

TOLD = "told"  # what a reader gives who told the user that something is amiss: no silent difference
SECONDS = 10  # that a reader may take
MEMORY = 2 << 30  # bytes that it may ask for


@dataclasses.dataclass(frozen=True)
class Mutant:
    """Files of a valid input that hold something else; None: gone."""

    files: Mapping[str, bytes | None]
    checked: bool  # whether a digest, or a sum, must show the change: then no other value may come out
    how: str = ""


class Format(Protocol):
    """A kind of file, its valid example and its reader."""

    codes: frozenset[int]  # exit codes of its refusals

    def make(self, folder: Path) -> None:
        """Write the valid input."""

    def mutant(self, files: Mapping[str, bytes], stream: random.Random) -> Mutant:
        """One damaged input of what `make` wrote."""

    def read(self, folder: Path, changed: Collection[str]) -> Any:
        """What the public reader gives, and what is then done with it: plain values and arrays.

        `changed`: the files that hold something else, for a kind whose files have nothing to do with each other.
        """


class TooSlowError(BaseException):
    """No reader may catch it."""


class Judge:
    """A valid input in a folder, and the verdict on each damaged copy of it."""

    def __init__(self, kind: Format, folder: Path):
        self.kind, self.folder = kind, folder
        folder.mkdir(parents=True, exist_ok=True)
        kind.make(folder)
        self.files = {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
        self._wanted: dict[tuple[str, ...], str] = {}
        self.wanted(list(self.files))

    def wanted(self, names: Collection[str]) -> str:
        """The digest of what the whole input gives a reader who is told that these files changed."""
        key = tuple(sorted(names))
        if key not in self._wanted:
            with quietly():
                self._wanted[key] = digest_of(self.kind.read(self.folder, key))
            self.restore()
        return self._wanted[key]

    def mutant(self, seed: int, number: int) -> Mutant:
        """The damaged input of that number: the same in every process."""
        return self.kind.mutant(self.files, random.Random(f"{seed} {number}"))

    def fault(self, mutant: Mutant, *, trace: bool = False) -> str:
        """What is wrong with what the reader did; empty where nothing is."""
        wanted = self.wanted(list(mutant.files)) if mutant.checked else ""
        for name, data in mutant.files.items():
            self._write(name, data)
        try:
            with quietly(), within(SECONDS):
                return self._verdict(mutant, wanted, trace)
        except TooSlowError:
            return f"took more than {SECONDS} s"
        finally:
            self.restore()

    def _verdict(self, mutant: Mutant, wanted: str, trace: bool) -> str:
        try:
            value = self.kind.read(self.folder, sorted(mutant.files))
        except TooSlowError:
            raise
        except FewvitError as error:
            return _refusal(error, self.kind.codes, self.folder)
        except BaseException as error:
            if trace:
                traceback.print_exc()
            at = traceback.extract_tb(error.__traceback__)
            own = next((one for one in reversed(at) if "/fewvit/" in one.filename or "/cli/" in one.filename), at[-1])
            return f"raw {type(error).__name__} at {Path(own.filename).name}:{own.lineno}: {str(error)[:200]!r}"
        same = not mutant.checked or value is TOLD or digest_of(value) == wanted
        return "" if same else "a silent difference"

    def _write(self, name: str, data: bytes | None) -> None:
        path = self.folder / name
        if data is None:
            path.unlink(missing_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)

    def restore(self) -> None:
        """Make the folder what it was: readers that go on with a run write into it."""
        for path in self.folder.rglob("*"):
            if path.is_file() and path.relative_to(self.folder).as_posix() not in self.files:
                path.unlink()
        for name, data in self.files.items():
            path = self.folder / name
            if not path.is_file() or path.read_bytes() != data:
                self._write(name, data)


def _refusal(error: FewvitError, codes: frozenset[int], folder: Path) -> str:
    """What is wrong with a refusal: one or two printable lines that name the file, under an exit code of the kind."""
    text = str(error)
    lines = text.split("\n")
    if isinstance(error, ResourceError):
        return f"asks for memory or disk that a file only claims: {text[:200]!r}"
    if error.exit_code not in codes:
        return f"exit code {error.exit_code}, not of {sorted(codes)}: {text[:200]!r}"
    if len(lines) > 2 or not all(line.isprintable() for line in lines) or not lines[0].strip():
        return f"no one or two printable lines: {text[:300]!r}"
    if len(text) > 2000:
        return f"a message of {len(text)} characters: {text[:200]!r}"
    if str(folder) not in text:
        return f"names no file: {text[:300]!r}"
    return ""


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Without warnings: they are no errors for whoever runs a command."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raise TooSlowError in a block that takes longer."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise TooSlowError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def digest_of(value: Any) -> str:
    """The same for the same value, types and NaN included."""
    digest = hashlib.sha256()
    for part in _parts(value):
        digest.update(part.encode("utf-8", "surrogatepass") + b"\n" if isinstance(part, str) else part)
    return digest.hexdigest()


def _parts(value: Any) -> Iterator[str | bytes]:
    if type(value).__module__.startswith("torch") and hasattr(value, "detach"):
        import torch

        yield f"tensor {value.dtype} {tuple(value.shape)}"
        yield value.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b""
    elif isinstance(value, np.ndarray):
        yield f"array {value.dtype} {value.shape}"
        yield value.tobytes()
    elif isinstance(value, Mapping):
        yield f"mapping {len(value)}"
        for key in sorted(value, key=repr):
            yield repr(key)
            yield from _parts(value[key])
    elif isinstance(value, list | tuple):
        yield f"sequence {len(value)}"
        for one in value:
            yield from _parts(one)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield type(value).__name__
        yield from _parts({one.name: getattr(value, one.name) for one in dataclasses.fields(value)})
    else:
        yield f"{type(value).__name__} {value!r}"
