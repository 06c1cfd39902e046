"""What `fewvit extract` does: one set of features per backbone, and a row with their number and width."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..datasets import Dataset, Listing
from ..errors import UsageError
from ..extraction.shards import Part, ShardFiles, joined
from ..features import FeatureSet
from ..results import Facts, Row
from ..sources import ImageSource, Sources
from .inputs import FeatureReader, Found, Inputs, measured


@dataclass(frozen=True)
class Extracted:
    """What an extraction gave."""

    rows: list[Row]
    facts: Facts
    features: FeatureSet  # the last backbone's
    skipped: list[dict[str, str]]
    images: Dataset | None  # the whole data set; None where features were given


@dataclass(frozen=True)
class Share:
    """Which part of the work is done here. At most one of these is given."""

    part: Part | None = None  # this part of the images
    merged: Path | None = None  # nothing is computed: the parts that stand beside this file are put together
    process: Part | None = None  # this part, and the first of the processes that torchrun started gets all parts


def run_extract(
    reader: FeatureReader, source: str, listing: Listing, *, to_file: bool, share: Share | None = None
) -> Extracted | None:
    """What was extracted; None in all processes but the first of those that torchrun started.

    Raises UsageError where one file would have to hold several feature sets, and where features are to be divided,
    IntegrityError for shards that are missing or not of these features and images, and as `extract`.
    """
    if to_file and len(reader.backbones.names) > 1:
        raise UsageError("--out holds the features of one backbone; give one, or leave --out away to fill the cache")
    if to_file and reader.options.layers == "each":
        raise UsageError(
            "--layers each is one row per block and goes with an evaluation; for a file give a number of blocks"
        )
    share = share or Share()
    sources = reader.one(source, listing, unlabelled=True)
    if share.process is None:
        return _measured(reader, _shared(reader, sources, share), share.part, sources)
    from ..models.engines import resolve_device
    from ..training.distributed import meeting

    with meeting(resolve_device(reader.options.device)) as device:
        reader.options = dataclasses.replace(reader.options, device=device)
        gathering = _gathered(reader, sources, share.process)
        if share.process.number == 1:
            return _measured(reader, gathering, None, sources)
        for _ in gathering:  # nothing comes: the first process has it all
            pass
        return None


def _measured(
    reader: FeatureReader, sets: Sources | Iterator[Inputs], part: Part | None, sources: Sources
) -> Extracted:
    kept: list[FeatureSet] = []
    skipped: list[dict[str, str]] = []
    columns: Row = {"shard": str(part)} if part is not None else {}

    def measure(inputs: Inputs, name: str) -> Found:
        kept[:] = [inputs.train]
        n, width = inputs.train.features.shape
        row = {"method": "extract", **columns, "metric": "images", "value": n, "dim": width}
        return [{**row, "skipped": len(inputs.skipped)}], {}

    rows, facts = measured(reader, sets, measure, skipped.extend, reader.backbones.seed)
    return Extracted(rows, facts, kept[0], skipped, sources.train.images)


def _shared(reader: FeatureReader, sources: Sources, share: Share) -> Sources | Iterator[Inputs]:
    if share.part is not None:
        return Sources(_images(sources).sliced(share.part))
    return _merged(reader, sources, share.merged) if share.merged is not None else sources


def _merged(reader: FeatureReader, sources: Sources, out: Path) -> Iterator[Inputs]:
    """What shards beside `out` hold, for each backbone: there is one."""
    source = _images(sources)
    for pipeline in reader.pipelines():
        shards = ShardFiles(out).read(pipeline, source.images)
        yield Inputs(sources, pipeline, joined(pipeline, source.images, shards, source.extractor.work), None, 0.0)


def _gathered(reader: FeatureReader, sources: Sources, part: Part) -> Iterator[Inputs]:
    """In the first process the features of all images by each backbone; in the others nothing."""
    from ..training.distributed import gathered

    source = _images(sources)
    for own in reader.each(Sources(source.sliced(part))):
        parts = gathered(own.train)
        if own.pipeline is not None and parts:
            train = joined(own.pipeline, source.images, parts, source.extractor.work)
            yield dataclasses.replace(own, sources=sources, train=train)


def _images(sources: Sources) -> ImageSource:
    """The source. Raises UsageError for one that holds features."""
    source = sources.train
    if not isinstance(source, ImageSource):
        raise UsageError("these are features already, so there is no work to share", file=source.place)
    return source
