"""Which differences are more than chance: ranks over data sets, groups, and numbers of papers. NumPy and SciPy.

Everything here takes arrays and returns small frozen dataclasses; what is compared with what, `comparison` decides.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from ..errors import DataError, counted
from ..paired import ALPHA, holm

FEWEST_FOR_FRIEDMAN = 5  # data sets
FEWEST_FOR_WILCOXON = 6  # data sets: with five, the smallest two-sided p is 2 / 2**5 = 0.0625

Pair = tuple[int, int]  # numbers of two systems, the lower first


# ---- who belongs together


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
