"""Whether the weights are the released ones, and wholly in their places."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from ...backbones import Variant, family_of
from ...extraction.describe import filling_of
from ...models.spec import BackboneSpec
from .check import DIFFERS, OK, UNKNOWN, Check, compared
from .subject import Subject

_SHOWN = 16  # digits of a digest


def weights_checks(subject: Subject) -> Iterator[Check]:
    """The file, how its tensors fill the trunk, and which network of the file that is."""
    spec = subject.spec
    if spec is None:
        named = subject.train.backbone
        yield Check(
            "weights",
            named or None,
            None,
            UNKNOWN,
            "These are features of a backbone that has no published numbers here."
            if named
            else "The features file names no backbone; what `fewvit extract` writes does.",
        )
        return
    if spec.is_random:
        yield Check(
            "weights",
            "untrained",
            "released",
            DIFFERS,
            "--weights random leaves the backbone untrained; leave it away for the released weights.",
        )
        return
    yield _file(spec)
    if spec.file is not None and spec.base is None:
        yield from _filling(spec)


def _file(spec: BackboneSpec) -> Check:
    row = family_of(spec.family).variants.get(spec.name)
    here = f"sha256 {spec.weights_sha256[:_SHOWN]}"
    if spec.tuned or spec.base is not None or row is None:
        return Check("weights", here, None, UNKNOWN, _unnamed(spec))
    if row.sha256:
        return compared(
            "weights",
            here,
            f"sha256 {row.sha256[:_SHOWN]}",
            "The digest of the weights file; --weights FILE takes another file, without it the released one is got.",
        )
    if row.md5_prefix and spec.file is not None:
        found = _md5(spec.file)
        return Check(
            "weights",
            f"md5 {found[: len(row.md5_prefix)]}",
            f"md5 {row.md5_prefix}",
            OK if found.startswith(row.md5_prefix) else DIFFERS,
            "The start of the weights file's md5, as its authors published it; --weights FILE takes another file.",
        )
    return Check(
        "weights",
        here,
        None,
        UNKNOWN,
        "Its authors published no digest. The first download's is kept beside it, and every later use compared with "
        "that.",
    )


def _unnamed(spec: BackboneSpec) -> str:
    """What to know of weights that are no named variant's."""
    alike = _alike(spec)
    if spec.tuned or spec.base is not None or not alike:
        return (
            "Weights of your own training, or of a file that no named backbone has: no number of theirs is published."
        )
    name = _called(spec, alike) or next(iter(alike))
    return (
        f"A bare file with the architecture of {', '.join(alike)}. If it is the released one, "
        f"--backbone {name} --weights FILE compares it with the published number."
    )


def _alike(spec: BackboneSpec) -> dict[str, Variant]:
    """The published variants of a bare file's architecture."""
    variants = family_of(spec.family).variants
    return {name: row for name, row in variants.items() if row.url and row.architecture == spec.architecture}


def _called(spec: BackboneSpec, alike: dict[str, Variant]) -> str | None:
    """The variant whose file has the name of this one."""
    return next((name for name, row in alike.items() if spec.file and row.file_name == spec.file.name), None)


def _md5(file: Path) -> str:
    with open(file, "rb") as handle:
        return hashlib.file_digest(handle, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _filling(spec: BackboneSpec) -> Iterator[Check]:
    found = filling_of(spec)
    aside = f", {found.left_aside} of the file left aside" if found.left_aside else ""
    yield Check(
        "trunk",
        f"{found.tensors} of {found.tensors} tensors filled{aside}",
        "all filled",
        OK,
        "A file that leaves a tensor of the trunk unfilled is refused; `fewvit backbones check FILE` has the mapping.",
    )
    yield compared(
        "network",
        found.network,
        found.usual,
        "Which network of the file is read: published numbers are of the averaged one. --checkpoint-key.",
    )
