"""Weights found on this machine, or fetched: resumed across processes, checked before they are visible, never half there.

A download goes to `.<name>.<what the server sends>.<host>-<pid>.part` and becomes the file by one rename. A part whose process is dead
is taken over by a rename as well; no lock is needed for that to be right: writers of one part write the same bytes to the same places,
and size and digest are checked on the disk before the last rename.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import io
import ipaddress
import json
import os
import re
import shutil
import socket
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urljoin, urlsplit

from ..errors import CheckpointError, LicenseRequired, ResourceError, Unobtainable, UsageError, from_os_error, printable
from ..files import fsync_folder, sweep, write_json
from .digests import pinned_digest, verify_file
from .kinds import foreign_kind

Progress = Callable[[int, int | None], None]  # bytes that are here, bytes in all or None

_DAY_S = 86400.0
_BLOCK = 1 << 18  # bytes asked of a socket at a time
_HEAD = 1 << 16  # first bytes looked at before anything is written
_SPARE = 16 << 20  # bytes that must stay free beside the file
_REDIRECTS = 5
_WEIGHTS_DIR = "FEWVIT_WEIGHTS_DIR"

_FREE = frozenset(["", "apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0"])
_MEANING = {"cc-by-nc-4.0": "attribution, non-commercial use only"}


@dataclass(frozen=True)
class Patience:
    """How long a server is given."""

    tries: int = 5  # fruitless ones before giving up
    wait_s: float = 1.0  # before the second try, then doubled each time
    timeout_s: float = 30.0  # without one byte
    gain_bytes: int = 16 << 20  # a try that brought this much was not fruitless


def find_weights(file_name: str, cache_dir: Path) -> Path | None:
    """The file in a folder of `$FEWVIT_WEIGHTS_DIR` (a list like PATH), else in `cache_dir/weights`, else None."""
    if Path(file_name).name != file_name:
        raise UsageError(f"{file_name!r} is a path, not the name of a weights file")
    listed = [Path(folder).expanduser() for folder in os.environ.get(_WEIGHTS_DIR, "").split(os.pathsep) if folder]
    return next((folder / file_name for folder in [*listed, cache_dir / "weights"] if (folder / file_name).is_file()), None)


def offline(flag: bool) -> bool:
    """Whether no socket may be opened: `flag` (--offline), or FEWVIT_OFFLINE or HF_HUB_OFFLINE is 1, true, yes or on."""
    names = ("FEWVIT_OFFLINE", "HF_HUB_OFFLINE")
    return flag or any(os.environ.get(name, "").strip().lower() in ("1", "true", "yes", "on") for name in names)


_is_offline = offline  # `obtain` has an option of that name


def obtain(
    file_name: str,
    url: str,
    *,
    license: str,
    cache_dir: Path,
    offline: bool,
    accept: Sequence[str],
    sha256: str | None = None,
    md5_prefix: str | None = None,
    progress: Progress | None = None,
    ask: Callable[[str], bool] | None = None,
) -> Path:
    """The verified weights file: found here, or downloaded to `cache_dir/weights` once its licence is accepted.

    Raises Unobtainable offline, LicenseRequired, CheckpointError when the bytes are not the published ones or have changed.
    """
    path = find_weights(file_name, cache_dir)
    if path is None:
        path = cache_dir / "weights" / file_name
        sha256 = sha256 or pinned_digest(path)  # of a file that was here before
        if _is_offline(offline):
            raise _by_hand(f"{file_name} is not here and fewvit is offline; it would come from {url}", path, sha256)
        require_license(license, file_name, cache_dir=cache_dir, accept=accept, ask=ask)
        fetch(url, path, sha256=sha256, md5_prefix=md5_prefix, progress=progress)
    verify_file(path, sha256, pin=True, md5_prefix=md5_prefix)
    return path


def require_license(license: str, file_name: str, *, cache_dir: Path, accept: Sequence[str], ask: Callable[[str], bool] | None) -> None:
    """Nothing, when the licence needs no consent or has it: from `accept`, from an earlier yes, or from `ask` now; a yes is kept.

    Raises LicenseRequired.
    """
    name = license.strip().lower()
    if name in _FREE:
        return
    store = cache_dir / "licenses.json"
    accepted = _accepted_licenses(store)
    if name in accepted:
        return
    terms = f"{file_name} is licensed {license} ({_MEANING.get(name, 'terms of its own')})"
    if name not in {given.strip().lower() for given in accept} and not (ask and ask(f"{terms}. Do you accept?")):
        raise LicenseRequired(
            f"{terms}; nothing was downloaded", fix=f"If these terms suit you, accept them once with --accept-license {name}"
        )
    write_json(store, {**accepted, name: time.strftime("%Y-%m-%d", time.gmtime())})


def fetch(
    url: str,
    target: Path,
    *,
    sha256: str | None = None,
    md5_prefix: str | None = None,
    expected_bytes: int | None = None,
    progress: Progress | None = None,
    opener: urllib.request.OpenerDirector | None = None,
    patience: Patience | None = None,
) -> Path:
    """`target`, holding what the server at `url` has, whole and checked; before that moment it does not exist or is the old file.

    Without `sha256` the digest that the Hugging Face hub announces is used. Raises Unobtainable (no network, 404, offline, a URL that is
    not https), CheckpointError (a web page, other bytes, a body that stays short), ResourceError (the disk is full).
    """
    if _is_offline(False):
        raise _by_hand(f"fewvit is offline and will not fetch {url}", target, sha256)
    job = _Job(url, target, _Wanted(sha256, md5_prefix, expected_bytes), progress, opener or _opener(), patience or Patience())
    _check_url(url)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _sweep_parts(target.parent)
    except OSError as error:
        raise from_os_error(error, f"making room for {target.name}") from error
    _persist(job)
    return target


# --- one download -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Wanted:
    """What is known of the bytes before they come."""

    sha256: str | None
    md5_prefix: str | None
    size: int | None


@dataclass(frozen=True)
class _Job:
    url: str
    target: Path
    wanted: _Wanted
    progress: Progress | None
    opener: urllib.request.OpenerDirector
    patience: Patience


@dataclass(frozen=True)
class _Answer:
    """A response whose headers are read: it sends the file's bytes from `start` on."""

    response: Any  # http.client.HTTPResponse, or an empty stream where all is here already
    start: int
    total: int | None  # bytes of the whole file
    validator: str | None  # a strong ETag, or the date of the last change: names this very content
    sha256: str | None  # as the Hugging Face hub announces it


class _SetbackError(Exception):
    """A try that failed and may succeed when repeated.

    `short`: the server closed the connection as if all had been sent. `unreachable`: there was no server.
    """

    def __init__(self, what: str, *, short: bool = False, unreachable: bool = False):
        super().__init__(what)
        self.short, self.unreachable = short, unreachable


def _persist(job: _Job) -> None:
    """Nothing; the file is in place. Gives up after so many fruitless tries in a row, or at once where there never was a server."""
    fruitless, part = 0, _Part()
    while True:
        before = part.size()
        try:
            return _attempt(job, part)
        except _SetbackError as setback:
            fruitless = 0 if part.size() - before >= job.patience.gain_bytes else fruitless + 1
            if fruitless >= job.patience.tries or (setback.unreachable and not part.size()):
                _give_up(job, part, setback)
            time.sleep(job.patience.wait_s * 2 ** max(fruitless - 1, 0))


def _give_up(job: _Job, part: _Part, setback: _SetbackError) -> NoReturn:
    """Raises the error that ends a download. A short body is the server's lie and leaves nothing; else the part waits for the next run."""
    have = part.size()
    if setback.short:
        part.remove()
        fix = "Nothing was kept. Try again later, or " + _place_by_hand(job.target, job.wanted.sha256)
        raise CheckpointError(f"{setback}, however often it was asked for the rest", file=job.url, fix=fix)
    kept = f"; {have / 1e6:.1f} MB are kept, the same command goes on from there" if have else ""
    raise _by_hand(f"{job.url}: {setback}{kept}", job.target, job.wanted.sha256)


def _attempt(job: _Job, part: _Part) -> None:
    """Nothing; the file is in place. Raises _SetbackError with whatever came left in `part`."""
    answer = _ask(job, part)
    try:
        head = _head(job, answer)
        if answer.start == 0 and part.take_over(job.target, _key(answer)):  # a dead process left a part of this very content
            answer.response.close()
            answer = _ask(job, part)  # for the rest
            head = _head(job, answer)
        resumed = answer.start > 0
        if answer.start != answer.total:
            _receive(job, part, answer, head)
    finally:
        answer.response.close()
    _install(job, part, answer, resumed)


def _ask(job: _Job, part: _Part) -> _Answer:
    """The server's answer; for the rest of the file where `part` is the beginning of a content that has a name."""
    have = part.size() if part.key else 0
    if have and have == part.total:
        return _Answer(io.BytesIO(), have, have, part.validator, part.sha256)
    headers = {"User-Agent": "fewvit", "Accept-Encoding": "identity"}
    if have and part.validator:
        headers |= {"Range": f"bytes={have}-", "If-Range": part.validator}
    answer = _follow(job, headers)
    if answer.start == 0:
        part.validator, part.total, part.sha256 = answer.validator, answer.total, answer.sha256
    elif (answer.start, answer.total) != (have, part.total):
        answer.response.close()
        part.remove()
        raise _SetbackError(f"asked for the bytes from {have:,} on, the server sent others")
    return answer


def _head(job: _Job, answer: _Answer) -> bytes:
    """The first bytes of the body, enough to say what it is. Raises CheckpointError for a page, and for a file of another size."""
    head = _read(answer.response, _HEAD)
    if answer.start == 0:
        while len(head) < 512 and (more := _read(answer.response, _HEAD)):
            head += more
        kind = foreign_kind(head)
        if kind is not None or (not head and not answer.total):
            fix = "Does this network ask for a login first (hotel, campus, proxy)? Nothing of it was kept."
            raise CheckpointError(f"the server sent no weights but {kind or 'nothing (0 bytes)'}", file=job.url, fix=fix)
    if answer.total is not None and job.wanted.size not in (None, answer.total):
        raise CheckpointError(f"the server has {answer.total:,} bytes, {job.wanted.size:,} were published", file=job.url)
    return head


def _receive(job: _Job, part: _Part, answer: _Answer, block: bytes) -> None:
    """Nothing; the body, which begins with `block`, is in `part` and on the disk."""
    want = answer.total if answer.total is not None else job.wanted.size
    have = answer.start
    _require_space(job, (want or 0) - have)
    try:
        with part.open(job.target, _key(answer), have) as handle:
            while block:
                handle.write(block)
                have += len(block)
                if job.progress:
                    job.progress(have, want)
                block = _read(answer.response)
            handle.flush()
            os.fsync(handle.fileno())
    except OSError as error:
        part.remove()
        raise from_os_error(error, f"downloading {job.target.name}") from error
    if want is not None and have < want:
        raise _SetbackError(f"cut: {have:,} of {want:,} bytes came", short=True)
    if want is not None and have > want:
        part.remove()
        raise _SetbackError(f"too long: {have:,} bytes came, {want:,} were announced", short=True)


def _read(response: Any, most: int = _BLOCK) -> bytes:
    """The next bytes as soon as there are some; empty at the end. Network errors become setbacks, to be told from those of the disk."""
    try:
        return bytes(response.read1(most))
    except (OSError, http.client.HTTPException) as error:
        raise _SetbackError(f"the connection broke ({_why(error)})", short=isinstance(error, http.client.IncompleteRead)) from error


def _require_space(job: _Job, needed: int) -> None:
    try:
        free = shutil.disk_usage(job.target.parent).free
    except OSError as error:
        raise from_os_error(error, "looking for free space") from error
    if needed > 0 and free < needed + _SPARE:
        what = f"disk full: {job.target.name} needs {needed / 1e6:.1f} MB more, {free / 1e6:.1f} MB are free"
        raise ResourceError(what, file=job.target.parent, fix="Free some space, or choose another folder with --cache-dir.")


def _install(job: _Job, part: _Part, answer: _Answer, resumed: bool) -> None:
    """Nothing; the part is the file. Wrong bytes are refused with both digests, or tried once more if a part was their beginning."""
    expected = job.wanted.sha256 or answer.sha256 or part.sha256
    try:
        mismatch = _mismatch(part.path_or_fail(), expected, job.wanted.md5_prefix)
        if mismatch:
            part.remove()
            if resumed:
                raise _SetbackError(f"the part and its continuation do not fit ({mismatch})")
            raise CheckpointError(
                f"the server sent other bytes than expected: {mismatch}",
                file=job.url,
                fix="Nothing was kept. " + _place_by_hand(job.target, expected),
            )
        os.replace(part.path_or_fail(), job.target)
    except FileNotFoundError as error:  # a process that took this one for dead has it
        raise _SetbackError("another process took the part over") from error
    except OSError as error:
        raise from_os_error(error, f"installing {job.target.name}") from error
    fsync_folder(job.target.parent)


def _mismatch(path: Path, sha256: str | None, md5_prefix: str | None) -> str | None:
    """Both digests where the file's is not the expected one, else None; read from the disk, whoever wrote it."""
    for algorithm, expected in (("sha256", sha256), ("md5", md5_prefix)):
        if expected is not None:
            with open(path, "rb") as handle:
                found = hashlib.file_digest(handle, lambda name=algorithm: hashlib.new(name, usedforsecurity=False)).hexdigest()  # type: ignore[misc]
            if not found.startswith(expected.lower()):
                return f"{algorithm} {found}, expected {expected.lower()}"
    return None


# --- the part of a file -----------------------------------------------------------------------------------------------------


class _Part:
    """The file that a download grows in; none at first. Its name says of which content it is the beginning, and whose it is."""

    def __init__(self) -> None:
        self.path: Path | None = None
        self.key: str | None = None
        self.validator: str | None = None  # of the content it is a part of, as are the next two
        self.total: int | None = None
        self.sha256: str | None = None

    def size(self) -> int:
        try:
            return self.path.stat().st_size if self.path else 0
        except OSError:
            return 0

    def remove(self) -> None:
        if self.path:
            with contextlib.suppress(OSError):
                self.path.unlink()
        self.path = self.key = None

    def path_or_fail(self) -> Path:
        if self.path is None:
            raise FileNotFoundError("no part")
        return self.path

    def take_over(self, target: Path, key: str | None) -> bool:
        """Whether a beginning of this content, left by a dead process of this machine, is ours now. What we had before goes."""
        self.remove()
        if key is None:
            return False
        prefix = f".{_stem(target)}.{key}."
        mine = target.with_name(f"{prefix}{_owner()}.part")
        left = [
            path
            for path in target.parent.glob(f"{_escaped(prefix)}*.part")
            if path == mine or _is_dead(path.name[len(prefix) : -len(".part")])
        ]
        for path in sorted(left, key=_size_of, reverse=True):
            with contextlib.suppress(OSError):  # another process was faster
                os.replace(path, mine)
                self.path, self.key = mine, key
                return self.size() > 0
        return False

    def open(self, target: Path, key: str | None, start: int) -> Any:
        """A handle at byte `start`. Never in append mode: two writers of one part must put the same bytes to the same places."""
        if start == 0:
            self.remove()
            self.path, self.key = target.with_name(f".{_stem(target)}.{key or 'unnamed'}.{_owner()}.part"), key
            self.path.unlink(missing_ok=True)
            return open(self.path, "xb")
        handle = open(self.path_or_fail(), "r+b")  # noqa: SIM115  the caller's with closes it
        handle.seek(start)
        return handle


def _key(answer: _Answer) -> str | None:
    """What names the content that a server sends: a hash of its ETag and size; None where the server does not tell."""
    told = answer.validator and answer.total
    return hashlib.sha256(f"{answer.validator} {answer.total}".encode()).hexdigest()[:16] if told else None


def _stem(target: Path) -> str:
    return target.name[:100]


def _escaped(text: str) -> str:
    return re.sub(r"([*?[])", r"[\1]", text)


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9-]", "_", socket.gethostname())[:60]


def _owner() -> str:
    """`<host>-<pid>`; another thread than the first adds its own number."""
    thread = threading.current_thread()
    return f"{_host()}-{os.getpid()}" + ("" if thread is threading.main_thread() else f"_{thread.native_id}")


def _is_dead(owner: str) -> bool:
    """Whether the process (or, in this process, the thread) that owns a part is gone for certain. Of other machines nothing is certain."""
    match = re.fullmatch(re.escape(_host()) + r"-(\d+)(?:_(\d+))?", owner)
    if match is None or os.name != "posix":
        return False
    pid = int(match[1])
    if pid == os.getpid():
        return match[2] is not None and int(match[2]) not in {thread.native_id for thread in threading.enumerate()}
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False  # there is one, of another user
    return False


def _sweep_parts(folder: Path) -> None:
    """Remove parts and temporary files that nobody has written to for a day."""
    now = time.time()
    sweep(folder, _DAY_S, now)
    for path in folder.glob(".*.part"):
        with contextlib.suppress(OSError):
            if now - path.stat().st_mtime > _DAY_S:
                path.unlink()


# --- HTTP -------------------------------------------------------------------------------------------------------------------


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Lets redirections come back as answers: their headers are needed, and each address is checked before it is asked."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


def _opener() -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(_NoRedirect)


def _check_url(url: str, previous: str | None = None) -> None:
    """Nothing; raises Unobtainable unless the address is https, or http on this very machine and not reached from an https one."""
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise Unobtainable(f"no address of a file ({error})", file=url) from error
    if parts.scheme == "https" and parts.hostname:
        return
    if parts.scheme != "http" or not _is_loopback(parts.hostname or ""):
        raise Unobtainable("weights come over https only", file=url)
    if previous and urlsplit(previous).scheme == "https":
        raise Unobtainable(f"{previous} redirects from https to http", file=url)


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _follow(job: _Job, headers: dict[str, str]) -> _Answer:
    """The answer at the end of the redirections; a digest announced on the way is kept. Raises _SetbackError and Unobtainable."""
    url, announced = job.url, None
    for _ in range(_REDIRECTS + 1):
        response = _open(job, url, headers)
        announced = announced or _hub_sha256(response.headers.get("X-Linked-Etag"))
        location = response.headers.get("Location") if response.status in (301, 302, 303, 307, 308) else None
        if location is None:
            return _understood(job, response, announced)
        response.close()
        url, previous = urljoin(url, location), url
        _check_url(url, previous)
    raise Unobtainable(f"more than {_REDIRECTS} redirections", file=job.url)


def _open(job: _Job, url: str, headers: dict[str, str]) -> Any:
    """The response to one request, with its headers, whatever its status."""
    try:
        return job.opener.open(urllib.request.Request(url, headers=headers), timeout=job.patience.timeout_s)
    except urllib.error.HTTPError as error:
        return error
    except (OSError, http.client.HTTPException, UnicodeError) as error:  # the last for addresses that no server should name
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(reason, (socket.gaierror, ConnectionRefusedError, ssl.SSLCertVerificationError)):
            raise _SetbackError(f"cannot be reached ({_why(reason)})", unreachable=True) from error
        raise _SetbackError(f"no answer ({_why(reason)})") from error


def _understood(job: _Job, response: Any, announced: str | None) -> _Answer:
    """What the final response's status and headers say."""
    status, headers = response.status, response.headers
    if status not in (200, 206):
        response.close()
        if status == 416:  # the part is longer than the file
            return _Answer(response, -1, None, None, announced)
        if status in (408, 429) or status >= 500:
            raise _SetbackError(f"the server answered {status}")
        raise _by_hand(
            f"{job.url}: the server answered {status} {http.client.responses.get(status, '')}".rstrip(), job.target, job.wanted.sha256
        )
    start, total = (0, _number(headers.get("Content-Length"))) if status == 200 else _content_range(headers.get("Content-Range"))
    return _Answer(response, start, total, _validator(headers), announced)


def _validator(headers: Any) -> str | None:
    """What If-Range takes: a strong ETag, or the date of the last change where there is no ETag at all."""
    etag = headers.get("ETag")
    if etag is None:
        return str(headers["Last-Modified"]) if "Last-Modified" in headers else None
    return None if etag.startswith("W/") else str(etag)


def _content_range(text: str | None) -> tuple[int, int | None]:
    """(first byte, bytes of the whole file) of a Content-Range; -1 where it cannot be read, which no request asked for."""
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", (text or "").strip())
    return (int(match[1]), _number(match[2])) if match else (-1, None)


def _number(text: str | None) -> int | None:
    return int(text) if text and re.fullmatch(r"[0-9]{1,18}", text) else None


def _hub_sha256(etag: str | None) -> str | None:
    """The sha256 that the Hugging Face hub gives as ETag of a large file; small ones have a git hash, which is None here."""
    text = (etag or "").strip().strip('"').lower()
    return text if re.fullmatch(r"[0-9a-f]{64}", text) else None


# --- words ------------------------------------------------------------------------------------------------------------------


def _accepted_licenses(store: Path) -> dict[str, str]:
    """The licences accepted before and their dates; a damaged record counts as none, so that the question comes again."""
    try:
        stored = json.loads(store.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError:
        return {}
    except OSError as error:
        raise from_os_error(error, "reading the accepted licences") from error
    return {str(name): str(day) for name, day in stored.items()} if isinstance(stored, dict) else {}


def _place_by_hand(target: Path, sha256: str | None) -> str:
    known = f" (sha256 {sha256})" if sha256 else ""
    return f"put {target.name}{known} by hand into a folder of ${_WEIGHTS_DIR} or into {printable(target.parent)}"


def _by_hand(what: str, target: Path, sha256: str | None) -> Unobtainable:
    advice = _place_by_hand(target, sha256)
    return Unobtainable(what, fix=advice[0].upper() + advice[1:])


def _why(error: object) -> str:
    return printable(str(error) or type(error).__name__)[:120]
