"""Facts about runs, weights files and the cache, as rows and dictionaries to print."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..backbones import Family, families, family_of
from ..digests import DigestMemory
from ..errors import DataError, UsageError, counted
from ..models.bare import taken_for
from ..models.beside import is_saved_model, weights_of
from ..models.layouts import prove_fit, trunk_of, understood
from ..models.resolve import resolve
from ..models.spec import Access, BackboneSpec
from ..models.told import NOTHING, Told
from ..results import Facts, Row
from ..runs.folder import RunFolder
from .cache import Cache
from .cards import published_lines
from .pipeline import FeatureOptions, settle

_OUTLINE = 12  # lines of a mapping table unless all are asked for


def run_facts(run: Path) -> Facts:
    """What came out of a run of `fewvit pretrain` or `fewvit finetune`, and how it is read as a backbone.

    Raises DataError for a folder that is not there, is no such run or has made nothing yet.
    """
    if not run.exists():
        raise DataError("no such run", file=run, fix="`fewvit backbones list` has the names.")
    folder = RunFolder(run)
    made, what, result = folder.backbone(), (folder.manifest() or {})["what"], folder.result()
    # nothing of the weights is read
    spec = resolve(os.path.join(run, ""), Access(Path(), offline=True), DigestMemory(), weights="random")
    pipeline = settle(spec, FeatureOptions())
    base = made.get("base", {})
    return {
        "backbone": spec.name,
        "what": _origin(what) + ("" if result is not None else ", not finished"),
        "family": spec.family,
        "architecture": spec.architecture.to_dict(),
        "protocol": pipeline.protocol.name,
        "pool": pipeline.pool,
        "preprocess": pipeline.preprocess.to_dict(),
        "file": str(folder.weights(made)),
        "sha256": folder.weights_sha256(),
        "base": " ".join(str(base[key]) for key in ("name", "weights") if base.get(key)),
        "license": spec.license,
        "verdict": str(result.run.get("verdict", "")) if result is not None else "",
        "published": {},
    }


def _origin(what: Mapping[str, Any]) -> str:
    """The command that made a run, in a few words."""
    if what["command"] == "finetune":
        return f"fewvit finetune, mode {what['mode']}, {counted(what['shots'], 'image')} per class"
    return f"fewvit pretrain {what['method']}, preset {what['preset']}"


def readable(facts: Facts) -> Facts:
    """The facts of a run for people: the published numbers as lines, what is empty left out."""
    lines = list(published_lines(facts["published"]))
    shown = {**facts, "published": [f"{what.ljust(max(len(w) for w, _ in lines))}  {number}" for what, number in lines]}
    return {name: value for name, value in shown.items() if value not in ("", [])}


def file_facts(
    file: Path,
    access: Access,
    memory: DigestMemory,
    *,
    checkpoint_key: str | None,
    family: str | None,
    whole: bool,
    told: Told = NOTHING,
) -> Facts:
    """What a weights file is: family, architecture, mapping of its tensors, what is left aside.

    Raises CheckpointError.
    """
    from ..checkpoints.filling import require_finite
    from ..checkpoints.opening import require_file
    from ..checkpoints.parts import is_in_parts, whole_file
    from ..checkpoints.reading import read_checkpoint

    if (file / "manifest.json").is_file():
        raise UsageError(
            "a run's folder, and this looks into weights files",
            file=file,
            fix="`fewvit backbones info RUN` tells what it is.",
        )
    if is_saved_model(file):
        file = weights_of(file)
    if is_in_parts(file):
        file = whole_file(file, access.cache_dir, memory, access.announce)
    require_file(file)
    tree = read_checkpoint(file)
    what = understood(tree, file, family, checkpoint_key)
    name, trunk = what.family, what.trunk
    kind = families()[name]
    taken = taken_for(file, access, memory, checkpoint_key=checkpoint_key, family=family, told=told)
    spec = taken.spec
    require_finite(trunk.tensors, file)
    prove_fit(spec.architecture, trunk.tensors, file)
    pairs = [f"{origin} -> {target} {tuple(trunk.tensors[target].shape)}" for target, origin in trunk.mapping.items()]
    return {
        "file": str(file),
        "family": name,
        "fits": [n for n, v in kind.variants.items() if v.architecture == spec.architecture] or "no named variant",
        "architecture": spec.architecture.to_dict(),
        "known_by": list(taken.facts.values()),
        "network": checkpoint_key or what.place or _usual_network(kind, tree),
        "protocol": kind.protocol,
        "sha256": spec.weights_sha256,
        "license": f"{spec.license} {kind.license_note if spec.license == kind.license else ''}".strip(),
        "tensors": len(pairs),
        "parameters": sum(int(t.numel()) for t in trunk.tensors.values()),
        "mapping": pairs if whole else _outline(pairs),
        "left_aside": trunk.dropped if whole else _outline(trunk.dropped),
    }


@dataclass(frozen=True)
class Filling:
    """How the trunk of a backbone is filled from its file."""

    tensors: int  # of the trunk, all of them from the file
    left_aside: int  # of the file: heads, decoder, optimizer
    network: str  # of the file
    usual: str  # the network that is taken where none is asked for


def filling_of(spec: BackboneSpec) -> Filling:
    """How the trunk of a spec, which has a file and is no adapter, is filled; as strictly as its module is.

    Raises CheckpointError for a partial fit.
    """
    from ..checkpoints.reading import read_checkpoint

    file, kind = Path(spec.file or ""), family_of(spec.family)
    tree = read_checkpoint(file, expected_sha256=spec.weights_sha256)
    trunk = trunk_of(kind, tree, file, spec.checkpoint_key, of_timm=bool(spec.architecture.timm))
    if not spec.architecture.timm:  # timm converts what it reads, and its module is filled as strictly
        prove_fit(spec.architecture, trunk.tensors, file)
    usual = _usual_network(kind, tree)
    return Filling(len(trunk.tensors), len(trunk.dropped), spec.checkpoint_key or usual, usual)


def _usual_network(kind: type[Family], tree: Mapping[str, Any]) -> str:
    first = kind.checkpoint_keys[0] if kind.checkpoint_keys else None
    return first if first in tree and first is not None else "the only one"


def _outline(lines: list[str]) -> list[str]:
    return (
        lines
        if len(lines) <= _OUTLINE
        else [*lines[: _OUTLINE - 1], f"… {len(lines) - _OUTLINE + 1} more (--tensors shows all)"]
    )


def cache_rows(cache: Cache) -> list[Row]:
    """One row per feature store."""
    rows = []
    for store in cache.stores():
        key = store["key"]
        crop = key["preprocess"]["crop"]
        rows.append(
            {
                "backbone": key["backbone"],
                "weights_sha256": key.get("weights_sha256", ""),  # unknown in stores of older versions
                "protocol": key.get("protocol", ""),  # of whoever made the store; unknown in them too
                "pool": key["pool"],
                "layers": key["layers"],
                "pixels": f"{crop[0]}x{crop[1]}",
                "precision": key["precision"],
                "decoder": key["decoder"].partition(",")[0],
                "images": store["images"],
                "megabytes": round(store["bytes"] / 1e6, 3),
            }
        )
    return rows


def cache_total(rows: Sequence[Mapping[str, Any]]) -> Facts:
    """The line below those of `cache_rows`: how many stores, their images and megabytes."""
    images, megabytes = (sum(row[column] for row in rows) for column in ("images", "megabytes"))
    return {"backbone": f"total of {counted(len(rows), 'store')}", "images": images, "megabytes": round(megabytes, 3)}
