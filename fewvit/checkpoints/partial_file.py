"""The file that a download grows in: its owner, the content that it is the beginning of, and who may continue it.

It is called `.<name>.<what the server sends>.<host>-<pid>.part`. One whose process is dead is taken over by a rename.
No lock is needed for that: writers of one part write the same bytes to the same places, and size and digest are checked
on the disk before the last rename.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import threading
import time
from pathlib import Path
from typing import BinaryIO

from ..files import sweep

_DAY_S = 86400.0


class PartialFile:
    """The beginning of a file that is to be `target`; none at first."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.path: Path | None = None
        self.key: str | None = None  # names the content that it is a part of, as far as the server says
        self.validator: str | None = None  # of that content, for If-Range
        self.total: int | None = None  # bytes of that content

    def size(self) -> int:
        """How many bytes are here."""
        return max(_size_of(self.path), 0) if self.path else 0

    def remove(self) -> None:
        """Forget the part, and delete it."""
        if self.path:
            with contextlib.suppress(OSError):
                self.path.unlink()
        self.path = self.key = None

    def path_or_fail(self) -> Path:
        """Where it is. Raises FileNotFoundError where there is none."""
        if self.path is None:
            raise FileNotFoundError("no part")
        return self.path

    def take_over(self, key: str | None) -> bool:
        """Whether a beginning of this content, left by a dead process of this machine, is ours now.

        What we had before goes.
        """
        self.remove()
        if key is None:
            return False
        mine = self._named(key)
        prefix = mine.name.removesuffix(f"{_owner()}.part")
        left = [
            path
            for path in self.target.parent.glob(f"{_escaped(prefix)}*.part")
            if path == mine or _is_dead(path.name[len(prefix) : -len(".part")])
        ]
        for path in sorted(left, key=_size_of, reverse=True):
            with contextlib.suppress(OSError):  # another process was faster
                os.replace(path, mine)
                self.path, self.key = mine, key
                return self.size() > 0
        return False

    def open(self, key: str | None, start: int) -> BinaryIO:
        """A handle at byte `start`.

        Never in append mode: two writers of one part must put the same bytes to the same places.
        """
        if start == 0:
            self.remove()
            self.path, self.key = self._named(key or "unnamed"), key
            self.path.unlink(missing_ok=True)
            return open(self.path, "xb")
        handle = open(self.path_or_fail(), "r+b")  # noqa: SIM115  the caller's with closes it
        handle.seek(start)
        return handle

    def _named(self, key: str) -> Path:
        return self.target.with_name(f".{self.target.name[:100]}.{key}.{_owner()}.part")


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
    """Whether the process (or, in this process, the thread) that owns a part is gone for certain.

    Of other machines nothing is certain.
    """
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


def sweep_parts(folder: Path) -> None:
    """Remove parts and temporary files that nobody has written to for a day."""
    now = time.time()
    sweep(folder, _DAY_S, now)
    for path in folder.glob(".*.part"):
        with contextlib.suppress(OSError):
            if now - path.stat().st_mtime > _DAY_S:
                path.unlink()
