"""Images to train on: small ones are decoded once, large ones each time they are asked for."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

from ..cpu import cores
from ..datasets import Dataset
from ..errors import DataError, from_os_error, refuse_out_of_memory
from ..images import MAX_PIXELS, BadImage, decode_whole

# of small images that are held in memory; more lie in a file in `folder`, and without one are decoded each time
MEMORY_BYTES = 2 << 30
SMALL = 128 * 128  # pixels; as bytes such an image is no larger than a typical file of ImageNet
_PROBED = 64  # images that decide whether a data set is one of small images
_AT_ONCE = 1024  # images decoded between two writes


class TrainingImages:
    """The decodable images of a data set as uint8 tensors (3, H, W), by number; `rows` are their data set numbers.

    Where a sample of the data set holds only small images, all are decoded at the start and `skipped` names those
    that cannot be, with the reason. Otherwise none is skipped, and one that cannot be decoded is an error when it is
    read. `sizes` (n, 2) are height and width in pixels of those that were looked at: all that are kept, else the
    sample's.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        workers: int | None = None,  # threads that decode
        max_pixels: int = MAX_PIXELS,
        memory_bytes: int = MEMORY_BYTES,
        folder: Path | None = None,
    ):
        self._dataset, self._max_pixels = dataset, max_pixels
        self._pool = ThreadPoolExecutor(
            max(1, min(16, cores()) if workers is None else workers), thread_name_prefix="training-images"
        )
        self.skipped: list[dict[str, str]] = []  # id and reason
        self.rows = np.arange(len(dataset))
        self.sizes = np.zeros((0, 2), np.int64)
        self._decoded_bytes: np.ndarray | None = None  # (bytes,) of all images, one after the other
        if self._are_small():
            self._decode_once(_Bytes(memory_bytes, folder))

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, numbers: np.ndarray) -> Tensor | list[Tensor]:
        """Images (B, 3, H, W) where all are of one size, else a list of (3, H, W); not to be written to.

        A pixel's three values lie together in memory, as resampling likes them. Raises DataError for an image that
        cannot be decoded.
        """
        if self._decoded_bytes is None:
            images = self._decode_rows(numbers)  # none is skipped: a number is a row
        elif self._of_one_size:
            return torch.from_numpy(self._decoded_bytes.reshape(len(self), *self._shapes[0], 3)[numbers]).permute(
                0, 3, 1, 2
            )
        else:
            images = [self._cut(number) for number in numbers.tolist()]
        if len({image.shape for image in images}) == 1:
            return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
        return [torch.from_numpy(image).permute(2, 0, 1) for image in images]

    def _are_small(self) -> bool:
        """Whether a sample, spread evenly, has no large image; those that cannot be decoded say nothing."""
        sample = np.unique(np.linspace(0, len(self._dataset) - 1, _PROBED).astype(np.int64))
        found = [image for image in self._pool.map(self._decoded, sample.tolist()) if isinstance(image, np.ndarray)]
        self.sizes = np.array([image.shape[:2] for image in found], np.int64).reshape(-1, 2)
        return bool(found) and bool(self.sizes.prod(axis=1).max() <= SMALL)

    def _decoded(self, row: int) -> np.ndarray | str:
        """Pixels (H, W, 3), or why there are none."""
        try:
            return decode_whole(self._dataset.read(row), self._max_pixels)
        except BadImage as error:
            return error.reason
        except OSError as error:
            refuse_out_of_memory(error, "reading an image")
            return error.strerror or str(error)

    def _decode_rows(self, rows: np.ndarray) -> list[np.ndarray]:
        images = []
        for row, image in zip(rows.tolist(), self._pool.map(self._decoded, rows.tolist()), strict=True):
            if isinstance(image, str):
                raise DataError(
                    f"cannot be decoded: {image}",
                    file=self._dataset.place(row),
                    fix="Repair or remove it; the run goes on from its last checkpoint.",
                )
            images.append(image)
        return images

    def _decode_once(self, store: _Bytes) -> None:
        """Decode everything once into `store`; nothing is kept if there is no room."""
        good, shapes, skipped = [], [], []
        for row, image in self._decoded_all():
            if isinstance(image, str):
                skipped.append({"id": self._dataset.ids[row], "reason": image})
                continue
            good.append(row)
            shapes.append(image.shape[:2])
            if not store.add(image):
                return
        self.skipped, self.rows = skipped, np.array(good, np.int64)
        self._shapes = self.sizes = np.array(shapes, np.int64)  # (N, 2)
        self._of_one_size = bool((self._shapes == self._shapes[0]).all())
        self._starts = np.concatenate([[0], np.cumsum(3 * self._shapes.prod(axis=1))])
        self._decoded_bytes = store.whole()

    def _decoded_all(self) -> Iterator[tuple[int, np.ndarray | str]]:
        for start in range(0, len(self._dataset), _AT_ONCE):
            rows = range(start, min(start + _AT_ONCE, len(self._dataset)))
            yield from zip(rows, self._pool.map(self._decoded, rows), strict=True)

    def _cut(self, number: int) -> np.ndarray:
        """One kept image (H, W, 3)."""
        pixels = self._decoded_bytes if self._decoded_bytes is not None else np.empty(0, np.uint8)
        return pixels[self._starts[number] : self._starts[number + 1]].reshape(*self._shapes[number], 3)


class _Bytes:
    """Bytes that grow in memory, and move to a file in `folder` when they become more than `limit`."""

    def __init__(self, limit: int, folder: Path | None):
        self._limit, self._folder = limit, folder
        self._memory = bytearray()  # grows in place: never two copies
        self._file: IO[bytes] | None = None

    def add(self, pixels: np.ndarray) -> bool:
        """Whether there was room. Raises ResourceError when the disk is full."""
        if self._file is None and len(self._memory) + pixels.nbytes <= self._limit:
            self._memory += pixels.data
            return True
        if self._folder is None:
            return False
        with self._writing():
            if self._file is None:
                self._folder.mkdir(parents=True, exist_ok=True)
                # nameless: it is gone with the process
                self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115
                self._file.write(self._memory)
                self._memory = bytearray()
            self._file.write(pixels.data)
        return True

    def whole(self) -> np.ndarray:
        """Everything as one array (bytes,); mapped, not read, if it lies in a file."""
        if self._file is None:
            return np.frombuffer(self._memory, np.uint8)
        with self._writing():
            self._file.flush()
        mapped = np.memmap(self._file, np.uint8, "c")  # private: torch wants memory that could be written to
        self._file.close()  # the map lives on
        return mapped

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if self._file is not None:
                with suppress(OSError):  # it tries again to write what it holds
                    self._file.close()
            error.filename = str(self._folder)
            raise from_os_error(error, "keeping decoded images") from error
