"""What a bare weights file is: its family by layout, its architecture by shapes; remembered by the file's sha256."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..backbones import Architecture
from ..errors import CheckpointError
from ..files import require_writable, write_json
from ..untrusted.texts import json_of
from .layouts import prove_fit, understood
from .spec import Access

if TYPE_CHECKING:
    from ..digests import DigestMemory


_INSPECTION = 6  # raise when what is remembered of a bare file changes its meaning


_FETCH = "The file is damaged or another one; remove it and fetch it again."


def _digest(file: Path, memory: DigestMemory, expected: str, fix: str = _FETCH) -> str:
    """The file's sha256, remembered by its identity; compared with the registry's or its run's where that is known."""
    from ..checkpoints.opening import require_file

    require_file(file)
    digest = memory.digest_of(file)
    if expected and digest != expected:
        raise CheckpointError(
            f"the sha256 is {digest[:16]}…, expected {expected[:16]}…",
            file=file,
            fix=fix,
        )
    return digest


@dataclass(frozen=True)
class Inspected:
    """What a bare file's tensors say."""

    sha256: str
    family: str
    architecture: Architecture  # heads and grid as its shapes suggest; 0 heads, one row: they suggest none
    place: str  # where the trunk stands, if not where the family's official files have it
    shown: bool  # whether names in it show that it is the family's, where others have its layout too
    layout: str = ""  # the family by its layout alone, whatever was said; empty: none knows it


def inspect_file(
    file: Path, access: Access, memory: DigestMemory, *, checkpoint_key: str | None = None, family: str | None = None
) -> Inspected:
    """What a bare weights file is: its family by layout, its architecture by shapes.

    Remembered by the file's sha256.
    """
    digest = _digest(file, memory, "")
    remembered = access.cache_dir / "backbones" / f"{digest[:32]}-{family or 'auto'}-{checkpoint_key or 'default'}.json"
    known = _recall(remembered, digest)
    if known is None:
        require_writable(remembered.parent)
        known = _inspect(file, checkpoint_key, family)
        write_json(remembered, {"inspection": _INSPECTION, "sha256": digest, **known})
    return Inspected(
        digest,
        known["family"],
        Architecture(**known["architecture"]),
        known["place"],
        bool(known["shown"]),
        known["layout"],
    )


def _recall(path: Path, digest: str) -> dict[str, Any] | None:
    try:
        value = json_of(path.read_text())
        Architecture(**value["architecture"])
    except (OSError, ValueError, KeyError, TypeError):
        return None  # never seen, or written by another version: look again
    return value if value.get("inspection") == _INSPECTION and value.get("sha256") == digest else None


def _inspect(file: Path, checkpoint_key: str | None, family: str | None) -> dict[str, Any]:
    from ..checkpoints.reading import read_checkpoint

    what = understood(read_checkpoint(file), file, family, checkpoint_key)
    prove_fit(what.architecture, what.trunk.tensors, file)
    return {
        "family": what.family,
        "architecture": what.architecture.to_dict(),
        "place": what.place,
        "shown": what.shown,
        "layout": what.layout,
    }
