"""`log.jsonl`: one JSON object per line, a step's numbers or an epoch's; a resumed run continues it without a gap."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import IntegrityError, from_os_error, printable
from ..files import replacing
from ..untrusted.texts import json_of


class Log:
    """The log of one run, written by one process."""

    def __init__(self, file: Path, step: int):
        """Continue after `step`: what a killed run had written beyond its checkpoint is dropped; it will come again."""
        self.file = file
        if file.exists():
            records = [record for record in read_log(file) if record["step"] <= step]
            with replacing(file, "w") as handle:
                handle.writelines(json.dumps(record) + "\n" for record in records)
        try:
            self._handle = open(file, "a", encoding="utf-8")  # noqa: SIM115  open as long as the run
        except OSError as error:
            raise from_os_error(error, "opening the log") from error

    def write(self, step: int, **facts: float) -> None:
        """Add a line about what was known after `step` steps; whoever reads the file meanwhile sees it.

        Raises ResourceError for a full disk.
        """
        with self._writing():
            self._handle.write(json.dumps({"step": step, **facts}) + "\n")
            self._handle.flush()

    def commit(self) -> None:
        """Bring the lines to the disk, before the checkpoint that makes them part of the run.

        Raises ResourceError for a full disk.
        """
        with self._writing():
            os.fsync(self._handle.fileno())

    def close(self) -> None:
        """Close the file. Raises ResourceError for a full disk."""
        with self._writing():
            self._handle.close()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            error.filename = str(self.file)
            raise from_os_error(error, "writing the log") from error


def read_log(file: Path) -> list[dict[str, Any]]:
    """The records of a log; a last line that a kill cut short is left out.

    Raises IntegrityError, which names the line, for one before it that is no record.
    """
    try:
        lines = file.read_bytes().splitlines()
    except OSError as error:
        raise from_os_error(error, "reading the log") from error
    records = []
    for number, line in enumerate(lines, 1):
        try:
            records.append(_record(line))
        except ValueError as error:
            if number == len(lines):
                break
            raise IntegrityError(
                f"line {number} of this log is damaged ({error})",
                file=file,
                fix="Remove that line, and the run goes on without its numbers; or start anew with --overwrite.",
            ) from error
    return records


def _record(line: bytes) -> dict[str, Any]:
    """A line's numbers by name. Raises ValueError for what `Log` does not write."""
    record = json_of(line)
    if not isinstance(record, dict) or type(record.get("step")) is not int:
        raise ValueError("no record of a step")
    for name, value in record.items():
        if type(value) not in (int, float) or (name == "epoch" and type(value) is not int):
            raise ValueError(f"{printable(name)[:40]} is no number")
    return record
