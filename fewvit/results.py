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
from html import escape
from typing import Any

from . import __version__
from .errors import counted, printable

SCHEMA = "fewvit.result/1"
# packages whose version can change a number
PACKAGES = ("torch", "torchvision", "timm", "faiss-gpu", "faiss-cpu", "numpy", "scikit-learn", "pillow", "openvino")
# the order of columns, whichever of them rows have: what was asked, what was found, from what, and how it was made
_COLUMNS = (
    *("table", "task", "dataset", "backbone", "method", "layer", "k", "temperature", "ways", "shots"),
    *("trial", "setting", "metric", "systems", "a", "b", "difference", "value", "start", "std", "published", "delta"),
    *("verdict", "p_holm", "ci95_low", "ci95_high", "value_a", "value_b", "mean_rank_a", "mean_rank_b"),
    *("critical_difference", "trials", "draws", "n_train", "n_test", "n_queries", "left_out", "skipped", "weights"),
    *("p", "p_corrected_t", "p_mcnemar", "p_friedman", "p_wilcoxon", "resampled", "protocol", "protocol_a"),
    *("protocol_b", "threshold", "coverage", "by", "judged_on"),
    *("seed", "queries", "transductive", "seen_in_pretraining", "weights_sha256"),
)
_PERCENT = ("value", "start", "std", "ci95_low", "ci95_high", "value_a", "value_b", "difference")
_FOUND = ("metric", *_PERCENT, "published", "a", "b", "p_holm", "verdict", "systems")  # columns of what was found
# metrics whose numbers are percent, by what stands before an @, as in recall@5
_PERCENT_METRICS = (
    *("top1", "top1_gain", "top5", "accuracy", "ece", "risk", "fpr"),
    *("recall", "precision", "map", "r_precision", "mrr", "mp", "micro_ap", "gap", "gap_minus"),
    # mteb's names
    *("f1", "f1_weighted", "nmi", "v_measure", "ari", "cluster_accuracy", "hit_rate_at_1", "map_at_5"),
)
_COSINES = ("score",)
_GIVEN = ("dataset", "backbone")  # what the user named, so is missed least
_CORE = ("value", "difference", "systems")  # what a row is about: what stands before it, and it, is always shown
_TOLD = ("calibrated", "weights", "skipped")  # shown wherever there is any room, for they say how to take the number
_DIGESTS, _DIGITS = ("weights_sha256", "sha256", "fingerprint"), 12  # of which so many digits tell apart
_GAP = "  "  # between two columns
_IN_NOTEBOOK = 30  # rows of a table
WIDTH = 100  # characters of a table's line, where columns can be left out

Row = dict[str, Any]  # one measurement: column -> value
Facts = dict[str, Any]  # what a run's manifest says: name -> anything that JSON holds


@dataclass(frozen=True)
class Fitted:
    """A table that was given a width."""

    cells: Sequence[Sequence[str]]  # the first line being the columns' names
    shared: Mapping[str, str]  # what all rows share and is no column: column -> value
    dropped: Sequence[str]  # columns that differ from row to row and had no room


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
            if _line(columns) <= width:
                break
            del columns[name]
        return [list(columns), *map(list, zip(*columns.values(), strict=True))]

    def _repr_html_(self) -> str:
        """The table for notebooks: its first 30 rows, every name as text."""
        if not self.rows:
            return "<p>no rows</p>"
        names, *lines = self.to_table()
        head = "".join(f"<th>{escape(name)}</th>" for name in names)
        body = ["".join(f"<td>{escape(cell)}</td>" for cell in line) for line in lines[:_IN_NOTEBOOK]]
        if len(lines) > _IN_NOTEBOOK:
            body.append(f'<td colspan="{len(names)}">{counted(len(lines) - _IN_NOTEBOOK, "more row")}</td>')
        rows = "".join(f"<tr>{cells}</tr>" for cells in body)
        return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"

    def left_out(self, table: Sequence[Sequence[str]]) -> dict[str, str]:
        """What all rows share that is no column of `table`, which `to_table` gave: column -> value."""
        return {c: cells[0] for c, cells in self._cells().items() if c not in table[0]}

    def fitted(self, width: int = WIDTH) -> Fitted:
        """The table in lines of `width` characters: as `to_table`, and then without columns from the right.

        What tells rows apart, and the number found, stay even where they have no room.
        """
        table = self.to_table(width)
        columns = {cells[0]: cells[1:] for cells in map(list, zip(*table, strict=True))}
        shared = self.left_out(table)
        for name in _once_said(columns):
            if _line(columns) > width:
                [value] = set(columns[name]) - {""}
                shared[name] = value if "" not in columns[name] else f"{value} (where there is one)"
                del columns[name]
        dropped: list[str] = []
        spare = _spare(list(columns))
        while spare and _line(columns) > width:
            dropped = [*(gone := spare.pop()), *dropped]
            columns = {name: cells for name, cells in columns.items() if name not in gone}
        return Fitted([list(columns), *map(list, zip(*columns.values(), strict=True))], shared, dropped)

    def _cells(self) -> dict[str, list[str]]:
        """Column -> its cells as text, in order; without columns that are empty in every row."""
        flat = [_flat(row) for row in self.rows]
        columns = _ordered({key: None for row in flat for key, value in row.items() if value is not None})
        cells = {c: [_cell(row.get(c), _decimals(c, row.get("metric"))) for row in flat] for c in columns}
        return {c: [in_table(c, cell) for cell in found] for c, found in cells.items()}


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    flat = {key: printable(value) if isinstance(value, str) else value for key, value in row.items() if key != "ci95"}
    if "ci95" in row:
        flat["ci95_low"], flat["ci95_high"] = row["ci95"]
    return flat


def _ordered(columns: Mapping[str, None]) -> list[str]:
    return [c for c in _COLUMNS if c in columns] + [c for c in columns if c not in _COLUMNS]


def in_table(column: str, value: Any) -> Any:
    """A value as a cell of a table has it: of a digest as many digits as tell apart, anything else as it is."""
    return value[:_DIGITS] if column in _DIGESTS and isinstance(value, str) else value


def is_percent(metric: object) -> bool:
    """Whether a metric's numbers are percent."""
    return str(metric).partition("@")[0] in _PERCENT_METRICS


def _decimals(column: str, metric: object) -> int | None:
    """How many decimals a column's numbers have; None: as their size asks for."""
    if column in _COSINES:
        return 4
    return 2 if column in _PERCENT and is_percent(metric) else None


def shown(column: str, value: object, metric: object) -> str:
    """A value as tables show it."""
    return _cell(value, _decimals(column, metric))


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


def _line(columns: Mapping[str, Sequence[str]]) -> int:
    """The width of a table's line."""
    return sum(_width(c, cells) + len(_GAP) for c, cells in columns.items()) - len(_GAP)


def _core(names: Sequence[str]) -> int:
    """The place of the number found; without one, as in a listing, the last place, so that nothing stands behind it."""
    return max((at for at, name in enumerate(names) if name in _CORE), default=len(names))


def _once_said(columns: Mapping[str, Sequence[str]]) -> list[str]:
    """Columns before the number found that have one value where they have any, those of what was found last."""
    before = list(columns)[: _core(list(columns))] if any(name in _CORE for name in columns) else []
    said = [name for name in before if name not in _CORE and len(set(columns[name]) - {""}) == 1]
    return sorted(said, key=lambda name: (name in _FOUND, name in _GIVEN))


def _spare(names: Sequence[str]) -> list[list[str]]:
    """What may have no room, the last first to go: all behind the number found, an interval's ends together."""
    behind = [name for name in names[_core(names) + 1 :] if name != "ci95_high"]
    ordered = [name for name in behind if name in _TOLD] + [name for name in behind if name not in _TOLD]
    return [[name, "ci95_high"] if name == "ci95_low" else [name] for name in ordered]


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
