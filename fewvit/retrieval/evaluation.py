"""A retrieval protocol on features: exact search, and the rows of its measures."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import UsageError
from ..features import FeatureSet, require_one_backbone
from ..labels import Listed
from ..neighbors import Bank
from ..results import Row
from .measures.whitening import copydays_whitening
from .protocols import RetrievalProtocol
from .relevance.ranking import Parts

# (features of queries (Q, D), neighbours k, own rows (Q,) or None) -> neighbours, in slices; k is at most what there is
Search = Callable[[np.ndarray, int, "np.ndarray | None"], Parts]


def evaluate_features(
    protocol: RetrievalProtocol,
    queries: FeatureSet,
    index: FeatureSet,
    truth: str | os.PathLike[str] | None = None,
    *,
    leave_one_out: bool = False,
    background: FeatureSet | None = None,
    validation: FeatureSet | None = None,
    device: str = "auto",
) -> list[Row]:
    """Result rows of `queries` searched exactly among `index`, judged by the file `truth` or by labels and names.

    `background`: other images, of which a protocol with whitening learns it; none whitens nothing. `validation`: other
    queries, on which `met/1` chooses its numbers. Raises FingerprintMismatch for features of two backbones, and as
    `RetrievalProtocol.judge`.
    """
    others = [given for given in (background, validation) if given is not None]
    for one in (queries, *others):
        require_one_backbone(index, one)
    whitened = whitened_by(protocol, background)
    bank = Bank(whitened(index.features), device=device)

    def search(rows: np.ndarray, k: int, own: np.ndarray | None) -> Parts:
        return bank.chunks(whitened(rows), k, exclude=own)

    return evaluate_search(protocol, queries, index, search, truth, leave_one_out=leave_one_out, validation=validation)


def evaluate_search(
    protocol: RetrievalProtocol,
    queries: FeatureSet,
    index: Listed,
    search: Search,
    truth: str | os.PathLike[str] | None = None,
    *,
    leave_one_out: bool = False,
    validation: FeatureSet | None = None,
) -> list[Row]:
    """As `evaluate_features`, of whatever `search` finds in an `index`, which has ids, labels and classes."""
    relevance = protocol.judge(truth, queries, index, leave_one_out=leave_one_out)
    if validation is not None:
        if not protocol.tuned_to:
            raise UsageError(f"protocol {protocol.name} has nothing to choose on validation queries")
        tuned: Any = relevance  # the kinds that a protocol tunes have `tuned_on`
        other = protocol.judge(truth, validation, index)
        near = search(validation.features, min(protocol.tuned_to, len(index.ids)), None)
        relevance = tuned.tuned_on(other, near)
    most = len(index.ids) - (relevance.own is not None)
    return relevance.measure(search(queries.features[relevance.queries], min(relevance.depth, most), relevance.own))


def whitened_by(protocol: RetrievalProtocol, background: FeatureSet | None) -> Callable[[np.ndarray], np.ndarray]:
    """What whitens features (N, D) with what these other images say of their directions; None: nothing does."""
    if background is None:
        return lambda features: features
    if not protocol.reading.whitening:
        raise UsageError(f"protocol {protocol.name} whitens nothing", fix="Leave the background images away.")
    return copydays_whitening(background.features)
