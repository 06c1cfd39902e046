"""What one request may cost, and how many are worked on at once."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .guard import has_body, refuse


@dataclass(frozen=True)
class Limits:
    """How much the server takes on."""

    body: int = 10_000_000  # bytes
    body_seconds: float = 60.0  # from a body's first byte to its last
    concurrency: int = 2  # searches at once
    queue: int = 16  # searches that wait
    pictures: int = 256  # thumbnails under way or waiting
    max_pixels: int = 50_000_000
    seconds: float = 10.0  # to decode one image


class Busy(Exception):
    """As many wait already as may."""


class Gate:
    """Lets `running` in at once and `waiting` more queue; raises Busy for the next one."""

    def __init__(self, running: int, waiting: int):
        self._turn = asyncio.Semaphore(running)
        self._room = running + waiting

    @contextlib.asynccontextmanager
    async def __call__(self) -> AsyncIterator[None]:
        """While the block runs, one of the places is taken. Raises Busy."""
        if self._room == 0:
            raise Busy
        self._room -= 1
        try:
            async with self._turn:
                yield
        finally:
            self._room += 1


class BodyLimit:
    """ASGI: reads a request's body into memory before anything else sees it, and no more of it than the limit.

    A longer one is refused (413) by its length, or where it has none as soon as it is too long; one that takes too long
    to arrive too (408), and one for which there is no room beside the others (503). Nothing goes to disk.
    """

    def __init__(self, app: ASGIApp, limits: Limits):
        self._app, self._limits = app, limits
        self._room = limits.body * (limits.concurrency + limits.queue)  # bytes of all bodies together

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with its body, or refuse it."""
        if scope["type"] != "http" or not has_body(scope):
            await self._app(scope, receive, send)
            return
        body = bytearray()
        try:
            refused = await self._read(scope, receive, body)
            if refused is None:
                await self._app(scope, _replayed(bytes(body), receive), send)
            elif refused:
                await refuse(scope, send, *refused)
        finally:
            self._room += len(body)

    async def _read(self, scope: Scope, receive: Receive, body: bytearray) -> tuple[int, str] | tuple[()] | None:
        """Read the body; None if it is whole, a status and reason if it is refused, nothing if the client has gone."""
        most = self._limits.body
        too_long = 413, f"the upload is larger than {most / 1e6:g} MB"
        lengths = [value for name, value in scope["headers"] if name == b"content-length"]
        if any(not value.isdigit() or int(value) > most for value in lengths):
            return too_long
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return ()
                    part = message.get("body", b"")
                    if len(body) + len(part) > most:
                        return too_long
                    if len(part) > self._room:
                        return 503, "too many uploads at once; try again in a moment"
                    self._room -= len(part)
                    body += part
                    if not message.get("more_body"):
                        return None
        except TimeoutError:
            return 408, f"the upload took longer than {self._limits.body_seconds:g} s"


def _replayed(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body in one piece, and after it what the server has to say."""
    left = [body]

    async def give() -> Message:
        if left:
            return {"type": "http.request", "body": left.pop(), "more_body": False}
        return await receive()

    return give
