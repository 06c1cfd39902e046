"""The means as tables for a paper: one for each data set, task and metric; backbones and methods by shots or k."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import UnknownName, counted
from ..results import is_percent, shown
from .parts import identity
from .rows import HEADLINES, Line, means

_MAIN = (*HEADLINES, "nmi", "hit_rate_at_1")  # the metric that stands for a method, the first that it has
_LESS_IS_BETTER = ("ece",)
_TITLES = {"top1": "Top-1 accuracy", "top5": "Top-5 accuracy", "accuracy": "Accuracy", "ece": "ECE", "map": "mAP"}
_ACROSS = ("ways", "shots", "k", "layer")  # what columns can be; the first that has several values is
_LABELS = ("backbone", "method", "protocol")
_SHARED = ("protocol", "seed", "temperature", "n_train", "n_test", "n_queries", "trials")
_MOST_COLUMNS = 12  # that a page has room for
NONE = "–"


@dataclass(frozen=True)
class Cell:
    """A number of a table; all as text."""

    value: str
    std: str = ""  # empty: there is none
    is_best: bool = False  # of its column

    def __str__(self) -> str:
        return f"{self.value} ± {self.std}" if self.std else self.value


@dataclass(frozen=True)
class PaperTable:
    """A table as a paper has it."""

    caption: str
    labels: Sequence[str]  # names of the first columns
    columns: Sequence[str]  # names of the others
    rows: Sequence[tuple[Sequence[str], Sequence[Cell | None]]]  # what it is called, and its numbers


def paper_tables(lines: Sequence[Line], metric: str | None = None) -> list[PaperTable]:
    """The tables of a report's means. Raises UnknownName for a metric that no result has.

    Without a metric, each method's main one is taken: top-1, episodes' accuracy, mAP. Nothing is averaged, and numbers
    of two protocols stand in rows of their own.
    """
    rows = [line.row for line in means(lines)]
    known = list(dict.fromkeys(str(row["metric"]) for row in rows))
    if metric is not None and metric not in known:
        raise UnknownName("metric", metric, known)
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows if metric is not None else _main(rows):
        if metric in (None, row["metric"]):
            several = [name for name in ("shots", "k", "layer") if row.get(name) is not None]
            groups[str(row["dataset"]), str(row["task"]), str(row["metric"]), *several].append(row)
    return [part for (data, task, of, *_), found in groups.items() for part in _table(data, task, of, found)]


def _main(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The rows of each method's main metric."""
    metrics: dict[tuple[str, str], list[str]] = defaultdict(list)
    for row in rows:
        metrics[str(row["task"]), str(row.get("method"))].append(str(row["metric"]))
    main = {key: next((one for one in _MAIN if one in found), found[0]) for key, found in metrics.items()}
    return [row for row in rows if row["metric"] == main[str(row["task"]), str(row.get("method"))]]


def _table(data: str, task: str, metric: str, rows: Sequence[Mapping[str, Any]]) -> Iterator[PaperTable]:
    """The table of one data set, task and metric; several where it has more columns than a page has room for."""
    asked = [_asked(row) for row in rows]
    names = list(dict.fromkeys(name for one in asked for name in one))
    varying = [name for name in names if len({str(one.get(name)) for one in asked}) > 1]
    across = next((name for name in _ACROSS if name in varying), next((one for one in _ACROSS if one in names), ""))
    down = [name for name in varying if name != across]
    labels = [name for name in _LABELS if name in down] + [name for name in down if name not in _LABELS]
    labels = labels or ["backbone"]
    heads = list(dict.fromkeys(_head(across, one.get(across), metric) for one in asked))
    grid: dict[tuple[str, ...], dict[str, Mapping[str, Any]]] = defaultdict(dict)
    for row, one in zip(rows, asked, strict=True):
        key = tuple("" if one.get(name) is None else str(one[name]) for name in labels)
        grid[key].setdefault(_head(across, one.get(across), metric), row)
    best = {head: _best([found[head] for found in grid.values() if head in found], metric) for head in heads}
    said = _caption(
        data,
        task,
        metric,
        rows,
        {name: asked[0].get(name) for name in names if name not in (*varying, *labels, across)},
    )
    if hidden := len(rows) - sum(map(len, grid.values())):
        said += f" Nothing tells {counted(hidden, 'more number')} apart from these: see the CSV."
    for start in range(0, len(heads), _MOST_COLUMNS):
        part = heads[start : start + _MOST_COLUMNS]
        which = f" Columns {start + 1} to {start + len(part)} of {len(heads)}." if len(heads) > len(part) else ""
        yield PaperTable(
            said + which,
            labels,
            part,
            [(key, [_cell(found.get(head), best[head]) for head in part]) for key, found in grid.items()],
        )


def _asked(row: Mapping[str, Any]) -> dict[str, Any]:
    """What was asked for a number, and that its weights are untrained."""
    weights = {"weights": row["weights"]} if row.get("weights") is not None else {}
    return {**identity(dict(row), ("dataset", "task")), **weights}


def _head(across: str, value: object, metric: str) -> str:
    """What stands over a column."""
    if value is None:
        return _TITLES.get(metric, metric)
    if across == "shots" and isinstance(value, int):
        return counted(value, "shot")
    return str(value) if across == "shots" else f"{across} {value}"


def _text(row: Mapping[str, Any]) -> str:
    return shown("value", row["value"], row["metric"])


def _best(rows: Sequence[Mapping[str, Any]], metric: str) -> str:
    """The best number of a column as it is shown; empty where there is none to be better than."""
    choose = min if metric in _LESS_IS_BETTER else max
    return _text(choose(rows, key=lambda row: float(row["value"]))) if len(rows) > 1 else ""


def _cell(row: Mapping[str, Any] | None, best: str) -> Cell | None:
    if row is None:
        return None
    std = row.get("std")
    return Cell(_text(row), "" if std is None else shown("std", std, row["metric"]), _text(row) == best)


def _caption(data: str, task: str, metric: str, rows: Sequence[Mapping[str, Any]], same: Mapping[str, Any]) -> str:
    """What the table shows, and all that its numbers share."""
    parts = [f"{name} {value}" for name, value in same.items() if value is not None and name not in _SHARED]
    for name in _SHARED:
        found = sorted({row[name] for row in rows if row.get(name) is not None}, key=lambda one: (str(type(one)), one))
        if len(found) == 1 or (found and name == "trials"):
            several = f"{found[0]} to {found[-1]}" if len(found) > 1 else str(found[0])
            parts.append(f"{several} draws" if name == "trials" else f"{name} {several}")
    percent = " (%)" if is_percent(metric) else ""
    text = f"{_TITLES.get(metric, metric)}{percent} on {data}, {task}"
    text += f": {', '.join(parts)}." if parts else "."
    if any(row.get("std") is not None for row in rows):
        text += " Mean ± standard deviation over draws."
    return text + (" Best of a column in bold, less being better." if metric in _LESS_IS_BETTER else "")
