"""What a bare weights file is: its family by layout, its architecture by shapes; remembered by the file's sha256."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..backbones import Architecture, families
from ..errors import CheckpointError
from ..files import require_writable, write_json
from .layouts import prove_fit, understood
from .spec import Access, BackboneSpec

if TYPE_CHECKING:
    from ..digests import DigestMemory


_INSPECTION = 3  # raise when what is remembered of a bare file changes its meaning


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


def inspect_file(
    file: Path, access: Access, memory: DigestMemory, *, checkpoint_key: str | None = None, family: str | None = None
) -> BackboneSpec:
    """The spec of a bare weights file: its family by layout, its architecture by shapes.

    Remembered by the file's sha256.
    """
    digest = _digest(file, memory, "")
    remembered = access.cache_dir / "backbones" / f"{digest[:32]}-{family or 'auto'}-{checkpoint_key or 'default'}.json"
    known = _recall(remembered, digest)
    if known is None:
        require_writable(remembered.parent)
        known = _inspect(file, checkpoint_key, family)
        write_json(remembered, {"inspection": _INSPECTION, "sha256": digest, **known})
    if known["place"]:
        access.notify(f"{file.name}: the ViT under {known['place']} is read, as one of the family {known['family']}")
    kind, architecture = families()[known["family"]], Architecture(**known["architecture"])
    return BackboneSpec(
        name=file.name,
        family=known["family"],
        architecture=architecture,
        protocol=kind.protocol_of(architecture),
        weights_sha256=digest,
        file=file,
        checkpoint_key=checkpoint_key,
        license=kind.license,
    )


def _recall(path: Path, digest: str) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_text())
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
        "architecture": dataclasses.asdict(what.architecture),
        "place": what.place,
    }
