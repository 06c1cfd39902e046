"""SIGTERM and Ctrl-C while training: the step under way is finished and saved first."""

from __future__ import annotations

import contextlib
import signal
from types import FrameType
from typing import Any


class Stopping:
    """Within the block a first SIGTERM or SIGINT is noted in `signal`; a second one ends the process at once."""

    signal: int | None = None

    def __enter__(self) -> Stopping:
        self._before: dict[int, Any] = {}
        for number in (signal.SIGTERM, signal.SIGINT):
            with contextlib.suppress(ValueError):  # not the main thread: the host program keeps its handlers
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.signal = number
