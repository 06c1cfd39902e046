"""Backbones that are named by another registry: `timm:NAME` and `hf:ORG/NAME`.

What was learnt of them is kept in the cache.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ..backbones import Architecture, Variant, families, family_of_registry, recognisable
from ..backbones._tokens import Tokens
from ..checkpoints.finding import obtain
from ..digests import DigestMemory
from ..errors import CheckpointError, NotInRepository, UnknownName, UsageError, some
from ..files import write_json
from ..untrusted.texts import json_of
from .bare import taken_for
from .beside import CONFIG, PREPROCESSOR, Beside, read_folder, weights_of
from .spec import Access, BackboneSpec
from .told import NOTHING, Told

_HUB = "https://huggingface.co"
_BY_CLASS = "_dinov3"  # in timm's names of DINOv3 and EUPE, whose authors evaluate the class token


def timm_variant(name: str, access: Access) -> Variant:
    """The table row that timm's own configuration of a model amounts to.

    Remembered, since asking timm costs seconds.
    """
    import importlib.metadata

    version = importlib.metadata.version("timm")
    remembered = access.cache_dir / "backbones" / f"timm-{version}-{name.replace('/', '_')}.json"
    try:
        known = json_of(remembered.read_text())
        return Variant(
            Architecture(**known["architecture"]),
            known["url"],
            preprocess=known["preprocess"],
            license=known["license"],
            tokens=Tokens(**known["tokens"]),
            parameters=int(known["parameters"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        pass
    variant = _ask_timm(name)
    write_json(
        remembered,
        {
            "architecture": variant.architecture.to_dict(),
            "url": variant.url,
            "preprocess": dict(variant.preprocess),
            "license": variant.license,
            "tokens": asdict(variant.tokens or Tokens()),
            "parameters": variant.parameters,
        },
    )
    return variant


def _ask_timm(name: str) -> Variant:
    import timm

    config = timm.models.get_pretrained_cfg(name, allow_unregistered=True)
    if config is None or not timm.is_model(name.partition(".")[0]):
        raise UnknownName(
            "timm model", name, timm.list_models(pretrained=True), fix="See timm.list_models(pretrained=True)."
        )
    height, width = config.input_size[1:]
    if config.interpolation not in ("bicubic", "bilinear"):
        raise UsageError(f"timm:{name} asks for {config.interpolation} resizing, which has no transform here")
    cover = (int(height / config.crop_pct), int(width / config.crop_pct))
    preprocess = {
        "cover": cover,
        "crop": (height, width),
        "interpolation": config.interpolation,
        "mean": tuple(config.mean),
        "std": tuple(config.std),
    }
    url = f"{_HUB}/{config.hf_hub_id}/resolve/main/model.safetensors" if config.hf_hub_id else str(config.url or "")
    model = _empty(name.partition(".")[0])
    depth = len(model.blocks) if hasattr(model, "blocks") else 1
    architecture = Architecture(int(model.num_features), depth, 0, 0, grid=0, positions="timm", timm=name)
    head = getattr(model, "attn_pool", None)
    learnt, of_head = (sum(p.numel() for p in one.parameters()) if one is not None else 0 for one in (model, head))
    return Variant(
        architecture,
        url,
        preprocess=preprocess,
        license=str(config.license or ""),
        tokens=tokens_of(name, model),
        parameters=learnt - of_head,
    )


def _empty(model: str) -> Any:
    """A model of timm without its classifier; its tensors hold nothing, as far as it can be built so."""
    import timm
    import torch

    try:
        with torch.device("meta"):
            return timm.create_model(model, pretrained=False, num_classes=0)
    except (RuntimeError, NotImplementedError):  # it computes with its tensors while it is built
        return timm.create_model(model, pretrained=False, num_classes=0)


def tokens_of(name: str, model: Any) -> Tokens:
    """What a model that timm built under a name has beside its patches, and how its head makes one vector."""
    before = int(getattr(model, "num_prefix_tokens", 0) or 0)
    classes = int(getattr(model, "cls_token", None) is not None and before > 0)
    registers = before - classes - (getattr(model, "dist_token", None) is not None)
    if not before and not hasattr(model, "blocks"):
        return Tokens(0, 0, "mean")  # maps: what their heads take is the mean over all places
    head = {"avg": "mean", "token": "cls", "map": "attn"}.get(getattr(model, "global_pool", ""), "")
    official = "cls" if head == "mean" and classes and _BY_CLASS in name else ""
    return Tokens(classes, registers, head, official)


def resolve_hub(
    name: str, access: Access, memory: DigestMemory, *, family: str | None, told: Told = NOTHING
) -> BackboneSpec:
    """The spec of `hf:ORG/NAME`: a timm model's repository, or official ViT weights that were renamed for transformers.

    Raises Unobtainable when the hub is out of reach and the files are not here.
    """
    repository = _repository(name)
    config = _config(repository, access)
    if "architecture" in config:
        told.refuse_for(name)
        pretrained = config.get("pretrained_cfg", {})
        file = _fetched(repository, "model.safetensors", str(pretrained.get("license") or ""), access)
        return _of_timm(name, config, file, memory)
    kind = _family_of_config(name, config, family)
    configured = Beside(config, {} if told.recorded else _preprocessor(repository, access))
    file = _fetched(repository, "model.safetensors", families()[kind].license, access)
    return taken_for(file, access, memory, family=kind, told=told, name=name, configured=configured).spec


def described(name: str, access: Access) -> tuple[str, Variant]:
    """(family, row) that `timm:NAME` or `hf:ORG/NAME` amounts to by its configuration; no weights are fetched.

    Raises as `resolve_hub`, and UsageError for a model of transformers whose sizes no row of the table has.
    """
    if name.startswith("timm:"):
        return family_of_registry("timm"), timm_variant(name.removeprefix("timm:"), access)
    repository = _repository(name)
    config = _config(repository, access)
    if "architecture" in config:
        url = f"{_HUB}/{repository}/resolve/main/model.safetensors"
        return family_of_registry("timm"), replace(_as_configured(config), url=url)
    kind = _family_of_config(name, config, None)
    told = [config.get(key) for key in ("hidden_size", "num_hidden_layers", "num_attention_heads", "patch_size")]
    for row in families()[kind].variants.values():
        a = row.architecture
        if told == [a.width, a.depth, a.heads, a.patch] and bool(a.registers) == bool(
            config.get("num_register_tokens")
        ):
            url = f"{_HUB}/{repository}/resolve/main/model.safetensors"
            return kind, replace(row, url=url, sha256="", note=f"as {kind}'s of these sizes, by its configuration")
    raise UsageError(
        f"{name}: no {kind} of the table has its sizes", fix="`fewvit backbones check FILE` looks into its weights."
    )


def _repository(name: str) -> str:
    repository = name.removeprefix("hf:")
    if repository.count("/") != 1 or not all(repository.split("/")):
        raise UsageError(f"{name!r} is not of the form hf:ORG/NAME")
    return repository


def _family_of_config(name: str, config: dict[str, Any], family: str | None) -> str:
    """The family of a model of transformers. Raises UsageError for one that no family knows."""
    kind = family or next((own for own, one in families().items() if config.get("model_type") in one.model_types), None)
    if kind is None:
        _tell_own_names(name, str(config.get("model_type", "")))
        raise UsageError(
            f"{name} is a {config.get('model_type', 'nameless')} model, whose family is not known",
            fix=f"Name it with --family {'|'.join(recognisable())} if its weights are one's of these.",
        )
    return kind


def _tell_own_names(name: str, model_type: str) -> None:
    """Raise UsageError, naming the rows of the table, for a model of transformers that is read by another file."""
    kind = next((one for one in families().values() if model_type in one.known_as), None)
    if kind is not None:
        raise UsageError(
            f"{name} is a {model_type} model of transformers, whose files are not read here",
            fix=f"The same weights in other files: --backbone {some(list(kind.variants))}.",
        )


def resolve_saved_timm(folder: Path, memory: DigestMemory) -> BackboneSpec:
    """The spec of a folder with timm's `config.json` and its weights.

    Raises UnknownName for a model that timm has not, UsageError where no weights file is in it.
    """
    found = read_folder(folder)
    config = dict(found.config) if found is not None else {}
    return _of_timm(folder.name or folder.resolve().name, config, weights_of(folder), memory)


def _of_timm(name: str, config: dict[str, Any], file: Path, memory: DigestMemory) -> BackboneSpec:
    """The spec of a model of timm with its configuration as timm saves it."""
    variant = _as_configured(config)
    kind = family_of_registry("timm")
    return BackboneSpec(
        name,
        kind,
        variant.architecture,
        families()[kind].protocol,
        memory.digest_of(file),
        file=file,
        license=variant.license,
        preprocess=variant.preprocess,
        tokens=variant.tokens,
    )


def _as_configured(config: dict[str, Any]) -> Variant:
    """The row of a model of timm with the statistics and the licence of its own `config.json`."""
    variant, pretrained = _ask_timm(str(config["architecture"])), config.get("pretrained_cfg", {})
    told = {field: tuple(pretrained[field]) for field in ("mean", "std") if field in pretrained}
    return replace(variant, preprocess={**variant.preprocess, **told}, license=str(pretrained.get("license") or ""))


def _preprocessor(repository: str, access: Access) -> dict[str, Any]:
    """How the images of a repository are normalised, as it says; empty where it says nothing, which is remembered.

    Raises Unobtainable where that is not known here: features would be of other pixels than when it is.
    """
    nothing = access.cache_dir / "backbones" / f"hf-{repository.replace('/', '--')}-without-{PREPROCESSOR}"
    if nothing.exists():
        return {}
    try:
        return _json(_fetched(repository, PREPROCESSOR, "", access))
    except NotInRepository:
        write_json(nothing, {})
        return {}


def _config(repository: str, access: Access) -> dict[str, Any]:
    return _json(_fetched(repository, CONFIG, "", access))


def _json(file: Path) -> dict[str, Any]:
    try:
        value = json_of(file.read_text())
    except ValueError as error:
        raise CheckpointError("not JSON", file=file, fix="Remove it; it is fetched again.") from error
    return value if isinstance(value, dict) else {}


def _fetched(repository: str, file_name: str, license_: str, access: Access) -> Path:
    local = f"{repository.replace('/', '--')}--{file_name}"
    return obtain(
        local,
        f"{_HUB}/{repository}/resolve/main/{file_name}",
        license=license_,
        cache_dir=access.cache_dir,
        offline=access.offline,
        accept=access.accept,
        progress=access.progress,
        notify=access.notify,
        ask=access.ask,
    )
