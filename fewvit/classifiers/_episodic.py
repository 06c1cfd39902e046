"""What few-shot classifiers share: a core over a batch of episodes, scikit-learn's three names over a batch of one.

An episode is a labelled support set and the queries to be classified by it. A classifier states its paper in two
functions, `learn` (what is kept of the support) and `class_probabilities` (of the queries), over E episodes at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from sklearn.utils.validation import check_is_fitted, validate_data

from ..errors import UsageError
from ..models.graph import Graph
from ..models.products import of_rows
from ..neighbors import Bank
from ._estimator import ProbabilisticClassifier, checked_weights
from ._labels import numbered

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
    from torch import Tensor

_DTYPES = [np.float64, np.float32]  # what is given in float32 is computed in float32
_TABLE_ENTRIES = 1 << 24  # queries x support rows, or queries x classes, of one block


@dataclass(frozen=True)
class Support:
    """The labelled rows of E episodes; every class has at least one."""

    rows: Tensor  # (E, n, D)
    labels: Tensor  # (E, n) int64, 0..C-1
    n_classes: int
    weights: Tensor | None = None  # (E, n), how often each row counts; None: once

    @cached_property
    def one_hot(self) -> Tensor:
        """(E, n, C): 1, or the row's weight, where a row is of a class."""
        import torch

        members = torch.nn.functional.one_hot(self.labels, self.n_classes).to(self.rows.dtype)
        return members if self.weights is None else members * self.weights[..., None]

    @cached_property
    def counts(self) -> Tensor:
        """Rows of each class (E, C), or the sum of their weights."""
        return self.one_hot.sum(dim=1)

    @cached_property
    def mean(self) -> Tensor:
        """The mean row (E, 1, D)."""
        if self.weights is None:
            return self.rows.mean(dim=1, keepdim=True)
        shares = self.weights / self.weights.sum(dim=1, keepdim=True)
        return shares[:, None] @ self.rows


class EpisodicClassifier(ProbabilisticClassifier):
    """A classifier that learns from a support set and classifies queries, for one episode or for many at once.

    A transductive one takes the rows of one `predict` call for one query set and lets them inform each other; an
    inductive one classifies each row by itself.
    """

    needs: ClassVar[str] = "features"
    batched: ClassVar[bool] = True
    transductive: ClassVar[bool] = False

    def learn(self, support: Support) -> Any:
        """What is kept of the support; all of it where a method needs it beside the queries."""
        return support

    def class_probabilities(self, learnt: Any, queries: Tensor) -> Tensor:
        """Class probabilities (E, q, C) of `queries` (E, q, D), from what `learn` returned."""
        raise NotImplementedError

    def check_options(self) -> None:
        """Raise UsageError for an option that cannot be."""

    def probabilities(self, support: Tensor, labels: Tensor, queries: Tensor, n_classes: int) -> Tensor:
        """Class probabilities (E, q, C) of E episodes: support (E, n, D), labels (n,) or (E, n), queries (E, q, D).

        Raises UsageError for an option that cannot be, and for a class without support.
        """
        self.check_options()
        own = Support(support, labels.expand(support.shape[:2]), n_classes)
        if not bool((own.counts > 0).all()):
            raise UsageError(
                "a class of an episode has no support", fix="Number the classes 0..C-1 and give each at least one row."
            )
        return self.class_probabilities(self.learn(own), queries)

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Learn from rows (N, D) and their labels (N,)."""
        return self._fit(X, y, None)

    def _fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None) -> Self:
        import torch

        rows, given = validate_data(self, X, y, dtype=_DTYPES)
        self.check_options()
        weights = None if sample_weight is None else checked_weights(sample_weight, rows)
        if weights is not None:
            rows, given, weights = rows[weights > 0], given[weights > 0], weights[weights > 0]
        self.classes_, labels = numbered(given)
        self._n_support, self._dtype = len(rows), rows.dtype
        taken = torch.tensor(rows)[None]
        counts = None if weights is None else torch.tensor(weights)[None].to(taken)
        self._learnt = self.learn(Support(taken, torch.tensor(labels)[None], len(self.classes_), counts))
        return self

    def predict_proba(self, X: ArrayLike) -> np.ndarray:
        """Class probabilities (Q, C), in the order of `classes_`."""
        import torch

        check_is_fitted(self)
        queries = validate_data(self, X, reset=False, dtype=self._dtype)
        size = (
            len(queries) if self.transductive else max(64, _TABLE_ENTRIES // max(self._n_support, len(self.classes_)))
        )
        blocks = [
            self.class_probabilities(self._learnt, torch.tensor(queries[start : start + size])[None])[0]
            for start in range(0, len(queries), size)
        ]
        return torch.cat(blocks).double().numpy()

    def graph(self) -> Graph:
        """`predict_proba` for a file that other programs run. Raises UsageError where rows inform each other."""
        import torch

        check_is_fitted(self)
        if self.transductive:
            raise UsageError(
                f"{type(self).__name__} labels a whole set of images at once, so no file can hold it that is given any "
                "number of them",
                fix="Fit a bundle with centroid, ridge, knn or logistic.",
            )
        learnt, dtype = self._learnt, torch.float64 if self._dtype == np.float64 else torch.float32
        kept = {one.name: getattr(learnt, one.name) for one in fields(learnt)}
        return Graph(
            {name: value for name, value in kept.items() if isinstance(value, torch.Tensor)},
            lambda rows, constants: self.class_probabilities(replace(learnt, **constants), rows.to(dtype)[None])[0],
        )


# ---- steps that several papers share


def unit(rows: Tensor) -> Tensor:
    """Rows (…, D) of length one; a zero row stays zero."""
    import torch

    return torch.nn.functional.normalize(rows, dim=-1, eps=1e-30)


def inner_products(queries: Tensor, others: Tensor) -> Tensor:
    """Inner products (E, q, n) of `queries` (E, q, D) with `others` (E, n, D).

    Where there is one episode, as in `predict_proba`, those of a query are a function of that query alone (see
    `products.of_rows`).
    """
    if len(queries) == len(others) == 1:
        return of_rows(queries[0], others[0])[None]
    return queries @ others.mT


def class_means(rows: Tensor, support: Support) -> Tensor:
    """Means (E, C, D) of `rows` (E, n, D) over the classes of the support."""
    return support.one_hot.mT @ rows / support.counts[..., None]


def shifted(queries: Tensor, support: Tensor) -> Tensor:
    """Queries (E, q, D) moved so that their mean is the support's (E, n, D).

    Liu et al. 2020's xi, the bias between the two sets, is gone.
    """
    return queries + support.mean(dim=1, keepdim=True) - queries.mean(dim=1, keepdim=True)


def nearness(queries: Tensor, means: Tensor) -> Tensor:
    """Minus the squared distances (E, q, C) to the means (E, C, D), each query's up to a constant of its own."""
    origin = means.mean(dim=1, keepdim=True)  # distances do not depend on it, rounding does
    queries, means = queries - origin, means - origin
    return 2 * inner_products(queries, means) - means.square().sum(dim=2)[:, None]


def neighbor_lists(points: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """(rows, cosines), both (E, m, k): the k nearest other points of each of `points` (E, m, D), within its episode.

    With fewer than k other points, all of them: k is then m - 1.
    """
    import torch

    k = min(k, points.shape[1] - 1)
    if k < 1:
        return torch.zeros((*points.shape[:2], 0), dtype=torch.int64), points.new_zeros((*points.shape[:2], 0))
    found = [_within(episode, k) for episode in points.numpy()]
    rows, cosines = (np.stack(side) for side in zip(*found, strict=True))
    return torch.from_numpy(rows), torch.from_numpy(cosines).to(points.dtype)


def _within(points: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    parts = [near for _, near in Bank(points, device="cpu").chunks(points, k, exclude=np.arange(len(points)))]
    return np.concatenate([p.rows for p in parts]), np.concatenate([p.scores for p in parts])


# ---- options at the door


def require_above(bound: float, **options: float) -> None:
    """Raise UsageError for an option that is not above the bound; NaN is not."""
    for name, value in options.items():
        if not value > bound:
            raise UsageError(f"{name} = {value} must be above {bound}")


def require_at_least(bound: float, **options: float) -> None:
    """Raise UsageError for an option below the bound; NaN is below."""
    for name, value in options.items():
        if not value >= bound:
            raise UsageError(f"{name} = {value} must be at least {bound}")


def require_one_of(choices: Sequence[str], **options: str) -> None:
    """Raise UsageError for an option that is none of the choices."""
    for name, value in options.items():
        if value not in choices:
            raise UsageError(f"{name} = {value!r} is not one of {', '.join(choices)}")
