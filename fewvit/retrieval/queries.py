"""Images to search with: files and folders under the names they were given by, and their features by one pipeline."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..datasets import Dataset, Listing, open_dataset
from ..errors import UsageError
from ..evaluate.inputs import Backbones, FeatureReader
from ..extraction.cache import Cache
from ..extraction.pipeline import Pipeline
from ..extraction.work import Work
from ..features import FeatureSet
from ..models.spec import Access
from ..sources import ImageSource, Notify, announce, is_features
from .growth import require_fingerprint, require_width
from .opened import OpenIndex
from .origin import recipe_of, require_pipeline


@dataclass(frozen=True)
class _Joined:
    """Images of several data sets, one after another."""

    parts: Sequence[tuple[Dataset, int]]  # N: a data set and the row in it

    def read(self, i: int) -> bytes:
        dataset, row = self.parts[i]
        return dataset.read(row)

    def identity(self, i: int) -> bytes | None:
        dataset, row = self.parts[i]
        return dataset.identity(row)

    def place(self, i: int) -> str | None:
        dataset, row = self.parts[i]
        return dataset.place(row)


def query_images(sources: Sequence[str], listing: Listing, notify: Notify) -> Dataset:
    """One data set of all images of the sources.

    Images of a folder are called by its name and theirs, a file by the name it was given by.
    """
    ids: list[str] = []
    parts: list[tuple[Dataset, int]] = []
    for source in sources:
        dataset = announce(open_dataset(source, listing), notify)
        alone = len(dataset) == 1 and os.path.isfile(source)
        ids += [source] if alone else [os.path.join(source, name) for name in dataset.ids]
        parts += [(dataset, row) for row in range(len(dataset))]
    return Dataset("queries", ids, np.full(len(ids), -1, np.int64), [], _Joined(parts))


def query_features(index: OpenIndex, sources: Sequence[str], reader: FeatureReader, listing: Listing) -> FeatureSet:
    """Features of the queries, made as those of the index were.

    Raises FingerprintMismatch, before any image is read, where the reader's backbone or readout is another one.
    """
    if any(map(is_features, sources)):
        return _given(index, sources, reader)
    pipeline = required_pipeline(index, reader)
    images = ImageSource("queries", query_images(sources, listing, reader.notify), reader.extractor)
    return images.features(pipeline)


def reader_of(
    index: OpenIndex,
    access: Access,
    weights: str | None = None,
    device: str = "auto",
    notify: Notify = lambda line: None,
) -> FeatureReader | None:
    """What makes features as those of the index were made; None for an index of features, which does not know.

    `weights`: where they are, if no longer where they were.
    """
    recipe = recipe_of(index.manifest)
    if recipe is None:
        return None
    recipe = recipe.located(weights, access.cache_dir)
    backbones = Backbones(
        [recipe.backbone],
        access,
        recipe.weights,
        recipe.checkpoint_key,
        recipe.family,
        recipe.seed,
        told=recipe.told_of_file,
    )
    options = dataclasses.replace(recipe.options, device=device)
    return FeatureReader(backbones, options, Cache(access.cache_dir), Work(), notify=notify)


def required_pipeline(index: OpenIndex, reader: FeatureReader) -> Pipeline:
    """The reader's pipeline, if it makes the index's features. Raises FingerprintMismatch otherwise."""
    if len(reader.backbones.names) > 1:
        raise UsageError("an index is of one backbone; --backbone names several")
    recipe, b = recipe_of(index.manifest), reader.backbones
    if recipe is None and not b.asked:
        raise UsageError(
            "this index was built of features, so it does not say how images become such features",
            file=index.path,
            fix=f"Give features (.npz), or --backbone {index.manifest.backbone or 'NAME'} with its options of then.",
        )
    if recipe is not None:
        recipe.require_backbone(b.names[0], b.weights, b.checkpoint_key, made="the index was built")
    [pipeline] = reader.pipelines()
    require_pipeline(index.manifest, pipeline, reader.notify)
    return pipeline


def _given(index: OpenIndex, sources: Sequence[str], reader: FeatureReader) -> FeatureSet:
    if len(sources) > 1:
        raise UsageError("a features file as the query goes by itself")
    features = FeatureSet.load(sources[0], unlabelled=True)
    require_width(index, features, sources[0])
    require_fingerprint(index.manifest, features.fingerprint)
    if index.manifest.fingerprint and not features.fingerprint:
        reader.notify(f"{sources[0]} carries no fingerprint, so nothing shows that its features are of this backbone")
    return features
