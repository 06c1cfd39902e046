"""The index of images that people hold: made of a source, searched, changed and checked."""

from __future__ import annotations

import os
from collections.abc import Sequence

from ..datasets import Listing
from ..errors import IntegrityError, UsageError
from ..evaluate.inputs import Backbones, FeatureReader
from ..extraction.cache import Cache, default_cache_dir
from ..extraction.pipeline import FeatureOptions, Pipeline
from ..extraction.work import Work
from ..features import FeatureSet
from ..models.spec import Access
from ..sources import FeatureSource, Source, open_source
from . import adding, growth
from .folder import IndexFolder
from .growth import KIND_NAMES, Changes, Wish
from .opened import OpenIndex
from .origin import made_before, made_by
from .queries import reader_of, required_pipeline

_NOT_ASKED = "dino_vits16"  # what a reader is made with where features are given: no image is read


class ImageIndex(OpenIndex):
    """An index that is open; what changes it returns the new version, and leaves this one as it is."""

    @staticmethod
    def open(path: str | os.PathLike[str], *, check: bool = True) -> ImageIndex:
        """The current version of the index in a folder, after comparing the digests of all its files.

        Raises DataError where there is none, IntegrityError, naming the file, where it is damaged.
        """
        opened = OpenIndex.open(path, check=check)
        return ImageIndex(opened.folder, opened.manifest, opened._mapped)

    @staticmethod
    def build(
        path: str | os.PathLike[str],
        data: str | FeatureSet,
        *,
        backbone: str = "dino_vits16",
        wish: Wish | None = None,
        reader: FeatureReader | None = None,
        listing: Listing | None = None,
    ) -> ImageIndex:
        """The index of every image of a source, made by a backbone, or of features; it replaces the one in the folder.

        `reader` has the backbone and all options of features in place of `backbone`. Raises UsageError for several
        backbones, DataError for no image or an id given twice, and as the extraction of features.
        """
        build_index(path, data, reader or _reader(backbone), wish or Wish(), listing or Listing())
        return ImageIndex.open(path)

    def add(
        self, data: str | FeatureSet, *, reader: FeatureReader | None = None, listing: Listing | None = None
    ) -> ImageIndex:
        """With the images of a source that it lacks, in place of those that they replace.

        Raises FingerprintMismatch for a reader of another backbone, DataError for an id of another image.
        """
        add_images(
            self,
            data,
            reader or reader_of(self, Access(default_cache_dir())) or _reader("dino_vits16"),
            listing or Listing(),
        )
        return ImageIndex.open(self.path)

    def remove(self, ids: Sequence[str]) -> ImageIndex:
        """Without these images. Raises DataError, and removes none, where one is not in it."""
        growth.remove(self.folder, ids)
        return ImageIndex.open(self.path)

    def compact(self) -> ImageIndex:
        """With the rows of removed images taken out of the files. Raises DataError where no image is left."""
        growth.compact(self.folder)
        return ImageIndex.open(self.path)


def build_index(
    path: str | os.PathLike[str],
    data: str | FeatureSet,
    reader: FeatureReader,
    wish: Wish,
    listing: Listing,
    *,
    overwrite: bool = False,
) -> Changes:
    """What `ImageIndex.build` does; what it did.

    Raises UsageError where the folder's index is of another backbone, unless `overwrite`.
    """
    _check(wish, reader)
    folder = IndexFolder(path)
    folder.require_free()
    source = _source(data, reader, listing)
    [pipeline] = reader.pipelines() if source.images is not None else [None]
    made = made_before(source.features(None)) if pipeline is None else made_by(pipeline, reader.backbones)
    if folder.is_there and not overwrite:
        _require_same(folder, made.fingerprint)
    return growth.build(folder, source, pipeline, made, wish, notify=reader.notify)


def add_images(index: OpenIndex, data: str | FeatureSet, reader: FeatureReader, listing: Listing) -> Changes:
    """What `ImageIndex.add` does; what it did."""
    source = _source(data, reader, listing)
    pipeline: Pipeline | None = None
    if source.images is not None:
        pipeline = required_pipeline(index, reader)
        fingerprint = index.manifest.fingerprint
    else:
        fingerprint = source.fingerprint(None)
    return adding.add(index.folder, source, pipeline, fingerprint, notify=reader.notify)


def _source(data: str | FeatureSet, reader: FeatureReader, listing: Listing) -> Source:
    if isinstance(data, FeatureSet):
        return FeatureSource(data.name, data)
    return open_source(data, listing, reader.extractor, reader.notify, unlabelled=True)


def _check(wish: Wish, reader: FeatureReader) -> None:
    if wish.kind not in (growth.AUTO, *KIND_NAMES):
        raise UsageError(f"--kind {wish.kind!r} is not one of {', '.join((growth.AUTO, *KIND_NAMES))}")
    if not 0 < wish.recall <= 1:
        raise UsageError(f"--recall {wish.recall}: a share of the true neighbours lies above 0 and is at most 1")
    if len(reader.backbones.names) > 1:
        raise UsageError("an index is of one backbone; --backbone names several")
    if reader.options.layers == "each":
        raise UsageError("--layers each is one feature per block, and an index holds one per image; give a number")


def _require_same(folder: IndexFolder, fingerprint: str) -> None:
    """Raise UsageError where an index would be replaced by one of another backbone, or by chance one of tomorrow."""
    try:
        before = folder.current()
    except IntegrityError as error:
        raise IntegrityError(
            error.what, file=error.file, fix="Replace it with --overwrite, or give --index another name."
        ) from error
    if before.fingerprint != fingerprint:
        raise UsageError(
            f"the index that is there is of {before.backbone or 'features'} ({before.fingerprint[:12] or 'unknown'}), "
            f"the new one would be of {fingerprint[:12] or 'unknown'}",
            file=folder.path,
            fix="Give --index another name, or replace it with --overwrite.",
        )


def _reader(backbone: str) -> FeatureReader:
    folder = default_cache_dir()
    return FeatureReader(Backbones([backbone], Access(folder)), FeatureOptions(), Cache(folder), Work())
