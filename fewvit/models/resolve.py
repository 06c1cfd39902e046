"""From what a user calls a backbone to its `BackboneSpec`, and from that to the module.

No torch until a module is built.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..backbones import (
    Architecture,
    Variant,
    families,
    family_of_registry,
    find_variant,
    variants,
)
from ..checkpoints.parts import is_in_parts, whole_file
from ..errors import CheckpointError, Unobtainable, UsageError
from ..preprocess import Preprocess
from ..runs.folder import ANEW, RunFolder
from .bare import resolve_bare
from .beside import CONFIG, is_saved_model, read_folder, weights_of
from .files import _digest, inspect_file
from .layouts import checked_key
from .obtaining import joined, obtain_variant
from .spec import Access, BackboneSpec
from .told import NOTHING, Told

if TYPE_CHECKING:
    from ..digests import DigestMemory


_REGISTRIES = ("timm:", "hf:")  # whose names are looked up elsewhere


def resolve(
    name: str,
    access: Access,
    memory: DigestMemory,
    *,
    weights: str | None = None,
    checkpoint_key: str | None = None,
    family: str | None = None,
    seed: int = 0,
    told: Told = NOTHING,
) -> BackboneSpec:
    """The spec behind a variant's name, `timm:NAME`, `hf:ORG/NAME`, a weights file or a saved model's folder.

    `told` is what a user says of a bare file. Raises UsageError where nothing can be told or where it contradicts the
    file, UnknownName, Unobtainable, LicenseRequired (2), DataError for a missing file (3), CheckpointError (4).
    """
    if is_variant(name) or name.startswith("timm:") or (Path(name) / "manifest.json").is_file():
        told.refuse_for(name)
    if name.startswith("hf:"):
        from .hub import resolve_hub

        return resolve_hub(name, access, memory, family=family, told=told)
    if name.startswith("timm:"):
        from .hub import timm_variant

        family_name, variant = family_of_registry("timm"), timm_variant(name.removeprefix("timm:"), access)
    elif is_path(name):
        if is_in_parts(name) and weights is None:
            whole = whole_file(name, access.cache_dir, memory, access.announce)
            return resolve_bare(
                whole,
                access,
                memory,
                checkpoint_key=checkpoint_key,
                family=family,
                told=told,
                name=Path(name).name or Path(name).resolve().name,
            )
        if is_saved_model(Path(name)) and weights is None:
            return _of_saved(Path(name), access, memory, checkpoint_key=checkpoint_key, family=family, told=told)
        if Path(name).is_dir() and weights in (None, "random"):
            return _of_run(RunFolder(Path(name)), access, memory, untrained=weights == "random", seed=seed)
        if weights is not None:
            raise UsageError(
                f"--weights beside --backbone {name}: a file is its own weights",
                fix="Name the architecture in --backbone, or leave --weights out.",
            )
        return resolve_bare(Path(name), access, memory, checkpoint_key=checkpoint_key, family=family, told=told)
    else:
        family_name, variant = find_variant(name)
    if family is not None and family.replace("-", "_") != family_name:
        raise UsageError(
            f"--family {family}: {name} is of the family {family_name}",
            fix="--family says what a bare weights file is.",
        )
    return _of_variant(
        name, family_name, variant, access, memory, weights=weights, checkpoint_key=checkpoint_key, seed=seed
    )


def is_path(name: str) -> bool:
    """Whether a backbone is given as a file or run folder rather than by name; a variant's name is one even where a
    file is called so too.
    """
    if name.startswith(_REGISTRIES):
        return False
    if os.sep in name or name.endswith((".pth", ".pt", ".tar", ".safetensors", ".bin", ".npz")):
        return True
    return (
        Path(name).is_file()
        or any((Path(name) / one).is_file() for one in ("manifest.json", CONFIG))
        or is_in_parts(name)
    ) and name not in variants()


def is_variant(name: str) -> bool:
    """Whether a backbone is given by a name that the families must know: neither a path nor in another registry."""
    return not name.startswith(_REGISTRIES) and not is_path(name)


def _of_saved(
    folder: Path,
    access: Access,
    memory: DigestMemory,
    *,
    checkpoint_key: str | None,
    family: str | None,
    told: Told,
) -> BackboneSpec:
    """The spec of a folder that `save_pretrained` wrote.

    Raises CheckpointError where its configuration is no JSON, UsageError where no weights are in it.
    """
    found = read_folder(folder)
    if found is not None and found.timm and family is None and checkpoint_key is None:
        from .hub import resolve_saved_timm

        told.refuse_for(str(folder))
        return resolve_saved_timm(folder, memory)
    name = folder.name or folder.resolve().name
    return resolve_bare(
        weights_of(folder), access, memory, checkpoint_key=checkpoint_key, family=family, told=told, name=name
    )


def _of_run(run: RunFolder, access: Access, memory: DigestMemory, *, untrained: bool, seed: int) -> BackboneSpec:
    """The spec of what a training run made, or of its architecture untrained."""
    made = run.backbone()
    preprocess = {
        name: tuple(value) if isinstance(value, list) else value for name, value in made["preprocess"].items()
    }
    file = run.weights(made)
    return BackboneSpec(
        name=run.path.name or run.path.resolve().name,
        family=made["family"],
        architecture=Architecture(**made["architecture"]),
        protocol=_protocol_of(run, made),
        weights_sha256="random" if untrained else _digest(file, memory, run.weights_sha256(), ANEW),
        file=None if untrained else file,
        seed=seed,
        license=made.get("license", "your own"),
        preprocess=preprocess,
        base=_base_of(run, made["base"], access, memory) if "base" in made and not untrained else None,
        tuned="file" in made and not untrained,
    )


def _protocol_of(run: RunFolder, made: Mapping[str, Any]) -> str:
    """The preset that a run's backbone is read by.

    Raises CheckpointError for a family that is not here and names none.
    """
    if made["family"] in families():
        return families()[made["family"]].protocol_of(Architecture(**made["architecture"]), tuned="file" in made)
    if "protocol" not in made:
        raise CheckpointError(
            f"a backbone of the family {made['family']}, which is not known here",
            file=run.path,
            fix=f"Known are {', '.join(families())}; another version of fewvit, or a file that was added to it, "
            "knows more.",
        )
    return str(made["protocol"])


def run_backbone(family: str, protocol: str, architecture: Architecture, preprocess: Preprocess) -> dict[str, Any]:
    """What a run's manifest says of the backbone that it makes; `protocol` where its family has no file here.

    `resolve` reads it.
    """
    named = {} if family in families() else {"protocol": protocol}
    return {
        "family": family,
        **named,
        "architecture": architecture.to_dict(),
        "preprocess": preprocess.to_dict(),
    }


def origin_of(
    spec: BackboneSpec, name: str, *, weights: str | None, checkpoint_key: str | None, family: str | None, seed: int
) -> dict[str, Any]:
    """How a backbone is found again from anywhere: what it was asked for with, and its digest.

    As JSON; `_base_of` reads it.
    """
    file = is_path(name)
    return {
        "name": os.path.abspath(name) if file else name,
        "weights": os.path.abspath(weights) if weights not in (None, "random") else weights,
        "checkpoint_key": checkpoint_key,
        "family": family,
        "seed": seed,
        **({"told": spec.told.facts} if spec.told.facts else {}),
        "weights_sha256": spec.weights_sha256,
        "fingerprint": spec.fingerprint,
    }


def _base_of(run: RunFolder, origin: Mapping[str, Any], access: Access, memory: DigestMemory) -> BackboneSpec:
    """The spec of what an adapter was trained on: where it was, or a file of its name among the weights.

    Raises Unobtainable where it is nowhere, CheckpointError when it is another one by now.
    """
    name, weights = (_located(origin[key], run, access) for key in ("name", "weights"))
    spec = resolve(
        str(name),
        access,
        memory,
        weights=weights,
        checkpoint_key=origin["checkpoint_key"],
        family=origin["family"],
        seed=origin["seed"],
        told=Told.of_record(origin.get("told")),
    )
    if spec.fingerprint != origin["fingerprint"]:
        raise CheckpointError(
            f"its sha256 is {spec.weights_sha256[:16]}…, but {run.path} was trained on "
            f"{origin['weights_sha256'][:16]}…",
            file=spec.file or name,
            fix="Put back the weights that the run began with.",
        )
    return spec


def _located(place: str | None, run: RunFolder, access: Access) -> str | None:
    """Where a file is now; a name, `random` and None stay as they are."""
    if place is None or not os.path.isabs(place) or os.path.exists(place):
        return place
    from ..checkpoints.finding import find_weights

    beside, known = run.path.resolve().parent / Path(place).name, find_weights(Path(place).name, access.cache_dir)
    if beside.exists() or known is not None:
        return str(beside if beside.exists() else known)
    raise Unobtainable(
        f"{run.path} was trained on {place}, which is not there any more",
        fix=f"Put {Path(place).name} beside the run's folder or into $FEWVIT_WEIGHTS_DIR.",
    )


def _of_variant(
    name: str,
    family: str,
    variant: Variant,
    access: Access,
    memory: DigestMemory,
    *,
    weights: str | None,
    checkpoint_key: str | None,
    seed: int,
) -> BackboneSpec:
    kind = families()[family]
    if weights not in (None, "random") and is_in_parts(str(weights)):
        weights = str(joined(Path(str(weights)), variant, access, memory))
    if weights in (None, "random") or checkpoint_key in kind.checkpoint_keys:
        checked_key(kind, checkpoint_key)
    elif checkpoint_key is not None and not kind.registry:  # a network that only the file may know
        inspect_file(Path(weights), access, memory, checkpoint_key=checkpoint_key, family=family)
    common: dict[str, Any] = {
        "name": name,
        "family": family,
        "architecture": variant.architecture,
        "protocol": variant.protocol or kind.protocol_of(variant.architecture),
        "checkpoint_key": checkpoint_key,
        "license": variant.license or kind.license,
        "published": variant.published,
        "preprocess": {**kind.statistics, **variant.preprocess},
        "tokens": variant.tokens,
    }
    if weights == "random":
        return BackboneSpec(**common, weights_sha256="random", seed=seed)
    file = Path(weights) if weights else obtain_variant(name, kind, variant, access)
    if variant.parts and not weights:
        file = joined(file, variant, access, memory)
    return BackboneSpec(**common, file=file, weights_sha256=_digest(file, memory, "" if weights else variant.sha256))
