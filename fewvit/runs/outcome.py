"""`outcome.json` of one training among several of a run: written once, with a digest of itself. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import IntegrityError, refuse_out_of_memory
from ..files import write_json
from ..untrusted.texts import json_of
from .result_file import digest_of

NAME = "outcome.json"
_DIGEST = "outcome_sha256"


def write_outcome(place: Path, facts: Mapping[str, Any]) -> None:
    """Replace the outcome of the training in the folder `place`. Raises as `write_json`."""
    write_json(place / NAME, {**facts, _DIGEST: digest_of(facts)}, in_order=True)


def read_outcome(place: Path) -> dict[str, Any] | None:
    """What the training in the folder `place` came to; None where it has not ended.

    Raises IntegrityError for one that cannot be read, or is not what was written.
    """
    file = place / NAME
    try:
        value = json_of(file.read_bytes())
        written = value.pop(_DIGEST)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        refuse_out_of_memory(error, "reading an outcome")
        raise damaged(file, "it cannot be read") from error
    if written != digest_of(value):
        raise damaged(file, "a number or a word in it was changed")
    return dict(value)


def damaged(file: Path, why: str) -> IntegrityError:
    """The error of a file of an outcome that is not what was written."""
    return IntegrityError(
        f"what this training found is damaged ({why})",
        file=file,
        fix="Remove the folder that it is in: its training is done again.",
    )
