"""Two systems on the same test images: is their difference more than chance? NumPy and SciPy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..results import Row
from ..seeds import generator

ALPHA = 0.05  # of every test; intervals hold 95 %
RESAMPLES = 10_000
_BLOCK_NUMBERS = 1 << 21  # images drawn at a time: some 50 MiB with what is counted from them
_DEAR_KINDS = 4  # a kind's count costs as much as this many images drawn one by one
_FEW_DRAWS = 5  # below, resampled draws show too little of their spread
CAREFUL = "p_corrected_t is very careful where test images outnumber the labelled ones, as here"


@dataclass(frozen=True)
class PairFound:
    """The columns of a pair, and what there is to say beside them."""

    columns: Row
    notes: Sequence[str] = ()


def compare_images(
    values_a: np.ndarray,
    values_b: np.ndarray,
    n_train: int | None,
    *,
    of: str = "images",
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> PairFound:
    """The difference of two systems, a less b, from their percents (R, Q) in R draws on the same Q images or episodes.

    p and the interval are those of `paired_bootstrap`; beside them `corrected_t` over the draws, if there are several
    and `n_train`, the number of labelled images, is known, and of images `mcnemar` on the first draw.
    """
    draws, images = values_a.shape
    found = paired_bootstrap(values_a - values_b, resamples=resamples, seed=seed)
    differences = (values_a.mean(axis=1) - values_b.mean(axis=1)).tolist()
    test = corrected_t(differences, n_train, images) if n_train else None
    columns = {
        **of_means(values_a, values_b),
        "ci95": [found.low, found.high],
        "resampled": of if draws == 1 else f"draws and {of}",
        "draws": draws,
        "n_test": images,
        "p": found.p,
        "p_corrected_t": None if test is None else test.p,
        "p_mcnemar": mcnemar(values_a[0] > 0, values_b[0] > 0) if of == "images" else None,
    }
    notes = [CAREFUL] if test is not None and test.ratio > 1 else []
    if draws == 1 and of == "images":
        notes.append("one draw: test images alone are resampled, and how other draws would differ is not known")
    elif 1 < draws < _FEW_DRAWS:
        notes.append(
            f"{draws} draws: resampling so few sees too little of how they differ; {_FEW_DRAWS} or more are better"
        )
    return PairFound(columns, notes)


def distinct_draws(*predicted: np.ndarray) -> list[int]:
    """The rows of what systems predicted, (R, Q) each, but those that repeat an earlier one in all of them.

    So it is where a class has no more images than shots: every draw takes them all, and is counted once.
    """
    kept: list[int] = []
    for draw in range(len(predicted[0])):
        if not any(all(np.array_equal(one[draw], one[other]) for one in predicted) for other in kept):
            kept.append(draw)
    return kept


def of_means(a: np.ndarray, b: np.ndarray) -> Row:
    """Columns of two systems' means and their difference, a less b."""
    return {"value_a": float(a.mean()), "value_b": float(b.mean()), "difference": float(a.mean() - b.mean())}


@dataclass(frozen=True)
class Bootstrap:
    """How the mean difference varies with the draws and the images that happened to be taken."""

    low: float  # the 2.5th percentile of the resampled means, in the unit of the differences
    high: float  # the 97.5th
    p: float  # two-sided, of no difference
    resamples: int


def paired_bootstrap(differences: np.ndarray, *, resamples: int = RESAMPLES, seed: int = 0) -> Bootstrap:
    """The two-level bootstrap of the mean of differences (R, Q): one row per draw, one column per test image.

    A resample takes R draws of the R with replacement, and apart from that Q images of the Q with replacement, the same
    ones in every draw; its value is the mean over the cells of both. All draws are scored on one test set: an image
    resampled anew inside each draw would count as R images, and the interval would be too narrow, by up to sqrt(R). One
    row resamples images alone, one column draws alone. p is twice the smaller share of resampled means on either side
    of 0, the observed one counted among them.

    Sources: Owen 2007, "The pigeonhole bootstrap" (crossed factors: a little too careful, never too bold in the long
    run); Davison & Hinkley 1997, section 4.2 (the p with the observed one).
    """
    means = resampled_means(differences, resamples=resamples, seed=seed)
    smaller = int(min(np.count_nonzero(means <= 0), np.count_nonzero(means >= 0)))
    low, high = np.quantile(means, [ALPHA / 2, 1 - ALPHA / 2])
    return Bootstrap(float(low), float(high), min(1.0, 2 * (smaller + 1) / (resamples + 1)), resamples)


def resampled_means(differences: np.ndarray, *, resamples: int, seed: int) -> np.ndarray:
    """The means (`resamples`,) that `paired_bootstrap` takes its percentiles of."""
    draws, images = differences.shape
    stream = generator("paired bootstrap", seed)
    kinds, counts = np.unique(differences, axis=1, return_counts=True)  # (R, U): images with equal columns are one kind
    kinds = kinds.astype(np.float64)
    counted_by = _counts_of_kinds if len(counts) * _DEAR_KINDS < images else _counts_of_images
    block = max(1, _BLOCK_NUMBERS // images)
    means = []
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        of_images = counted_by(counts, size, stream)  # (B, U)
        of_draws = stream.multinomial(draws, np.full(draws, 1 / draws), size=size)  # (B, R)
        means.append(((of_images @ kinds.T) * of_draws).sum(axis=1) / (images * draws))
    return np.concatenate(means)


def _counts_of_kinds(counts: np.ndarray, resamples: int, stream: np.random.Generator) -> np.ndarray:
    """How often each of U kinds comes up (B, U) in B resamples of sum(counts) images: quick where kinds are few."""
    images = int(counts.sum())
    return stream.multinomial(images, counts / images, size=resamples).astype(np.float64)


def _counts_of_images(counts: np.ndarray, resamples: int, stream: np.random.Generator) -> np.ndarray:
    """As `_counts_of_kinds`, image by image: quick where kinds are many."""
    images, kinds = int(counts.sum()), len(counts)
    kind = np.repeat(np.arange(kinds, dtype=np.int32), counts)  # (Q,)
    taken = kind[stream.integers(0, images, size=(resamples, images), dtype=np.int32)]  # (B, Q)
    taken += np.arange(resamples, dtype=np.int32)[:, None] * np.int32(kinds)
    return np.bincount(taken.ravel(), minlength=resamples * kinds).reshape(resamples, kinds).astype(np.float64)


@dataclass(frozen=True)
class CorrectedT:
    """A t test of the draws' differences that reckons with what the draws share."""

    t: float  # infinite where the draws do not differ among themselves
    p: float  # two-sided
    low: float  # the 95 % interval of the mean difference, in the unit of the differences
    high: float
    ratio: float  # n_test / n_train, what the correction adds to 1 / R


def corrected_t(differences: Sequence[float], n_train: int, n_test: int) -> CorrectedT | None:
    """Student's t of one difference per draw (R,), with 1 / R + n_test / n_train in place of 1 / R; None for one draw.

    Sources: Nadeau & Bengio 2003, equation 8 (their n2 / n1); Bouckaert & Frank 2004. It was derived for random cuts of
    one set into many training and few test images. Where test images outnumber the labelled ones, as with a few shots,
    it is very careful.
    """
    sample = np.asarray(differences, np.float64)
    if len(sample) < 2:
        return None
    from scipy.special import stdtr, stdtrit  # the t distribution without the whole of scipy.stats

    mean, freedom = float(sample.mean()), len(sample) - 1
    ratio = n_test / n_train
    error = math.sqrt((1 / len(sample) + ratio) * float(sample.var(ddof=1)))
    half = float(stdtrit(freedom, 1 - ALPHA / 2)) * error
    t = mean / error if error else math.copysign(math.inf, mean) if mean else 0.0
    return CorrectedT(t, 2 * float(stdtr(freedom, -abs(t))), mean - half, mean + half, ratio)


def mcnemar(right_a: np.ndarray, right_b: np.ndarray) -> float:
    """The exact two-sided p of McNemar's test: what each of two systems got right (Q,) on the same images.

    Only images that one alone got right count; 1 where there are none. Source: McNemar 1947; Dietterich 1998.
    """
    from scipy.stats import binomtest

    only_a, only_b = np.count_nonzero(right_a & ~right_b), np.count_nonzero(~right_a & right_b)
    return float(binomtest(only_a, only_a + only_b, 0.5).pvalue) if only_a + only_b else 1.0


def holm(p: Sequence[float]) -> list[float]:
    """The p values adjusted for being several, by Holm's (1979) steps: p below ALPHA may all be believed at once.

    SciPy has Benjamini and Hochberg's steps alone, which promise less.
    """
    order = np.argsort(p, kind="stable")
    steps = np.asarray(p, np.float64)[order] * np.arange(len(p), 0, -1)
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(1, np.maximum.accumulate(steps))
    return [float(value) for value in adjusted]
