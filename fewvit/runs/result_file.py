"""`result.json` of a run: its commit point, with a digest of itself that tells whether it was changed. No torch.

Columns stay in the order of the command's own rows, so that a finished run shows the table that it showed at its end.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import IntegrityError, refuse_out_of_memory
from ..files import write_json
from ..results import Result
from ..untrusted.texts import json_of

_DIGEST = "result_sha256"
_OLDER = "this result is of an older version, without a digest: a change to it would not be noticed"
_AGAIN = "Delete it and repeat the run's own command, which goes on from the last checkpoint; --overwrite starts anew."


@dataclass(frozen=True)
class StoredResult:
    """What stands in the file."""

    result: Result
    files: Mapping[str, str]  # sha256 by name of what the run had made
    note: str = ""  # what cannot be told of it, a line; empty: it is what was written


def write_result(file: Path, result: Result, files: Mapping[str, str]) -> Result:
    """Replace the file; the result as whoever reads it again has it."""
    body = {"task": result.task, "rows": list(result.rows), "run": dict(result.run), "files": dict(files)}
    write_json(file, {**body, _DIGEST: digest_of(body)}, in_order=True)
    return _result(json.loads(json.dumps(body)))


def read_result(file: Path) -> StoredResult | None:
    """What stands in the file; None where there is none.

    Raises IntegrityError for one that cannot be read, or is not what was written.
    """
    try:
        value = json_of(file.read_bytes())
        require_as_written(value, file)
        return StoredResult(_result(value), dict(value.get("files", {})), "" if _DIGEST in value else _OLDER)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        refuse_out_of_memory(error, "reading a result")
        raise IntegrityError("the result of this run cannot be read", file=file, fix=_AGAIN) from error


def require_as_written(value: Mapping[str, Any], file: Path) -> None:
    """Raise IntegrityError where the digest in a result is another's; a result of an older version has none."""
    body = {name: one for name, one in value.items() if name != _DIGEST}
    if _DIGEST in value and value[_DIGEST] != digest_of(body):
        what = "the result of this run is not what was written: a number or a word in it was changed"
        raise IntegrityError(what, file=file, fix=_AGAIN)


def digest_of(body: Mapping[str, Any]) -> str:
    """sha256 in hex of a record as JSON, in the order of its keys."""
    return hashlib.sha256(json.dumps(body).encode("ascii")).hexdigest()


def _result(value: Mapping[str, Any]) -> Result:
    return Result(value["task"], value["rows"], value["run"])
