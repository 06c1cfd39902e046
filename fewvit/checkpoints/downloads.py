"""From an address to a file: resumed across processes, checked before it is visible, never half there."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import time
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NoReturn

from ..errors import CheckpointError, ResourceError, Unobtainable, from_os_error, printable
from ..files import fsync_folder
from .http import Answer, SetbackError, ask, check_url, offline, opener, read
from .kinds import foreign_kind
from .pace import Pace
from .partial_file import PartialFile, sweep_parts

Progress = Callable[[int, int | None], None]  # bytes that are here, bytes in all or None
Notify = Callable[[str], None]

WEIGHTS_DIR = "FEWVIT_WEIGHTS_DIR"
_BLOCK = 1 << 18  # bytes asked of a socket at a time
_HEAD = 1 << 16  # first bytes looked at before anything is written
_SPARE = 16 << 20  # bytes that must stay free beside the file
_MOST = 64 << 30  # bytes of a file whose length nobody knows; weights of ViTs have less than 10 GB


@dataclass(frozen=True)
class Patience:
    """How long a server is given."""

    tries: int = 5  # fruitless ones before giving up
    wait_s: float = 1.0  # before the second try, then doubled each time
    timeout_s: float = 30.0  # without one byte
    gain_bytes: int = 16 << 20  # a try that brought this much more than any before was not fruitless
    pace: Pace = field(default_factory=Pace)  # what must come at least


def fetch(
    url: str,
    target: Path,
    *,
    sha256: str | None = None,
    md5_prefix: str | None = None,
    expected_bytes: int | None = None,
    headers: Mapping[str, str] | None = None,
    progress: Progress | None = None,
    notify: Notify = lambda line: None,
    opening: urllib.request.OpenerDirector | None = None,
    patience: Patience | None = None,
) -> Path:
    """`target`, holding what the server at `url` has, whole and checked; before that it is not there or the old file.

    `headers` go with every request, an `Authorization` among them to the host of `url` alone. `notify` hears it where
    nothing shows that the file is whole. Raises Unobtainable (no network, 404, offline, a URL that is not https, a
    server that sends next to nothing), CheckpointError (a web page, other bytes, a body that stays short),
    ResourceError (the disk is full).
    """
    if offline(False):
        raise by_hand(f"fewvit is offline and will not fetch {url}", target, sha256)
    wanted = _Wanted(sha256, md5_prefix, expected_bytes)
    patience = patience or Patience()
    job = _Job(url, target, wanted, headers or {}, progress, notify, opening or opener(patience.pace), patience)
    check_url(url)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        sweep_parts(target.parent)
    except OSError as error:
        raise from_os_error(error, f"making room for {target.name}") from error
    _persist(job)
    return target


@dataclass(frozen=True)
class _Wanted:
    """What is known of the bytes before they come."""

    sha256: str | None
    md5_prefix: str | None
    size: int | None


@dataclass(frozen=True)
class _Job:
    """One download, from its address to its place."""

    url: str
    target: Path
    wanted: _Wanted
    headers: Mapping[str, str]
    progress: Progress | None
    notify: Notify
    opening: urllib.request.OpenerDirector
    patience: Patience


def _persist(job: _Job) -> None:
    """Put the file in place; give up after many fruitless tries in a row, or at once where there never was a server."""
    fruitless, most, part = 0, 0, PartialFile(job.target)
    while True:
        try:
            return _attempt(job, part)
        except SetbackError as setback:
            # more than ever: contents that take turns are no progress
            gained, most = part.size() - most, max(part.size(), most)
            fruitless = 0 if gained >= job.patience.gain_bytes else fruitless + 1
            if fruitless >= job.patience.tries or (setback.unreachable and not part.size()):
                _give_up(job, part, setback)
            time.sleep(job.patience.wait_s * 2 ** max(fruitless - 1, 0))


def _give_up(job: _Job, part: PartialFile, setback: SetbackError) -> NoReturn:
    """Raise the error that ends a download.

    A short body is the server's lie and leaves nothing; else a part that has a name waits for the next run.
    """
    if part.key is None:  # nothing names what it is the beginning of
        part.remove()
    have = part.size()
    if setback.short:
        part.remove()
        fix = "Nothing was kept. Try again later, or " + place_by_hand(job.target, job.wanted.sha256)
        raise CheckpointError(f"{setback}, however often it was asked for the rest", file=job.url, fix=fix)
    kept = f"; {have / 1e6:.1f} MB are kept, the same command goes on from there" if have else ""
    raise by_hand(f"{job.url}: {setback}{kept}", job.target, job.wanted.sha256)


def _attempt(job: _Job, part: PartialFile) -> None:
    """Put the file in place. Raises SetbackError with whatever came left in `part`."""
    answer = _ask(job, part)
    try:
        head = _head(job, answer)
        if answer.start == 0 and part.take_over(answer.key):  # a dead process left a part of this very content
            answer.response.close()
            answer = _ask(job, part)  # for the rest
            head = _head(job, answer)
        resumed = answer.start > 0
        if answer.start != answer.total:
            _receive(job, part, answer, head)
    finally:
        answer.response.close()
    _install(job, part, resumed, answer.ends_visibly)


def _ask(job: _Job, part: PartialFile) -> Answer:
    """The server's answer; for the rest of the file where `part` is the beginning of a content that has a name."""
    have = part.size() if part.key else 0
    if have and have == part.total:
        return Answer(io.BytesIO(), have, have, part.validator)
    headers = {"User-Agent": "fewvit", "Accept-Encoding": "identity", **job.headers}
    if have and part.validator:
        headers |= {"Range": f"bytes={have}-", "If-Range": part.validator}
    try:
        answer = ask(job.url, headers, job.opening, job.patience.timeout_s)
    except Unobtainable as error:
        advice = _sentence(place_by_hand(job.target, job.wanted.sha256))
        raise Unobtainable(error.what, file=error.file, fix=advice) from error
    if answer.start == 0:
        part.validator, part.total = answer.validator, answer.total
    elif (answer.start, answer.total) != (have, part.total) or answer.validator not in (None, part.validator):
        answer.response.close()
        part.remove()
        raise SetbackError(f"asked for the bytes from {have:,} on, the server sent others")
    return answer


def _head(job: _Job, answer: Answer) -> bytes:
    """The first bytes of the body, enough to say what it is.

    Raises CheckpointError for a page, and for a file of another size.
    """
    head = read(answer.response, _HEAD)
    if answer.start == 0:
        while len(head) < 512 and (more := read(answer.response, _HEAD)):
            head += more
        kind = None if job.target.suffix == ".json" and head.lstrip().startswith(b"{") else foreign_kind(head)
        if kind is not None or (not head and not answer.total):
            fix = "Does this network ask for a login first (hotel, campus, proxy)? Nothing of it was kept."
            raise CheckpointError(
                f"the server sent no weights but {kind or 'nothing (0 bytes)'}", file=job.url, fix=fix
            )
    if answer.total is not None and job.wanted.size not in (None, answer.total):
        raise CheckpointError(
            f"the server has {answer.total:,} bytes, {job.wanted.size:,} were published", file=job.url
        )
    return head


def _receive(job: _Job, part: PartialFile, answer: Answer, block: bytes) -> None:
    """Write the body, which begins with `block`, to `part` and the disk."""
    want = answer.total if answer.total is not None else job.wanted.size
    most = want if want is not None else _MOST
    have = answer.start
    _require_space(job, (want or 0) - have)
    try:
        with part.open(answer.key, have) as handle:
            while block and have <= most:
                handle.write(block)
                have += len(block)
                if job.progress:
                    job.progress(have, want)
                block = read(answer.response, _BLOCK)
            handle.flush()
            os.fsync(handle.fileno())
    except OSError as error:
        part.remove()
        raise from_os_error(error, f"downloading {job.target.name}") from error
    if want is not None and have < want:
        raise SetbackError(f"cut: {have:,} of {want:,} bytes came", short=True)
    if have > most:
        part.remove()
        known = f"{most:,} were announced" if want is not None else "and no length was announced"
        raise SetbackError(f"too long: {have:,} bytes came, {known}", short=True)


def _require_space(job: _Job, needed: int) -> None:
    try:
        free = shutil.disk_usage(job.target.parent).free
    except OSError as error:
        raise from_os_error(error, "looking for free space") from error
    if needed > 0 and free < needed + _SPARE:
        what = f"disk full: {job.target.name} needs {needed / 1e6:.1f} MB more, {free / 1e6:.1f} MB are free"
        raise ResourceError(
            what, file=job.target.parent, fix="Free some space, or choose another folder with --cache-dir."
        )


def _install(job: _Job, part: PartialFile, resumed: bool, whole: bool) -> None:
    """Make the part the file.

    Wrong bytes are refused with both digests, or tried once more if a part was their beginning. Without `whole` the
    connection may have ended before the file: then a digest or the size decides, or it is told that none does.
    """
    expected = job.wanted.sha256
    try:
        mismatch = _mismatch(part.path_or_fail(), expected, job.wanted.md5_prefix)
        if mismatch:
            part.remove()
            if resumed:
                raise SetbackError(f"the part and its continuation do not fit ({mismatch})")
            if not whole and job.wanted.size is None:
                raise SetbackError(f"cut, or other bytes: no length was announced ({mismatch})", short=True)
            raise CheckpointError(
                f"the server sent other bytes than expected: {mismatch}",
                file=job.url,
                fix="Nothing was kept. " + place_by_hand(job.target, expected),
            )
        if not whole and (expected, job.wanted.md5_prefix, job.wanted.size) == (None, None, None):
            job.notify(
                f"{job.target.name}: the server announced no length and nobody a digest, so nothing shows that these "
                f"{part.size():,} bytes are the whole file"
            )
        os.replace(part.path_or_fail(), job.target)
    except FileNotFoundError as error:  # a process that took this one for dead has it
        raise SetbackError("another process took the part over") from error
    except OSError as error:
        raise from_os_error(error, f"installing {job.target.name}") from error
    fsync_folder(job.target.parent)


def _mismatch(path: Path, sha256: str | None, md5_prefix: str | None) -> str | None:
    """Both digests where the file's is not the expected one, else None; read from the disk, whoever wrote it."""
    for algorithm, expected in (("sha256", sha256), ("md5", md5_prefix)):
        if expected is not None:
            with open(path, "rb") as handle:
                found = hashlib.file_digest(handle, partial(hashlib.new, algorithm, usedforsecurity=False)).hexdigest()
            if not found.startswith(expected.lower()):
                return f"{algorithm} {found}, expected {expected.lower()}"
    return None


# --- words ----------------------------------------------------------------------------------------------------


def place_by_hand(target: Path, sha256: str | None) -> str:
    """Where a file may be put that does not come by itself."""
    known = f" (sha256 {sha256})" if sha256 else ""
    return f"put {target.name}{known} by hand into a folder of ${WEIGHTS_DIR} or into {printable(target.parent)}"


def by_hand(what: str, target: Path, sha256: str | None) -> Unobtainable:
    """The error of a file that cannot be had now, with the advice to put it there."""
    return Unobtainable(what, fix=_sentence(place_by_hand(target, sha256)))


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]
