"""Two systems on one data set: what their results, image by image or draw by draw, say about their difference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import DataError
from ..results import Row
from .entries import Entry, Scores, require_one_test_set
from .statistics import CorrectedT, corrected_t, mcnemar, paired_bootstrap

_FEW_DRAWS = 5  # below, resampled draws show too little of their spread
CAREFUL = "p_corrected_t is very careful where test images outnumber the labelled ones, as here"


@dataclass(frozen=True)
class PairFound:
    """The columns of a pair, and what there is to say beside them."""

    columns: Row
    notes: Sequence[str] = ()


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
    values_a, values_b = of_a.at(draws), of_b.at(draws)  # (R, Q)
    found = paired_bootstrap(values_a - values_b, resamples=resamples, seed=seed)
    test = _corrected(a, values_a.mean(axis=1), values_b.mean(axis=1))
    columns = {
        **_values(values_a, values_b),
        "ci95": [found.low, found.high],
        "resampled": of_a.of if len(draws) == 1 else f"draws and {of_a.of}",
        "draws": len(draws),
        "n_test": len(of_a.ids),
        "p": found.p,
        "p_corrected_t": None if test is None else test.p,
        "p_mcnemar": mcnemar(values_a[0] > 0, values_b[0] > 0) if of_a.of == "images" else None,
    }
    notes = [CAREFUL] if test is not None and test.ratio > 1 else []
    if len(draws) == 1 and of_a.of == "images":
        notes.append("one draw: test images alone are resampled, and how other draws would differ is not known")
    elif 1 < len(draws) < _FEW_DRAWS:
        notes.append(
            f"{len(draws)} draws: resampling so few sees too little of how they differ; {_FEW_DRAWS} or more are better"
        )
    return PairFound(columns, notes)


def _by_draws(a: Entry, values_a: Sequence[float], values_b: Sequence[float]) -> PairFound:
    test = _corrected(a, np.asarray(values_a), np.asarray(values_b))
    interval = {} if test is None else {"ci95": [test.low, test.high]}
    p = None if test is None else test.p
    columns = {
        **_values(np.asarray(values_a), np.asarray(values_b)),
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


def _values(a: np.ndarray, b: np.ndarray) -> Row:
    return {"value_a": float(a.mean()), "value_b": float(b.mean()), "difference": float(a.mean() - b.mean())}


def _corrected(entry: Entry, a: np.ndarray, b: np.ndarray) -> CorrectedT | None:
    """The corrected t over draws; None for one draw, or where it is not known how many images were labelled."""
    if not entry.n_train or entry.n_test is None:
        return None
    return corrected_t((a - b).tolist(), entry.n_train, entry.n_test)
