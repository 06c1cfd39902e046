"""What `fewvit fit` does: labelled images or features in, a classifier bundle out; or more images into an old one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..calibration import best_temperature, held_out
from ..classifiers import traits_of
from ..datasets import Listing
from ..errors import UsageError, counted
from ..evaluate.inputs import FeatureReader, Found, Inputs, unfit
from ..evaluate.plots import NO_PLOTS, Plots
from ..extraction.pipeline import settle
from ..extraction.recipe import Recipe
from ..features import FeatureSet
from ..labels import labelled, require_classes
from ..options import options_of
from ..plugins import find
from ..results import Facts, Row, manifest
from ..sources import is_features
from ..strangeness import find_score
from .bundle import THRESHOLD, Bundle, keeps_support, row_digests
from .checks import grown as grown_of
from .file import replace_bundle, save_bundle
from .judged import (
    Judged,
    coverage_lines,
    judged_rows,
    predictions_of,
    require_other_classes,
    require_strangers,
    stranger_rows,
)
from .strangeness import KNOWN_SHARE, check_known_share, fit_strangeness, told

Notify = Callable[[str], None]


@dataclass(frozen=True)
class FittingRequest:
    """Which classifier is fitted, and when its predictions are to be called unknown."""

    classifier: str = "logistic"
    options: Mapping[str, Any] = field(default_factory=dict)  # of its constructor
    threshold: float = THRESHOLD  # of calibrated confidence; stored, `predict` may take another
    known_share: float = KNOWN_SHARE  # of known images that the threshold of strangeness lets pass
    strangeness: str | None = None  # the score; None: chosen by leaving classes out
    seed: int = 0  # of the folds of calibration
    device: str = "auto"  # where a classifier computes that has an option for it; not stored


def check_threshold(threshold: float) -> None:
    """Raise UsageError unless it is a share."""
    if not 0 <= threshold <= 1:
        raise UsageError(f"--threshold {threshold} is no share between 0 and 1")


def check_request(request: FittingRequest) -> None:
    """Raise UsageError for a threshold, share, classifier or score that cannot be, before anything is read."""
    check_threshold(request.threshold)
    check_known_share(request.known_share)
    check_classifier(request.classifier)
    if request.strangeness is not None:
        find_score(request.strangeness)


def check_classifier(name: str) -> type[Any]:
    """The estimator's class. Raises UnknownName, and UsageError for one that cannot classify new images one by one."""
    kind = find("classifiers", name)
    traits = traits_of(kind)
    if traits.transductive:
        raise UsageError(
            f"{name} is transductive: it labels a whole set of images at once, so one image's label would "
            "depend on the others",
            fix="Fit an inductive classifier, such as logistic, centroid or knn.",
        )
    if traits.needs != "features":
        raise UsageError(
            f"{name} reads {traits.needs}, and a bundle is fitted on one feature per image",
            fix="Choose another classifier.",
        )
    return kind


def run_fit(
    reader: FeatureReader,
    source: str,
    listing: Listing,
    request: FittingRequest,
    out: Path,
    notify: Notify,
    report_skipped: Callable[[list[dict[str, str]]], None],
    strangers: str | None = None,
    plots: Plots = NO_PLOTS,
) -> Found:
    """Fit, calibrate and write a bundle; rows on its training images and held-out accuracy, and the run's manifest.

    `strangers` is a source of pictures of other classes: rows say how well they are told apart. `plots` are drawn
    of the images that were held out. Raises UsageError for several backbones or `--layers each`, and as
    `check_request`, `fit_bundle` and `stranger_rows`.
    """
    check_request(request)
    if len(reader.backbones.names) > 1:
        raise UsageError("a bundle is of one backbone; --backbone names several")
    if reader.options.layers == "each":
        raise UsageError(
            "--layers each is one feature per block, and a bundle takes one per image; give a number of blocks"
        )
    sources = reader.one(source, listing)
    if strangers is not None:  # what can be told is told before anything is read or fitted
        others = reader.one(strangers, listing, unlabelled=True).train
        known = np.unique(sources.train.labels[sources.train.labels >= 0])
        require_other_classes([str(sources.train.classes[c]) for c in known], others)
    if plots:
        _require_held_out(sources.train.labels)
    [inputs] = reader.each(sources)
    report_skipped(inputs.skipped)
    recipe = reader.backbones.recipe(inputs.pipeline) if inputs.pipeline is not None else None
    bundle, judged = fit_bundle(inputs.train, request, recipe, notify)
    found = judged_rows(bundle, judged)
    for line in coverage_lines(found, bundle.threshold):
        notify(line)
    if strangers is not None:
        strange = features_for(bundle, reader, strangers, listing, notify, unlabelled=True)
        report_skipped(strange.skipped)
        require_strangers(strangers, inputs.train, strange.train, notify)
        found += stranger_rows(bundle, judged, strange.train)
    sha256 = save_bundle(out, bundle)
    plots.save([predictions_of(bundle, judged)], notify, "Held out in turn; the temperature was fitted on them, too.")
    notify(f"wrote a {bundle.classifier} bundle of {counted(len(bundle.classes), 'class', 'classes')} to {out}")
    return _rows(inputs, bundle, found), _facts(inputs, bundle, sha256, request.seed)


def _require_held_out(labels: np.ndarray) -> None:
    """Raise UsageError where no class has two images, so that there will be no predictions to draw."""
    if np.unique(labels[labels >= 0], return_counts=True)[1].max(initial=0) < 2:
        raise UsageError(
            "no class has two images, so none can be held out and there is nothing to draw",
            fix="Leave --plot-reliability and --plot-confusion out, or give two or more images per class.",
        )


def fit_bundle(
    features: FeatureSet, request: FittingRequest, recipe: Recipe | None = None, notify: Notify = lambda line: None
) -> tuple[Bundle, Judged]:
    """A bundle fitted on all labelled rows, and what estimators fitted on parts of them say about the rest.

    Raises DataError for data without two classes, UsageError for options that do not fit the data.
    """
    kind, options = check_classifier(request.classifier), dict(request.options)
    if "device" in options_of(kind):
        options.setdefault("device", request.device)
    features = labelled(features, "", notify)
    require_classes(features, "")
    rows, labels, classes = _numbered(features, notify)
    try:
        estimator = kind(**options).fit(rows, labels)
    except ValueError as error:
        raise unfit(request.classifier, error) from error
    try:
        held = held_out(lambda: kind(**options), rows, labels, seed=request.seed)
    except ValueError as error:
        raise unfit(f"{request.classifier}, calibrated on a fifth that is held out", error) from error
    if not len(held.rows):
        notify("one image per class: nothing can be held out, so confidences are not calibrated")
    if summary := traits_of(kind).summary([estimator], counted(len(rows), "labelled image")):
        notify(summary)
    strangeness, known = fit_strangeness(
        rows, labels, known_share=request.known_share, seed=request.seed, name=request.strangeness
    )
    notify(told(strangeness))
    kept = keeps_support(estimator)
    bundle = Bundle(
        request.classifier.replace("-", "_"),
        estimator,
        classes,
        np.bincount(labels).tolist(),
        rows.shape[1],
        features.fingerprint,
        recipe,
        best_temperature(held.probabilities, held.labels) if len(held.rows) else 1.0,
        request.threshold,
        (rows, labels) if kept else None,
        row_digests(rows, [classes[c] for c in labels]) if traits_of(kind).grows and not kept else None,
        len(held.rows),
        strangeness,
    )
    return bundle, Judged(held, known)


def _numbered(features: FeatureSet, notify: Notify) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Rows (N, D), labels (N,) and names of the classes that have an image, of labelled features."""
    present, labels = np.unique(features.labels, return_inverse=True)
    classes = [str(features.classes[c]) for c in present]
    if "unknown" in classes:
        notify(
            "a class is called `unknown`, as predictions below the threshold are: tell them apart by their confidence"
        )
    return np.ascontiguousarray(features.features, np.float32), labels, classes


def run_add(
    reader: FeatureReader,
    source: str,
    listing: Listing,
    bundle: Bundle,
    path: Path,
    notify: Notify,
    report_skipped: Callable[[list[dict[str, str]]], None],
) -> Found:
    """Put the images of a source into the bundle at `path`: known classes by their name, others as new ones.

    The calibration stays. Images whose features it holds already, of the same class, are left out. Raises
    IntegrityError when another process changed the file since `bundle` was read from it.
    """
    bundle.require_growth()
    inputs = features_for(bundle, reader, source, listing, notify)
    report_skipped(inputs.skipped)
    rows, labels, names = _numbered(_without_held(bundle, labelled(inputs.train, "", notify), notify), notify)
    if not len(rows):
        notify(f"nothing was added to {path}")
        return _rows(inputs, bundle, []), _facts(inputs, bundle, bundle.sha256, reader.backbones.seed)
    new = [name for name in names if name not in bundle.classes]
    classes = [*bundle.classes, *new]
    number = {name: c for c, name in enumerate(classes)}
    grown = grown_of(bundle, path, rows, np.array([number[name] for name in names])[labels], classes)
    sha256 = replace_bundle(path, grown)
    more = f"{counted(len(rows), 'image')} and {counted(len(new), 'new class', 'new classes')}"
    notify(f"added {more} to {path}; {_calibration(bundle)}")
    return _rows(inputs, grown, []), _facts(inputs, grown, sha256, reader.backbones.seed)


def _without_held(bundle: Bundle, features: FeatureSet, notify: Notify) -> FeatureSet:
    """The rows that the bundle does not hold yet, after a line on how many it holds."""
    held = bundle.holds(features.features, [features.classes[c] for c in features.labels])
    if not held.any():
        return features
    share = f"{np.count_nonzero(held)} of {counted(len(held), 'image')}"
    notify(f"{share} left out: the bundle holds the same features under the same class already")
    return features.select(np.flatnonzero(~held))


def _calibration(bundle: Bundle) -> str:
    """What a bundle that grows says of its calibration, which stays."""
    if bundle.calibrated_on is None:
        return "its calibration stays as it was"
    if bundle.calibrated_on == 0:
        return "it stays without calibration"
    return f"its calibration is still that of {counted(bundle.calibrated_on, 'image')} of the first fit"


def features_for(
    bundle: Bundle, reader: FeatureReader, source: str, listing: Listing, notify: Notify, *, unlabelled: bool = False
) -> Inputs:
    """The features of a source, made as the bundle's were; no image is read before that is known.

    Raises FingerprintMismatch.
    """
    if is_features(source):
        [inputs] = reader.each(reader.one(source, listing, unlabelled=unlabelled))
        bundle.require(inputs.train)
        if bundle.fingerprint and not inputs.train.fingerprint:
            notify(f"{source} carries no fingerprint, so nothing shows that its features are of the bundle's backbone")
        return inputs
    if bundle.recipe is None:
        raise UsageError(
            "this bundle was fitted on a features file, so it does not know how features are made of images",
            fix="Give features (.npz) of the same backbone, or fit it on images.",
        )
    b = reader.backbones
    bundle.recipe.require_backbone(b.names[0], b.weights, b.checkpoint_key)
    bundle.recipe.require(settle(reader.spec(b.names[0]), reader.options), notify)
    [inputs] = reader.each(reader.one(source, listing))
    return inputs


def _rows(inputs: Inputs, bundle: Bundle, judged: Sequence[Row]) -> list[Row]:
    columns = {**inputs.labels, "method": bundle.classifier}
    found: dict[str, float] = {
        "images": sum(bundle.counts),
        "classes": len(bundle.classes),
        "calibration_temperature": bundle.temperature,
    }
    rows: list[Row] = [{"metric": metric, "value": value} for metric, value in found.items()]
    return [{**columns, **row} for row in (*rows, *judged)]


def _facts(inputs: Inputs, bundle: Bundle, sha256: str, seed: int) -> Facts:
    facts = {
        "bundle_sha256": sha256,
        "options": bundle.estimator.get_params(deep=False),
        "threshold": bundle.threshold,
        "strangeness": bundle.strangeness.facts if bundle.strangeness is not None else None,
        "seed": seed,
    }
    return manifest(**inputs.facts, **facts)
