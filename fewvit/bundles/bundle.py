"""A fitted classifier with all that is needed to use it on new images, as one file.

A bundle is a safetensors file: the fitted arrays are its tensors, the manifest is the JSON text in its header. One
file, so that it is replaced by one rename, mailed whole, and never half there; safetensors, so that reading it runs no
code. The manifest's sha256 covers itself and every array. Backbone weights are not in it: they are found again by name
or file, and by digest.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..calibration import Estimator, scale
from ..classifiers import classifiers, traits_of
from ..errors import FingerprintMismatch, NumericalError, UsageError, counted
from ..extraction.recipe import Recipe
from ..features import FeatureSet
from ..results import versions
from .strangeness import Strangeness

FORMAT = 1
THRESHOLD = 0.5  # of confidence, below which a prediction is `unknown`
_STATE, _SUPPORT, _SEEN = "state.", "support.", "seen"  # how the names of arrays begin
# fields that do not stand in the manifest as they are
_APART = ("estimator", "support", "seen", "recipe", "sha256", "strangeness")


@dataclass(frozen=True)
class Bundle:
    """A classifier fitted on rows whose labels are numbers in `classes`."""

    classifier: str  # the plug-in's name
    estimator: Estimator
    classes: Sequence[str]
    counts: Sequence[int]  # images per class it was fitted on
    width: int  # columns of its features
    fingerprint: str = ""  # of its features; empty: unknown
    recipe: Recipe | None = None  # None: it was fitted on a features file
    temperature: float = 1.0  # for `calibration.scale`
    threshold: float = THRESHOLD
    # (N, D) and (N,): of a classifier that declares `keeps = "support"`
    support: tuple[np.ndarray, np.ndarray] | None = None
    # (N, 16) uint8, digests of the rows it took, of a classifier that grows without keeping them; None: not kept
    seen: np.ndarray | None = None
    # images that were held out in turn for the temperature; None: written before this was kept
    calibrated_on: int | None = None
    strangeness: Strangeness | None = None  # None: not kept, or written before there was any
    versions: Mapping[str, str] = dataclasses.field(default_factory=versions)  # of the packages it was fitted with
    sha256: str = ""  # the manifest's, of the file it was read from; empty: it was fitted here

    def probabilities(self, features: np.ndarray) -> np.ndarray:
        """Class probabilities (Q, C) of features (Q, D), columns in the order of `classes`, before calibration.

        Raises NumericalError for NaN.
        """
        probabilities = np.asarray(self.estimator.predict_proba(features))
        if not np.isfinite(probabilities).all():
            raise NumericalError(f"{self.classifier} gives probabilities that are NaN or Inf")
        return probabilities

    def confidences(self, probabilities: np.ndarray) -> np.ndarray:
        """Calibrated probabilities (Q, C) of those that `probabilities` gave."""
        return scale(probabilities, self.temperature)

    def require(self, features: FeatureSet) -> None:
        """Raise FingerprintMismatch for features that are known to be of another backbone or transform."""
        if features.features.shape[1] != self.width:
            raise FingerprintMismatch(
                f"the bundle takes features of {counted(self.width, 'column')}, these have {features.features.shape[1]}"
            )
        if self.fingerprint and features.fingerprint and self.fingerprint != features.fingerprint:
            raise FingerprintMismatch(
                f"the bundle was fitted on features of {self.fingerprint[:12]}, these are of "
                f"{features.fingerprint[:12]}: another backbone, transform or precision",
                fix="Extract them with the options that the bundle was fitted with.",
            )

    def require_growth(self) -> None:
        """Raise UsageError for a classifier that cannot take more images."""
        if self.support is None and not traits_of(self.estimator).grows:
            growing = [name for name, kind in classifiers().items() if traits_of(kind).grows or keeps_support(kind)]
            raise UsageError(
                f"{self.classifier} cannot take more images without being fitted anew",
                fix=f"Fit it on old and new images together; bundles of {' and '.join(growing)} take more with --add.",
            )

    def grown(self, features: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> Bundle:
        """The bundle with more rows (N, D) whose labels are numbers in `classes`, which continues its own.

        Nothing that was learnt is learnt anew, and the calibration stays, as does the threshold of strangeness.
        Changes this bundle's estimator.
        """
        self.require_growth()
        counts = np.bincount(labels, minlength=len(classes))
        counts[: len(self.counts)] += np.asarray(self.counts, counts.dtype)
        support = self.support
        estimator: Any = self.estimator  # `add` is a method of those that grow
        if support is not None:
            support = (np.concatenate([support[0], features]), np.concatenate([support[1], labels]))
            estimator.fit(*support)
        else:
            estimator.add(features, labels)
        more = {"estimator": estimator, "support": support, "seen": self._seen_with(features, labels, classes)}
        if self.strangeness is not None:
            more["strangeness"] = self.strangeness.grown(features, labels, len(classes))
        return dataclasses.replace(self, **more, classes=list(classes), counts=counts.tolist())

    def _seen_with(self, features: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> np.ndarray | None:
        """The digests after more rows; rows that are kept need none."""
        if self.support is not None:
            return None
        new = row_digests(features, [classes[c] for c in labels])
        return new if self.seen is None else np.concatenate([self.seen, new])

    def holds(self, features: np.ndarray, names: Sequence[str]) -> np.ndarray:
        """(N,) bool: whether each row (N, D) is in the bundle already, bit for bit and under the same class's name."""
        seen = self.seen
        if self.support is not None:
            seen = row_digests(self.support[0], [self.classes[c] for c in self.support[1]])
        known = set() if seen is None else {row.tobytes() for row in seen}
        return np.array([row.tobytes() in known for row in row_digests(features, names)], bool)


def row_digests(features: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Digests (N, 16) uint8 of rows (N, D) in float32, each with the name of its class."""
    rows = np.ascontiguousarray(features, np.float32)
    digests = [
        hashlib.blake2b(name.encode("utf-8", "surrogateescape") + b"\0" + row.tobytes(), digest_size=16).digest()
        for row, name in zip(rows, names, strict=True)
    ]
    return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 16)


def keeps_support(estimator: Estimator | type[Any]) -> bool:
    """Whether a bundle stores the rows that the classifier was fitted on, to fit it again: it declares
    `keeps = "support"` because what it learnt cannot be stored as arrays.
    """
    return traits_of(estimator).keeps == "support"
