"""Downloads from servers that mean no good end: soon, in two lines, with the right code, with nothing half there.

The server speaks by the raw socket: each fault is the bytes that it sends.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from fewvit.checkpoints import downloads, http
from fewvit.checkpoints.downloads import Patience, fetch
from fewvit.checkpoints.huggingface import HubFile, fetch_from_hub
from fewvit.checkpoints.pace import Pace
from fewvit.errors import CheckpointError, FewvitError, Unobtainable

from fake_hub import Hub, point_to

BODY = b"\x00\x01weights" * 1009  # 9081 bytes
OTHER = b"\x00\x02WEIGHTS" * 1009
SHA256 = hashlib.sha256(BODY).hexdigest()
OK = b"HTTP/1.1 200 OK\r\n"
QUICK = Patience(tries=3, wait_s=0.001, timeout_s=5, pace=Pace(bytes_per_s=1000, over_s=0.3))

Say = Callable[[bytes], None]
Script = Callable[[Say, "Asked"], None]


@dataclass(frozen=True)
class Asked:
    """One request: which in a row it is, from 1, and where it wants the body to begin."""

    visit: int
    start: int | None


@dataclass
class Server:
    """What answers, and what was asked."""

    script: Script
    url: str = ""
    asked: list[Asked] = field(default_factory=list)


@pytest.fixture
def serve() -> Iterator[Callable[[Script], Server]]:
    """Begins a server on this machine that answers by a script."""
    listening = socket.create_server(("127.0.0.1", 0))
    ended = threading.Event()
    server = Server(lambda say, asked: None, f"http://127.0.0.1:{listening.getsockname()[1]}")

    def answer(connection: socket.socket) -> None:
        def say(data: bytes) -> None:
            if ended.is_set():
                raise OSError
            connection.sendall(data)

        with contextlib.suppress(OSError), connection:
            request = b""
            while b"\r\n\r\n" not in request:
                request += connection.recv(65536)
            found = re.search(rb"Range: bytes=(\d+)-", request)
            asked = Asked(len(server.asked) + 1, int(found[1]) if found else None)
            server.asked.append(asked)
            server.script(say, asked)

    def run() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=answer, args=(listening.accept()[0],), daemon=True).start()

    threading.Thread(target=run, daemon=True).start()

    def begin(script: Script) -> Server:
        server.script = script
        return server

    yield begin
    ended.set()
    with contextlib.suppress(OSError):
        listening.shutdown(socket.SHUT_RDWR)
    listening.close()


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    for name in ("FEWVIT_OFFLINE", "HF_HUB_OFFLINE", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def headers(length: int, etag: str = '"one"') -> bytes:
    return f"Content-Length: {length}\r\nETag: {etag}\r\nConnection: close\r\n\r\n".encode()


def partial(start: int, end: int, total: object, etag: str = '"one"') -> bytes:
    """The head of an answer that says that it sends the bytes from `start` to `end`."""
    head = f"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {start}-{end}/{total}\r\n"
    return head.encode() + headers(end - start + 1, etag)


def first_half(say: Say) -> None:
    say(OK + headers(len(BODY)) + BODY[:5000])


def whole(say: Say) -> None:
    say(OK + headers(len(BODY)) + BODY)


def drip(say: Say, data: bytes = b"x") -> None:
    while True:
        say(data)
        time.sleep(0.02)


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def ended(server: Server, folder: Path, **known: object) -> FewvitError:
    """The error that a download ends with: one or two lines, in bounded time; nothing or one part is left."""
    began = time.monotonic()
    with pytest.raises(FewvitError) as caught:
        fetch(f"{server.url}/w", folder / "w.pth", patience=QUICK, **known)
    assert time.monotonic() - began < 20  # of 3 tries of 0.3 s; without a limit it is for ever
    assert len(str(caught.value).splitlines()) <= 2
    assert all(re.fullmatch(r"\.w\.pth\.[0-9a-f]{16}\..*\.part", name) for name in left(folder))
    return caught.value


# ---- too slow


SLOW = {
    "a body": lambda say: (say(OK + headers(10**6)), drip(say)),
    "a body that is not for the eye": lambda say: (say(OK + headers(10**6) + BODY), drip(say)),
    "a body without a length": lambda say: (say(OK + b"Connection: close\r\n\r\n" + BODY), drip(say)),
    "headers": lambda say: (say(OK + b"X: "), drip(say)),
    "a first line": lambda say: drip(say),
    "an answer before the answer": lambda say: drip(say, b"HTTP/1.1 100 Continue\r\n\r\n"),
    "the length of a chunk": lambda say: (say(OK + b"Transfer-Encoding: chunked\r\n\r\n5;"), drip(say)),
    "chunks of one byte": lambda say: (say(OK + b"Transfer-Encoding: chunked\r\n\r\n"), drip(say, b"1\r\nx\r\n")),
}


@pytest.mark.parametrize("case", SLOW)
def test_what_comes_byte_by_byte_ends(case, serve, tmp_path):
    server = serve(lambda say, asked: SLOW[case](say))
    error = ended(server, tmp_path)
    assert isinstance(error, Unobtainable)
    assert error.exit_code == 2
    assert "less than 1,000 bytes a second for 0.3 s" in str(error)
    assert len(server.asked) == 3


def test_what_a_slow_server_sent_is_kept_and_continued(serve, tmp_path):
    def slow(say, asked):
        if asked.start is None:
            say(OK + headers(len(BODY)) + BODY[:5000])
        else:
            say(partial(asked.start, len(BODY) - 1, len(BODY)))
        drip(say, b"")

    error = ended(serve(slow), tmp_path)
    assert "are kept, the same command goes on from there" in str(error)
    (part,) = left(tmp_path)
    assert (tmp_path / part).read_bytes() == BODY[:5000]
    server = serve(
        lambda say, asked: say(partial(5000, len(BODY) - 1, len(BODY)) + BODY[5000:]) if asked.start else whole(say)
    )
    assert fetch(f"{server.url}/w", tmp_path / "w.pth", patience=QUICK).read_bytes() == BODY
    assert server.asked[-1].start == 5000
    assert left(tmp_path) == ["w.pth"]


def test_a_server_that_is_slow_at_the_pace_allowed_is_waited_for(serve, tmp_path):
    def steady(say, asked):
        say(OK + headers(len(BODY)))
        for at in range(0, len(BODY), 500):
            say(BODY[at : at + 500])
            time.sleep(0.05)  # 10,000 bytes a second

    server = serve(steady)
    assert fetch(f"{server.url}/w", tmp_path / "w.pth", patience=QUICK).read_bytes() == BODY
    assert len(server.asked) == 1


def test_a_hub_whose_headers_come_byte_by_byte_ends(serve, tmp_path, monkeypatch):
    server = serve(lambda say, asked: (say(OK + b"X: "), drip(say)))
    point_to(Hub(url=server.url), monkeypatch.setattr, str(tmp_path / "hf"))
    with pytest.raises(Unobtainable, match=r"no answer within 0\.3 s"):
        fetch_from_hub(HubFile("open/model", "model.safetensors"), tmp_path / "w.safetensors", patience=QUICK)


# ---- ranges


NOT_SATISFIABLE = b"HTTP/1.1 416 Range Not Satisfiable\r\nContent-Length: 0\r\n"
RANGES = {
    "416 without a size": NOT_SATISFIABLE + b"\r\n",
    "416 with the size": NOT_SATISFIABLE + b"Content-Range: bytes */9081\r\n\r\n",
    "416 with another size": NOT_SATISFIABLE + b"Content-Range: bytes */7\r\n\r\n",
    "a range that begins earlier": partial(4000, len(BODY) - 1, len(BODY)) + BODY[4000:],
    "a range that begins later": partial(6000, len(BODY) - 1, len(BODY)) + BODY[6000:],
    "a range of another size": partial(5000, 9999, 10000) + bytes(5000),
    "a range of an unknown size": partial(5000, len(BODY) - 1, "*") + BODY[5000:],
    "a range of another content": partial(5000, len(BODY) - 1, len(BODY), '"two"') + OTHER[5000:],
    "no range that can be read": b"HTTP/1.1 206 Partial Content\r\nContent-Range: five\r\n" + headers(9) + bytes(9),
}


@pytest.mark.parametrize("case", RANGES)
def test_a_wrong_answer_to_a_range_is_thrown_away_and_all_is_asked_for_anew(case, serve, tmp_path):
    script = {1: first_half, 2: lambda say: say(RANGES[case]), 3: whole}
    server = serve(lambda say, asked: script[asked.visit](say))
    assert fetch(f"{server.url}/w", tmp_path / "w.pth", patience=QUICK).read_bytes() == BODY  # without a digest
    assert [asked.start for asked in server.asked] == [None, 5000, None]
    assert left(tmp_path) == ["w.pth"]


@pytest.mark.parametrize("case", RANGES)
def test_a_server_that_answers_ranges_wrongly_for_ever_ends(case, serve, tmp_path):
    server = serve(lambda say, asked: say(RANGES[case]) if asked.start else first_half(say))
    ended(server, tmp_path)
    assert len(server.asked) <= 6


def test_contents_that_take_turns_end(serve, tmp_path):
    """Each is larger than the one before last, and never whole: none of them is progress."""

    def turns(say, asked):
        size = 3000 if asked.visit % 2 else 6000
        say(OK + headers(len(BODY), f'"{asked.visit}"') + BODY[:size])

    server = serve(turns)
    patience = Patience(tries=3, wait_s=0.001, gain_bytes=2000, pace=QUICK.pace)
    with pytest.raises(CheckpointError, match="cut: "):
        fetch(f"{server.url}/w", tmp_path / "w.pth", patience=patience)
    assert len(server.asked) <= 6
    assert left(tmp_path) == []


# ---- bodies without a length


CLOSED = OK + b"Connection: close\r\n\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


def chunked(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def test_a_body_without_a_length_that_is_cut_is_not_taken_where_a_digest_is_known(serve, tmp_path):
    server = serve(lambda say, asked: say(CLOSED + BODY[:5000]))
    error = ended(server, tmp_path, sha256=SHA256)
    assert isinstance(error, CheckpointError)
    assert "no length was announced" in str(error)
    assert SHA256 in str(error)
    assert len(server.asked) == 3
    assert left(tmp_path) == []
    server = serve(lambda say, asked: say(CLOSED + (BODY[:5000] if asked.visit < 5 else BODY)))
    assert fetch(f"{server.url}/w", tmp_path / "w.pth", sha256=SHA256, patience=QUICK).read_bytes() == BODY


def test_a_body_without_a_length_is_not_taken_where_another_size_is_known(serve, tmp_path):
    server = serve(lambda say, asked: say(CLOSED + BODY[:5000]))
    assert "cut: 5,000 of 9,081 bytes" in str(ended(server, tmp_path, expected_bytes=len(BODY)))
    assert left(tmp_path) == []


def test_a_body_without_length_and_digest_is_told(serve, tmp_path):
    told: list[str] = []
    server = serve(lambda say, asked: say(CLOSED + BODY))
    assert fetch(f"{server.url}/w", tmp_path / "w.pth", notify=told.append, patience=QUICK).read_bytes() == BODY
    assert len(told) == 1
    assert "nothing shows that these 9,081 bytes are the whole file" in told[0]


@pytest.mark.parametrize(
    "known", [{"sha256": SHA256}, {"expected_bytes": len(BODY)}, {}], ids=["digest", "size", "chunks"]
)
def test_nothing_is_told_where_something_shows_that_the_file_is_whole(known, serve, tmp_path):
    told: list[str] = []
    server = serve(lambda say, asked: say((CLOSED + BODY) if known else CHUNKED + chunked(BODY) + b"0\r\n\r\n"))
    fetch(f"{server.url}/w", tmp_path / "w.pth", notify=told.append, patience=QUICK, **known)
    assert told == []


def test_chunks_that_end_before_the_last_one_are_not_taken(serve, tmp_path):
    server = serve(lambda say, asked: say(CHUNKED + chunked(BODY[:5000])))
    assert isinstance(ended(server, tmp_path), CheckpointError)
    assert left(tmp_path) == []


@pytest.mark.parametrize("known", [{}, {"expected_bytes": len(BODY)}], ids=["nothing known", "size known"])
def test_a_body_without_an_end_ends(known, serve, tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, "_MOST", 1 << 20)

    def endless(say, asked):
        say(CLOSED)
        while True:
            say(BODY)

    error = ended(serve(endless), tmp_path, **known)
    assert "too long: " in str(error)
    assert error.exit_code == 4
    assert left(tmp_path) == []


# ---- redirections


LOCATIONS = {
    "no Location": (b"", "the server answered 302"),
    "an empty one": (b"Location: \r\n", "more than 5 redirections"),
    "a file": (b"Location: file:///etc/passwd\r\n", "https only"),
    "FTP": (b"Location: ftp://127.0.0.1/x\r\n", "https only"),
    "data": (b"Location: data:text/plain,hi\r\n", "https only"),
    "http elsewhere": (b"Location: http://example.com/x\r\n", "https only"),
    "half an address": (b"Location: http://[::1/x\r\n", "no address"),
    "a port that is none": (b"Location: http://127.0.0.1:99999/x\r\n", "no address"),
    "a port of letters": (b"Location: http://127.0.0.1:x/x\r\n", "no address"),
    "blanks": (b"Location: /a b\r\n", "no address"),
    "letters of no address": ("Location: /é\r\n".encode(), "no address"),
    "itself": (b"Location: /w\r\n", "more than 5 redirections"),
}


@pytest.mark.parametrize("case", LOCATIONS)
def test_a_bad_location_ends_at_once(case, serve, tmp_path):
    location, words = LOCATIONS[case]
    server = serve(lambda say, asked: say(b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n" + location + b"\r\n"))
    error = ended(server, tmp_path)
    assert isinstance(error, Unobtainable)
    assert words in str(error)
    assert len(server.asked) <= 6
    assert left(tmp_path) == []


@pytest.mark.parametrize(
    "host", ["10.0.0.1", "192.168.1.9", "169.254.169.254", "127.0.0.1", "localhost", "[::1]", "[fd00::1]"]
)
def test_a_public_address_leads_into_no_private_network(host):
    with pytest.raises(Unobtainable, match="private network"):
        http.check_url(f"https://{host}/x", "https://example.com/w.pth")
    http.check_url(f"https://{host}/x", f"https://{host}/w.pth")
    http.check_url(f"https://{host}/x")
    http.check_url("https://example.com/x", f"https://{host}/w.pth")


# ---- nonsense


NONSENSE = {
    "nothing": b"",
    "no HTTP": b"220 mail.example.com ESMTP\r\n",
    "a status that is no number": b"HTTP/1.1 ok ok\r\n\r\n",
    "a thousand headers": OK + b"".join(b"X-%d: y\r\n" % i for i in range(1000)) + b"\r\n" + BODY,
    "a header without an end": OK + b"X: " + b"y" * 100_000,
    "no content": b"HTTP/1.1 204 No Content\r\n\r\n",
    "a negative length": OK + b"Content-Length: -5\r\nConnection: close\r\n\r\n",
    "a chunk of letters": CHUNKED + b"xyz\r\n" + BODY,
    "a negative chunk": CHUNKED + b"-5\r\n" + BODY,
    "a chunk that is longer than what comes": CHUNKED + b"fffffffffff\r\n" + BODY,
    "a length beyond what comes": OK + headers(10**15) + BODY,
    "a length of hundreds of digits": OK + b"Content-Length: " + b"9" * 400 + b"\r\nConnection: close\r\n\r\n",
}


@pytest.mark.parametrize("case", NONSENSE)
def test_nonsense_ends(case, serve, tmp_path):
    server = serve(lambda say, asked: say(NONSENSE[case]))
    error = ended(server, tmp_path)
    assert error.exit_code in (2, 4, 6)
    assert len(server.asked) <= 3
    assert left(tmp_path) == []
