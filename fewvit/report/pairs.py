"""Two systems on one data set: what their results, image by image or draw by draw, say about their difference."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import DataError
from ..paired import CAREFUL, CorrectedT, PairFound, compare_images, corrected_t, distinct_draws, of_means
from .entries import Entry, Scores, require_one_test_set


def compare_pair(
    a: Entry, b: Entry, of_a: Scores | None, of_b: Scores | None, *, resamples: int, seed: int
) -> PairFound:
    """The difference of two systems, a less b, in percent points, over the draws that both have.

    Where both are known image by image, p and the interval are those of `paired_bootstrap`, with `corrected_t` and, on
    the first draw alone, `mcnemar` beside them; else those of `corrected_t`. p is None where there is nothing to test:
    a single draw without its images. Raises DataError where the test images differ, or no draw is common.
    """
    if a.n_test != b.n_test:
        raise DataError(f"one has {a.n_test} test images, the other {b.n_test}")
    if of_a is not None and of_b is not None:
        return _by_images(a, of_a, of_b, resamples, seed)
    draws = _common(sorted(a.values), sorted(b.values))
    return _by_draws(a, [a.values[draw] for draw in draws], [b.values[draw] for draw in draws])


def _common(a: Sequence[int], b: Sequence[int]) -> list[int]:
    draws = sorted(set(a) & set(b))
    if not draws:
        raise DataError("they have no draw in common")
    return draws


def _by_images(a: Entry, of_a: Scores, of_b: Scores, resamples: int, seed: int) -> PairFound:
    require_one_test_set(of_a, of_b)
    draws = _common(of_a.draws, of_b.draws)
    draws = [draws[at] for at in distinct_draws(of_a.predicted_at(draws), of_b.predicted_at(draws))]
    n_train = a.n_train if a.n_test is not None else None
    return compare_images(of_a.at(draws), of_b.at(draws), n_train, of=of_a.of, resamples=resamples, seed=seed)


def _by_draws(a: Entry, values_a: Sequence[float], values_b: Sequence[float]) -> PairFound:
    test = _corrected(a, np.asarray(values_a), np.asarray(values_b))
    interval = {} if test is None else {"ci95": [test.low, test.high]}
    p = None if test is None else test.p
    columns = {
        **of_means(np.asarray(values_a), np.asarray(values_b)),
        **interval,
        "resampled": "nothing",
        "draws": len(values_a),
        "n_test": a.n_test,
        "p": p,
        "p_corrected_t": p,
        "p_mcnemar": None,
    }
    if test is None:
        return PairFound(columns, ["one draw without its predictions is not tested; a sweep keeps predictions"])
    told = "without their predictions, draws are compared by the corrected t alone; a sweep keeps predictions"
    return PairFound(columns, [told, *([CAREFUL] if test.ratio > 1 else [])])


def _corrected(entry: Entry, a: np.ndarray, b: np.ndarray) -> CorrectedT | None:
    """The corrected t over draws; None for one draw, or where it is not known how many images were labelled."""
    if not entry.n_train or entry.n_test is None:
        return None
    return corrected_t((a - b).tolist(), entry.n_train, entry.n_test)
