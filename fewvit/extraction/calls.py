"""The calls that Python users begin with: `load_backbone`, from a name to a frozen module, `extract_features` of a
source, and `encode_images` of images in memory.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..datasets import Dataset, open_dataset
from ..errors import DataError, NumericalError, UsageError
from ..features import FeatureSet
from ..images import BadImage, pixels_of
from ..models.backbone import Backbone
from ..models.build import build
from ..models.resolve import resolve
from ..models.spec import Access
from ..models.told import Told
from .cache import Cache, default_cache_dir
from .encoding import batch_size_of, start_encoding
from .extract import extract
from .notes import own_reading
from .pipeline import FeatureOptions, Pipeline, settle
from .work import Work

if TYPE_CHECKING:
    from PIL.Image import Image


def load_backbone(
    name: str,
    *,
    weights: str | None = None,
    checkpoint_key: str | None = None,
    family: str | None = None,
    heads: int | None = None,
    grid: tuple[int, int] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    protocol: str | None = None,
    pool: str | None = None,
    layers: int | str | None = None,
    img_size: int | tuple[int, int] | None = None,
    device: str = "auto",
    precision: str = "fp32",
    engine: str = "auto",
    cache_dir: str | os.PathLike[str] | None = None,
    accept_license: tuple[str, ...] = (),
    offline: bool = False,
    seed: int = 0,
) -> Backbone:
    """The frozen backbone behind a variant's name, `timm:NAME`, `hf:ORG/NAME` or a weights file.

    `weights` is a file or `random`. Of a bare file `heads`, the `grid` (rows, columns) of its position table, `mean`
    and `std` of its images' channels (pixels / 255) say what its tensors do not; stderr gets a line on what is assumed.
    `engine` is auto, eager, packed or openvino (eager keeps the parameters as they are in the file). Its `encode` reads
    what the family's default protocol reads, unless `protocol`, `pool` or `layers` say otherwise. Published numbers to
    expect stand in `backbone.spec.published`. Raises UnknownName, Unobtainable, LicenseRequired, CheckpointError, and
    UsageError for what is told wrongly, or must be told.
    """
    from ..models.engines import resolve_device

    folder = Path(cache_dir) if cache_dir is not None else default_cache_dir()
    spec = resolve(
        name,
        Access(folder, offline, accept_license, notify=_told_once),
        Cache(folder).digests(),
        weights=weights,
        checkpoint_key=checkpoint_key,
        family=family,
        seed=seed,
        told=dataclasses.replace(Told.of(heads, grid, mean, std), protocol=protocol, pool=pool),
    )
    size = "x".join(map(str, img_size)) if isinstance(img_size, tuple) else None if img_size is None else str(img_size)
    options = FeatureOptions(
        protocol=protocol,
        pool=pool,
        layers=None if layers is None else str(layers),
        img_size=size,
        precision=precision,
        device=device,
    )
    pipeline = settle(spec, options)
    if note := own_reading(pipeline, options):
        _told_once(note)
    backbone = build(
        spec,
        pipeline.readout,
        pipeline.size,
        device=resolve_device(device),
        precision=pipeline.precision,
        engine=engine,
    )
    backbone.pipeline = pipeline
    return backbone


@functools.cache  # once per line and process
def _told_once(line: str) -> None:
    print(line, file=sys.stderr)


def extract_features(
    backbone: Backbone,
    source: str | os.PathLike[str] | Dataset,
    *,
    decode: str = "fast",
    batch_size: int | None = None,
    max_bad: str = "0",
    cache_dir: str | os.PathLike[str] | None = None,
) -> FeatureSet:
    """Features of every image of `source` by a backbone of `load_backbone`, through the cache.

    Raises DataError, BadImages (more images than `max_bad` cannot be decoded), NumericalError, and UsageError for a
    backbone that was put together by hand: nothing says then what its features are.
    """
    pipeline = _pipeline_of(backbone, decode, "extract_features")
    dataset = source if isinstance(source, Dataset) else open_dataset(os.fspath(source))
    cache = Cache(Path(cache_dir) if cache_dir is not None else default_cache_dir())
    return extract(pipeline, dataset, cache, Work(batch_size=batch_size, max_bad=max_bad), build=lambda: backbone)


def encode_images(
    backbone: Backbone, images: Sequence[Image], *, decode: str = "fast", batch_size: int | None = None
) -> np.ndarray:
    """Features (N, D) float32 of images that Pillow has opened, by a backbone of `load_backbone`; nothing is cached.

    They are those of `extract_features` for the images' files, bit for bit on a CPU but for JPEG under `fast`, which
    torchvision decodes there and Pillow here. Raises DataError for an image that cannot be read, naming its place from
    0, NumericalError for NaN, and UsageError as `extract_features`.
    """
    pipeline = _pipeline_of(backbone, decode, "encode_images")
    size = batch_size_of(pipeline, batch_size)
    parts = [np.zeros((0, backbone.readout.width(pipeline.spec.architecture.width)), np.float32)]
    for start in range(0, len(images), size):
        pixels = [_pixels(pipeline, images[i], i) for i in range(start, min(start + size, len(images)))]
        features = start_encoding(backbone, np.stack(pixels), size, pipeline)[: len(pixels)].float().cpu().numpy()
        broken = np.flatnonzero(~np.isfinite(features).all(axis=1))
        if len(broken):
            raise NumericalError(
                f"the backbone gives NaN or Inf for image {start + broken[0]}", fix="Load it with precision='fp32'."
            )
        parts.append(features)
    return np.concatenate(parts)


def _pixels(pipeline: Pipeline, image: Image, place: int) -> np.ndarray:
    """Pixels (H, W, 3) uint8 of one image. Raises DataError naming its place."""
    try:
        pixels = pixels_of(image, pipeline.preprocess, pipeline.decode)
    except BadImage as error:
        raise DataError(f"image {place} cannot be read: {error.reason}") from error
    if reason := pipeline.too_small(*pixels.shape[:2]):
        raise DataError(f"image {place} cannot be read: {reason}")
    return pixels


def _pipeline_of(backbone: Backbone, decode: str, call: str) -> Pipeline:
    """How the backbone's features come about. Raises UsageError for what `load_backbone` did not give."""
    if isinstance(backbone, str | os.PathLike):
        raise UsageError(
            f"{call} takes a backbone, not its name {os.fspath(backbone)!r}",
            fix=f"Load it first: fewvit.{call}(fewvit.load_backbone({os.fspath(backbone)!r}), …).",
        )
    if backbone.pipeline is None:
        raise UsageError(
            "this backbone did not come from load_backbone, so its features have no fingerprint",
            fix="Load it with fewvit.load_backbone(name or file).",
        )
    return dataclasses.replace(backbone.pipeline, decode=decode)
