"""Tidy result rows with the manifest of the run that made them, as JSON, CSV or a table. No torch."""

from __future__ import annotations

import csv
import functools
import importlib.metadata
import io
import json
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from . import __version__
from .errors import printable

SCHEMA = "fewvit.result/1"
# packages whose version can change a number
PACKAGES = ("torch", "torchvision", "timm", "faiss-gpu", "faiss-cpu", "numpy", "scikit-learn", "pillow", "openvino")
_COLUMNS = (
    "task",
    "dataset",
    "backbone",
    "method",
    "layer",
    "k",
    "temperature",
    "shots",
    "trial",
    "setting",
    "metric",
    "a",
    "b",
    "value_a",
    "value_b",
    "difference",
    "value",
    "std",
    "ci95_low",
    "ci95_high",
    "n_train",
    "n_test",
    "n_queries",
    "left_out",
    "skipped",
)
_PERCENT = ("value", "std", "ci95_low", "ci95_high", "value_a", "value_b", "difference")
_FOUND = ("metric", *_PERCENT, "published", "a", "b", "p_holm", "verdict", "systems")  # columns of what was found
# metrics whose numbers are percent, by what stands before an @, as in recall@5
_PERCENT_METRICS = (
    *("top1", "top5", "accuracy", "ece"),
    *("recall", "precision", "map", "r_precision", "mrr", "mp", "micro_ap", "gap", "gap_minus"),
    # mteb's names
    *("f1", "f1_weighted", "nmi", "v_measure", "ari", "cluster_accuracy", "hit_rate_at_1", "map_at_5"),
)
_COSINES = ("score",)
_GIVEN = ("dataset", "backbone")  # what the user named, so is missed least
_GAP = "  "  # between two columns
WIDTH = 100  # characters of a table's line, where columns can be left out

Row = dict[str, Any]  # one measurement: column -> value
Facts = dict[str, Any]  # what a run's manifest says: name -> anything that JSON holds


@dataclass(frozen=True)
class Result:
    """What a command found: rows of one measurement each, and the manifest of the run that made them."""

    task: str
    rows: Sequence[Mapping[str, Any]]
    run: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """One JSON object; characters outside ASCII, lone surrogates too, are escaped."""
        return json.dumps(
            {"schema": SCHEMA, "task": self.task, "rows": list(self.rows), "run": dict(self.run)},
            indent=1,
            allow_nan=False,
        )

    def to_csv(self) -> str:
        """A table with a header; intervals in two columns, odd characters escaped."""
        flat = [_flat(row) for row in self.rows]
        columns = _ordered({key: None for row in flat for key in row})
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(flat)
        return text.getvalue()

    def to_table(self, width: int = WIDTH) -> list[list[str]]:
        """Cells as text, the header first: one line per measurement, accuracies with two decimals.

        A table wider than `width` characters leaves out columns that never vary until it fits: data and backbone, then
        the widest; `left_out` gives them. Always there are the numbers found, that weights are random, and how many
        images were skipped.
        """
        columns = self._cells()
        needed = {*_FOUND, "weights", *(["skipped"] if any(row.get("skipped") for row in self.rows) else [])}
        constant = [c for c, cells in columns.items() if c not in needed and len(set(cells)) == 1]
        for name in sorted(constant, key=lambda c: (c not in _GIVEN, -_width(c, columns[c]))):
            if sum(_width(c, cells) + len(_GAP) for c, cells in columns.items()) - len(_GAP) <= width:
                break
            del columns[name]
        return [list(columns), *map(list, zip(*columns.values(), strict=True))]

    def left_out(self, table: Sequence[Sequence[str]]) -> dict[str, str]:
        """What all rows share that is no column of `table`, which `to_table` gave: column -> value."""
        return {c: cells[0] for c, cells in self._cells().items() if c not in table[0]}

    def _cells(self) -> dict[str, list[str]]:
        """Column -> its cells as text, in order; without columns that are empty in every row."""
        flat = [_flat(row) for row in self.rows]
        columns = _ordered({key: None for row in flat for key, value in row.items() if value is not None})
        return {c: [_cell(row.get(c), _decimals(c, row.get("metric"))) for row in flat] for c in columns}


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    flat = {key: printable(value) if isinstance(value, str) else value for key, value in row.items() if key != "ci95"}
    if "ci95" in row:
        flat["ci95_low"], flat["ci95_high"] = row["ci95"]
    return flat


def _ordered(columns: Mapping[str, None]) -> list[str]:
    return [c for c in _COLUMNS if c in columns] + [c for c in columns if c not in _COLUMNS]


def _is_percent(metric: object) -> bool:
    return str(metric).partition("@")[0] in _PERCENT_METRICS


def _decimals(column: str, metric: object) -> int | None:
    """How many decimals a column's numbers have; None: as their size asks for."""
    if column in _COSINES:
        return 4
    return 2 if column in _PERCENT and _is_percent(metric) else None


def _cell(value: object, decimals: int | None) -> str:
    if value is None:
        return ""
    if not isinstance(value, float):
        return str(value)
    if decimals is None and abs(value) < 1:
        return f"{value:.4g}"
    return f"{value:.{2 if decimals is None else decimals}f}"


def _width(column: str, cells: Sequence[str]) -> int:
    return max(map(len, (column, *cells)))


def versions() -> dict[str, str]:
    """Versions of everything that can change a number, read without importing it."""
    return dict(_versions(PACKAGES))


@functools.cache
def _versions(packages: tuple[str, ...]) -> dict[str, str]:
    found = {"fewvit": __version__, "python": platform.python_version()}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def manifest(**facts: Any) -> Facts:
    """The run's manifest: the facts given, then versions, platform and the command line."""
    return {**facts, "versions": versions(), "platform": platform.platform(), "argv": list(sys.argv)}
