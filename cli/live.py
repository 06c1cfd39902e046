"""The line of progress on stderr: one that replaces itself on a terminal, with a bar; lines by the clock elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from .fitting import terminal_width

if TYPE_CHECKING:
    from rich.console import Console

_LINE_EVERY_S = 10.0  # where stderr is no terminal
_DRAWN_EVERY_S = 0.1  # on a terminal
_BAR = (5, 40)  # characters, at least and at most


class LiveLine:
    """Where work stands, for whoever waits: `show` may be called for each image."""

    def __init__(self, *, quiet: bool):
        self.quiet = quiet
        self.on_terminal = sys.stderr.isatty() and not quiet
        self._last = 0.0 if self.on_terminal else time.monotonic()
        self._open = False  # the cursor stands behind the line
        self._console: Console | None = None

    def show(self, parts: Sequence[str], share: float | None, *, spare: Collection[str] = (), done: bool) -> None:
        """The parts of a line, of which `share` (0-1, None: unknown) is done; too early for another one: nothing.

        A terminal gets a bar behind the first part, and of the `spare` parts, first to go first, those that have room.
        """
        now = time.monotonic()
        if self.quiet or (not done and now - self._last < (_DRAWN_EVERY_S if self.on_terminal else _LINE_EVERY_S)):
            return
        self._last = now
        if not self.on_terminal:
            sys.stderr.write("  ".join(parts) + "\n")
        else:
            sys.stderr.write("\r\x1b[K" + self._drawn(list(parts), share, spare))
            self._open = True
        sys.stderr.flush()
        if done:
            self.end()

    def end(self) -> None:
        """Go to the next line, so that something else can be written."""
        if self._open:
            sys.stderr.write("\n")
            self._open = False

    def _drawn(self, parts: list[str], share: float | None, spare: Collection[str]) -> str:
        """The line with its bar, in the colours of the terminal."""
        from rich.markup import escape
        from rich.progress_bar import ProgressBar

        console = self._console = self._console or _console()
        room = (terminal_width(sys.stderr) or 80) - 1  # the last column stays free: some terminals wrap there
        least = _BAR[0] + 2 if share is not None else 0
        for part in spare:
            if len("  ".join(parts)) + least > room:
                parts.remove(part)
        text = "  ".join(parts)
        width = min(_BAR[1], room - len(text) - 2)
        with console.capture() as captured:
            if share is None or width < _BAR[0]:
                console.print(escape(text[:room]), end="")
            else:
                console.print(escape(parts[0]), end="  ")
                console.print(ProgressBar(1.0, share, width=width), end="")
                console.print("  ".join(["", *map(escape, parts[1:])]), end="")
        return captured.get().replace("\n", "")


def _console() -> Console:
    """A console of rich on stderr, which knows its colours. Imported here: start-up does not wait for it."""
    from rich.console import Console

    return Console(stderr=True, soft_wrap=True, highlight=False)
