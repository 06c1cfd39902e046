"""Processes that decode images: what a file does to a decoder, it does not do to the server.

Each is started anew (spawn), holds no more memory than its limit, and is killed when an image takes too long. What
comes back over its pipe are bytes, of which none is ever unpickled.
"""

from __future__ import annotations

import contextlib
import json
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from ...errors import ResourceError
from ...images import BadImage
from ...preprocess import Preprocess

_BOOT_S = 120.0  # a worker imports torch before it answers
_BEYOND = 1536 << 20  # bytes that a worker may take for an image, beyond what it holds when it begins
_SEEN = 224  # longest side of the picture that is kept of an upload


@dataclass(frozen=True)
class DecodingLimits:
    """What one image may cost."""

    max_pixels: int = 50_000_000
    seconds: float = 10.0
    workers: int = 2


class Decoders:
    """A few worker processes; whoever wants an image decoded waits for one that is free, uploads before thumbnails."""

    def __init__(self, limits: DecodingLimits):
        self.limits = limits
        self._changed = threading.Condition()
        self._urgent = 0  # uploads that wait
        self._closed = False
        self._workers = [_Worker(limits) for _ in range(limits.workers)]
        self._idle = list(self._workers)
        for worker in self._workers:
            worker.require_ready()

    def pixels(self, data: bytes, preprocess: Preprocess, policy: str) -> tuple[np.ndarray, bytes]:
        """Pixels (crop_h, crop_w, 3) uint8 of an image, and a small JPEG for people. Raises BadImage."""
        asked = {"preprocess": preprocess.to_dict(), "policy": policy}
        answer = self._answer("pixels", asked, data, urgent=True)
        height, width = preprocess.crop
        size = height * width * 3
        return np.frombuffer(answer[:size], np.uint8).reshape(height, width, 3).copy(), answer[size:]

    def jpeg(self, data: bytes, longest: int) -> bytes:
        """A JPEG of an image whose longer side has at most `longest` pixels. Raises BadImage."""
        return self._answer("jpeg", {"longest": longest}, data, urgent=False)

    def close(self) -> None:
        """End the workers."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for worker in self._workers:
            worker.end()

    def _answer(self, what: str, asked: dict[str, Any], data: bytes, *, urgent: bool) -> bytes:
        with self._one(urgent) as worker:
            return worker.answer({"what": what, **asked}, data)

    @contextlib.contextmanager
    def _one(self, urgent: bool) -> Iterator[_Worker]:
        """A worker that nobody else uses meanwhile."""
        with self._changed:
            self._urgent += urgent
            try:
                self._changed.wait_for(lambda: self._closed or (self._idle and (urgent or not self._urgent)))
            finally:
                self._urgent -= urgent
            if self._closed:
                raise BadImage("the server is stopping")
            worker = self._idle.pop()
        try:
            yield worker
        finally:
            with self._changed:
                self._idle.append(worker)
                self._changed.notify_all()


class _Worker:
    """One process, and the pipe to it."""

    def __init__(self, limits: DecodingLimits):
        self._limits, self._is_over = limits, False
        self._start()

    def _start(self) -> None:
        from multiprocessing import get_context

        context = get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_work, args=(theirs, self._limits.max_pixels), daemon=True, name="fewvit-decoder"
        )
        self._process.start()
        theirs.close()
        self._is_ready = False

    def require_ready(self) -> None:
        """Wait until a process that was started has imported what it needs. Raises ResourceError where it cannot."""
        if self._is_ready:
            return
        try:
            if not self._pipe.poll(_BOOT_S):
                raise OSError("it takes too long")
            self._pipe.recv_bytes()
        except (EOFError, OSError) as error:
            self._restart()
            raise ResourceError(
                f"a process that decodes images does not start ({error or 'it ended'})",
                fix="Is there memory left? A program that calls this needs `if __name__ == '__main__':`.",
            ) from error
        self._is_ready = True

    def answer(self, asked: dict[str, Any], data: bytes) -> bytes:
        """What the process makes of an image. Raises BadImage, also where the process dies of it or takes too long."""
        self.require_ready()
        try:
            self._pipe.send_bytes(json.dumps(asked).encode())
            self._pipe.send_bytes(data)
            if not self._pipe.poll(self._limits.seconds):
                self._restart()
                raise BadImage(f"decoding it takes longer than {self._limits.seconds:g} s")
            answer = self._pipe.recv_bytes()
        except (EOFError, OSError) as error:
            self._restart()
            raise BadImage("the decoder did not survive it") from error
        if answer[:1] != b"+":
            raise BadImage(answer[1:].decode("utf-8", "replace"))
        return answer[1:]

    def _restart(self) -> None:
        self._kill()
        if not self._is_over:
            self._start()

    def _kill(self) -> None:
        self._process.kill()
        self._process.join()
        self._pipe.close()

    def end(self) -> None:
        """End the process at once, for good."""
        self._is_over = True
        self._kill()


# ---- in the process


def _work(pipe: Connection, max_pixels: int) -> None:
    """Answer one image after another until the server is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the server's
    _import_decoders()
    _limit_memory(_BEYOND)
    pipe.send_bytes(b"ready")
    with contextlib.suppress(EOFError, OSError):
        while True:
            asked, data = json.loads(pipe.recv_bytes()), pipe.recv_bytes()
            try:
                answer = b"+" + _made(asked, data, max_pixels)
            except BadImage as error:
                answer = b"-" + error.reason.encode("utf-8", "replace")
            except (MemoryError, ResourceError):
                answer = b"-it takes too much memory"
            pipe.send_bytes(answer)


def _import_decoders() -> None:
    """Import what decodes, as the first image would, and keep to one thread: there is a process for each core."""
    import torch

    from ...images import decode_whole
    from ..thumbnails import small_jpeg

    torch.set_num_threads(1)
    with contextlib.suppress(BadImage):
        decode_whole(small_jpeg(np.zeros((8, 8, 3), np.uint8), 8))
    with contextlib.suppress(BadImage):
        decode_whole(b"?")


def _limit_memory(beyond: int) -> None:
    """Allow this process so many bytes more than it holds; Linux alone counts them so."""
    import resource

    with contextlib.suppress(OSError, StopIteration, ValueError):
        with open("/proc/self/status", encoding="ascii") as handle:
            held = next(int(line.split()[1]) << 10 for line in handle if line.startswith("VmData:"))
        resource.setrlimit(resource.RLIMIT_DATA, (held + beyond, held + beyond))


def _made(asked: dict[str, Any], data: bytes, max_pixels: int) -> bytes:
    from ...images import decode, decode_whole
    from ..thumbnails import small_jpeg, thumbnail

    if asked["what"] == "jpeg":
        return thumbnail(data, int(asked["longest"]), max_pixels)
    values: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in asked["preprocess"].items()
    }
    pixels, _ = decode(data, Preprocess(**values), asked["policy"], max_pixels)
    is_coarse = max(pixels.shape) < _SEEN // 2  # of a backbone for small images: people see more than it does
    return pixels.tobytes() + small_jpeg(decode_whole(data, max_pixels) if is_coarse else pixels, _SEEN)
