"""The tour behind `fewvit demo`: digits through a small ViT to every kind of answer, and the page that shows them."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..bundles.fit import FittingRequest, fit_bundle
from ..bundles.predict import UNKNOWN, predict_rows
from ..datasets import Listing, open_dataset
from ..errors import DataError, MissingExtra, counted, in_one_line
from ..evaluate.inputs import FeatureReader, Found, Inputs
from ..evaluate.knn import KNNOptions, evaluate_knn
from ..features import FeatureSet
from ..results import Row, manifest
from ..retrieval.growth import Wish
from ..retrieval.index import ImageIndex
from ..sources import Given
from ..splits import n_per_class
from ..sweep import How, Request, carry_out
from ..sweep.config import settled
from .report import Report

_DATA = "digits"
_KS = (1, 5, 20)
_SHOTS = (1, 2, 5)
_FEW = 20  # labelled images per class of the bundle
_NEAR = 5

Notify = Callable[[str], None]


def tour(reader: FeatureReader, place: Path, notify: Notify) -> Found:
    """Rows of k-NN and low-shot on the digits, with raw pixels beside; `place` gets the index, the cells and the page.

    Raises as the commands that it calls.
    """
    started = time.perf_counter()
    notify("1. The data: the 1797 handwritten digits that scikit-learn carries, 1198 to learn from, 599 to test on.")
    inputs = next(reader.each(reader.pair(Given(_DATA))))
    _tell_features(inputs, notify)
    rows = [*_measured(reader, place, notify), *_of_pixels(inputs)]
    notify(f"4. k-NN and low-shot: {_best(rows)} Chance is 10 %.")
    notify(
        "   Raw pixels win here: these digits are all of one size and in one place, as photographs, which backbones "
        "are for, never are."
    )
    notify(f"5. A bundle: {_predicted(inputs)}")
    notify(f"6. An index of images: {_searched(reader, inputs, place / 'index')}")
    page = _page(place, notify)
    notify(f"   {time.perf_counter() - started:.1f} s in all.")
    return rows, manifest(**inputs.facts, page=page)


def _page(place: Path, notify: Notify) -> str | None:
    """Where the report is; None where what draws it is not installed."""
    page = place / "report.html"
    try:
        Report.of([place / "sweep"], "The tour").write(page)
    except MissingExtra as error:
        notify(f"7. No report: {in_one_line(error)}")
        return None
    notify(f"7. The report: {page}")
    return str(page)


def _tell_features(inputs: Inputs, notify: Notify) -> None:
    if inputs.pipeline is None:
        raise TypeError("the tour reads images")
    spec, crop = inputs.pipeline.spec, inputs.pipeline.preprocess.crop
    weights = (
        "random weights: it has learnt nothing, so take its numbers for a test of the machinery"
        if spec.is_random
        else f"weights {spec.weights_sha256[:12]}"
    )
    notify(f"2. The backbone: {spec.name} at {crop[0]}x{crop[1]} px, frozen, {weights}.")
    facts = inputs.facts
    speed = f"{facts['images_per_second']:.0f} images/s" if facts.get("images_per_second") else "all from the cache"
    notify(
        f"3. Features: {counted(facts['images'], 'image')}, {facts['computed']} computed now ({speed}), "
        f"{facts['cached']} from the cache. Run it again and none is computed."
    )


def _measured(reader: FeatureReader, place: Path, notify: Notify) -> list[Row]:
    """Rows of a small sweep, whose cells the page is made of."""
    methods = [{"name": "knn", "k": list(_KS)}, "logistic", "centroid"]
    config = settled(
        {},
        {"backbones": list(reader.backbones.names), "data": [_DATA], "methods": methods, "shots": list(_SHOTS)},
    )
    cache = reader.extractor.cache
    how = How(reader.backbones.access.cache_dir, no_cache=cache is None, offline=True)
    ended = carry_out(Request(config, place / "sweep"), how, reader.backbones.access, lambda line: None)
    if ended is None or ended.failed:
        raise DataError(ended.failed[0][1] if ended is not None else "the tour measured nothing", file=place)
    return [{name: value for name, value in row.items() if name != "weights_sha256"} for row in ended.rows]


def _of_pixels(inputs: Inputs) -> list[Row]:
    """k-NN of raw pixels."""
    train, test = (_pixels(source) for source in ("digits/train", "digits/test"))
    found = evaluate_knn(train, test, KNNOptions(ks=_KS))[0]
    return [{**inputs.labels, "backbone": "raw pixels", **row} for row in found]


def _pixels(source: str) -> FeatureSet:
    """The 64 pixels of each digit as its feature: what any backbone should beat."""
    import io

    from PIL import Image

    data = open_dataset(source)
    pixels = np.stack(
        [np.asarray(Image.open(io.BytesIO(data.read(i))), dtype=np.float32).ravel() for i in range(len(data))]
    )
    return FeatureSet(pixels, data.labels, data.ids, data.classes, name=data.name)


def _best(rows: list[Row]) -> str:
    """The tour's numbers in a sentence."""
    top1 = [row for row in rows if row["metric"] == "top1" and row["backbone"] != "raw pixels"]
    knn = max(row["value"] for row in top1 if row["method"] == "knn" and "k" in row)
    few = [row for row in top1 if row["method"] == "logistic" and row["trial"] == "mean"]
    shown = ", ".join(f"{row['value']:.1f} ± {row['std']:.1f} % from {row['shots']}" for row in few)
    return (
        f"{knn:.1f} % by the nearest of 1198 digits; a logistic regression gets {shown} labelled digits of each class."
    )


def _predicted(inputs: Inputs) -> str:
    """What a bundle fitted on a few labels says of the test digits."""
    train, test = inputs.train, inputs.test
    if test is None:
        raise TypeError("the tour has test images")
    [split] = n_per_class(train.labels, train.classes, [_FEW], 1, 0)
    bundle, _ = fit_bundle(train.select(split.train), FittingRequest())
    found = list(predict_rows(bundle, test))
    named = [row for row in found if row["label"] != UNKNOWN]
    right = sum(row["label"] == row["target"] for row in named)
    share = f", of which {100 * right / len(named):.0f} % are right" if named else ""
    return (
        f"from {_FEW} labelled digits of each class it names {len(named)} of {len(found)} test digits{share}, and "
        f"calls {len(found) - len(named)} `unknown`, for a confidence below {bundle.threshold:g} or their strangeness."
    )


def _searched(reader: FeatureReader, inputs: Inputs, place: Path) -> str:
    """What lies nearest to the first test digit."""
    test = inputs.test
    if test is None:
        raise TypeError("the tour has test images")
    index = ImageIndex.build(place, "digits/train", reader=reader, wish=Wish("flat"), listing=Listing())
    near = index.search(test.features[:1], _NEAR)
    labels = [str(name) for name in index.class_names(near.rows)]
    return (
        f"the {_NEAR} digits nearest to a {test.classes[test.labels[0]]} are {', '.join(labels)}; the first has cosine "
        f"{near.scores[0]:.3f}."
    )
