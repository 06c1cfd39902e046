"""Which differences are more than chance: paired comparisons of two systems, and ranks over data sets. NumPy and SciPy.

Everything here takes arrays and returns small frozen dataclasses; what is compared with what, `comparison` decides.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from ..errors import DataError, counted
from ..seeds import generator

ALPHA = 0.05  # of every test; intervals hold 95 %
RESAMPLES = 10_000
FEWEST_FOR_FRIEDMAN = 5  # data sets
FEWEST_FOR_WILCOXON = 6  # data sets: with five, the smallest two-sided p is 2 / 2**5 = 0.0625
_BLOCK_NUMBERS = 1 << 21  # images drawn at a time: some 50 MiB with what is counted from them
_DEAR_KINDS = 4  # a kind's count costs as much as this many images drawn one by one

Pair = tuple[int, int]  # numbers of two systems, the lower first


# ---- two systems on one data set


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


# ---- several tests at once, and who belongs together


def holm(p: Sequence[float]) -> list[float]:
    """The p values adjusted for being several, by Holm's (1979) steps: p below ALPHA may all be believed at once.

    SciPy has Benjamini and Hochberg's steps alone, which promise less.
    """
    order = np.argsort(p, kind="stable")
    steps = np.asarray(p, np.float64)[order] * np.arange(len(p), 0, -1)
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(1, np.maximum.accumulate(steps))
    return [float(value) for value in adjusted]


def groups(systems: int, apart: Sequence[Pair]) -> list[tuple[int, ...]]:
    """The largest groups of systems 0 … `systems` - 1 in which no pair is told `apart`; they may overlap.

    Source: Piepho 2004, the insert-and-absorb algorithm of letter displays.
    """
    found: set[frozenset[int]] = {frozenset(range(systems))}
    for a, b in apart:
        split = {part for one in found for part in ((one - {a}, one - {b}) if {a, b} <= one else (one,))}
        found = {one for one in split if not any(one < other for other in split)}
    return sorted(tuple(sorted(one)) for one in found)


# ---- several data sets


@dataclass(frozen=True)
class Ranking:
    """Friedman's test over data sets and what follows from it for each pair of systems."""

    mean_ranks: tuple[float, ...]  # of each system; 1 = best on every data set
    statistic: float  # Friedman's chi squared, with ties reckoned with
    p: float
    critical_difference: float  # of two mean ranks, after Nemenyi
    pairs: dict[Pair, float]  # p of each pair's mean ranks, adjusted by Holm's steps
    data_sets: int

    @property
    def is_significant(self) -> bool:
        """Whether the systems differ at all; where not, pairs and groups say nothing."""
        return self.p < ALPHA

    @property
    def groups(self) -> list[tuple[int, ...]]:
        """Systems whose mean ranks lie within the critical difference; all of them where Friedman sees no difference.

        These are the bars of the diagram; a pair that stands at the edge may be told apart by Holm's steps alone.
        """
        far = [pair for pair in self.pairs if self.is_significant and self._distance(pair) > self.critical_difference]
        return groups(len(self.mean_ranks), far)

    def apart(self, pair: Pair) -> bool:
        """Whether a pair is told apart: Friedman's test sees a difference, and Holm's steps see this one."""
        return self.is_significant and self.pairs[pair] < ALPHA

    def _distance(self, pair: Pair) -> float:
        return abs(self.mean_ranks[pair[0]] - self.mean_ranks[pair[1]])


def rank_over_data_sets(scores: np.ndarray) -> Ranking:
    """Friedman's test, mean ranks, Nemenyi's critical difference and Holm's steps over scores (N, S), more is better.

    N data sets, S >= 3 systems. A pair's z is the difference of its mean ranks over the root of S (S + 1) / 6N. Raises
    DataError for fewer than five data sets. Source: Demšar 2006, section 3.2; SciPy's `friedmanchisquare`, `rankdata`
    and `studentized_range`.
    """
    from scipy.special import ndtr
    from scipy.stats import friedmanchisquare, rankdata, studentized_range

    n, systems = scores.shape
    if systems < 3:
        raise DataError(
            f"Friedman's test ranks three systems or more, and there {'is' if systems == 1 else 'are'} {systems}"
        )
    require_data_sets(n, systems)
    mean_ranks = rankdata(-scores, axis=1).mean(axis=0)  # (S,)
    everywhere_equal = bool((scores == scores[:, :1]).all())  # nothing to rank: SciPy has NaN for it
    statistic, p = (0.0, 1.0) if everywhere_equal else map(float, friedmanchisquare(*scores.T))
    error = math.sqrt(systems * (systems + 1) / (6 * n))
    q = float(studentized_range.ppf(1 - ALPHA, systems, np.inf)) / math.sqrt(2)
    pairs = list(combinations(range(systems), 2))
    adjusted = holm([2 * float(ndtr(-abs(mean_ranks[a] - mean_ranks[b]) / error)) for a, b in pairs])
    return Ranking(tuple(map(float, mean_ranks)), statistic, p, q * error, dict(zip(pairs, adjusted, strict=True)), n)


def signed_rank(a: np.ndarray, b: np.ndarray) -> float:
    """The two-sided p of Wilcoxon's signed-rank test over the scores (N,) of two systems on N data sets.

    Exact where no difference is 0 and no two are equal in size; 1 where all are 0. Raises DataError for fewer than six
    data sets. Source: Demšar 2006, section 3.1.3; SciPy's `wilcoxon`.
    """
    from scipy.stats import wilcoxon

    require_data_sets(len(a), 2)
    return float(wilcoxon(a, b).pvalue) if (a != b).any() else 1.0


def require_data_sets(number: int, systems: int) -> None:
    """Raise DataError, with the reason, where so few data sets can show nothing about so many systems."""
    fewest = FEWEST_FOR_WILCOXON if systems == 2 else FEWEST_FOR_FRIEDMAN
    if number >= fewest:
        return
    why = (
        f"with {number} the smallest p that Wilcoxon's signed-rank test can give is {2 / 2**number:.3g}"
        if systems == 2
        else "Friedman's chi squared holds for several data sets only"
    )
    raise DataError(
        f"{counted(number, 'data set')} {'is' if number == 1 else 'are'} too few for a test over data sets: {why}",
        fix=f"Measure {counted(systems, 'system')} on {fewest} data sets or more.",
    )


# ---- what a paper published


@dataclass(frozen=True)
class AgainstPublished:
    """A measured mean beside a published number."""

    published: float  # percent
    delta: float  # percent points, measured - published
    verdict: str


def against_published(values: Sequence[float], published: str | float) -> AgainstPublished:
    """The delta of the mean of the draws' `values` (R,), percent, to a published number, `71.3` or `47.1 ± 0.1`.

    The spread is the draws' standard deviation (ddof 1), and where the paper gives one, the root of both squares' sum;
    a delta up to one spread is within it, up to two near it. What rounds to the published decimals is the same number.
    Raises DataError for a published number that is none.
    """
    number, theirs, decimals = _parsed(published)
    sample = np.asarray(values, np.float64)
    delta = float(sample.mean()) - number
    ours = float(sample.std(ddof=1)) if len(sample) > 1 else 0.0
    spread = math.hypot(ours, theirs)
    if abs(delta) <= 0.5 * 10.0**-decimals + 1e-9:
        return AgainstPublished(number, delta, "the published number, as rounded there")
    if spread == 0:
        return AgainstPublished(number, delta, "differs; there is no spread to judge it by")
    whose = "the draws' spread" if ours else "the spread published"
    if abs(delta) <= spread:
        return AgainstPublished(number, delta, f"within {whose}")
    if abs(delta) <= 2 * spread:
        return AgainstPublished(number, delta, f"within twice {whose}")
    side = "above" if delta > 0 else "below"
    return AgainstPublished(number, delta, f"{side} by {abs(delta) / spread:.1f} times {whose}")


def _parsed(published: str | float) -> tuple[float, float, int]:
    """A published number, its spread (0 where there is none) and its decimals."""
    text, _, spread = str(published).partition("±")
    try:
        return float(text), float(spread) if spread.strip() else 0.0, len(text.strip().partition(".")[2])
    except ValueError as error:
        raise DataError(f"{published!r} is no published number; known are 71.3 and 47.1 ± 0.1") from error
