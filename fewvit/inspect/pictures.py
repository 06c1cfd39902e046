"""The pictures that a figure is of: which ones, read once, as the backbone sees them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ..datasets import Dataset, open_dataset
from ..errors import DataError, UsageError, counted, printable
from ..extraction.pipeline import Pipeline
from ..extraction.work import Work, require_enough, skipped_images
from ..images import MAX_PIXELS, BadImage, decode
from ..preprocess import Preprocess
from ..seeds import generator

if TYPE_CHECKING:
    from torch import Tensor

    from ..datasets import Listing
    from ..evaluate.inputs import FeatureReader
    from ..models.backbone import Backbone

AT_ONCE = 8  # pictures per forward pass at most
_BYTES = 1 << 26  # that the attention of one block may fill


@dataclass(frozen=True)
class Pictures:
    """N pictures in the order of their listing."""

    ids: Sequence[str]  # N
    labels: np.ndarray  # (N,) int64, -1 = unlabelled
    classes: Sequence[str]
    pixels: np.ndarray  # (N, H, W, 3) uint8, after the resize and the crop
    skipped: Sequence[dict[str, str]] = ()  # what could not be decoded: id, class, reason

    def __len__(self) -> int:
        return len(self.ids)


def picked(dataset: Dataset, count: int | None, seed: int) -> list[int]:
    """Rows of `count` images that the seed picks, ascending; all of them where there are no more, or for None."""
    if count is None or count >= len(dataset):
        return list(range(len(dataset)))
    drawn = generator("inspect", seed).choice(len(dataset), count, replace=False)
    return sorted(int(row) for row in drawn)


def read_pictures(
    dataset: Dataset,
    rows: Sequence[int],
    preprocess: Preprocess,
    policy: str = "fast",
    *,
    max_pixels: int = MAX_PIXELS,
    max_bad: str = "0",
) -> Pictures:
    """The pixels of some images. Raises BadImages where more than `max_bad` of them cannot be decoded."""
    good: dict[int, np.ndarray] = {}
    bad: dict[int, str] = {}
    for row in rows:
        try:
            good[row], _ = decode(dataset.read(row), preprocess, policy, max_pixels)
        except BadImage as error:
            bad[row] = str(error)
        except OSError as error:
            bad[row] = (error.strerror or str(error)).lower()
    skipped = skipped_images(dataset, bad)
    require_enough(dataset, skipped, Work(max_bad=max_bad, part_of=len(rows)))
    if not good:
        raise DataError("none of the pictures that were picked can be decoded", file=dataset.name)
    return Pictures(
        [dataset.ids[row] for row in good],
        dataset.labels[list(good)],
        dataset.classes,
        np.stack(list(good.values())),
        skipped,
    )


def normalised(pixels: np.ndarray, preprocess: Preprocess) -> Tensor:
    """(N, 3, H, W) float32 of uint8 pixels (N, H, W, 3), as the backbone takes them."""
    import torch

    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (preprocess.mean, preprocess.std))
    images = torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).float()
    return images.div_(255).sub_(mean).div_(std)


def in_parts(backbone: Backbone, pictures: Pictures, at_once: int = AT_ONCE) -> Iterator[Tensor]:
    """The pictures as the backbone takes them, (B, 3, H, W) on its device, `at_once` at a time."""
    preprocess, device = pipeline_of(backbone).preprocess, next(backbone.parameters()).device
    for start in range(0, len(pictures), at_once):
        yield normalised(pictures.pixels[start : start + at_once], preprocess).to(device)


def at_once_for(backbone: Backbone, pictures: Pictures) -> int:
    """Pictures per forward pass, so that the attention of one block stays within some ten megabytes."""
    architecture = pipeline_of(backbone).spec.architecture
    height, width = pictures.pixels.shape[1:3]
    tokens = height * width // (architecture.patch or 16) ** 2
    return max(1, min(AT_ONCE, _BYTES // (4 * max(architecture.heads, 1) * tokens**2)))


def pipeline_of(backbone: Backbone) -> Pipeline:
    """How the backbone reads images. Raises UsageError for one that `load_backbone` did not give."""
    pipeline = getattr(backbone, "pipeline", None)
    if pipeline is None:
        raise UsageError(
            "a figure is of a backbone that load_backbone gave: only that knows how images are read",
            fix="Load it with fewvit.load_backbone(name or file).",
        )
    return pipeline


def pictures_of(
    backbone: Backbone, source: str | os.PathLike[str] | Dataset | Pictures, sample: int | None = 8, seed: int = 0
) -> Pictures:
    """What a figure is of: `sample` images of a source, picked by the seed and read as the backbone's pipeline says.

    Pictures that were read already are taken as they are.
    """
    if isinstance(source, Pictures):
        return source
    pipeline = pipeline_of(backbone)
    dataset = source if isinstance(source, Dataset) else open_dataset(os.fspath(source))
    return read_pictures(dataset, picked(dataset, sample, seed), pipeline.preprocess, pipeline.decode)


@dataclass(frozen=True)
class Opened:
    """A backbone, and the pictures that it is asked about."""

    backbone: Backbone
    pictures: Pictures
    notes: Sequence[str] = ()  # what was picked, a line each


def open_backbone(reader: FeatureReader) -> Backbone:
    """The one backbone that a command names, unpacked, with its pipeline. Raises UsageError for several."""
    from ..extraction.extract import backbone_of

    if len(reader.backbones.names) > 1:
        raise UsageError(f"a figure is of one backbone, and {', '.join(reader.backbones.names)} are several")
    [pipeline] = reader.pipelines()
    if pipeline.size is None:
        raise UsageError("a figure reads images of one size, and this transform leaves each its own")
    backbone = backbone_of(replace(pipeline, precision="fp32"), engine="eager")
    backbone.pipeline = pipeline
    return backbone


def open_pictures(
    reader: FeatureReader, source: str, listing: Listing, sample: int | None = 8, seed: int = 0
) -> Opened:
    """The backbone and `sample` images of a source that a command names. Raises UsageError for features."""
    dataset = reader.one(source, listing, unlabelled=True).train.images
    if dataset is None:
        raise UsageError(f"a figure is of images, and {printable(source)} holds features")
    backbone = open_backbone(reader)
    pipeline, work = pipeline_of(backbone), reader.extractor.work
    rows = picked(dataset, sample, seed)
    pictures = read_pictures(
        dataset, rows, pipeline.preprocess, pipeline.decode, max_pixels=work.max_pixels, max_bad=work.max_bad
    )
    notes = []
    if len(rows) < len(dataset):
        notes.append(
            f"{len(rows)} of {counted(len(dataset), 'image')} of {printable(dataset.name)}, picked by seed {seed}; "
            "--sample and --seed take others"
        )
    return Opened(backbone, pictures, notes)
