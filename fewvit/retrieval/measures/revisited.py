"""Measures of revisited Oxford and Paris: what is junk for a query is taken out of its ranking before it is judged.

Source: Radenovic et al. 2018, section 4.2, and the evaluation that DINO took over.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .average_precision import by_trapezoid

KS = (1, 5, 10)


def ranks_without_junk(ranking: np.ndarray, positives: np.ndarray, junk: np.ndarray) -> np.ndarray:
    """Ranks of the positives found, rising from 0, as if no junk row stood in `ranking` (n,), best first."""
    kept = ranking[~np.isin(ranking, junk)]
    return np.flatnonzero(np.isin(kept, positives))


def query_measures(ranks: np.ndarray, n_positives: int, ks: Sequence[int] = KS) -> dict[str, float]:
    """`map` and `mp@k` of one query with at least one positive, in percent, from the ranks of those found.

    Where all positives come before rank k, the precision is that of their last rank: the divisor is min(last, k).
    """
    last = int(ranks[-1]) + 1 if len(ranks) == n_positives else max(ks)  # one that was not found comes later than any k
    measures = {"map": by_trapezoid(ranks, n_positives)}
    measures |= {f"mp@{k}": int((ranks < k).sum()) / min(k, last) for k in ks}
    return {name: 100 * value for name, value in measures.items()}
