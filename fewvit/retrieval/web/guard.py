"""Who may ask, and what a browser may do with an answer: pure ASGI, around everything else.

The threats: another site's page that talks to this server through the reader's browser (DNS rebinding: `Host`;
cross-site requests: `Origin`, `Sec-Fetch-Site`), and other people on the network (the token).
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import json
from collections.abc import Sequence
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qsl, urlencode, urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

CSP = "; ".join(
    (
        "default-src 'none'",
        "img-src 'self'",
        "style-src 'self'",
        "script-src 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
    )
)
HEADERS = [
    (b"content-security-policy", CSP.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), microphone=(), geolocation=()"),
]
_LINGER_S = 1.0
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Doors:
    """Where the server listens, and what opens it."""

    host: str = "127.0.0.1"
    names: Sequence[str] = ()  # further names that it is called by
    token: str | None = None

    @property
    def is_local(self) -> bool:
        """Whether this machine alone can reach it."""
        return is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Whether an address, or `localhost`, is this machine's own."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Guard:
    """ASGI: sets the headers of every answer, and refuses who may not ask."""

    def __init__(self, app: ASGIApp, doors: Doors):
        self._app, self._doors = app, doors
        self._hosts = {name.lower() for name in (*_LOOPBACK, doors.host, *doors.names)}
        self._cookie = hmac.new(doors.token.encode(), b"cookie", hashlib.sha256).hexdigest() if doors.token else ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer it here."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *HEADERS]
            await send(message)

        hosts = _values(scope, b"host")
        if len(hosts) != 1 or not self._is_known(hosts[0], scope):
            await refuse(scope, with_headers, 400, "this server is not called by that name (Host)")
        elif self._doors.token is not None and not self._is_let_in(scope):
            await self._at_the_door(scope, with_headers)
        elif scope["method"] not in ("GET", "HEAD") and self._is_foreign(scope, hosts[0]):
            await refuse(scope, with_headers, 403, "another site's page may not search here (Origin)")
        else:
            await self._app(scope, receive, with_headers)

    def _is_known(self, host: str, scope: Scope) -> bool:
        """Whether a Host header names this server: a name on the list, or the address that was connected to."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
            _ = urlsplit(f"//{host}").port
        except ValueError:
            return False
        if not name or "@" in host or "/" in host:
            return False
        return name in self._hosts or name == (scope.get("server") or ("", 0))[0]

    def _is_foreign(self, scope: Scope, host: str) -> bool:
        """Whether a request that changes something comes from another site's page.

        Under our referrer policy a browser sends `Origin: null` with a form of ours; then `Sec-Fetch-Site` decides, and
        where there is none (plain HTTP to another machine) the cookie, which it keeps from other sites' forms. A
        program that is no browser sends neither.
        """
        sites, origins = _values(scope, b"sec-fetch-site"), _values(scope, b"origin")
        if any(site not in ("same-origin", "none") for site in sites):
            return True
        if any(origin != "null" and _place_of(origin) != host.lower() for origin in origins):
            return True
        return "null" in origins and not sites and self._doors.token is None

    def _is_let_in(self, scope: Scope) -> bool:
        """Whether a request carries the token, in its header or as the cookie."""
        token = (self._doors.token or "").encode()
        for value in _values(scope, b"authorization"):
            kind, _, given = value.partition(" ")
            if kind.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), token):
                return True
        try:
            cookies = SimpleCookie("; ".join(_values(scope, b"cookie")))
        except CookieError:
            return False
        kept = cookies.get(_cookie_name(scope))
        return kept is not None and hmac.compare_digest(kept.value.encode(), self._cookie.encode())

    async def _at_the_door(self, scope: Scope, send: Send) -> None:
        """With the right `?token=` a cookie, and the address without it; otherwise 401."""
        pairs = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True, encoding="latin-1")
        given = [value for name, value in pairs if name == "token"]
        is_right = len(given) == 1 and hmac.compare_digest(
            given[0].encode("latin-1"), (self._doors.token or "").encode()
        )
        if scope["method"] != "GET" or not is_right:
            await refuse(
                scope,
                send,
                401,
                "this server wants its token: open the address that it printed when it started",
                [(b"www-authenticate", b"Bearer")],
            )
            return
        rest = urlencode([pair for pair in pairs if pair[0] != "token"], encoding="latin-1")
        path = scope.get("raw_path", b"/").decode("latin-1").partition("?")[0]
        place = "/" + path.lstrip("/\\") + (f"?{rest}" if rest else "")  # never `//other.site`
        cookie = f"{_cookie_name(scope)}={self._cookie}; Path=/; HttpOnly; SameSite=Lax"
        headers = [(b"location", place.encode("latin-1")), (b"set-cookie", cookie.encode()), (b"content-length", b"0")]
        await send({"type": "http.response.start", "status": 303, "headers": headers})
        await send({"type": "http.response.body", "body": b""})


def has_body(scope: Scope) -> bool:
    """Whether a request comes with a body, by its headers: HTTP knows no other way."""
    return any(name in (b"content-length", b"transfer-encoding") and value != b"0" for name, value in scope["headers"])


def _cookie_name(scope: Scope) -> str:
    """Cookies do not know ports: two servers of one machine have each its own."""
    return f"fewvit_{(scope.get('server') or ('', 0))[1]}"


def _place_of(origin: str) -> str:
    """Host and port of an origin; empty for what is none."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _values(scope: Scope, name: bytes) -> list[str]:
    return [value.decode("latin-1") for key, value in scope["headers"] if key == name]


async def refuse(
    scope: Scope,
    send: Send,
    status: int,
    reason: str,
    headers: Sequence[tuple[bytes, bytes]] = (),
) -> None:
    """Answer with a status and one line, as JSON below /api.

    Where a body may still be on its way, nothing more of it is read, and the connection is closed a while after the
    answer: at once, the reset that follows could overtake it.
    """
    linger = has_body(scope)
    is_api = scope["path"].startswith("/api/")
    data = (json.dumps({"error": reason}) if is_api else reason).encode() + b"\n"
    kind = b"application/json" if is_api else b"text/plain; charset=utf-8"
    all_headers = [(b"content-type", kind), (b"content-length", str(len(data)).encode()), *headers]
    if linger:
        all_headers.append((b"connection", b"close"))
    if status == 503:
        all_headers.append((b"retry-after", b"1"))
    await send({"type": "http.response.start", "status": status, "headers": all_headers})
    await send({"type": "http.response.body", "body": data, "more_body": linger})
    if linger:
        await asyncio.sleep(_LINGER_S)
        await send({"type": "http.response.body", "body": b""})
