"""What a bare weights file is: its family by layout, its architecture by shapes; remembered by the file's sha256."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..backbones import Architecture, Family, Trunk, families, recognisable
from ..errors import CheckpointError, UsageError, printable
from ..files import require_writable, write_json
from .spec import BUNDLE_SCHEMA, Access, BackboneSpec

if TYPE_CHECKING:
    from ..digests import DigestMemory


_INSPECTION = 2  # raise when what is remembered of a bare file changes its meaning


def _checked_key(kind: type[Family], checkpoint_key: str | None) -> str | None:
    if checkpoint_key and kind.checkpoint_keys and checkpoint_key not in kind.checkpoint_keys:
        raise UsageError(
            f"--checkpoint-key {checkpoint_key}: a {kind.__name__} file holds {' and '.join(kind.checkpoint_keys)}"
        )
    return checkpoint_key


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
    kind, architecture = families()[known["family"]], Architecture(**known["architecture"])
    return BackboneSpec(
        name=file.name,
        family=known["family"],
        architecture=architecture,
        protocol=kind.protocol_of(architecture),
        weights_sha256=digest,
        file=file,
        checkpoint_key=_checked_key(kind, checkpoint_key),
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

    tree = read_checkpoint(file)
    name = recognise(tree, file, family)
    trunk = trunk_of(families()[name], tree, file, _checked_key(families()[name], checkpoint_key))
    try:
        architecture = families()[name].infer(trunk.tensors)
    except (KeyError, ValueError) as error:
        raise CheckpointError(
            f"no {name} trunk: {error}", file=file, fix="Run `fewvit backbones check FILE` to see what it holds."
        ) from error
    return {"family": name, "architecture": dataclasses.asdict(architecture)}


def recognise(tree: Mapping[str, Any], file: Path, family: str | None = None) -> str:
    """The family whose layout the file has; `family` settles it by hand. Raises CheckpointError when none fits."""
    if family is not None:
        from ..plugins import find

        find("backbones", family)
        return family.replace("-", "_")
    fitting = [name for name, kind in families().items() if kind.recognises(tree)]
    if not fitting and _is_bundle(file):
        raise CheckpointError(
            "this is a classifier bundle, not a backbone",
            file=file,
            fix=f"Use it with `fewvit predict {printable(file)} SRC`.",
        )
    if not fitting:
        shown = ", ".join(str(key) for key in list(tree)[:4])
        raise CheckpointError(
            f"not a layout that is known (it starts with {shown})",
            file=file,
            fix="For a file of timm's layout give --backbone timm:NAME --weights FILE; to force a family use "
            f"--family {'|'.join(recognisable())}.",
        )
    return fitting[0]


def _is_bundle(file: Path) -> bool:
    """Whether a file is what `fewvit fit` writes."""
    import safetensors

    try:
        with safetensors.safe_open(file, "numpy") as bundle:
            return BUNDLE_SCHEMA in (bundle.metadata() or {})
    except (safetensors.SafetensorError, OSError):
        return False


def trunk_of(kind: type[Family], tree: Mapping[str, Any], file: Path, checkpoint_key: str | None) -> Trunk:
    """The family's trunk in `tree`; a network that is not there is a CheckpointError."""
    try:
        return kind.trunk(tree, checkpoint_key)
    except KeyError as error:
        raise CheckpointError(str(error.args[0]), file=file, fix="Choose another with --checkpoint-key.") from error
