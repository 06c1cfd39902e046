"""Weights found, fetched and refused, against a server on this machine that does everything a bad one does."""

import contextlib
import hashlib
import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from fewvit.checkpoints import downloads, http, partial_file
from fewvit.checkpoints.downloads import Patience, fetch
from fewvit.checkpoints.finding import find_weights, obtain
from fewvit.checkpoints.http import offline
from fewvit.errors import CheckpointError, LicenseRequired, ResourceError, Unobtainable, UsageError

ROOT = Path(__file__).resolve().parents[1]
BODY = b"\x00\x01weights" * 100_003  # 900,027 bytes
WRONG = BODY[:-1] + b"X"
SHA256 = hashlib.sha256(BODY).hexdigest()
ETAG = '"abc123"'
QUICK = Patience(tries=5, wait_s=0.001, timeout_s=5)
PAGE = b"<html><head><title>Hotel login</title></head><body>room number?</body></html>"


class Handler(BaseHTTPRequestHandler):
    """One route per fault. `server.asked` holds (route, Range) of each request, in order."""

    def log_message(self, *args):
        pass

    def do_GET(self):
        route = self.path.strip("/")
        self.server.asked.append((route, self.headers.get("Range")))
        self.server.tokens.append(self.headers.get("Authorization"))
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            getattr(self, route)(len([seen for seen in self.server.asked if seen[0] == route]))

    def answer(self, body, status=200, length=None, ranges=True, etag=ETAG, chunk=None, pause=0.0, **headers):
        start = 0
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if match and ranges and self.headers.get("If-Range") == etag:
            start, status = int(match[1]), 206
            if start >= len(body):
                return self.status(416)
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        self.send_response(status)
        if etag:
            self.send_header("ETag", etag)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        end = len(body) if length is None else min(start + length, len(body))
        for at in range(start, end, chunk or len(body)):
            self.wfile.write(body[at : min(at + (chunk or len(body)), end)])
            time.sleep(pause)

    def status(self, code, **headers):
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def good(self, visit):
        self.answer(BODY)

    def wrong(self, visit):
        self.answer(WRONG)

    def html(self, visit):
        self.answer(PAGE, Content_Type="text/html", etag=None)

    def empty(self, visit):
        self.answer(b"")

    def short(self, visit):  # a ninth each time: five tries are not enough
        self.answer(BODY, length=len(BODY) // 9)

    def stuck(self, visit):  # the same first bytes each time
        self.answer(BODY, length=1000, ranges=False)

    def halves(self, visit):
        self.answer(BODY, length=len(BODY) // 2 + 1)

    def slow(self, visit):
        self.answer(BODY, chunk=30_000, pause=0.05)

    def norange(self, visit):
        self.answer(BODY, length=None if visit > 1 else 5000, ranges=False)

    def noetag(self, visit):
        self.answer(BODY, length=None if visit > 1 else 5000, etag=None)

    def busy(self, visit):
        self.status(503) if visit < 3 else self.answer(BODY)

    def down(self, visit):
        self.status(503)

    def missing(self, visit):
        self.status(404)

    def forbidden(self, visit):
        self.status(403)

    def moved(self, visit):
        self.status(302, Location="/good")

    def elsewhere(self, visit):  # the same machine under another name
        self.status(302, Location=f"{self.server.url}/good".replace("127.0.0.1", "localhost"))

    def loop(self, visit):
        self.status(302, Location="/loop")

    def tofile(self, visit):
        self.status(302, Location="file:///etc/hostname")

    def changing(self, visit):  # the content is replaced between two requests
        self.answer(WRONG, length=7000, etag='"old"') if visit == 1 else self.answer(BODY, etag='"new"')

    def othertotal(self, visit):  # a continuation that claims another size
        if visit == 2:
            start = int(self.headers["Range"][6:-1])
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{start + 9}/{start + 10}")
            self.send_header("Content-Length", "10")
            self.end_headers()
            self.wfile.write(bytes(10))
        else:
            self.answer(BODY, length=5000 if visit == 1 else None)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request, client_address):
        pass


@pytest.fixture
def server():
    running = Server(("127.0.0.1", 0), Handler)
    running.asked, running.tokens = [], []
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    running.url = f"http://127.0.0.1:{running.server_address[1]}"
    yield running
    running.shutdown()
    thread.join()
    running.server_close()


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch):
    for name in (
        "FEWVIT_OFFLINE",
        "HF_HUB_OFFLINE",
        "FEWVIT_WEIGHTS_DIR",
        "http_proxy",
        "https_proxy",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "ALL_PROXY",
        "all_proxy",
    ):
        monkeypatch.delenv(name, raising=False)


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def get(server, route, folder, **known):
    return fetch(f"{server.url}/{route}", folder / "w.pth", patience=known.pop("patience", QUICK), **known)


# --- found


def test_weights_are_found_in_the_listed_folders_in_order_and_then_in_the_cache(tmp_path, monkeypatch):
    assert find_weights("w.pth", tmp_path) is None
    for name in ("weights", "one", "two"):
        (tmp_path / name).mkdir()
    (tmp_path / "weights" / "w.pth").write_bytes(b"c")
    assert find_weights("w.pth", tmp_path) == tmp_path / "weights" / "w.pth"
    (tmp_path / "two" / "w.pth").write_bytes(b"2")
    monkeypatch.setenv(
        "FEWVIT_WEIGHTS_DIR",
        os.pathsep.join(["", str(tmp_path / "none"), str(tmp_path / "one"), str(tmp_path / "two")]),
    )
    assert find_weights("w.pth", tmp_path) == tmp_path / "two" / "w.pth"
    (tmp_path / "one" / "w.pth").mkdir()  # a folder is no file
    assert find_weights("w.pth", tmp_path) == tmp_path / "two" / "w.pth"


def test_a_file_name_that_leads_elsewhere_is_refused(tmp_path):
    for name in ("../w.pth", "/etc/hostname", "a/b"):
        with pytest.raises(UsageError):
            find_weights(name, tmp_path)


# --- fetched


def test_a_good_file_arrives_whole_alone_and_with_its_progress(server, tmp_path):
    told = []
    target = get(
        server,
        "good",
        tmp_path / "new",
        sha256=SHA256.upper(),
        md5_prefix=hashlib.md5(BODY).hexdigest()[:6],
        expected_bytes=len(BODY),
        progress=lambda *seen: told.append(seen),
    )
    assert target.read_bytes() == BODY
    assert files(tmp_path / "new") == ["w.pth"]
    assert told[-1] == (len(BODY), len(BODY))
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert server.asked == [("good", None)]


def test_a_short_body_is_continued_where_it_ended(server, tmp_path):
    assert get(server, "halves", tmp_path).read_bytes() == BODY
    assert server.asked == [("halves", None), ("halves", f"bytes={len(BODY) // 2 + 1}-")]


@pytest.mark.parametrize("route", ["short", "stuck"])
def test_a_body_that_stays_short_is_refused_after_five_tries_and_leaves_nothing(server, tmp_path, route):
    with pytest.raises(CheckpointError, match=r"cut: [\d,]+ of 900,027 bytes") as error:
        get(server, route, tmp_path)
    assert error.value.exit_code == 4
    assert len(server.asked) == 5
    assert files(tmp_path) == []
    assert get(server, "good", tmp_path).read_bytes() == BODY


def test_tries_that_bring_much_are_not_counted(server, tmp_path):
    assert (
        get(server, "short", tmp_path, patience=Patience(tries=2, wait_s=0.001, gain_bytes=50_000)).read_bytes() == BODY
    )
    assert len(server.asked) == 9


@pytest.mark.parametrize("route", ["norange", "noetag"])
def test_without_ranges_or_a_name_for_the_content_a_second_try_starts_anew(server, tmp_path, route):
    assert get(server, route, tmp_path, sha256=SHA256).read_bytes() == BODY
    assert len(server.asked) == 2
    assert files(tmp_path) == ["w.pth"]


@pytest.mark.parametrize("route", ["changing", "othertotal"])
def test_parts_of_two_contents_are_never_joined(server, tmp_path, route):
    assert get(server, route, tmp_path).read_bytes() == BODY  # without a digest that would notice
    assert files(tmp_path) == ["w.pth"]


def test_a_busy_server_is_asked_again_and_a_dead_one_five_times(server, tmp_path):
    assert get(server, "busy", tmp_path).read_bytes() == BODY
    assert len(server.asked) == 3
    with pytest.raises(Unobtainable, match=r"503[\s\S]*FEWVIT_WEIGHTS_DIR"):
        get(server, "down", tmp_path)
    assert len(server.asked) == 3 + 5


@pytest.mark.parametrize(("route", "words"), [("missing", "404 Not Found"), ("forbidden", "403 Forbidden")])
def test_what_is_not_there_is_unobtainable_at_once(server, tmp_path, route, words):
    with pytest.raises(Unobtainable, match=words) as error:
        get(server, route, tmp_path)
    assert error.value.exit_code == 2
    assert len(server.asked) == 1


def test_a_login_page_is_refused_with_its_title_and_not_asked_for_again(server, tmp_path):
    with pytest.raises(CheckpointError, match="Hotel login"):
        get(server, "html", tmp_path, expected_bytes=len(BODY))
    assert len(server.asked) == 1
    assert files(tmp_path) == []


def test_an_empty_body_and_a_body_of_another_size_are_refused(server, tmp_path):
    with pytest.raises(CheckpointError, match="0 bytes"):
        get(server, "empty", tmp_path)
    with pytest.raises(CheckpointError, match="900,027 bytes, 900,028 were published"):
        get(server, "good", tmp_path, expected_bytes=len(BODY) + 1)
    assert files(tmp_path) == []


def test_wrong_bytes_of_the_right_size_are_refused_with_both_digests_and_the_old_file_stays(server, tmp_path):
    (tmp_path / "w.pth").write_bytes(b"old")
    with pytest.raises(CheckpointError) as error:
        get(server, "wrong", tmp_path, sha256=SHA256)
    assert SHA256 in str(error.value)
    assert hashlib.sha256(WRONG).hexdigest() in str(error.value)
    assert files(tmp_path) == ["w.pth"]
    assert (tmp_path / "w.pth").read_bytes() == b"old"
    with pytest.raises(CheckpointError, match=r"md5 [0-9a-f]{32}, expected 000000"):
        get(server, "wrong", tmp_path, md5_prefix="000000")
    assert get(server, "good", tmp_path, sha256=SHA256).read_bytes() == BODY


# --- redirections


@pytest.mark.parametrize(("route", "seen"), [("moved", ["Bearer t", "Bearer t"]), ("elsewhere", ["Bearer t", None])])
def test_a_token_goes_to_the_host_that_it_is_for_and_to_no_other(server, tmp_path, route, seen):
    assert get(server, route, tmp_path, headers={"Authorization": "Bearer t"}).read_bytes() == BODY
    assert server.tokens == seen


def test_a_loop_of_redirections_ends(server, tmp_path):
    with pytest.raises(Unobtainable, match="redirections"):
        get(server, "loop", tmp_path)
    assert len(server.asked) == 6


def test_only_https_and_this_machine_are_asked(server, tmp_path):
    for url in (
        "file:///etc/hostname",
        "ftp://localhost/x",
        "http://example.com/x",
        "http://127.0.0.1.example.com/x",
        "data:,x",
        "https:///x",
        "http://0x7f.1/x",
        "w.pth",
    ):
        with pytest.raises(Unobtainable, match="https only"):
            fetch(url, tmp_path / "w.pth")
    with pytest.raises(Unobtainable, match="https only"):
        get(server, "tofile", tmp_path)
    with pytest.raises(Unobtainable, match="from https to http"):
        http.check_url("http://localhost/x", "https://example.com/y")
    with pytest.raises(Unobtainable, match="no address"):
        fetch("http://[::1/x", tmp_path / "w.pth")
    http.check_url("http://[::1]:8000/x")
    assert files(tmp_path) == []


class Network:
    """An opener that fails with `errors` in turn, then hands over to the real one."""

    def __init__(self, *errors):
        self.errors, self.asked, self.real = list(errors), 0, http.opener()

    def open(self, request, timeout):
        self.asked += 1
        if self.errors:
            raise self.errors.pop(0)
        return self.real.open(request, timeout=timeout)


def test_no_network_is_said_at_once_and_a_timeout_is_tried_again(server, tmp_path):
    gone = Network(*[urllib.error.URLError(socket.gaierror(-2, "Name or service not known"))] * 9)
    with pytest.raises(Unobtainable, match="Name or service not known") as error:
        fetch("https://example.invalid/w.pth", tmp_path / "w.pth", sha256=SHA256, opening=gone, patience=QUICK)
    assert gone.asked == 1
    assert SHA256 in str(error.value)
    assert str(tmp_path) in str(error.value)
    late = Network(TimeoutError("timed out"), urllib.error.URLError(ConnectionResetError("reset")))
    assert fetch(f"{server.url}/good", tmp_path / "w.pth", opening=late, patience=QUICK).read_bytes() == BODY
    assert late.asked == 3


def test_a_server_that_falls_silent_in_the_middle_is_continued_and_the_part_outlives_giving_up(
    server, tmp_path, monkeypatch
):
    real, calls = http.read, []

    def silent(response, most):
        calls.append(most)
        if len(calls) % 3 == 0:
            raise http.SetbackError("the connection broke (timed out)")
        return real(response, 1000)

    monkeypatch.setattr(downloads, "read", silent)
    with pytest.raises(Unobtainable, match=r"timed out.*MB are kept"):
        get(server, "good", tmp_path)
    (part,) = files(tmp_path)
    assert re.fullmatch(rf"\.w\.pth\.[0-9a-f]{{16}}\.{re.escape(partial_file._host())}-{os.getpid()}\.part", part)
    have = (tmp_path / part).stat().st_size
    assert (tmp_path / part).read_bytes() == BODY[:have]
    monkeypatch.setattr(downloads, "read", real)
    server.asked.clear()
    assert get(server, "good", tmp_path).read_bytes() == BODY
    assert server.asked == [("good", None), ("good", f"bytes={have}-")]


# --- parts


def dead_pid():
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return done.pid


def left_part(folder, owner, content, etag=ETAG):
    key = hashlib.sha256(f"{etag} {len(BODY)}".encode()).hexdigest()[:16]
    path = folder / f".w.pth.{key}.{owner}.part"
    path.write_bytes(content)
    return path


def test_the_longest_part_of_a_dead_process_is_continued(server, tmp_path):
    left_part(tmp_path, f"{partial_file._host()}-{dead_pid()}", BODY[:1000])
    left_part(tmp_path, f"{partial_file._host()}-{dead_pid()}_77", BODY[:5000])
    assert get(server, "good", tmp_path).read_bytes() == BODY
    assert server.asked == [("good", None), ("good", "bytes=5000-")]


def test_a_part_that_was_complete_is_only_checked_and_installed(server, tmp_path):
    left_part(tmp_path, f"{partial_file._host()}-{dead_pid()}", BODY)
    assert get(server, "good", tmp_path, sha256=SHA256).read_bytes() == BODY
    assert server.asked == [("good", None)]


@pytest.mark.parametrize("content", [WRONG, b"X" * 5000, BODY + b"more"], ids=["complete", "beginning", "too long"])
def test_a_damaged_part_costs_one_more_try_and_no_error(server, tmp_path, content):
    left_part(tmp_path, f"{partial_file._host()}-{dead_pid()}", content)
    assert get(server, "good", tmp_path, sha256=SHA256).read_bytes() == BODY
    assert files(tmp_path) == ["w.pth"]


def test_parts_of_living_processes_other_machines_and_other_contents_are_left_alone(server, tmp_path):
    parent = left_part(tmp_path, f"{partial_file._host()}-{os.getppid()}", b"X" * 1000)
    far = left_part(tmp_path, f"elsewhere-{dead_pid()}", b"X" * 1000)
    other = left_part(tmp_path, f"{partial_file._host()}-{dead_pid()}", b"X" * 1000, etag='"other"')
    assert get(server, "good", tmp_path).read_bytes() == BODY
    assert files(tmp_path) == sorted(["w.pth", parent.name, far.name, other.name])
    assert server.asked == [("good", None)]


def test_parts_and_temporary_files_of_yesterday_are_swept(server, tmp_path):
    yesterday, today = left_part(tmp_path, "elsewhere-1", b"x"), left_part(tmp_path, "elsewhere-2", b"x")
    temporary = tmp_path / ".w.pth.0123.tmp"
    temporary.write_bytes(b"x")
    for path in (yesterday, temporary):
        os.utime(path, (time.time() - 90_000,) * 2)
    os.utime(today, (time.time() - 80_000,) * 2)
    get(server, "good", tmp_path)
    assert files(tmp_path) == sorted(["w.pth", today.name])


FETCHING = """
import sys
from pathlib import Path
from fewvit.checkpoints.downloads import Patience, fetch
assert "torch" not in sys.modules
fetch(sys.argv[1], Path(sys.argv[2]), sha256=sys.argv[3] or None, patience=Patience(wait_s=0.01))
"""


def fetching(url, target, sha256=SHA256):
    return subprocess.Popen(
        [sys.executable, "-c", FETCHING, url, str(target), sha256], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )


def finished(process):
    text = process.communicate(timeout=60)[1]
    assert process.returncode == 0, text


def test_a_download_killed_in_the_middle_is_continued_by_the_next_process(server, tmp_path):
    process = fetching(f"{server.url}/slow", tmp_path / "w.pth", "")
    deadline = time.monotonic() + 20
    while not any(path.stat().st_size > 100_000 for path in tmp_path.glob(".*.part")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    (part,) = tmp_path.glob(".*.part")
    have = part.stat().st_size
    assert not (tmp_path / "w.pth").exists()
    server.asked.clear()
    finished(fetching(f"{server.url}/slow", tmp_path / "w.pth", ""))
    assert (tmp_path / "w.pth").read_bytes() == BODY
    assert server.asked == [("slow", None), ("slow", f"bytes={have}-")]
    assert files(tmp_path) == ["w.pth"]


def test_three_processes_at_once_all_succeed_with_one_identical_file(server, tmp_path):
    left_part(tmp_path, f"{partial_file._host()}-{dead_pid()}", BODY[:40_000])  # all three want it, one gets it
    processes = [fetching(f"{server.url}/slow", tmp_path / "w.pth") for _ in range(3)]
    for process in processes:
        finished(process)
    assert (tmp_path / "w.pth").read_bytes() == BODY
    assert files(tmp_path) == ["w.pth"]
    assert [asked for _, asked in server.asked if asked] == ["bytes=40000-"]


def test_two_threads_of_one_process_do_not_meet(server, tmp_path):
    threads = [threading.Thread(target=get, args=(server, "slow", tmp_path)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "w.pth").read_bytes() == BODY
    assert files(tmp_path) == ["w.pth"]
    assert server.asked == [("slow", None)] * 2


def test_a_part_taken_away_while_it_grows_does_no_harm(server, tmp_path, monkeypatch):
    """What happens where two containers share a folder and a host name, but not their process numbers."""
    real_replace, taken = os.replace, []

    def stolen(source, target):
        if str(target).endswith("w.pth") and not taken:
            taken.append(source)
            os.unlink(source)
        real_replace(source, target)

    monkeypatch.setattr(os, "replace", stolen)
    assert get(server, "good", tmp_path, sha256=SHA256).read_bytes() == BODY
    assert taken


# --- disk


def test_a_disk_without_room_is_said_before_anything_is_written(server, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9 - 99, 99))
    with pytest.raises(ResourceError, match=r"disk full: w\.pth needs 0\.9 MB more") as error:
        get(server, "good", tmp_path)
    assert error.value.exit_code == 6
    assert files(tmp_path) == []


LIMITED = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, {resource.RLIM_INFINITY})); "


def test_a_disk_that_fills_up_ends_in_a_resource_error_and_the_part_is_removed(server, tmp_path):
    code = (
        LIMITED + "from fewvit.errors import ResourceError\ntry:\n    exec(sys.argv.pop(1))\nexcept ResourceError as "
        "error:\n    print(error, file=sys.stderr); sys.exit(error.exit_code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", "import sys; " + code, FETCHING, f"{server.url}/good", str(tmp_path / "w.pth"), ""],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, "disk full while downloading w.pth" in done.stderr) == (6, True), done.stderr
    assert files(tmp_path) == []


# --- offline, licences, all together


def got(cache, url="https://example.com/w.pth", **options):
    return obtain(
        "w.pth", url, **{"license": "Apache-2.0", "cache_dir": cache, "offline": False, "accept": [], **options}
    )


def test_offline_is_a_flag_or_a_truthy_variable(monkeypatch):
    assert (offline(True), offline(False)) == (True, False)
    for name in ("FEWVIT_OFFLINE", "HF_HUB_OFFLINE"):
        for value, meant in (("1", True), ("TRUE", True), ("on", True), ("0", False), ("", False), ("false", False)):
            monkeypatch.setenv(name, value)
            assert offline(False) is meant
        monkeypatch.delenv(name)


@pytest.mark.usefixtures("no_sockets")
@pytest.mark.parametrize("how", ["flag", "FEWVIT_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_opens_no_socket_and_says_in_two_lines_what_to_put_where(tmp_path, monkeypatch, how):
    if how != "flag":
        monkeypatch.setenv(how, "1")
    with pytest.raises(Unobtainable) as error:
        got(tmp_path, offline=how == "flag", sha256=SHA256, license="CC-BY-NC-4.0")
    text = str(error.value)
    assert text.count("\n") == 1
    assert all(
        words in text
        for words in ("https://example.com/w.pth", "w.pth", "$FEWVIT_WEIGHTS_DIR", str(tmp_path / "weights"), SHA256)
    )
    assert error.value.exit_code == 2
    if how != "flag":
        with pytest.raises(Unobtainable):
            fetch("https://example.com/w.pth", tmp_path / "w.pth")
    assert files(tmp_path) == []


@pytest.mark.usefixtures("no_sockets")
def test_a_file_that_is_here_needs_no_network_no_licence_and_no_question(tmp_path):
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "w.pth").write_bytes(BODY)
    assert got(tmp_path, offline=True, license="CC-BY-NC-4.0", sha256=SHA256) == tmp_path / "weights" / "w.pth"
    with pytest.raises(CheckpointError):
        got(tmp_path, offline=True, sha256="ab" * 32)


def test_non_commercial_weights_are_not_downloaded_without_consent(server, tmp_path):
    for options in ({}, {"accept": ["apache-2.0"]}, {"ask": lambda question: False}):
        with pytest.raises(LicenseRequired, match=r"non-commercial[\s\S]*--accept-license cc-by-nc-4\.0") as error:
            got(tmp_path, f"{server.url}/good", license="CC-BY-NC-4.0", **options)
        assert error.value.exit_code == 2
        assert server.asked == []
        assert files(tmp_path) == []


@pytest.mark.parametrize(
    "consent",
    [{"accept": ["CC-BY-NC-4.0"]}, {"ask": lambda question: "non-commercial" in question and "w.pth" in question}],
    ids=["flag", "answer"],
)
def test_consent_is_asked_for_once_and_kept(server, tmp_path, consent):
    assert got(tmp_path, f"{server.url}/good", license="cc-by-nc-4.0", **consent).read_bytes() == BODY
    (accepted, day), *others = json.loads((tmp_path / "licenses.json").read_text()).items()
    assert (accepted, others) == ("cc-by-nc-4.0", [])
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", day)
    (tmp_path / "weights" / "w.pth").unlink()
    assert got(tmp_path, f"{server.url}/good", license="CC-BY-NC-4.0").read_bytes() == BODY
    (tmp_path / "weights" / "w.pth").unlink()
    with pytest.raises(LicenseRequired, match="terms of its own"):
        got(tmp_path, f"{server.url}/good", license="other-1.0")


def test_a_damaged_record_of_consent_is_no_consent(server, tmp_path):
    for text in ("{", "[]", '"cc-by-nc-4.0"'):
        (tmp_path / "licenses.json").write_text(text)
        with pytest.raises(LicenseRequired):
            got(tmp_path, f"{server.url}/good", license="cc-by-nc-4.0")


def test_free_weights_are_fetched_into_the_cache_and_their_digest_is_pinned(server, tmp_path):
    assert got(tmp_path, f"{server.url}/good") == tmp_path / "weights" / "w.pth"
    assert files(tmp_path) == ["weights"]
    assert files(tmp_path / "weights") == ["w.pth", "w.pth.sha256"]
    (tmp_path / "weights" / "w.pth").write_bytes(WRONG)
    with pytest.raises(CheckpointError, match=SHA256):
        got(tmp_path, f"{server.url}/good")


def test_a_file_that_changed_at_its_source_is_refused_and_does_not_enter_the_cache(server, tmp_path):
    got(tmp_path, f"{server.url}/good")
    (tmp_path / "weights" / "w.pth").unlink()
    with pytest.raises(CheckpointError, match=SHA256):
        got(tmp_path, f"{server.url}/wrong")
    assert files(tmp_path / "weights") == ["w.pth.sha256"]


def test_downloads_never_import_torch():
    subprocess.run(
        [sys.executable, "-c", "import sys, fewvit.checkpoints.downloads; sys.exit('torch' in sys.modules)"],
        cwd=ROOT,
        check=True,
        timeout=60,
    )
