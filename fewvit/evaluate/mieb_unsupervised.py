"""MIEB's scores that fit nothing on labels: k-means clusters and nearest neighbours of the test features.

Source: Xiao et al. 2025 (MIEB), section 3; settings as in mteb 2.26.
"""

from __future__ import annotations

import warnings

import numpy as np

from ..errors import DataError
from ..features import FeatureSet
from ..metrics import average_precision_at
from ..neighbors import Bank
from .mieb_probe import SEED

_BATCH = 500  # rows of a step of k-means
_DEPTH = 5  # ranks that are looked at


def clustering_scores(test: FeatureSet) -> dict[str, float]:
    """`nmi`, `v_measure`, `ari` and `cluster_accuracy` of as many k-means clusters as there are classes; percent.

    Features are taken as they are, every row is labelled. `cluster_accuracy` gives each cluster the class that makes
    most rows right, no class twice.
    """
    from sklearn import metrics

    found = _clusters(test.features, len(np.unique(test.labels)))
    scores = {
        "nmi": metrics.normalized_mutual_info_score(test.labels, found),
        "v_measure": metrics.v_measure_score(test.labels, found),
        "ari": metrics.adjusted_rand_score(test.labels, found),
        "cluster_accuracy": _matched(test.labels, found) / len(found),
    }
    return {name: 100 * float(value) for name, value in scores.items()}


def _clusters(rows: np.ndarray, number: int) -> np.ndarray:
    """The cluster (N,) of each row (N, D)."""
    from sklearn.cluster import MiniBatchKMeans
    from sklearn.exceptions import ConvergenceWarning

    model = MiniBatchKMeans(n_clusters=number, batch_size=_BATCH, n_init="auto", compute_labels=True, random_state=SEED)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct rows than clusters: some stay empty
        found: np.ndarray = model.fit(rows).labels_
    return found


def _matched(labels: np.ndarray, clusters: np.ndarray) -> int:
    """How many rows are right under the best one-to-one match of clusters and classes."""
    from scipy.optimize import linear_sum_assignment

    table = np.zeros((labels.max() + 1, clusters.max() + 1), np.int64)
    np.add.at(table, (labels, clusters), 1)
    return int(table[linear_sum_assignment(table, maximize=True)].sum())


def retrieval_scores(test: FeatureSet, *, device: str = "auto") -> tuple[dict[str, float], int]:
    """`hit_rate_at_1` and `map_at_5` in percent, and the number of queries that they are means over.

    Every row is a query among all others, by cosine; relevant are those of its class. A query whose class has no other
    row is none. As trec_eval has it, average precision is divided by all relevant rows, though only five are looked at.
    Raises DataError where there is no query.
    """
    positives = np.bincount(test.labels)[test.labels] - 1  # (N,)
    queries = np.flatnonzero(positives > 0)
    if len(queries) == 0:
        raise DataError("no test image has another one of its class, so there is nothing to retrieve")
    bank = Bank(test.features, device=device)
    depth = min(_DEPTH, len(test) - 1)
    relevant = np.zeros((len(queries), depth), bool)
    for part, near in bank.chunks(test.features[queries], depth, exclude=queries):
        relevant[part] = test.labels[near.rows] == test.labels[queries[part], None]
    return {
        "hit_rate_at_1": 100 * float(relevant[:, 0].mean()),
        "map_at_5": 100 * float(average_precision_at(relevant, positives[queries]).mean()),
    }, len(queries)
