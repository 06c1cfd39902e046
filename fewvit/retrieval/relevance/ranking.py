"""What every kind of relevance answers, and the rows that its measures become."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import numpy as np

from ...errors import DataError
from ...neighbors import Neighbors
from ...results import Row

Parts = Iterable[tuple[slice, Neighbors]]  # neighbours of one slice of the asked queries after another, in order


class Relevance(Protocol):
    """The truth about the queries of one set, in rows of one index."""

    @property
    def queries(self) -> np.ndarray:
        """Rows (Q,) of the query set that are asked, in order."""

    @property
    def own(self) -> np.ndarray | None:
        """Row (Q,) of the index that is the query itself, -1 = none; must not be among its neighbours. None: of no
        query.
        """

    @property
    def depth(self) -> int:
        """Neighbours that are needed of each query, without itself; the caller gives all where there are fewer."""

    def measure(self, parts: Parts) -> list[Row]:
        """Result rows from the neighbours of the asked queries."""


def rows_of(measures: Mapping[str, float | None], n_queries: int, left_out: int = 0, **columns: Any) -> list[Row]:
    """A row for each measure; `left_out` queries without a relevant image are no part of `n_queries`."""
    counts = {"n_queries": n_queries, **({"left_out": left_out} if left_out else {})}
    return [{**columns, "metric": name, "value": value, **counts} for name, value in measures.items()]


def mean_of(measures: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each measure over queries, of which there is one at least."""
    columns: dict[str, list[float]] = {}
    for one in measures:
        for name, value in one.items():
            columns.setdefault(name, []).append(value)
    return {name: float(np.mean(values)) for name, values in columns.items()}


def require_some(n_judged: int, what: str) -> None:
    """Raise DataError where no query is left to judge."""
    if n_judged == 0:
        raise DataError(f"no query {what} in the index: there is nothing to find")
