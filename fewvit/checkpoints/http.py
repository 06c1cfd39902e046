"""One request for a file: which addresses may be asked, where redirections lead, and what the answer means."""

from __future__ import annotations

import hashlib
import http.client
import ipaddress
import os
import re
import socket
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from email.message import Message
from typing import Protocol, cast
from urllib.parse import SplitResult, urljoin, urlsplit

from ..errors import Unobtainable, printable
from .pace import Pace, watching

_REDIRECTS = 5


class Body(Protocol):
    """What is read of a response."""

    def read1(self, size: int = -1, /) -> bytes:
        """At most `size` bytes, as soon as there are some; empty at the end."""

    def close(self) -> None:
        """Let go of the connection."""


class _Response(Body, Protocol):
    """A response with its headers, an error's too."""

    status: int
    headers: Message


@dataclass(frozen=True)
class Answer:
    """A response whose headers are read: it sends the file's bytes from `start` on."""

    response: Body  # of http.client, or an empty stream where all is here already
    start: int
    total: int | None  # bytes of the whole file
    validator: str | None  # a strong ETag, or the date of the last change: names this very content
    # whether the end of the body shows that it was the end: by its length, or by chunks of which the last is empty
    ends_visibly: bool = True

    @property
    def key(self) -> str | None:
        """What names the content that a server sends: a hash of its ETag and size; None where one is missing."""
        known = self.validator and self.total
        return hashlib.sha256(f"{self.validator} {self.total}".encode()).hexdigest()[:16] if known else None


class SetbackError(Exception):
    """A try that failed and may succeed when repeated.

    `short`: the server closed the connection as if all had been sent. `unreachable`: there was no server.
    """

    def __init__(self, what: str, *, short: bool = False, unreachable: bool = False):
        super().__init__(what)
        self.short, self.unreachable = short, unreachable


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Lets redirections come back as answers: each address is checked first, and a token stays with its host."""

    def http_error_302(self, *args: object, **kwargs: object) -> None:
        return None

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


def offline(flag: bool) -> bool:
    """Whether no socket may be opened: `flag`, or FEWVIT_OFFLINE or HF_HUB_OFFLINE is 1, true, yes or on."""
    names = ("FEWVIT_OFFLINE", "HF_HUB_OFFLINE")
    return flag or any(os.environ.get(name, "").strip().lower() in ("1", "true", "yes", "on") for name in names)


def opener(pace: Pace | None = None) -> urllib.request.OpenerDirector:
    """What opens addresses: by way of the proxies that the environment names, following no redirection, under watch."""
    return urllib.request.build_opener(_NoRedirect, *watching(pace or Pace()))


def check_url(url: str, previous: str | None = None) -> None:
    """Raise Unobtainable unless the address is https, or http on this machine and not reached from an https one.

    A redirection (from `previous`) leads to no address of a private network unless it comes from one.
    """
    parts = _parts(url)
    if parts.scheme == "https" and parts.hostname:
        if previous and _is_private(parts.hostname) and not _is_private(_parts(previous).hostname or ""):
            raise Unobtainable(f"{printable(previous)} redirects into a private network", file=url)
        return
    if parts.scheme != "http" or not _is_loopback(parts.hostname or ""):
        raise Unobtainable("weights come over https only", file=url)
    if previous and urlsplit(previous).scheme == "https":
        raise Unobtainable(f"{previous} redirects from https to http", file=url)


def _parts(url: str) -> SplitResult:
    """The parts of an address. Raises Unobtainable for what is none."""
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018  raises for a port that is none
    except ValueError as error:
        raise Unobtainable(f"no address of a file ({error})", file=url) from error
    if re.search(r"[^!-~]", url):
        raise Unobtainable("no address of a file (a character that addresses do not have)", file=url)
    return parts


def _is_private(host: str) -> bool:
    """Whether a host is written as an address of this machine or of a network that is closed to others."""
    try:
        return host == "localhost" or not ipaddress.ip_address(host).is_global
    except ValueError:
        return False


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def ask(url: str, headers: Mapping[str, str], opening: urllib.request.OpenerDirector, timeout_s: float) -> Answer:
    """The answer at the end of the redirections.

    Raises SetbackError, and Unobtainable where asking again would not help. An `Authorization` among the headers is for
    the first host alone.
    """
    here = url
    for _ in range(_REDIRECTS + 1):
        response = _open(here, headers, opening, timeout_s)
        location = response.headers.get("Location") if response.status in (301, 302, 303, 307, 308) else None
        if location is None:
            return _understood(url, response)
        response.close()
        here, previous = _joined(here, location), here
        check_url(here, previous)
        if urlsplit(here)[:2] != urlsplit(previous)[:2]:
            headers = {name: value for name, value in headers.items() if name.lower() != "authorization"}
    raise Unobtainable(f"more than {_REDIRECTS} redirections", file=url)


def _joined(here: str, location: str) -> str:
    """Where a redirection leads. Raises Unobtainable for what is no address."""
    try:
        return urljoin(here, location)
    except ValueError as error:
        raise Unobtainable(f"redirects to no address of a file ({error})", file=here) from error


def _open(url: str, headers: Mapping[str, str], opening: urllib.request.OpenerDirector, timeout_s: float) -> _Response:
    """The response to one request, with its headers, whatever its status."""
    try:
        return cast(_Response, opening.open(urllib.request.Request(url, headers=dict(headers)), timeout=timeout_s))
    except urllib.error.HTTPError as error:
        return cast(_Response, error)
    except (OSError, http.client.HTTPException, ValueError) as error:  # the last: odd addresses
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(reason, (socket.gaierror, ConnectionRefusedError, ssl.SSLCertVerificationError)):
            raise SetbackError(f"cannot be reached ({why(reason)})", unreachable=True) from error
        raise SetbackError(f"no answer ({why(reason)})") from error


def _understood(url: str, response: _Response) -> Answer:
    """What the final response's status and headers say."""
    status, headers = response.status, response.headers
    if status not in (200, 206):
        response.close()
        if status == 416:  # the part is longer than the file
            return Answer(response, -1, None, None)
        if status in (408, 429) or status >= 500:
            raise SetbackError(f"the server answered {status}")
        raise Unobtainable(f"the server answered {status} {http.client.responses.get(status, '')}".rstrip(), file=url)
    start, total = (
        (0, _number(headers.get("Content-Length"))) if status == 200 else _content_range(headers.get("Content-Range"))
    )
    chunked = headers.get("Transfer-Encoding", "").strip().lower() == "chunked"
    return Answer(response, start, total, _validator(headers), total is not None or chunked)


def _validator(headers: Message) -> str | None:
    """What If-Range takes: a strong ETag, or the date of the last change where there is no ETag at all."""
    etag = headers.get("ETag")
    if etag is None:
        return str(headers["Last-Modified"]) if "Last-Modified" in headers else None
    return None if etag.startswith("W/") else str(etag)


def _content_range(text: str | None) -> tuple[int, int | None]:
    """(first byte, bytes of the whole file) of a Content-Range; -1, which no request asks for, if it cannot be read."""
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", (text or "").strip())
    return (int(match[1]), _number(match[2])) if match else (-1, None)


def _number(text: str | None) -> int | None:
    return int(text) if text and re.fullmatch(r"[0-9]{1,18}", text) else None


def read(response: Body, most: int) -> bytes:
    """The next bytes as soon as there are some; empty at the end.

    Raises SetbackError for network errors, so that they are not taken for those of the disk.
    """
    try:
        return bytes(response.read1(most))
    except (OSError, http.client.HTTPException) as error:
        short = isinstance(error, http.client.IncompleteRead)
        raise SetbackError(f"the connection broke ({why(error)})", short=short) from error


def why(error: object) -> str:
    """An error in a few words for a message."""
    return printable(str(error) or type(error).__name__)[:120]
