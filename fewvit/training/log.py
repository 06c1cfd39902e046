"""`log.jsonl`: one JSON object per line, a step's numbers or an epoch's; a resumed run continues it without a gap."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import from_os_error
from ..files import replacing


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


def read_log(file: Path) -> Iterator[dict[str, Any]]:
    """The records of a log; a last line that a kill cut short is left out."""
    with open(file, encoding="utf-8") as handle:
        for line in handle:
            try:
                yield json.loads(line)
            except ValueError:
                return
