"""Images to features: read, decode, forward, store. Resumable: what is in the store is never computed again."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..datasets import Dataset
from ..digests import DigestMemory
from ..errors import NumericalError, printable, refuse_out_of_memory
from ..features import FeatureSet
from ..images import POLICIES_DIFFER, BadImage, Note, decode
from ..models.products import settle_threads
from .cache import Cache, FeatureStore
from .encoding import batch_size_of, start_encoding
from .pipeline import Pipeline
from .work import Progress, Report, Work, require_enough, skipped_images

if TYPE_CHECKING:
    from torch import Tensor

    from ..models.backbone import Backbone


_SHARD_BYTES = 6 << 20  # 4096 rows of ViT-S: large enough to read fast, small enough to hold
_FLUSH_S = 30.0  # a slow machine commits at least this often
_TASK = 4  # images per task of the decoding pool


@dataclass(frozen=True)
class _Decoded:
    row: int
    digest: bytes
    notes: int = 0
    pixels: np.ndarray | None = None  # (H, W, 3) uint8
    reason: str = ""  # why there are no pixels; empty with no pixels: the store has the row, or another row computes it


def extract(
    pipeline: Pipeline,
    dataset: Dataset,
    cache: Cache | None,
    work: Work,
    *,
    memory: DigestMemory | None = None,
    build: Callable[[], Backbone] | None = None,
) -> FeatureSet:
    """Features of a data set, and as their `report` what happened on the way.

    The backbone is built only if the store lacks a row. Raises BadImages when more images are undecodable than
    `work.max_bad` allows: what was computed stays stored.
    """
    if cache is None:
        import tempfile

        with tempfile.TemporaryDirectory(prefix="fewvit-") as folder:
            return extract(pipeline, dataset, Cache(Path(folder)), work, memory=DigestMemory(), build=build)
    store = cache.store(pipeline.key)
    return _Extraction(
        pipeline, dataset, store, memory or cache.digests(), work, build or (lambda: backbone_of(pipeline))
    ).run()


def backbone_of(pipeline: Pipeline, engine: str = "auto") -> Backbone:
    """The frozen module that a pipeline computes with, on its device; `engine` as in `load_backbone`."""
    from ..models.build import build
    from ..models.engines import resolve_device

    if engine == "auto" and pipeline.copies != [pipeline.size]:  # some engines read one size
        engine = pipeline.engine
    return build(
        pipeline.spec,
        pipeline.readout,
        pipeline.size,
        device=resolve_device(pipeline.device),
        precision=pipeline.precision,
        engine=engine,
    )


class _Extraction:
    """One run over one data set: the story is `run`, the state is what must survive between its steps."""

    def __init__(
        self,
        pipeline: Pipeline,
        dataset: Dataset,
        store: FeatureStore,
        memory: DigestMemory,
        work: Work,
        build: Callable[[], Backbone],
    ):
        self.pipeline, self.dataset, self.store = pipeline, dataset, store
        self.memory, self.work, self.build = memory, work, build
        self.digests: list[bytes | None] = [None] * len(dataset)
        self.bad: dict[int, str] = {}  # row -> reason
        self.in_flight: tuple[list[_Decoded], Tensor] | None = None  # the batch that a GPU is computing
        self.pending: list[_Decoded] = []  # computed, not yet in a shard
        self.pending_features: list[np.ndarray] = []
        self.told = -1  # images that progress was told of last
        self.report = Report(images=len(dataset))
        self.started = self.flushed = time.perf_counter()
        self.backbone: Backbone | None = None  # built when the first batch is full
        self.on_gpu, self.batch_size = False, work.batch_size or 0  # settled when there is something to compute

    def run(self) -> FeatureSet:
        missing = self._recall()
        if missing:
            self.store.require_writable()
            try:
                self._compute(missing)
            finally:  # an interruption keeps what is done
                self._flush()
                self.memory.save()
        self.report.seconds = self._elapsed()
        self.report.cached = len(self.dataset) - len(self.bad) - self.report.computed
        self._require_enough()
        return self._gather()

    def _recall(self) -> list[int]:
        """Rows whose bytes were never seen, or whose feature is not in the store. Reads no image."""
        missing = []
        for row, digest in enumerate(
            self.memory.get_all([self.dataset.identity(row) for row in range(len(self.dataset))])
        ):
            if digest is not None and digest in self.store:
                self.digests[row] = digest
            elif digest is not None and (reason := self.store.bad(digest)) is not None:
                self.bad[row] = reason
            else:
                missing.append(row)
        return missing

    def _compute(self, missing: Sequence[int]) -> None:
        self._prepare()
        batch: list[_Decoded] = []
        claimed: set[bytes] = set()  # several files may hold the same bytes
        for done, item in enumerate(self._decoded(missing), start=len(self.dataset) - len(missing) + 1):
            self._note(item)
            if item.pixels is not None and item.digest not in claimed:
                claimed.add(item.digest)
                batch.append(item)
            if len(batch) == self.batch_size:
                self._forward(self._built(), batch)
                batch = []
                self._tell(done)
        if batch:
            self._forward(self._built(), batch)
        self._take_over()
        self._tell(len(self.dataset))

    def _prepare(self) -> None:
        """Import what computes and decodes, and settle the batch size; that time is not counted in the speed."""
        from ..models.engines import resolve_device

        self.on_gpu = resolve_device(self.pipeline.device) != "cpu"
        self.batch_size = batch_size_of(self.pipeline, self.work.batch_size)
        with contextlib.suppress(BadImage):
            # decoders are imported with the first image, even with none
            decode(b"?", self.pipeline.preprocess, self.pipeline.decode)
        self.report.starting = time.perf_counter() - self.started

    def _built(self) -> Backbone:
        """The backbone; the time of building it is not counted in the speed."""
        if self.backbone is None:
            before = time.perf_counter()
            self.backbone = self.build()
            self.report.starting += time.perf_counter() - before
        return self.backbone

    def _elapsed(self) -> float:
        """Seconds of work so far, without those of starting."""
        return time.perf_counter() - self.started - self.report.starting

    def _decoded(self, rows: Sequence[int]) -> Iterator[_Decoded]:
        """Decoded images in the order of `rows`, by a pool of threads: the decoders let go of Python's lock."""
        import torch

        threads = settle_threads()  # before the decoding threads say that they want one each
        workers = self.work.workers if self.work.workers is not None else min(16, os.cpu_count() or 1)
        tasks = deque(rows[i : i + _TASK] for i in range(0, len(rows), _TASK))
        ahead = -(-max(self.batch_size, 16 * max(workers, 1)) // _TASK)  # tasks under way at most
        with ThreadPoolExecutor(max(workers, 1), thread_name_prefix="decode", initializer=single_threaded) as pool:
            running: deque[Future[list[_Decoded]]] = deque()
            try:
                while tasks or running:
                    if self.on_gpu or not running:  # on a CPU, decoding and the model take turns on the same cores
                        while tasks and len(running) < ahead * (4 if self.on_gpu else 1):
                            running.append(pool.submit(self._decode_all, tasks.popleft()))
                    before = time.perf_counter()
                    if not self.on_gpu:
                        wait(running)
                    items = running.popleft().result()
                    self.report.waiting += time.perf_counter() - before
                    yield from items
            finally:
                pool.shutdown(wait=True, cancel_futures=True)
                torch.set_num_threads(threads)  # threads that begin later get the number that was set last

    def _decode_all(self, rows: Sequence[int]) -> list[_Decoded]:
        return [self._decode(row) for row in rows]

    def _decode(self, row: int) -> _Decoded:
        """One image, in a worker thread: whatever is wrong with it becomes a reason; what this machine lacks raises."""
        try:
            data = self.dataset.read(row)
        except OSError as error:
            refuse_out_of_memory(error, "reading an image")
            return _Decoded(row, b"", reason=(error.strerror or str(error)).lower())
        digest = hashlib.sha256(data).digest()
        if digest in self.store:
            return _Decoded(row, digest)
        try:
            pixels, notes = decode(data, self.pipeline.preprocess, self.pipeline.decode, self.work.max_pixels)
        except BadImage as error:
            return _Decoded(row, digest, reason=str(error))
        if reason := self.pipeline.too_small(*pixels.shape[:2]):
            return _Decoded(row, digest, reason=reason)
        return _Decoded(row, digest, int(notes), pixels)

    def _note(self, item: _Decoded) -> None:
        """Remember what a row's bytes are, or why it has no feature."""
        if item.digest:
            self.digests[item.row] = item.digest
            identity = self.dataset.identity(item.row)
            if identity is not None:
                self.memory.put(identity, item.digest)
        if item.reason:
            self.bad[item.row] = item.reason
            if item.digest:
                self.store.put_bad(item.digest, self.dataset.ids[item.row], item.reason)

    def _forward(self, backbone: Backbone, batch: list[_Decoded]) -> None:
        """Start one batch, and take over the one before: a GPU computes it while the next one is put together."""
        before = time.perf_counter()
        pixels = np.stack([item.pixels for item in batch if item.pixels is not None])
        started = start_encoding(backbone, pixels, self.batch_size, self.pipeline)
        self._take_over()
        self.in_flight = ([dataclasses.replace(item, pixels=None) for item in batch], started)
        if not self.on_gpu:
            self._take_over()
        self.report.modelling += time.perf_counter() - before

    def _take_over(self) -> None:
        """Wait for the batch under way, if there is one, and commit a shard when it is full or a while has passed."""
        if self.in_flight is None:
            return
        (batch, started), self.in_flight = self.in_flight, None
        features = started[: len(batch)].float().cpu().numpy()
        broken = np.flatnonzero(~np.isfinite(features).all(axis=1))
        if len(broken):
            raise NumericalError(
                f"the backbone gives NaN or Inf for {printable(self.dataset.ids[batch[broken[0]].row])}",
                fix="Use --precision fp32; if it is fp32 already, the weights are not usable.",
            )
        self.report.computed += len(batch)
        self.pending += batch
        self.pending_features.append(features)
        if (
            sum(part.nbytes for part in self.pending_features) >= _SHARD_BYTES
            or time.perf_counter() - self.flushed > _FLUSH_S
        ):
            self._flush()

    def _flush(self) -> None:
        if self.pending:
            self.store.put(
                [item.digest for item in self.pending],
                [item.notes for item in self.pending],
                np.concatenate(self.pending_features),
            )
            self.pending, self.pending_features = [], []
            self.memory.save()
        self.flushed = time.perf_counter()

    def _tell(self, done: int) -> None:
        if self.work.progress is not None and done != self.told:
            self.told, report = done, self.report
            self.work.progress(
                Progress(done, len(self.dataset), report.computed, self._elapsed(), report.waiting, report.modelling)
            )

    def _require_enough(self) -> None:
        """Raise BadImages when more images failed than allowed."""
        self.report.skipped = skipped_images(self.dataset, self.bad)
        require_enough(self.dataset, self.report.skipped, self.work)

    def _gather(self) -> FeatureSet:
        good = [row for row in range(len(self.dataset)) if row not in self.bad]
        digests = [digest for row in good if (digest := self.digests[row]) is not None]
        features, notes = self.store.gather(digests)
        self.report.differing = int(np.count_nonzero(notes & int(POLICIES_DIFFER)))
        self.report.like_twelve_bit = int(np.count_nonzero(notes & int(Note.LIKE_TWELVE_BIT)))
        return FeatureSet(
            features,
            self.dataset.labels[good],
            [self.dataset.ids[row] for row in good],
            self.dataset.classes,
            self.pipeline.fingerprint,
            self.dataset.name,
            self.pipeline.spec.name,
            "random" if self.pipeline.spec.is_random else str(self.pipeline.facts["weights_sha256"]),
            self.pipeline.protocol.name,
            None if self.dataset.marking is None else self.dataset.marking.select(good),
            self.report,
            digests,
        )


def single_threaded() -> None:
    """In a decoding thread: one core per image; torch would start a team of threads for each."""
    import torch

    torch.set_num_threads(1)
