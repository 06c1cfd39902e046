"""The calls that Python users begin with: `load_backbone`, from a name to a frozen module, and `extract_features`."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from ..datasets import Dataset, open_dataset
from ..errors import UsageError
from ..features import FeatureSet
from ..models.build import build
from ..models.resolve import resolve
from ..models.spec import Access
from ..models.vit import Backbone, Readout
from .cache import Cache, default_cache_dir
from .extract import extract
from .pipeline import FeatureOptions, settle
from .work import Work


def load_backbone(
    name: str,
    *,
    weights: str | None = None,
    checkpoint_key: str | None = None,
    family: str | None = None,
    protocol: str | None = None,
    pool: str | None = None,
    layers: int | None = None,
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

    `weights` is a file or `random`; `engine` is auto, eager, packed or openvino (eager keeps the parameters as they are
    in the file). Its `encode` reads what the family's default protocol reads, unless `protocol`, `pool` or `layers` say
    otherwise. Published numbers to expect stand in `backbone.spec.published`. Raises UnknownName, Unobtainable,
    LicenseRequired, CheckpointError.
    """
    from ..models.engines import resolve_device

    folder = Path(cache_dir) if cache_dir is not None else default_cache_dir()
    spec = resolve(
        name,
        Access(folder, offline, accept_license),
        Cache(folder).digests(),
        weights=weights,
        checkpoint_key=checkpoint_key,
        family=family,
        seed=seed,
    )
    size = "x".join(map(str, img_size)) if isinstance(img_size, tuple) else None if img_size is None else str(img_size)
    pipeline = settle(
        spec,
        FeatureOptions(
            protocol=protocol,
            pool=pool,
            layers=None if layers is None else str(layers),
            img_size=size,
            precision=precision,
            device=device,
        ),
    )
    readout = Readout(pipeline.pool, pipeline.layers, pipeline.norm)
    backbone = build(
        spec,
        readout,
        pipeline.size,
        device=resolve_device(device),
        precision=pipeline.precision,
        engine=engine,
    )
    backbone.pipeline = pipeline
    return backbone


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
    if isinstance(backbone, str | os.PathLike):
        raise UsageError(
            f"extract_features takes a backbone, not its name {os.fspath(backbone)!r}",
            fix=f"Load it first: fewvit.extract_features(fewvit.load_backbone({os.fspath(backbone)!r}), …).",
        )
    if backbone.pipeline is None:
        raise UsageError(
            "this backbone did not come from load_backbone, so its features have no fingerprint",
            fix="Load it with fewvit.load_backbone(name or file).",
        )
    pipeline = dataclasses.replace(backbone.pipeline, decode=decode)
    dataset = source if isinstance(source, Dataset) else open_dataset(os.fspath(source))
    cache = Cache(Path(cache_dir) if cache_dir is not None else default_cache_dir())
    return extract(pipeline, dataset, cache, Work(batch_size=batch_size, max_bad=max_bad), build=lambda: backbone)
