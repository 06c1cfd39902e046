"""What a plan will cost: features to extract, their time from a short measured sample, their place on disk."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..datasets import Dataset, select
from ..errors import counted
from ..extraction.cache import Cache
from ..extraction.extract import backbone_of, extract
from ..extraction.pipeline import Pipeline
from ..extraction.work import Work
from .methods import evaluation_of
from .plan import Group
from .workshop import Workshop

_SAMPLE = 16  # images that are timed, after as many that warm up
_FLOAT = 4  # bytes


@dataclass(frozen=True)
class Extraction:
    """Features of one backbone on one data set."""

    backbone: str
    data: str
    images: int
    missing: int  # of them, not in the cache, as far as files are known
    seconds: float | None  # that the missing ones will take; None: not measured
    bytes: int | None  # that they will take in the cache


def extractions(groups: Sequence[Group], shop: Workshop, *, measure: bool) -> Iterator[Extraction]:
    """What each group needs. With `measure` a sample of what is missing is extracted, into the cache as all is."""
    for group in groups:
        if group.backbone is None or any(one.error is not None for one in group.planned):
            continue
        reader = shop.reader(group.backbone, group.planned[0].cell.seed)
        sides = shop.opened(group.data, reader).sides
        datasets = [side.images for side in sides if side.images is not None]
        tasks = {evaluation_of(one.cell).task for one in group.planned}
        pipelines = {one.fingerprint: one for one in map(reader.pipeline, sorted(tasks))}
        for pipeline in pipelines.values():
            missing = [np.array(_missing(pipeline, dataset, shop)) for dataset in datasets]
            count = sum(map(len, missing))
            seconds, size = None, None
            if measure and count:
                place = max(range(len(missing)), key=lambda i: len(missing[i]))
                each, width = _sampled(pipeline, select(datasets[place], missing[place][: 2 * _SAMPLE].tolist()), shop)
                seconds, size = each * count, width * _FLOAT * count
            images = sum(map(len, datasets))
            yield Extraction(group.backbone.shown, group.data.shown, images, count, seconds, size)


def _missing(pipeline: Pipeline, dataset: Dataset, shop: Workshop) -> list[int]:
    """Rows whose feature is not in the cache; of files that were never read all are taken for new."""
    if shop.cache is None:
        return list(range(len(dataset)))
    store = shop.cache.store(pipeline.key)
    identities = [dataset.identity(row) for row in range(len(dataset))]
    missing = []
    for row, digest in enumerate(shop.memory.get_all(identities)):
        if digest is None and identities[row] is None:  # in no file: its bytes are at hand
            digest = hashlib.sha256(dataset.read(row)).digest()
        if digest is None or (digest not in store and store.bad(digest) is None):
            missing.append(row)
    return missing


def _sampled(pipeline: Pipeline, sample: Dataset, shop: Workshop) -> tuple[float, int]:
    """Seconds an image, and the width of a feature, by extracting a few images."""
    built = backbone_of(pipeline)
    work = Work(shop.how.batch_size, shop.how.workers, "100%", shop.how.max_pixels)
    half = max(1, len(sample) // 2)
    warm, timed = select(sample, range(half)), select(sample, range(half if len(sample) > 1 else 0, len(sample)))
    cache: Cache | None = shop.cache
    width = extract(pipeline, warm, cache, work, memory=shop.memory, build=lambda: built).features.shape[1]
    began = time.perf_counter()
    extract(pipeline, timed, cache, work, memory=shop.memory, build=lambda: built)
    return (time.perf_counter() - began) / len(timed), width


def lines(found: Sequence[Extraction]) -> Iterator[str]:
    """What is to be told of it."""
    images, missing = sum(one.images for one in found), sum(one.missing for one in found)
    if not found:
        return
    yield f"features: {images - missing} of {images} are cached, {missing} to extract"
    for one in found:
        if one.missing and one.seconds is not None and one.bytes is not None:
            yield (
                f"  {one.backbone} · {one.data}: {counted(one.missing, 'image')}, about {duration(one.seconds)} and "
                f"{_size(one.bytes)}"
            )
    known = [one for one in found if one.seconds is not None and one.bytes is not None]
    if len(known) > 1:
        seconds, size = sum(one.seconds or 0 for one in known), sum(one.bytes or 0 for one in known)
        yield f"  in all about {duration(seconds)} and {_size(size)}, by samples of {_SAMPLE} images"


def duration(seconds: float) -> str:
    """About how long, in words: `40 s`, `12 min`, `3 h 05 min`."""
    if seconds < 60:
        return f"{max(1, round(seconds))} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{max(1, round(count / 1e6))} MB"
