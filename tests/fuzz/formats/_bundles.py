"""Small bundles, and what is done with one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from fewvit import plugins
from fewvit.bundles.checks import grown
from fewvit.bundles.file import load_bundle, save_bundle
from fewvit.bundles.fit import FittingRequest, fit_bundle
from fewvit.bundles.predict import predict_rows
from fewvit.classifiers import traits_of
from fewvit.errors import UsageError
from fewvit.features import FeatureSet

D = 5
CLASSES = ["ant", "cät", "dog"]
OPTIONS: dict[str, dict[str, Any]] = {"knn": {"k": 3}}


def features(count: int, seed: int, width: int = D) -> FeatureSet:
    """Rows (count, width) of three classes."""
    stream = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    rows = stream.standard_normal((count, width)).astype(np.float32)
    rows[:, :3] += 2 * np.eye(3, dtype=np.float32)[labels][:, : min(3, width)]
    return FeatureSet(rows, labels, [f"{seed}/{i}" for i in range(count)], CLASSES, "f" * 64)


def inductive() -> list[str]:
    """The classifiers that a bundle can hold, of those that need no package more."""
    kinds = {name: traits_of(plugins.find("classifiers", name)) for name in plugins.names("classifiers")}
    return [name for name, traits in kinds.items() if not traits.transductive and not traits.extra]


def made_bundle(path: Path, classifier: str, score: str | None) -> None:
    """Write a bundle of a classifier and a strangeness score."""
    request = FittingRequest(classifier, OPTIONS.get(classifier, {}), threshold=0.4, strangeness=score)
    save_bundle(path, fit_bundle(features(23, 3), request)[0])


def used(path: Path) -> Any:
    """What a bundle says of new images, and after more were added."""
    bundle = load_bundle(path, device="cpu")
    test = features(4, 7, bundle.width)
    if bundle.fingerprint != test.fingerprint:
        return "of other features"  # which the command says, and names the two
    found: list[Any] = [list(predict_rows(bundle, test)), bundle.classes, bundle.counts]
    try:
        bundle.require_growth()
    except UsageError:
        return found
    more = features(6, 8, bundle.width)
    found.append(bundle.holds(more.features, CLASSES * 2).tolist())
    more_of = grown(bundle, path, more.features, more.labels, bundle.classes)
    return [*found, list(predict_rows(more_of, test))]
