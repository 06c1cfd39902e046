"""Weighted k-nearest-neighbour classification, as DINO's and DINOv2's evaluations define it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from sklearn.utils.validation import check_is_fitted, validate_data

from ..errors import UsageError
from ..models.graph import Graph
from ..neighbors import Bank
from ..vote import check_temperature, weighted_vote
from ._estimator import ProbabilisticClassifier
from ._labels import numbered

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
    from torch import Tensor


_PAPERS_K = 20


class KNNClassifier(ProbabilisticClassifier):
    """Votes of the k most cosine-similar rows, each with weight exp(similarity / temperature).

    Source: Wu et al. 2018, section 3.4; Caron et al. 2021, appendix F. Exact neighbours; ties by row, then by class.
    """

    needs: ClassVar[str] = "features"
    keeps: ClassVar[str] = "support"  # a bundle stores the rows and fits again: a search structure is no array
    facts: ClassVar[Mapping[str, str]] = {"k": "k_"}

    def __init__(self, k: int | None = None, temperature: float = 0.07, device: str = "auto", engine: str = "auto"):
        # neighbours; None: 20, the best of 10, 20, 100, 200 throughout DINO's paper, or all rows where they are fewer
        self.k = k
        self.temperature = temperature
        self.device = device
        self.engine = engine

    def fit(self, X: ArrayLike, y: ArrayLike) -> KNNClassifier:
        """Remember rows (N, D) and their labels (N,); `k_` is how many of them vote.

        Raises UsageError for k below 1, ValueError when k exceeds N.
        """
        rows, labels = validate_data(self, X, y, dtype=np.float32, ensure_min_samples=1)
        check_temperature(self.temperature)
        if self.k is not None and self.k < 1:
            raise UsageError(
                f"k = {self.k}: at least one neighbour must vote", fix="Choose k = 1 or more; 20 is the papers'."
            )
        self.classes_, self._labels = numbered(labels)
        if self.k is not None and self.k > len(rows):
            raise ValueError(f"k = {self.k} neighbours cannot come from n_samples = {len(rows)}")
        self.k_ = self.k if self.k is not None else self.suited(len(rows))["k"]
        self._bank = Bank(rows, device=self.device, engine=self.engine)
        return self

    @staticmethod
    def suited(rows: int) -> Mapping[str, Any]:
        """The k for so many rows where none was asked for."""
        return {"k": min(_PAPERS_K, rows)}

    @staticmethod
    def summary(estimators: Sequence[KNNClassifier], shots: str) -> str:
        """The line on the k of classifiers fitted on as many images per class, which are called `shots`.

        Nothing where it is the papers'.
        """
        ks = sorted({one.k_ for one in estimators})
        if ks[0] >= _PAPERS_K or any(one.k_ < len(one._labels) for one in estimators):
            return ""
        return f"k-NN, {shots}: all {', '.join(map(str, ks))} images vote, fewer than the papers' k = {_PAPERS_K}"

    def predict_proba(self, X: ArrayLike) -> np.ndarray:
        """Shares of the vote (Q, C), in the order of `classes_`."""
        check_is_fitted(self)
        queries = validate_data(self, X, reset=False, dtype=np.float32)
        shares = np.empty((len(queries), len(self.classes_)))
        for part, neighbors in self._bank.chunks(queries, self.k_):
            votes = weighted_vote(neighbors, self._labels, len(self.classes_), self.temperature)
            shares[part] = votes / votes.sum(axis=1, keepdims=True)
        return shares

    def graph(self) -> Graph:
        """`predict_proba` for a file that other programs run; it holds the rows that vote."""
        check_is_fitted(self)
        import torch

        k, temperature, n_classes = self.k_, self.temperature, len(self.classes_)

        def shares(rows: Tensor, constants: Mapping[str, Tensor]) -> Tensor:
            length = rows.double().square().sum(dim=1, keepdim=True).sqrt()
            unit = (rows.double() / torch.where(length > 0, length, torch.ones_like(length))).float()
            near = (unit @ constants["rows"].mT).topk(k, dim=1)  # both (B, k); of equal ones the first rows
            weights = (near.values.double() / temperature).softmax(dim=1)
            votes = weights.new_zeros((rows.shape[0], n_classes))
            return votes.scatter_add(1, constants["labels"][near.indices], weights)

        return Graph({"rows": self._bank.rows, "labels": self._labels}, shares)
