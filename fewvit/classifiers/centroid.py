"""The nearest class mean, in the variants of SimpleShot; images and classes can be added later."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from sklearn.utils.validation import validate_data

from ..errors import DataError, UsageError, counted
from ..features import FeatureSet
from ._episodic import EpisodicClassifier, Support, inner_products, nearness, require_above, require_one_of, unit
from ._labels import numbered

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
    from torch import Tensor


@dataclass(frozen=True)
class _ClassSums:
    """All that a centroid classifier remembers of its support."""

    centre: Tensor  # (E or 1, 1, D), subtracted from every row before anything else
    sums: Tensor  # (E, C, D) of the prepared rows
    counts: Tensor  # (E, C)


class Centroid(EpisodicClassifier):
    """The class whose mean is nearest: rows of unit length, class mean, unit length again, cosine.

    Source: Wang et al. 2019 (SimpleShot), section 3.2; Snell et al. 2017, equations 1 and 2. SimpleShot's variants are
    `metric="euclidean"` with `normalise=False` (UN), with `normalise=True` (L2N), and with `centering="base"` besides
    (CL2N). `normalise=False` with the cosine averages rows as they are and normalises the mean.
    """

    grows: ClassVar[bool] = True

    def __init__(
        self,
        metric: Literal["cosine", "euclidean"] = "cosine",
        normalise: bool = True,
        centering: Literal["none", "support", "base"] = "none",
        base: str | None = None,
        temperature: float = 0.1,
    ):
        self.metric = metric  # cosine to the mean's direction, or squared distance to the mean itself
        self.normalise = normalise  # rows to unit length, after centering
        self.centering = centering  # what is subtracted: nothing, the support's mean, or that of the base classes
        # features file (.npz) of the base classes; in Python also an array (D,), their mean, or (N, D)
        self.base = base
        # probabilities are the softmax of nearness / temperature; 0.1 as in Chen et al. 2021
        self.temperature = temperature

    def check_options(self) -> None:
        """Raise UsageError for an unknown metric or centring, a temperature of 0 or less, or a lone `base`."""
        require_one_of(("cosine", "euclidean"), metric=self.metric)
        require_one_of(("none", "support", "base"), centering=self.centering)
        require_above(0, temperature=self.temperature)
        if (self.centering == "base") != (self.base is not None):
            raise UsageError(
                "centering='base' and base= go together", fix="Give base the features file of the base classes."
            )

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Centroid:
        """Learn from rows (N, D) and their labels (N,); of `sample_weight` (N,) 2 a row counts twice in its mean."""
        return self._fit(X, y, sample_weight)

    def learn(self, support: Support) -> _ClassSums:
        """The sums (E, C, D) and counts (E, C) of the centred rows by class, and the centre (E or 1, 1, D)."""
        centre = self._centre(support)
        return _ClassSums(centre, support.one_hot.mT @ self._prepared(support.rows, centre), support.counts)

    def class_probabilities(self, learnt: _ClassSums, queries: Tensor) -> Tensor:
        """Class probabilities (E, q, C) of queries (E, q, D): the softmax of their nearness to the class means."""
        means = learnt.sums / learnt.counts[..., None]  # (E, C, D)
        queries = self._prepared(queries, learnt.centre)
        scores = inner_products(unit(queries), unit(means)) if self.metric == "cosine" else nearness(queries, means)
        return (scores / self.temperature).softmax(dim=2)

    def add(self, X: ArrayLike, y: ArrayLike) -> Centroid:
        """Take more rows (N, D) with labels (N,), of known or of new classes, as if they had been there when fitting.

        Only with `centering="support"` is it not quite the same: the centre stays the mean of the rows of `fit`.
        """
        import torch

        if not hasattr(self, "_learnt"):
            return self.fit(X, y)
        more_rows, labels = validate_data(self, X, y, reset=False, dtype=self._dtype)
        old = self._learnt
        known, self.classes_ = self.classes_, np.union1d(self.classes_, numbered(labels)[0])
        rows = self._prepared(torch.tensor(more_rows)[None], old.centre)
        more = Support(rows, torch.tensor(np.searchsorted(self.classes_, labels))[None], len(self.classes_))
        sums, counts = more.one_hot.mT @ rows, more.counts
        at = torch.tensor(np.searchsorted(self.classes_, known))  # where the known classes stand now
        self._learnt = _ClassSums(old.centre, sums.index_add(1, at, old.sums), counts.index_add(1, at, old.counts))
        return self

    def _centre(self, support: Support) -> Tensor:
        width = support.rows.shape[2]
        if self.centering == "support":
            return support.mean
        if self.centering == "base":
            return support.rows.new_tensor(_base_mean(self.base, width))[None, None]
        return support.rows.new_zeros((1, 1, width))

    def _prepared(self, rows: Tensor, centre: Tensor) -> Tensor:
        return unit(rows - centre) if self.normalise else rows - centre


def _base_mean(base: str | ArrayLike | None, width: int) -> np.ndarray:
    """The mean row (D,) of a features file, of rows (N, D), or that row itself."""
    rows = FeatureSet.load(base).features if isinstance(base, str) else np.asarray(base, dtype=np.float64)
    mean = np.atleast_2d(rows).mean(axis=0, dtype=np.float64)
    if mean.shape != (width,) or not np.isfinite(mean).all():
        raise DataError(
            f"the base features of shape {np.shape(rows)} have no finite mean of {counted(width, 'column')}"
        )
    return mean
