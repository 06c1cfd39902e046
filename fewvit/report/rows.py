"""The records' rows as one table: names that tell apart what differs, columns that every row has, a fixed order."""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import DataError
from ..results import Row
from .parts import identity, key_of
from .read import Record, walk
from .seen import seen_in_pretraining

TASKS = ("knn", "lowshot", "linear", "finetune", "episodes", "index")  # first in the table, in this order
HEADLINES = ("top1", "accuracy", "map", "recall@1")  # the one number of a setting that figures show
_METRICS = ("top1", "top5", "accuracy", "ece")
_GIVEN = ("task", "dataset", "backbone", "protocol", "method")
# what of a manifest decides a feature: where backbones of one name differ in it, their names say so
_FEATURES = ("pool", "layers", "precision", "decode")
_FOUND_HERE = ("delta", "verdict", "seen_in_pretraining", "weights_sha256")  # whatever a row says of them
_DIGITS = 6  # of a digest in a name


@dataclass(frozen=True)
class Line:
    """One row of the table, and the record that it stands in."""

    record: Record
    row: Row

    @property
    def is_trial(self) -> bool:
        """Whether it is one draw of several, beside their mean."""
        return isinstance(self.row.get("trial"), int)


def lines_of(records: Sequence[Record]) -> list[Line]:
    """Every row of the records, named and in order; the same for the same records in whatever order they come."""
    datasets, backbones = _dataset_names(records), _backbone_names(records)
    counts = _Draws()
    found = []
    for record, row in walk(records):
        dataset = _dataset(record, row)
        named = {
            "task": record.task,
            "dataset": datasets[dataset, record.contents],
            "backbone": backbones[_backbone(row), _differences(record, row)],
            "protocol": record.protocol_of(row) or None,
            "method": row.get("method"),
            "seed": record.seed_of(row),
        }
        rest = {key: value for key, value in row.items() if key not in named and key not in _FOUND_HERE}
        seen = {
            "seen_in_pretraining": seen_in_pretraining(record, row, dataset),
            "weights_sha256": _weights(record, row),
        }
        trials = {"trials": counts.of(record, row)} if row.get("trial") == "mean" else {}
        found.append(Line(record, {**named, **rest, **trials, **_against_published(record, row), **seen}))
    return sorted(found, key=lambda line: place_of(line.row))


def means(lines: Sequence[Line]) -> list[Line]:
    """The lines without the single draws that a mean stands for."""
    return [line for line in lines if not line.is_trial]


_ALWAYS = (
    *("task", "dataset", "backbone", "protocol", "method", "shots", "metric", "value", "std", "ci95", "n_test"),
    *("trials", "published", "delta", "verdict", "seen_in_pretraining", "weights", "skipped"),
)


def told_apart(rows: Sequence[Row]) -> list[Row]:
    """Rows of means without the columns that are needed by no two of them to differ, but for those of every report."""
    kept = list(dict.fromkeys(name for row in rows for name in row))
    for name in [one for one in reversed(kept) if one not in _ALWAYS]:
        rest = [one for one in kept if one != name]
        if len(_kinds(rows, rest)) == len(_kinds(rows, kept)):
            kept = rest
    return [{name: row[name] for name in kept if name in row} for row in rows]


def _kinds(rows: Sequence[Row], names: Sequence[str]) -> set[tuple[str, ...]]:
    asked = [name for name in names if name not in ("value", "std", "ci95")]
    return {tuple(str(row.get(name)) for name in asked) for row in rows}


class _Draws:
    """How many draws stand behind a mean, counted once for each record."""

    def __init__(self) -> None:
        self._of: dict[int, dict[_Key, int]] = {}

    def of(self, record: Record, row: Row) -> int | None:
        """The draws beside a mean; where none stands there, as many as the result says; None: it does not say."""
        if id(record) not in self._of:
            self._of[id(record)] = _draws_in(record)
        said = record.asked.get("trials", record.run.get("trials"))
        return self._of[id(record)].get(_question(row), said if isinstance(said, int) else None)


_Key = tuple[tuple[str, str], ...]


def _question(row: Row) -> _Key:
    return key_of({**identity(row), "metric": row["metric"]})


def _draws_in(record: Record) -> dict[_Key, int]:
    trials: dict[_Key, set[int]] = defaultdict(set)
    for row in record.rows:
        if isinstance(row.get("trial"), int):
            trials[_question(row)].add(row["trial"])
    return {key: len(numbers) for key, numbers in trials.items()}


# ---- names


def source_of(record: Record, row: Row) -> tuple[Any, ...]:
    """Data and features of a row as far as its record tells them: rows that differ in it were measured on others."""
    return _dataset(record, row), _backbone(row), _differences(record, row)


def _dataset(record: Record, row: Mapping[str, Any]) -> str:
    label = record.asked["data"].get("label") if record.cell is not None else None
    return str(label or row.get("dataset") or "")


def _dataset_names(records: Sequence[Record]) -> dict[tuple[str, str], str]:
    """(name, digest of its contents) -> what it is called: with some digits of the digest where names do not differ.

    Where the contents are not known, the name stays as it is.
    """
    contents: dict[str, set[str]] = defaultdict(set)
    for record, row in walk(records):
        contents[_dataset(record, row)].add(record.contents)
    return {
        (name, one): f"{name} ({one[:_DIGITS]})" if one and len(all_of) > 1 else name
        for name, all_of in contents.items()
        for one in all_of
    }


def _backbone(row: Mapping[str, Any]) -> str:
    return str(row.get("backbone") or "")


def _weights(record: Record, row: Mapping[str, Any]) -> str | None:
    found = row.get("weights_sha256") or record.facts_of(row).get("weights_sha256")
    return str(found) if found else None


def _differences(record: Record, row: Mapping[str, Any]) -> tuple[str, ...]:
    """What decides the features beside the backbone's name, in words that can stand behind it."""
    facts = record.facts_of(row)
    words = [str(facts[name]) if name in facts else "" for name in _FEATURES]
    if "layer" in row:  # of every block one by one: which one stands in the row
        words[_FEATURES.index("layers")] = ""
    elif words[_FEATURES.index("layers")]:
        words[_FEATURES.index("layers")] += " layers" if words[_FEATURES.index("layers")] != "1" else " layer"
    crop = facts.get("preprocess", {}).get("crop") if isinstance(facts.get("preprocess"), dict) else None
    size = "x".join(map(str, crop)) + " px" if isinstance(crop, list) else ""
    return (*words, size, (_weights(record, row) or "")[:_DIGITS])


def _backbone_names(records: Sequence[Record]) -> dict[tuple[str, tuple[str, ...]], str]:
    """(name, `_differences`) -> what it is called: with the words in which backbones of that name differ.

    Protocols have a column of their own, and a sweep's names tell its settings apart already.
    """
    kinds: dict[str, set[tuple[str, ...]]] = defaultdict(set)
    for record, row in walk(records):
        kinds[_backbone(row)].add(_differences(record, row))
    names = {}
    for name, all_of in kinds.items():
        varying = [at for at in range(len(_FEATURES) + 2) if len({one[at] for one in all_of} - {""}) > 1]
        for one in all_of:
            words = [one[at] for at in varying if one[at]]
            names[name, one] = f"{name} ({', '.join(words)})" if words else name
    return names


# ---- what a paper says


def _against_published(record: Record, row: Mapping[str, Any]) -> Row:
    """`delta` and `verdict` of a mean that has a published number beside it."""
    if row.get("published") in (None, ""):
        return {}
    from .statistics import against_published

    draws = [one["value"] for one in record.rows if isinstance(one.get("trial"), int) and _same_draws(one, row)]
    try:
        found = against_published(draws or [row["value"]], str(row["published"]))
    except DataError:
        return {}
    return {"delta": found.delta, "verdict": found.verdict}


def _same_draws(one: Mapping[str, Any], mean: Mapping[str, Any]) -> bool:
    return all(one.get(key) == mean.get(key) for key in ("dataset", "backbone", "method", "shots", "metric", "layer"))


# ---- order


def place_of(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """A key that sorts rows into the table's order."""
    task, metric, trial = str(row["task"]), str(row["metric"]), row.get("trial")
    return (
        TASKS.index(task) if task in TASKS else len(TASKS),
        task,
        *(_natural(row.get(name)) for name in ("dataset", "backbone", "protocol", "method", "ways", "shots", "layer")),
        *(_natural(row.get(name)) for name in ("k", "temperature", "setting")),
        _METRICS.index(metric) if metric in _METRICS else len(_METRICS),
        metric,
        (trial is not None, not isinstance(trial, int), trial if isinstance(trial, int) else 0),
        json.dumps({key: str(value) for key, value in row.items()}, sort_keys=True),
    )


def _natural(value: object) -> tuple[tuple[int, float, str], ...]:
    """A key by which 2 comes before 10 and a2 before a10; what is missing comes first, numbers before words."""
    if value is None:
        return ()
    if isinstance(value, int | float):
        return ((0, -math.inf if math.isnan(value) else float(value), ""),)
    parts = re.split(r"(\d+)", str(value).lower())
    numbered = [(0, float(part), "") if at % 2 else (1, 0.0, part) for at, part in enumerate(parts)]
    return (*numbered, (2, 0.0, str(value)))
