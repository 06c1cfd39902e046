"""Commands on a pseudo-terminal of a given width, as a person sees them."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def on_terminal(words: list[str], columns: int, cwd: Path | None = None, **environment: str) -> tuple[int, str]:
    """Exit code and everything written, escapes included, of `python WORDS` whose three streams are one terminal."""
    mine, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    env = {**os.environ, "TERM": "xterm-256color", "PYTHONPATH": str(ROOT), **environment}
    env.pop("COLUMNS", None)
    env.pop("NO_COLOR", None)
    process = subprocess.Popen([sys.executable, "-P", *words], stdin=its, stdout=its, stderr=its, env=env, cwd=cwd)
    os.close(its)
    found = b""
    while True:
        try:
            part = os.read(mine, 1 << 16)
        except OSError:  # Linux's way to say that the other end is closed
            break
        if not part:
            break
        found += part
    os.close(mine)
    return process.wait(timeout=60), found.decode().replace("\r\n", "\n")


def lines_of(text: str) -> list[str]:
    """What ever stood in the lines of a terminal, without colours; a line that was replaced counts as often."""
    return [line for part in _ESCAPES.sub("", text.replace("\r\x1b[K", "\n")).split("\n") for line in part.split("\r")]
