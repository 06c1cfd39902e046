"""What a report is made from: result files, run folders and sweep folders, read to records.

What is damaged is named and left out; what a folder holds beside results is passed over and said.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import (
    DataError,
    FewvitError,
    IntegrityError,
    counted,
    in_one_line,
    printable,
    refuse_out_of_memory,
)
from ..evaluate.details import Details
from ..results import SCHEMA, Facts, Row
from ..runs.folder import RunFolder
from ..runs.result_file import require_as_written
from ..sweep.folder import PLAN, FinishedCell, SweepFolder, read_cell
from ..untrusted.texts import json_of
from .checked import AGAIN, NothingMeasured, is_number, manifest_of, measurements_of

REPORT = "report"  # the task of a report's own JSON
_RESULTS = SCHEMA.partition("/")[0]


@dataclass(frozen=True)
class Record:
    """One result: of a sweep's cell, of a run, or of a command's JSON."""

    path: Path  # the file it was read from
    task: str  # the evaluation, as its command is called
    rows: Sequence[Row]  # those that measure something: they have `metric` and `value`
    run: Facts  # the manifest
    cell: FinishedCell | None = None  # None: it is no sweep's

    @property
    def asked(self) -> Facts:
        """What the sweep asked for: backbone, data, evaluation, method, …; empty where it is no sweep's."""
        return self.cell.cell if self.cell is not None else {}

    @property
    def contents(self) -> str:
        """The digest of the images' bytes; empty where it is unknown."""
        return self.cell.contents if self.cell is not None else ""

    @property
    def seconds(self) -> float | None:
        """What it took, of a cell as a whole, of others the sum of what their manifest times; None: unknown."""
        given = self.asked.get("seconds", self.run.get("seconds"))
        if isinstance(given, Mapping):
            return float(sum(part for part in given.values() if is_number(part)))
        return float(given) if is_number(given) else None

    def facts_of(self, row: Mapping[str, Any]) -> Facts:
        """The part of the manifest that is about the backbone of a row."""
        several = self.run.get("backbones")
        own = several.get(row.get("backbone")) if isinstance(several, Mapping) else None
        return own if isinstance(own, dict) else self.run

    def protocol_of(self, row: Mapping[str, Any]) -> str:
        """The preset, with its version, by which a row was measured; empty where features were given without one."""
        return str(row.get("protocol") or self.facts_of(row).get("protocol") or "")

    def seed_of(self, row: Mapping[str, Any]) -> Any:
        """The seed that the draws of a row follow from; None: it is not said."""
        return row.get("seed", self.asked.get("seed", self.run.get("seed")))

    def details(self) -> Details:
        """What was found image by image; empty where nothing is kept. Raises DataError where it is damaged."""
        return self.cell.details() if self.cell is not None else Details()


@dataclass(frozen=True)
class SweepState:
    """How far a sweep has come."""

    name: str  # of its folder
    planned: int | None  # cells; None: its plan is not there or damaged
    finished: int  # of those planned
    failed: Sequence[str]  # command and error of each planned cell that failed
    others: int  # finished cells that the last plan does not name

    @property
    def is_whole(self) -> bool:
        """Whether every planned cell is finished."""
        return self.planned is not None and self.finished == self.planned

    @property
    def line(self) -> str:
        """What there is to say, in one line."""
        if self.planned is None:
            return f"sweep {self.name}: {counted(self.others, 'cell')}; how many were planned is not known"
        left = self.planned - self.finished - len(self.failed)
        parts = [
            f"{self.finished} of {counted(self.planned, 'cell')} finished",
            *([f"{len(self.failed)} failed"] if self.failed else []),
            *([f"{left} missing"] if left else []),
            *([f"{self.others} more that its last plan does not name"] if self.others else []),
        ]
        return f"sweep {self.name}: {', '.join(parts)}"


@dataclass
class Found:
    """All that was read from the places given."""

    records: list[Record] = field(default_factory=list)
    sweeps: list[SweepState] = field(default_factory=list)
    damaged: list[FewvitError] = field(default_factory=list)  # each names its file; not among the records
    notes: list[str] = field(default_factory=list)  # what else there is to say, in one line each


def read(places: Sequence[Path]) -> Found:
    """What stands in these folders and files. Raises DataError for one that is no result, or holds none."""
    found = Found()
    seen: set[str] = set()
    for place in places:
        if (real := os.path.realpath(place)) in seen:  # unlike resolve, of links in a circle too
            found.notes.append(f"{printable(place)} is given twice, and read once")
            continue
        seen.add(real)
        before = (len(found.records), len(found.sweeps), len(found.damaged))
        _read_folder(place, found) if place.is_dir() else _read_file(place, found)
        if before == (len(found.records), len(found.sweeps), len(found.damaged)):
            raise DataError(
                "no result is here",
                file=place,
                fix="Give the folder of a sweep or of a run, or a file that --format json or --out FILE.json wrote.",
            )
    found.records = _once(found)
    return found


# ---- folders


def _read_folder(folder: Path, found: Found) -> None:
    if _is_sweep(folder):
        _read_sweep(folder, found)
    elif (folder / "manifest.json").is_file():
        _read_run(folder, found)
    else:
        for path in sorted(folder.iterdir()):
            if path.is_dir() and _is_sweep(path):
                _read_sweep(path, found)
            elif path.is_dir() and (path / "manifest.json").is_file():
                _read_run(path, found)
            elif path.suffix == ".json" and path.is_file():
                _read_any(path, found)


def _is_sweep(folder: Path) -> bool:
    return (folder / PLAN).is_file() or (folder / "cells").is_dir()


def _read_sweep(folder: Path, found: Found) -> None:
    sweep = SweepFolder(folder)
    requests = []
    for cell in sweep.finished():
        try:
            if isinstance(cell, DataError):
                raise cell
            record = _of_cell(cell)
        except DataError as error:
            found.damaged.append(error)
            continue
        found.records.append(record)
        requests.append(cell.request)
    failures = {
        one.request: f"{one.cell.get('command', one.request)}: {in_one_line(one.error)}" for one in sweep.failed()
    }
    planned: set[str] | None = None
    try:  # cells that were copied without the plan are read all the same
        planned = {str(cell["request"]) for cell in sweep.plan()} if sweep.is_there else None
    except (DataError, KeyError, TypeError) as error:
        found.damaged.append(
            error if isinstance(error, DataError) else DataError("a cell without a request", file=folder / PLAN)
        )
    done = set(requests) & (planned or set())
    found.sweeps.append(
        SweepState(
            printable(folder.resolve().name),
            len(planned) if planned is not None else None,
            len(done),
            [line for request, line in sorted(failures.items()) if request in (planned or set()) - done],
            len(requests) - sum(request in done for request in requests),
        )
    )


def _of_cell(cell: FinishedCell) -> Record:
    """The record of a cell. Raises DataError for one whose rows or manifest are not what they should be."""
    return Record(cell.path, cell.task, measurements_of(cell.rows, cell.path), manifest_of(cell.run, cell.path), cell)


def _read_run(folder: Path, found: Found) -> None:
    try:
        result = RunFolder(folder).result(found.notes.append)
        if result is None:
            found.damaged.append(DataError("this run is not finished: it has no result.json", file=folder))
            return
        path = folder / "result.json"
        found.records.append(
            Record(path, str(result.task), measurements_of(result.rows, path), manifest_of(result.run, path))
        )
    except (DataError, IntegrityError) as error:
        found.damaged.append(error)


# ---- files


def _read_file(path: Path, found: Found) -> None:
    """Read a file that was named. Raises DataError for one that is no result."""
    if not path.exists():
        raise DataError("no such file or folder", file=path)
    if path.suffix.lower() in (".csv", ".tsv", ".md", ".tex", ".html", ".parquet"):
        raise DataError(
            f"a {path.suffix[1:].upper()} table has no manifest, so it cannot be told what it was measured with",
            file=path,
            fix="Give the JSON of the same result: --format json, or --out FILE.json.",
        )
    value = _json(path)
    if not _is_result(value, path):
        raise DataError("JSON, but not a result of fewvit", file=path, fix="Give what --format json printed.")
    found.records.append(_of_json(value, path))


def _read_any(path: Path, found: Found) -> None:
    """Read a file that lies in a folder: what is no result is passed over."""
    try:
        value = _json(path)
        if not _is_result(value, path):
            found.notes.append(f"passed over {printable(path)}: no result")
            return
        found.records.append(_of_json(value, path))
    except NothingMeasured:
        found.notes.append(f"passed over {printable(path)}: a result that measures nothing")
    except (DataError, IntegrityError) as error:
        found.damaged.append(error)


def _is_result(value: object, path: Path) -> bool:
    """Whether a JSON file is a result. Raises DataError for one of another version."""
    schema = value.get("schema") if isinstance(value, dict) else None
    if isinstance(schema, str) and schema.partition("/")[0] == _RESULTS and schema != SCHEMA:
        raise DataError(
            f"a result of another version ({schema!r}, known is {SCHEMA!r})",
            file=path,
            fix="Update fewvit, or make the result again.",
        )
    # a run's result.json has no schema: that stands in the manifest beside it
    return isinstance(value, dict) and (schema == SCHEMA or (schema is None and {"task", "rows", "run"} <= set(value)))


def _of_json(value: Mapping[str, Any], path: Path) -> Record:
    if "sha256" in value and "cell" in value:
        return _of_cell(read_cell(path))
    if value.get("task") == REPORT:
        raise DataError("the table of a report", file=path, fix="Give what that report was made from.")
    require_as_written(value, path)
    rows, run = value.get("rows"), manifest_of(value.get("run"), path)
    return Record(path, str(value.get("task")), measurements_of(rows, path), run)


def _json(path: Path) -> Any:
    try:
        return json_of(path.read_bytes())
    except (OSError, ValueError) as error:
        refuse_out_of_memory(error, "reading a result")
        raise DataError(f"not JSON: {printable(error)}", file=path, fix=AGAIN) from error


# ---- the same result twice


def _once(found: Found) -> list[Record]:
    """The records without those that say what another one says.

    Two cells of one request and the same images that found other numbers contradict each other: the first is kept,
    and the other one counts as damaged.
    """
    kept: dict[str, Record] = {}
    again: list[Record] = []
    for record in found.records:
        other = kept.setdefault(_identity(record), record)
        if other is record:
            continue
        if _numbers(other) == _numbers(record):
            again.append(record)
        else:
            other_numbers = f"the same was asked as of {printable(other.path)}, and other numbers were found"
            found.damaged.append(DataError(other_numbers, file=record.path))
    if again:
        first = kept[_identity(again[0])]
        found.notes.append(
            f"{counted(len(again), 'result')} said before, and read once: {printable(again[0].path)} says what "
            f"{printable(first.path)} says{', and so on' if len(again) > 1 else ''}"
        )
    return list(kept.values())


# what of a manifest the table shows beside the rows: results that differ in it are two, though their numbers be equal
_BESIDE = ("protocol", "seed", "fingerprint", "weights_sha256", "pool", "layers", "precision", "decode", "preprocess")


def _identity(record: Record) -> str:
    if record.cell is not None:
        return f"{record.cell.request} {record.contents}"
    several = record.run.get("backbones")
    facts = [record.run, *(several.values() if isinstance(several, dict) else ())]
    beside = [[one.get(name) for name in _BESIDE] for one in facts if isinstance(one, dict)]
    return json.dumps([_numbers(record), beside], sort_keys=True)


def _numbers(record: Record) -> str:
    return json.dumps([record.task, list(record.rows)], sort_keys=True)


def walk(records: Sequence[Record]) -> Iterator[tuple[Record, Row]]:
    """Every row with the record that it stands in."""
    for record in records:
        for row in record.rows:
            yield record, row
