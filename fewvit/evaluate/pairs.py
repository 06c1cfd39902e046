"""Several backbones in one evaluation: is the difference of each two, on the same test images, more than chance?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from ..errors import counted
from ..paired import compare_images, distinct_draws, holm
from ..results import Row
from .inputs import Found
from .predictions import Predicted

_Setting = tuple[tuple[str, Any], ...]  # column -> value, of all but the backbone and the draw
_MOST_LINES = 20


def with_comparisons(found: Found, predicted: Sequence[Predicted], notify: Callable[[str], None], seed: int) -> Found:
    """An evaluation's rows and manifest; of several backbones the manifest has `comparisons`, and a line tells each."""
    rows, facts = found
    if not (pairs := compared(predicted, rows, seed)):
        return found
    for line in lines(pairs):
        notify(line)
    return rows, {**facts, "comparisons": pairs}


def compared(predicted: Sequence[Predicted], measured: Sequence[Row], seed: int = 0) -> list[Row]:
    """A row for each two backbones in each setting that both have: the difference in top-1, its interval, and p.

    Every `which` names a `backbone`; `measured` are the rows, which say how many images were labelled. Columns are `a`,
    `b`, `value_a`, `value_b`, `difference` (a less b, percent points), `ci95`, `p` (of `paired.paired_bootstrap`; of
    one draw, `p_mcnemar` is exact), and `p_holm`, adjusted for the pairs of one setting. No row where the test images
    differ.
    """
    n_train = {row.get("shots"): row["n_train"] for row in measured}
    rows: list[Row] = []
    for setting, of_each in _settings(predicted).items():
        found = [
            {"a": a, "b": b, **_pair(of_each[a], of_each[b], n_train[dict(setting).get("shots")], seed)}
            for a, b in combinations(of_each, 2)
            if _are_of_the_same(of_each[a], of_each[b])
        ]
        adjusted = holm([best_p(row) for row in found]) if found else []
        rows += [
            {**dict(setting), "metric": "top1", **row, "p_holm": p} for row, p in zip(found, adjusted, strict=True)
        ]
    return rows


def best_p(row: Mapping[str, Any]) -> float:
    """The p of a row to go by: McNemar's exact one of one draw, else the bootstrap's, which reckons with all draws."""
    return float(row["p_mcnemar"] if row["draws"] == 1 else row["p"])


def lines(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What the rows of `compared` say, a line for each, and how many more there are."""
    for row in rows[:_MOST_LINES]:
        low, high = row["ci95"]
        test = "McNemar's exact p" if row["draws"] == 1 else f"paired bootstrap over {row['resampled']}, p"
        over = f" over {counted(row['draws'], 'draw')}" if row["draws"] > 1 else ""
        known = ("a", "b", "value_a", "value_b", "difference", "ci95", "resampled", "draws", "n_test", "metric")
        setting = ", ".join(
            str(value) if name == "method" else f"{name} {value}"
            for name, value in row.items()
            if name not in known and not name.startswith("p")
        )
        yield (
            f"{setting}: {row['a']} less {row['b']} is {row['difference']:+.2f} points of top-1 (95 % interval "
            f"{low:+.2f} to {high:+.2f}) on {counted(row['n_test'], 'test image')}{over}; {test} {best_p(row):.3g}"
        )
    if len(rows) > _MOST_LINES:
        yield f"and {len(rows) - _MOST_LINES} more comparisons; --format json has all"


def _settings(predicted: Sequence[Predicted]) -> dict[_Setting, dict[str, dict[int, Predicted]]]:
    """Setting -> backbone -> draw -> its predictions."""
    found: dict[_Setting, dict[str, dict[int, Predicted]]] = {}
    for one in predicted:
        setting = tuple((name, value) for name, value in one.which.items() if name not in ("backbone", "trial"))
        draws = found.setdefault(setting, {}).setdefault(str(one.which["backbone"]), {})
        draws[int(one.which.get("trial", 0))] = one
    return found


def _are_of_the_same(a: Mapping[int, Predicted], b: Mapping[int, Predicted]) -> bool:
    """Whether two have the same draws on the same test images, in one order."""
    return a.keys() == b.keys() and all(
        list(a[draw].ids) == list(b[draw].ids)
        and (a[draw].several_right or np.array_equal(a[draw].labels, b[draw].labels))
        for draw in a
    )


def _pair(a: Mapping[int, Predicted], b: Mapping[int, Predicted], n_train: int, seed: int) -> Row:
    of_a, of_b = (np.stack([side[draw].predictions for draw in sorted(a)]) for side in (a, b))  # (R, Q)
    labels = np.stack([a[draw].labels for draw in sorted(a)])
    kept = distinct_draws(of_a, of_b)
    right_a, right_b = (100.0 * (side == labels)[kept] for side in (of_a, of_b))
    return compare_images(right_a, right_b, n_train, seed=seed).columns
