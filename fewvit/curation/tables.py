"""Tables as text: what they can hold, and what is in a file."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from ..datasets._columns import class_name
from ..errors import DataError, some


def require_tabular(classes: Sequence[str]) -> None:
    """Raise DataError for class names that would be others once they were read from a table."""
    odd = [name for name in classes if class_name(name) != name or "\0" in name]
    if odd:
        names = some([repr(name) for name in odd])
        raise DataError(f"a table cannot hold class names with blanks around them or a NUL character: {names}")


def table_text(columns: Sequence[str], lines: Sequence[Sequence[str]], mark: str = ",") -> str:
    """A CSV, or with a tab as its `mark` a TSV, as text; bytes of names that are not UTF-8 are surrogates."""
    odd = any("\r" in cell for line in lines for cell in line)  # the csv module would not quote it
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=mark, lineterminator="\n", quoting=csv.QUOTE_ALL if odd else csv.QUOTE_MINIMAL)
    writer.writerow(columns)
    writer.writerows(lines)
    return text.getvalue()


def holds(path: Path, text: str) -> bool:
    """Whether a file is there that has this text and no other."""
    data = text.encode("utf-8", "surrogateescape")
    return path.is_file() and path.stat().st_size == len(data) and path.read_bytes() == data
