"""How good features are as far as that can be told without labels; where there are labels, k-NN stands beside it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from ..backbones import TEMPERATURE
from ..datasets import Dataset, open_dataset
from ..errors import DataError, UsageError, counted
from ..evaluate.inputs import FeatureReader, Found, Inputs, by_layer, measured
from ..evaluate.knn import score_knn
from ..extraction.pipeline import Pipeline
from ..features import FeatureSet
from ..images import MAX_PIXELS
from ..results import Result, Row, manifest
from ..seeds import generator
from ..sources import Sources
from .changes import Changed, changed_features
from .measures import alignment, alpha_req, lidar, neighbor_overlap, rank_me, uniformity

MOST = 25_600  # features that are measured: Garrido et al. 2023 found no change beyond
_PAIRED = 8192  # of them, those whose pairs are measured
_K = 20  # neighbours that vote where there are labels

# measure -> what it can and cannot say
NOTES = {
    "rankme": "RankMe: how many directions the features use, from 1 to their width; it says that features have "
    "collapsed, and ranks settings of one pretraining method, but not one method or width against another.",
    "alpha_req": "α-ReQ: how fast the covariance's eigenvalues fall, by rank to the power of minus α; near 1 is what "
    "Agrawal et al. found to go with good accuracy, far above 1 few directions hold everything, and it knows nothing "
    "of what the directions mean.",
    "uniformity": "uniformity: from 0 (all in one point) downwards, the lower the more evenly features fill the "
    "sphere; noise fills it best, so it means something only beside alignment.",
    "alignment": "alignment: squared distance of two random views of an image, 0 is no difference; a backbone that "
    "gives every image the same feature has 0 too, so it means something only beside uniformity.",
    "lidar": "LiDAR: how many directions tell images apart more than views of one image differ, at most images - 1; "
    "it depends on the views, their number and the scale of the features, so compare only rows that share them.",
    "overlap_flip": "share of the k nearest images that stay the nearest when the image is mirrored, 0 to 1; low where "
    "mirroring matters to the backbone, which is a fault only if it does not matter to you.",
    "overlap_crop": "share of the k nearest images that stay the nearest when half to all of the image is cropped out, "
    "0 to 1; it says how steady neighbours are, not whether they are the right ones.",
    "top1": f"k-NN with labels, each image judged by all others, k = {_K} or as many as there are: the only row here "
    "that knows what you want to tell apart.",
}  # fmt: skip


@dataclass(frozen=True)
class Asked:
    """What is measured."""

    sample: int = 200  # images that are changed and seen in views
    views: int = 10  # random views of each
    k: int = 10  # neighbours whose staying is measured
    seed: int = 0


def quality(
    backbone: object,
    source: str | os.PathLike[str] | Dataset,
    *,
    sample: int = 200,
    views: int = 10,
    k: int = 10,
    seed: int = 0,
) -> Result:
    """Label-free measures of a source's features by a backbone of `load_backbone`; `note` says what each can tell.

    RankMe, alpha-ReQ, uniformity over all images (25,600 at most, which the seed picks); alignment, LiDAR and how many
    neighbours stay over `sample` of them, each in `views` random views. k-NN beside it where there are labels.
    Raises as `extract_features`.
    """
    from ..extraction.calls import extract_features
    from ..models.backbone import Backbone
    from .pictures import pipeline_of

    if not isinstance(backbone, Backbone):
        raise UsageError("quality takes a backbone of fewvit.load_backbone")
    dataset = source if isinstance(source, Dataset) else open_dataset(os.fspath(source))
    features, asked = extract_features(backbone, dataset), Asked(sample, views, k, seed)
    pipeline = pipeline_of(backbone)
    changed = _changed(backbone, pipeline, dataset, features, asked, MAX_PIXELS, lambda done, total: None)
    columns = {"dataset": features.name, "backbone": features.backbone}
    rows = [{**columns, **row} for row in quality_rows(features, changed, asked)]
    return Result("inspect", rows, manifest(**pipeline.facts, seed=seed))


def quality_rows(features: FeatureSet, changed: Changed | None, asked: Asked) -> Iterator[Row]:
    """A row for each measure of features (N, D); `changed` are those of changed images, None where there are none."""
    some = features.features
    if len(some) > MOST:
        some = some[np.sort(generator("quality", asked.seed).choice(len(some), MOST, replace=False))]
    whole: Row = {"images": len(some)}
    yield {**whole, **_row("rankme", rank_me(some))}
    yield {**whole, **_alpha_row(some)}
    paired = some[:: max(1, -(-len(some) // _PAIRED))]
    yield {**_row("uniformity", uniformity(paired)), "images": len(paired)}
    if changed is not None:
        yield from _of_changed(features, changed, asked)
    labelled = features.select(np.flatnonzero(features.labels >= 0))
    if len(np.unique(labelled.labels)) > 1 and len(labelled) > 2:
        near = min(_K, len(labelled) - 1)
        [score] = score_knn(labelled, labelled, [near], [TEMPERATURE], leave_one_out=True)
        yield {**_row("top1", score.top1), "method": "knn", "k": near, "images": len(labelled)}


def _of_changed(features: FeatureSet, changed: Changed, asked: Asked) -> Iterator[Row]:
    images, views = changed.views.shape[:2]
    seen: Row = {"images": images}
    yield {**seen, **_row("alignment", alignment(changed.views[:, 0], changed.views[:, 1])), "views": 2}
    yield {**seen, **_row("lidar", lidar(changed.views)), "views": views}
    k = min(asked.k, len(features) - 1)
    for name, one in (("overlap_flip", changed.flipped), ("overlap_crop", changed.cropped)):
        yield {**seen, **_row(name, neighbor_overlap(features.features, changed.rows, one, k)), "k": k}


def _alpha_row(features: np.ndarray) -> Row:
    """α-ReQ; of features that vary in less than three directions there is none, and the note says so."""
    try:
        return _row("alpha_req", alpha_req(features))
    except DataError as error:
        return {"metric": "alpha_req", "value": None, "note": f"not measured: {error.what}"}


def _row(metric: str, value: float) -> Row:
    return {"metric": metric, "value": value, "note": NOTES[metric]}


def run_quality(
    reader: FeatureReader,
    sources: Sources,
    asked: Asked,
    report_skipped: Callable[[list[dict[str, str]]], None],
    progress: Callable[[str, int, int], None],
) -> Found:
    """Rows of every backbone and layer, and the run's manifest: what `fewvit inspect quality` prints."""

    def measure(inputs: Inputs, name: str) -> Found:
        changed = None
        if inputs.pipeline is None or sources.train.images is None:
            reader.notify("features were given: what needs views of the images is not measured")
        else:
            from ..extraction.extract import backbone_of

            backbone = backbone_of(inputs.pipeline)
            max_pixels, images = reader.extractor.work.max_pixels, sources.train.images
            changed = _changed(
                backbone, inputs.pipeline, images, inputs.train, asked, max_pixels,
                lambda done, total: progress(inputs.backbone, done, total),
            )  # fmt: skip
        rows: list[Row] = []
        whole = inputs.train.features.shape[1]
        for at, (columns, features, _) in enumerate(by_layer(inputs)):
            width = features.features.shape[1]
            part = slice(0, whole) if not columns else slice(at * width, (at + 1) * width)
            of_layer = None if changed is None else changed.columns(part)
            rows += [{**columns, **row} for row in quality_rows(features, of_layer, asked)]
        return rows, {"sample": asked.sample, "views": asked.views}

    rows, facts = measured(reader, sources, measure, report_skipped, asked.seed)
    if len({(row["backbone"], row.get("layer")) for row in rows}) > 1:
        reader.notify("nothing is chosen here: without labels no measure says which backbone or layer is the best one")
    return rows, facts


def _changed(
    backbone: object,
    pipeline: Pipeline,
    images: Dataset,
    features: FeatureSet,
    asked: Asked,
    max_pixels: int,
    progress: Callable[[int, int], None],
) -> Changed:
    """Features of the changed images, those of the sample that the seed picks."""
    from ..extraction.encoding import batch_size_of
    from ..models.backbone import Backbone

    if asked.views < 2:
        raise UsageError(f"{counted(asked.views, 'view')} cannot differ", fix="Give --views 2 or more.")
    if not isinstance(backbone, Backbone):
        raise UsageError("views are of a backbone of fewvit.load_backbone")
    rows = np.arange(len(features))
    if asked.sample < len(rows):
        rows = np.sort(generator("quality", asked.seed, "changed").choice(rows, asked.sample, replace=False))
    row_of = {name: row for row, name in enumerate(images.ids)}
    numbers = [row_of[features.ids[row]] for row in rows.tolist()]
    return changed_features(
        backbone, pipeline, images, rows, numbers, count=asked.views, seed=asked.seed,
        batch=batch_size_of(pipeline, None), max_pixels=max_pixels, progress=progress,
    )  # fmt: skip
