"""A Hugging Face hub on this machine.

Repositories that are open, gated, private or broken, and the other host that sends large files.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "c0ffee" + "0" * 34
TOKEN = "hf_right"  # of the account that may see everything
STRANGER = "hf_stranger"  # of one that has accepted no terms and is a member of nothing


@dataclass
class Repository:
    """What one repository has, and who may see it."""

    files: dict[str, bytes]
    access: str = "open"  # or gated, private
    # what the digest of large files is computed of, where it is not that of what is sent
    announced: bytes | None = None
    cut: int | None = None  # bytes after which the first body ends
    slow: bool = False
    dropped: int = 0  # requests that get no answer before the first that does
    busy: int = 0  # requests that are answered by 503 before the first other answer


@dataclass
class Hub:
    """The repositories by their names, and what was asked.

    (method, file or `cdn`, Range, token) of each request, in order.
    """

    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    asked: list[tuple[str, str, str | None, str | None]] = field(default_factory=list)

    def file(self, method: str) -> list[str]:
        """The files that were asked for by a method."""
        return [name for how, name, _, _ in self.asked if how == method]


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._answer()

    def _answer(self) -> None:
        hub = self.server.hub
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        match = re.fullmatch(r"/(cdn/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.path)
        assert match, self.path
        cdn, name, revision, file = match.groups()
        hub.asked.append((self.command, "cdn" if cdn else file, self.headers.get("Range"), token))
        repository = hub.repositories.get(name)
        if cdn:
            assert repository is not None
            return self._send(repository, repository.files[file], f'"{name}"')
        if token not in (None, TOKEN, STRANGER):
            return self._refuse(401, message="Invalid credentials in Authorization header")
        if repository is None or (repository.access == "private" and token != TOKEN):
            return self._refuse(404 if token else 401, "RepoNotFound", "Repository not found")
        if repository.access == "gated" and token != TOKEN:
            return self._refuse(403 if token else 401, "GatedRepo", f"Access to model {name} is restricted")
        if repository.dropped:
            repository.dropped -= 1
            self.close_connection = True
            return None
        if repository.busy:
            repository.busy -= 1
            return self._refuse(503)
        if revision not in ("main", COMMIT):
            return self._refuse(404, "RevisionNotFound")
        if file not in repository.files:
            return self._refuse(404, "EntryNotFound", "Entry not found", X_Repo_Commit=COMMIT)
        self._file(name, repository, file)

    def _file(self, name: str, repository: Repository, file: str) -> None:
        body = repository.files[file]
        if file.endswith(".json"):  # in git itself: the answer is the file
            etag = hashlib.sha1(b"blob %d\0%s" % (len(body), body)).hexdigest()
            return self._send(repository, body, f'"{etag}"', X_Repo_Commit=COMMIT)
        told = body if repository.announced is None else repository.announced
        elsewhere = self.server.hub.url.replace("127.0.0.1", "localhost")
        self._headers(
            302,
            0,
            Location=f"{elsewhere}/cdn/{name}/resolve/main/{file}",
            X_Repo_Commit=COMMIT,
            X_Linked_Etag=f'"{hashlib.sha256(told).hexdigest()}"',
            X_Linked_Size=str(len(told)),
        )

    def _send(self, repository: Repository, body: bytes, etag: str, **headers: str) -> None:
        start = 0
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if match and self.headers.get("If-Range") == etag:
            start = int(match[1])
            headers["Content_Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        self._headers(206 if start else 200, len(body) - start, ETag=etag, Connection="close", **headers)
        if self.command == "HEAD":
            return
        end, repository.cut = len(body) if repository.cut is None else repository.cut, None
        step = 30_000 if repository.slow else len(body)
        for at in range(start, end, step):
            self.wfile.write(body[at : min(at + step, end)])
            time.sleep(0.05 if repository.slow else 0)
        self.close_connection = True

    def _refuse(self, status: int, code: str = "", message: str = "", **headers: str) -> None:
        told = {"X_Error_Code": code, "X_Error_Message": message}
        self._headers(status, 0, **{name: text for name, text in told.items() if text}, **headers)

    def _headers(self, status: int, length: int, **headers: str) -> None:
        self.send_response(status)
        for name, text in headers.items():
            self.send_header(name.replace("_", "-"), text)
        self.send_header("Content-Length", str(length))
        self.end_headers()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    hub: Hub

    def handle_error(self, request: object, client_address: object) -> None:
        pass


@contextlib.contextmanager
def running_hub() -> Iterator[Hub]:
    """A hub that answers while the block runs."""
    server = _Server(("127.0.0.1", 0), _Handler)
    server.hub = Hub(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server.hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def point_to(hub: Hub, setattr_: Callable[..., None], home: str) -> None:
    """Make `huggingface_hub`, which reads its settings at import, ask this hub and keep files and token in `home`."""
    from huggingface_hub import constants

    setattr_(constants, "ENDPOINT", hub.url)
    setattr_(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    setattr_(constants, "HF_HUB_CACHE", f"{home}/hub")
    setattr_(constants, "HF_TOKEN_PATH", f"{home}/token")
