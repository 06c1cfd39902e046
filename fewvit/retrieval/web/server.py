"""Starting it: the socket, the model, uvicorn."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from ...errors import UsageError
from ...models.spec import Access
from ...sources import Notify
from ..opened import OpenIndex
from ..queries import reader_of, required_pipeline
from .app import Service, create_app
from .encoder import Encoder
from .guard import Doors, is_loopback
from .limits import Limits
from .loaded import Serving
from .workers import Decoders, DecodingLimits

_PATIENCE_S = 30.0  # for the head of a first request
_BUFFER = 1 << 16  # bytes that the system holds of an upload before it is read
_LEAST_TOKEN = 16  # characters


@dataclass(frozen=True)
class Place:
    """Where it is served."""

    doors: Doors
    port: int = 8000  # 0: any free one


class _Impatient(H11Protocol):
    """Closes a connection that says nothing; one that has asked before is uvicorn's to close."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.loop.call_later(_PATIENCE_S, self._close_unless_asked)

    def _close_unless_asked(self) -> None:
        if self.cycle is None:
            self.transport.close()


def require_safe(doors: Doors) -> None:
    """Raise UsageError for an address that others reach without a token, or with one that is soon guessed."""
    if doors.token is None and not is_loopback(doors.host):
        raise UsageError(
            f"--host {doors.host} lets other machines in, and nothing asks who they are",
            fix="Give --token auto, which makes one and prints the address with it, or a --token of your own.",
        )
    if doors.token is not None and (len(doors.token) < _LEAST_TOKEN or not doors.token.isascii()):
        raise UsageError(f"--token has {len(doors.token)} characters; give at least {_LEAST_TOKEN}, ASCII, or `auto`")


def listening(place: Place) -> socket.socket:
    """A socket that listens where it was asked for. Raises UsageError where it cannot."""
    host = place.doors.host
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, place.port, type=socket.SOCK_STREAM)[0]
        # with the protocol named, asyncio turns Nagle's delay off; else an answer of two packets takes 40 ms more
        opened = socket.socket(family, kind, protocol)
    except OSError as error:
        raise UsageError(f"--host {host}: {error.strerror or error}") from error
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        opened.bind(address)
        opened.listen(128)
    except OSError as error:
        opened.close()
        raise UsageError(
            f"port {place.port} of {host}: {(error.strerror or str(error)).lower()}",
            fix="Give another --port; 0 takes any that is free.",
        ) from error
    return opened


def address_of(opened: socket.socket, doors: Doors) -> str:
    """Where a browser finds it; with the token, if there is one."""
    host, port = opened.getsockname()[:2]
    if ipaddress.ip_address(host).is_unspecified:
        host = socket.gethostname()
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}/" + (f"?token={doors.token}" if doors.token else "")


def encoder_of(
    access: Access, weights: str | None, device: str, notify: Notify
) -> Callable[[OpenIndex], Encoder | None]:
    """What loads an index's own backbone; it gives None for an index of features."""

    def make(index: OpenIndex) -> Encoder | None:
        reader = reader_of(index, access, weights, device, notify)
        return None if reader is None else Encoder(required_pipeline(index, reader))

    return make


def serve(
    index: Path,
    place: Place,
    limits: Limits,
    make_encoder: Callable[[OpenIndex], Encoder | None],
    notify: Notify,
    ready: Callable[[str, Serving], None],
) -> None:
    """Serve an index until the process is told to stop. `ready` gets the address once requests are answered.

    Raises UsageError for an unsafe address or a port that is taken, and as `OpenIndex.open`.
    """
    require_safe(place.doors)
    opened = listening(place)
    try:
        serving = Serving(index, make_encoder, notify)
        decoders = Decoders(DecodingLimits(limits.max_pixels, limits.seconds))
        service = Service(serving, decoders, limits, notify)
        server = Server(service, place.doors, lambda: ready(address_of(opened, place.doors), serving))
        server.run(sockets=[opened])
    finally:
        opened.close()


class Server(uvicorn.Server):
    """uvicorn's, which says when it is ready."""

    def __init__(self, service: Service, doors: Doors, ready: Callable[[], None]):
        super().__init__(configured(service, doors))
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to answer, and say so."""
        await super().startup(sockets)
        self._ready()


def configured(service: Service, doors: Doors) -> uvicorn.Config:
    """uvicorn with one HTTP parser, no WebSockets, no headers about itself, and no log but of errors."""
    doors = Doors(doors.host, (*doors.names, socket.gethostname()) if not doors.is_local else doors.names, doors.token)
    return uvicorn.Config(
        create_app(service, doors),
        http=_Impatient,
        ws="none",
        loop="asyncio",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=3,
    )
