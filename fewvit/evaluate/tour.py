"""The tour behind `fewvit demo`: digits through a small ViT to k-NN, and what the numbers mean."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from ..datasets import open_dataset
from ..errors import counted
from ..features import FeatureSet
from ..results import manifest
from ..sources import Given
from .inputs import FeatureReader, Found
from .knn import KNNOptions, evaluate_knn

_KS = (1, 5, 20)


def tour(reader: FeatureReader, notify: Callable[[str], None]) -> Found:
    """Rows of k-NN on the digits: with the backbone's features, and with raw pixels beside them."""
    started = time.perf_counter()
    notify("1. The data: the 1797 handwritten digits that scikit-learn carries, 1198 to learn from, 599 to test on.")
    inputs = next(reader.each(reader.pair(Given("digits"))))
    if inputs.pipeline is None or inputs.test is None:
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
    options = KNNOptions(ks=_KS)
    rows = [{**inputs.labels, **row} for row in evaluate_knn(inputs.train, inputs.test, options)[0]]
    train, test = (_pixels(source) for source in ("digits/train", "digits/test"))
    rows += [
        {**inputs.labels, "backbone": "raw pixels", "weights": "", **row}
        for row in evaluate_knn(train, test, options)[0]
    ]
    notify(
        f"4. k-NN: weighted votes of the k nearest digits; chance is 10 %. {time.perf_counter() - started:.1f} s in "
        "all."
    )
    notify(
        "   Raw pixels win here: these digits are all of one size and in one place, as photographs, which backbones "
        "are for, never are."
    )
    return rows, manifest(**facts)


def _pixels(source: str) -> FeatureSet:
    """The 64 pixels of each digit as its feature: what any backbone should beat."""
    import io

    from PIL import Image

    data = open_dataset(source)
    pixels = np.stack(
        [np.asarray(Image.open(io.BytesIO(data.read(i))), dtype=np.float32).ravel() for i in range(len(data))]
    )
    return FeatureSet(pixels, data.labels, data.ids, data.classes, name=data.name)
