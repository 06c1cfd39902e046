"""The file of a named variant: in the package, given, found, joined from parts, or downloaded once that is allowed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..backbones import BUNDLED, OFFLINE, Family, Variant
from ..checkpoints.parts import whole_file
from ..errors import Unobtainable, UsageError
from .spec import Access

if TYPE_CHECKING:
    from ..digests import DigestMemory


def joined(part: Path, variant: Variant, access: Access, memory: DigestMemory) -> Path:
    """The file that the parts hold; all parts that the variant has, where they are called as its are."""
    names = [variant.file_name, *(url.rsplit("/", 1)[-1] for url in variant.parts)]
    known = names if part.name in names or (part / variant.file_name).is_file() else ()
    return whole_file(part, access.cache_dir, memory, access.announce, known)


def _require_given(name: str, variant: Variant, access: Access) -> None:
    """Raise Unobtainable for weights whose address works only for who asked the authors for it, and that are not here.

    Those of the hub are asked for there, with a token.
    """
    from ..checkpoints.finding import find_weights
    from ..checkpoints.huggingface import hub_file

    file_name = variant.file_name
    if not variant.gated or hub_file(variant.url) or find_weights(file_name, access.cache_dir) is not None:
        return
    raise Unobtainable(
        f"{name}: its authors give {file_name} to those only who accept the terms at {variant.gated}",
        fix=f"Ask there, then put {file_name} into a folder of $FEWVIT_WEIGHTS_DIR or give --weights FILE; from the "
        "hub, --backbone hf:ORG/NAME with HF_TOKEN or after `hf auth login`.",
    )


def obtain_variant(name: str, kind: type[Family], variant: Variant, access: Access) -> Path:
    """The variant's file: found, or downloaded once its licence is accepted."""
    from ..checkpoints.finding import obtain

    if variant.bundled:
        return BUNDLED / variant.bundled
    if not variant.url:
        raise UsageError(
            f"{name} has no published weights", fix="Give --weights FILE, or --weights random for an untrained model."
        )
    _require_given(name, variant, access)
    common: dict[str, Any] = {
        "license": variant.license or kind.license,
        "cache_dir": access.cache_dir,
        "offline": access.offline,
        "accept": access.accept,
        "progress": access.progress,
        "notify": access.notify,
        "ask": access.ask,
    }
    try:
        first = obtain(
            variant.file_name,
            variant.url,
            sha256=variant.sha256 or None,
            md5_prefix=variant.md5_prefix or None,
            **common,
        )
        for url in variant.parts:
            obtain(url.rsplit("/", 1)[-1], url, **common)
        return first
    except Unobtainable as error:
        hint = f"Without a network, `--backbone {OFFLINE}` works at once: a small ViT that comes with fewvit."
        raise Unobtainable(
            error.what, file=error.file, fix=f"{error.fix.rstrip('.')}. {hint}" if error.fix else hint
        ) from error
