"""Tidy result rows with the manifest of the run that made them, as JSON, CSV or a table. No torch."""

from __future__ import annotations

import csv
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
    "dataset",
    "backbone",
    "method",
    "layer",
    "k",
    "temperature",
    "shots",
    "trial",
    "metric",
    "value",
    "std",
    "ci95_low",
    "ci95_high",
    "n_train",
    "n_test",
    "skipped",
)


@dataclass(frozen=True)
class Result:
    """What a command found: rows of one measurement each, and how they came about."""

    task: str
    rows: Sequence[Mapping[str, Any]]
    run: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """One JSON object; characters outside ASCII, lone surrogates too, are escaped."""
        return json.dumps({"schema": SCHEMA, "task": self.task, "rows": list(self.rows), "run": dict(self.run)}, indent=1, allow_nan=False)

    def to_csv(self) -> str:
        """A table with a header; intervals in two columns, odd characters escaped."""
        flat = [_flat(row) for row in self.rows]
        columns = _ordered({key: None for row in flat for key in row})
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(flat)
        return text.getvalue()

    def to_table(self) -> list[list[str]]:
        """Cells as text, the header first: one line per measurement, columns that never vary left out.

        Always there are metric and value, that weights are random, and how many pictures were skipped.
        """
        flat = [_flat(row) for row in self.rows]
        told = {"metric", "value", "weights", *(["skipped"] if any(row.get("skipped") for row in flat) else [])}
        columns = [c for c in _ordered({key: None for row in flat for key in row}) if c in told or len({row.get(c) for row in flat}) > 1]
        return [columns, *([_cell(row.get(c)) for c in columns] for row in flat)]


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    flat = {key: printable(value) if isinstance(value, str) else value for key, value in row.items() if key != "ci95"}
    if "ci95" in row:
        flat["ci95_low"], flat["ci95_high"] = row["ci95"]
    return flat


def _ordered(columns: Mapping[str, None]) -> list[str]:
    return [c for c in _COLUMNS if c in columns] + [c for c in columns if c not in _COLUMNS]


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.2f}" if isinstance(value, float) and abs(value) >= 1 else f"{value:.4g}" if isinstance(value, float) else str(value)


def versions() -> dict[str, str]:
    """Versions of everything that can change a number, read without importing it."""
    found = {"fewvit": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def manifest(**facts: Any) -> dict[str, Any]:
    """The run's manifest: the facts given, then versions, platform and the command line."""
    return {**facts, "versions": versions(), "platform": platform.platform(), "argv": list(sys.argv)}
