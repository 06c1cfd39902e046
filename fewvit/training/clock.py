"""How fast a training goes."""

from __future__ import annotations

import time


class Clock:
    """Images per second: over the whole time, and lately."""

    def __init__(self, images: int):
        self.images, self.steps, self.started = images, 0, time.perf_counter()
        self._last, self.speed = self.started, 0.0

    def tick(self) -> None:
        """A step has ended."""
        now = time.perf_counter()
        speed = self.images / max(now - self._last, 1e-9)
        self.steps, self._last = self.steps + 1, now
        self.speed = speed if self.steps <= 2 else 0.9 * self.speed + 0.1 * speed

    @property
    def mean(self) -> float:
        """Images per second since the first step began."""
        return self.steps * self.images / max(self._last - self.started, 1e-9)
