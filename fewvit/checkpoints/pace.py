"""A connection that ends where its server sends too little.

A time limit for each byte alone lets a byte now and then keep it for ever. The watch lies under the
answer, so headers, chunk lengths and bodies are bounded alike.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any


@dataclass(frozen=True)
class Pace:
    """What a server must send at least; all headers count as enough for one stretch."""

    bytes_per_s: int = 1024
    over_s: float = 60.0

    @property
    def enough(self) -> float:
        """Bytes that must come in each stretch of `over_s` seconds."""
        return self.bytes_per_s * self.over_s

    def __str__(self) -> str:
        return f"less than {self.bytes_per_s:,} bytes a second for {self.over_s:g} s"


class _Watch:
    """Closes a socket for both sides once its stretch of time brought too little."""

    def __init__(self, sock: socket.socket, pace: Pace):
        self._sock, self._pace = sock, pace
        self._came, self._ended = 0.0, threading.Event()
        self.fired = False

    def start(self) -> None:
        threading.Thread(target=self._run, daemon=True).start()

    def gained(self, number: float) -> None:
        self._came += number

    def stop(self) -> None:
        self._ended.set()

    def _run(self) -> None:
        before = 0.0
        while not self._ended.wait(self._pace.over_s):
            if self._came - before < self._pace.enough:
                self.fired = True
                with contextlib.suppress(OSError):
                    # of the plain socket: an SSLSocket's own takes its cipher away from under the reader
                    socket.socket.shutdown(self._sock, socket.SHUT_RDWR)
                return
            before = self._came


class _Response(http.client.HTTPResponse):
    """An answer under watch. Raises TimeoutError where it came too slowly."""

    def __init__(self, sock: socket.socket, *args: Any, pace: Pace, **options: Any):
        super().__init__(sock, *args, **options)
        self._pace, self._watch = pace, _Watch(sock, pace)

    def begin(self) -> None:
        self._watch.start()  # not before: a proxy's answer is read without it
        self._watched(super().begin)
        self._watch.gained(self._pace.enough)

    def read1(self, n: int = -1) -> bytes:
        data: bytes = self._watched(partial(super().read1, n))
        self._watch.gained(len(data))
        return data

    def close(self) -> None:
        self._watch.stop()
        super().close()

    def _watched(self, read: Callable[[], Any]) -> Any:
        try:
            found = read()
        except (OSError, http.client.HTTPException, ValueError):
            if not self._watch.fired:
                raise
            found = None
        if self._watch.fired:  # what looks like an end is none
            raise TimeoutError(str(self._pace))
        return found


def watching(pace: Pace) -> tuple[urllib.request.BaseHandler, ...]:
    """What opens http and https addresses so."""

    class Http(urllib.request.HTTPHandler):
        def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
            return self.do_open(_connecting(http.client.HTTPConnection, pace), req)

    class Https(urllib.request.HTTPSHandler):
        def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
            return self.do_open(_connecting(http.client.HTTPSConnection, pace), req)

    return Http(), Https()


def _connecting(kind: Any, pace: Pace) -> Any:
    def connection(host: str, **options: Any) -> http.client.HTTPConnection:
        made: http.client.HTTPConnection = kind(host, **options)
        made.response_class = partial(_Response, pace=pace)  # type: ignore[assignment]
        return made

    return connection
