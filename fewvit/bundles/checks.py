"""What a bundle must be whoever wrote it: its digest says that it is whole, not that it was ever a classifier."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import FewvitError, IntegrityError, in_one_line, refuse_out_of_memory
from ..untrusted.texts import require_file_text
from .bundle import Bundle

_WIDEST = 1 << 20  # columns of features; a ViT-g with every block has less than 100 000


def require_facts(manifest: Mapping[str, Any]) -> None:
    """Raise ValueError or KeyError unless classes, counts and numbers of a manifest can be those of a bundle."""
    classes, counts, width = manifest["classes"], manifest["counts"], manifest["width"]
    _require(_all(classes, str) and len(set(classes)) == len(classes) > 0, "its classes are no names")
    require_file_text(*classes)
    _require(_all(counts, int) and len(counts) == len(classes) and min(counts) >= 0, "its counts are not one a class")
    _require(type(width) is int and 1 <= width <= _WIDEST, f"features of {str(width)[:40]} columns")
    _require(is_number(manifest["temperature"]) and manifest["temperature"] > 0, "its temperature is no number above 0")
    _require(is_number(manifest["threshold"]) and 0 <= manifest["threshold"] <= 1, "its threshold is no probability")
    _require(isinstance(manifest["fingerprint"], str), "its fingerprint is no text")
    _require(manifest.get("calibrated_on") is None or type(manifest["calibrated_on"]) is int, "it counts no images")
    versions = manifest["versions"]
    _require(isinstance(versions, dict) and _all(list(versions.values()), str), "its versions are no texts")


def require_rows(features: np.ndarray, labels: np.ndarray, width: int, n_classes: int) -> None:
    """Raise ValueError unless they are finite rows (N, width) and labels (N,) among the classes."""
    _require(features.ndim == 2 and features.shape[1] == width and len(features) > 0, f"rows of {features.shape}")
    _require(features.dtype.kind == "f" and bool(np.isfinite(features).all()), "rows that are not finite")
    fits = labels.shape == features.shape[:1] and labels.dtype.kind in "iu"
    _require(fits and 0 <= int(labels.min()) <= int(labels.max()) < n_classes, "labels that are none of its classes")


def require_usable(bundle: Bundle) -> None:
    """Raise ValueError, or whatever a classifier raises, unless the bundle says something of two images.

    What a classifier learnt is its own affair, and so nobody else can look through it: it is tried.
    """
    seen = bundle.seen
    _require(seen is None or (seen.ndim == 2 and seen.shape[1] == 16 and seen.dtype == np.uint8), "no digests of rows")
    rows = np.zeros((2, bundle.width), np.float32)
    rows[0, 0], rows[1] = 1, 1
    probabilities = bundle.probabilities(rows)
    _require(probabilities.shape == (2, len(bundle.classes)), f"probabilities of the shape {probabilities.shape}")
    _require(bool(np.isfinite(bundle.confidences(probabilities)).all()), "confidences that are not finite")
    if bundle.strangeness is not None:
        _require(bool(np.isfinite(bundle.strangeness.of(rows)).all()), "a strangeness that is not finite")


def grown(
    bundle: Bundle, path: str | os.PathLike[str], features: np.ndarray, labels: np.ndarray, classes: Sequence[str]
) -> Bundle:
    """As `Bundle.grown`, and the bundle is tried afterwards.

    Raises IntegrityError, naming the file, for a classifier that cannot take the rows though its kind does.
    """
    try:
        more = bundle.grown(features, labels, classes)
        require_usable(more)
        return more
    except FewvitError:
        raise
    except Exception as error:  # as where it is loaded: anything comes out of a classifier that never was one
        refuse_out_of_memory(error, "adding to the bundle", features.nbytes)
        raise IntegrityError(
            f"this bundle cannot take more images: {type(error).__name__}: {in_one_line(error)[:300]}",
            file=path,
            fix="Fit it again.",
        ) from error


def is_number(value: object) -> bool:
    """Whether a value out of JSON is a finite number that a float can hold."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(what)


def _all(values: object, kind: type) -> bool:
    return isinstance(values, list) and all(type(value) is kind for value in values)
