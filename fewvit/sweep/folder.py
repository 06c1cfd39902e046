"""A sweep's folder: its plan, one file for each finished cell, and one for each that failed.

`sweep.json` says what was planned; `cells/DIGEST.json` is the result of one cell, in the words of the command that
gives the same; `details/DIGEST.npz` is what it found image by image; `failed/REQUEST.json` says why there is no result.
A cell's file is its commit point: it is written last, whole, and never again. Its name is a digest of what was asked
and of the bytes of the images, so that cells of other data lie beside each other.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DataError, refuse_out_of_memory
from ..evaluate.details import Details, load_details, save_details
from ..files import replacing, sha256_of, write_json
from ..results import SCHEMA as RESULT_SCHEMA
from ..results import Facts, Result, Row
from ..untrusted.texts import json_of

SCHEMA = "fewvit.sweep/1"
PLAN = "sweep.json"


@dataclass(frozen=True)
class FinishedCell:
    """What stands in a cell's file."""

    path: Path
    task: str  # the evaluation, as its command is called
    rows: Sequence[Row]
    run: Facts  # the manifest that the command would print
    cell: Facts  # what was asked: backbone, data, evaluation, method, shots, …, command
    details_sha256: str | None  # None: nothing is kept beside the rows

    @property
    def request(self) -> str:
        """What names the cell in the plan."""
        return str(self.cell["request"])

    @property
    def seconds(self) -> float:
        """What it took, without the making of features."""
        return float(self.cell.get("seconds") or 0.0)

    @property
    def contents(self) -> str:
        """The digest of the bytes of the images, or of the features given."""
        return str(self.cell["data"]["contents"])

    def details(self) -> Details:
        """What was found image by image; empty where nothing was kept. Raises DataError where its file is damaged."""
        if self.details_sha256 is None:
            return Details()
        path = self.path.parent.parent / "details" / f"{self.path.stem}.npz"
        if not path.is_file():
            raise DataError("no such file", file=path, fix=_again(self.path))
        if sha256_of(path) != self.details_sha256:
            raise DataError("its bytes are not those that were written", file=path, fix=_again(self.path))
        return load_details(path)


@dataclass(frozen=True)
class FailedCell:
    """Why a cell has no result."""

    path: Path
    cell: Facts
    error: str
    exit_code: int

    @property
    def request(self) -> str:
        """What names the cell in the plan."""
        return str(self.cell["request"])


class SweepFolder:
    """The files of one sweep."""

    def __init__(self, path: Path):
        self.path = path

    @property
    def is_there(self) -> bool:
        """Whether the folder holds a sweep."""
        return (self.path / PLAN).is_file()

    def plan(self) -> list[Facts]:
        """The cells that the last plan names, in its order. Raises DataError for a plan that is none."""
        value = _read(self.path / PLAN)
        if value.get("schema") != SCHEMA or not isinstance(value.get("cells"), list):
            raise DataError(
                f"not a plan of this version ({value.get('schema')!r}, known is {SCHEMA!r})", file=self.path / PLAN
            )
        return list(value["cells"])

    def write_plan(self, config: Mapping[str, Any], cells: Sequence[Mapping[str, Any]]) -> None:
        """Replace the plan, unless it is there already."""
        value: dict[str, Any] = {"schema": SCHEMA, "config": dict(config), "cells": [dict(cell) for cell in cells]}
        with contextlib.suppress(DataError):
            if _read(self.path / PLAN) == json.loads(json.dumps(value)):
                return
        lines = ",\n".join(json.dumps(cell, sort_keys=True) for cell in value["cells"])
        head = json.dumps({"schema": SCHEMA, "config": value["config"]}, sort_keys=True)
        with replacing(self.path / PLAN, "w") as handle:  # a line for each of what may be thousands
            handle.write(f'{head[:-1]}, "cells": [\n{lines}\n]}}\n')

    def place(self, name: str) -> Path:
        """The file of a finished cell."""
        return self.path / "cells" / f"{name}.json"

    def write_cell(self, name: str, cell: Mapping[str, Any], result: Result, details: Details) -> FinishedCell:
        """Keep a cell: its details first, then the file that commits it."""
        kept = None
        if details:
            path = self.path / "details" / f"{name}.npz"
            save_details(path, details)
            kept = sha256_of(path)
        body = {
            "schema": RESULT_SCHEMA,
            "task": result.task,
            "rows": [dict(row) for row in result.rows],
            "run": dict(result.run),
            "cell": dict(cell),
            "details_sha256": kept,
        }
        write_json(self.place(name), {**body, "sha256": _digest(body)})
        self._failed_place(str(cell["request"])).unlink(missing_ok=True)
        return read_cell(self.place(name))

    def finished(self) -> Iterator[FinishedCell | DataError]:
        """Every cell's file by its name; where one is damaged, the error that names it."""
        for path in sorted((self.path / "cells").glob("*.json")):
            try:
                yield read_cell(path)
            except DataError as error:
                yield error

    def write_failed(self, cell: Mapping[str, Any], error: str, exit_code: int) -> None:
        """Keep why a cell has no result."""
        body = {"schema": SCHEMA, "cell": dict(cell), "error": error, "exit_code": exit_code}
        write_json(self._failed_place(str(cell["request"])), body)

    def failed(self) -> Iterator[FailedCell]:
        """Every cell that failed, by its name; files that are none are passed over: the cell counts as missing."""
        for path in sorted((self.path / "failed").glob("*.json")):
            with contextlib.suppress(DataError, KeyError, TypeError, ValueError, OverflowError):
                value = _read(path)
                one = FailedCell(path, dict(value["cell"]), str(value["error"]), int(value["exit_code"]))
                _ = one.request
                yield one

    def _failed_place(self, request: str) -> Path:
        return self.path / "failed" / f"{request}.json"


def read_cell(path: Path) -> FinishedCell:
    """A cell's file. Raises DataError, which names it, for one that is damaged or of another version."""
    value = _read(path)
    if value.get("schema") != RESULT_SCHEMA:
        raise DataError(f"not a cell of this version ({value.get('schema')!r})", file=path, fix=_again(path))
    body = {key: one for key, one in value.items() if key != "sha256"}
    if value.get("sha256") != _digest(body):
        raise DataError("its bytes are not those that were written", file=path, fix=_again(path))
    try:
        found = FinishedCell(
            path, str(body["task"]), list(body["rows"]), dict(body["run"]), dict(body["cell"]), body["details_sha256"]
        )
        _require_words(found)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DataError("it does not say what was asked", file=path, fix=_again(path)) from error
    return found


def _require_words(cell: FinishedCell) -> None:
    """Raise KeyError, TypeError or ValueError unless a cell says what was asked, of what and with which seed."""
    asked = cell.cell
    backbone = dict(asked["backbone"] or {})  # None: features were given
    words = [dict(asked["data"]).get(name) for name in ("label", "data", "train", "test")]
    words += [backbone.get(name) for name in ("label", "name", "weights")]
    if not all(isinstance(word, str | None) for word in words) or not isinstance(asked.get("seed"), int | None):
        raise TypeError("words that are none")
    _ = cell.request, cell.contents, cell.seconds, asked["data"]["label"]


def digest_of(value: Mapping[str, Any]) -> str:
    """A name for what was asked: 20 hexadecimal digits of the sha256 of its JSON."""
    return _digest(value)[:20]


def _digest(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode("ascii")).hexdigest()


def _read(path: Path) -> dict[str, Any]:
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise DataError("not a file", file=path, fix=_again(path))
    try:
        value = json_of(path.read_bytes())
    except FileNotFoundError as error:
        raise DataError("no such file", file=path) from error
    except (OSError, ValueError) as error:
        refuse_out_of_memory(error, "reading a sweep")
        raise DataError(f"not JSON: {error}", file=path, fix=_again(path)) from error
    if not isinstance(value, dict):
        raise DataError("not a JSON object", file=path, fix=_again(path))
    return value


def _again(path: Path) -> str:
    return f"Remove {path.name} and run the sweep again." if path.name != PLAN else "Run the sweep again."
