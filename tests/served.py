"""A search page that runs on a loopback port, and a client that says exactly what it is told to."""

from __future__ import annotations

import contextlib
import functools
import http.client
import json
import re
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fewvit.models.spec import Access
from fewvit.retrieval.web.app import Service
from fewvit.retrieval.web.guard import Doors
from fewvit.retrieval.web.limits import Limits
from fewvit.retrieval.web.loaded import Serving
from fewvit.retrieval.web.server import Place, Server, encoder_of, listening
from fewvit.retrieval.web.workers import Decoders, DecodingLimits


@dataclass(frozen=True)
class Reply:
    """An answer, wholly read."""

    status: int
    headers: Mapping[str, str]  # lower-case names
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Page:
    """A running server."""

    port: int
    service: Service
    told: list[str]  # what it had to say

    def get(self, path: str, method: str = "GET", body: bytes | None = None, **headers: str) -> Reply:
        """One request; a header `Host` replaces the right one, and underscores in names are dashes."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.putrequest(method, path, skip_host="Host" in named, skip_accept_encoding=True)
            if body is not None:
                connection.putheader("Content-Length", str(len(body)))
            for name, value in named.items():
                connection.putheader(name, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            return Reply(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())

    def post(self, path: str, parts: Sequence[tuple[str, str | None, bytes]], **headers: str) -> Reply:
        """A form of parts: field, file name or None, content."""
        kind, body = multipart(parts)
        return self.get(path, "POST", body, Content_Type=kind, **headers)

    def search(self, query: str) -> Any:
        """What /api/search answers; it must answer."""
        reply = self.get(f"/api/search?{query}")
        assert reply.status == 200, reply.text
        return reply.json


def multipart(parts: Sequence[tuple[str, str | None, bytes]]) -> tuple[str, bytes]:
    """Content type and body of a form."""
    body = bytearray()
    for field, file, content in parts:
        named = f'; filename="{file}"' if file is not None else ""
        body += f'--LINE\r\nContent-Disposition: form-data; name="{field}"{named}\r\n\r\n'.encode() + content + b"\r\n"
    return "multipart/form-data; boundary=LINE", bytes(body + b"--LINE--\r\n")


@contextlib.contextmanager
def serving(
    index: Path, limits: Limits | None = None, doors: Doors | None = None, make_encoder: Any = None
) -> Iterator[Page]:
    """Serve an index, as `fewvit index serve` does, in a thread."""
    from fewvit.extraction.cache import default_cache_dir

    limits, doors, told = limits or Limits(), doors or Doors(), []
    make = make_encoder or encoder_of(Access(default_cache_dir(), offline=True), None, "cpu", told.append)
    with contextlib.closing(listening(Place(doors, 0))) as opened:
        decoders = _decoders(DecodingLimits(limits.max_pixels, limits.seconds))
        service = Service(Serving(index, make, told.append), decoders, limits, told.append)
        is_ready = threading.Event()
        server = Server(service, doors, is_ready.set)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [opened]})
        thread.start()
        try:
            assert is_ready.wait(60)
            yield Page(opened.getsockname()[1], service, told)
        finally:
            server.should_exit = True
            thread.join(30)


class _Lasting(Decoders):
    """Workers that one server after another uses: each takes seconds to start. They end with this process."""

    def close(self) -> None:
        """Nothing: the next server needs them."""


@functools.cache
def _decoders(limits: DecodingLimits) -> Decoders:
    return _Lasting(limits)


def raw(port: int, head: bytes, body: Iterator[bytes] | Sequence[bytes] = ()) -> tuple[bytes, int]:
    """What a server answers to bytes that are sent until it answers, and how many of the body were sent."""
    sent = 0
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(head)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 14)
        for part in body:
            if _has_answer(connection):
                break
            try:
                connection.sendall(part)
            except OSError:
                break
            sent += len(part)
        answer = b""
        while not _is_whole(answer):
            part = connection.recv(1 << 16)
            if not part:
                break
            answer += part
    return answer, sent


def _has_answer(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return bool(connection.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return False
    finally:
        connection.settimeout(20)


def _is_whole(answer: bytes) -> bool:
    head, end, body = answer.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: (\d+)", head)
    return bool(end) and length is not None and len(body) >= int(length[1])
