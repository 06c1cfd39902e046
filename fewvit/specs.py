"""From what a user calls a backbone to its `BackboneSpec`, and from that to the module. No torch until a module is built."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .backbones import BUNDLED, OFFLINE, Architecture, Variant, families, find_variant, variants
from .errors import CheckpointError, Unobtainable, UsageError, printable
from .files import require_writable, write_json
from .runs import ANEW, RunFolder

if TYPE_CHECKING:
    from .digests import DigestMemory
    from .vit import Backbone, Readout

BUNDLE_SCHEMA = "fewvit.bundle"  # the entry that a classifier bundle has in its header
_INSPECTION = 2  # raise when what is remembered of a bare file changes its meaning


@dataclass(frozen=True)
class BackboneSpec:
    """Which backbone, exactly. Names, errors and cache keys come from here; the module is built on a cache miss only."""

    name: str  # a variant, or the file's name
    family: str
    architecture: Architecture
    protocol: str  # the preset it takes when none is asked for
    weights_sha256: str  # of the file; "random" for an untrained model
    file: Path | None = None
    checkpoint_key: str | None = None
    seed: int = 0  # of random weights
    license: str = ""
    published: Mapping[str, Any] = field(default_factory=dict)
    preprocess: Mapping[str, Any] = field(default_factory=dict)  # fields of Preprocess that differ from the protocol's
    base: BackboneSpec | None = None  # what `file` is an adapter of; None: `file` holds the whole trunk
    tuned: bool = False  # by `fewvit finetune`: no longer as its family was trained

    @property
    def is_random(self) -> bool:
        return self.weights_sha256 == "random"

    @property
    def is_mae(self) -> bool:
        """Whether it is as MAE's pretraining leaves a backbone, which neighbours and linear classifiers do poorly with."""
        return self.family == "mae" and not self.tuned

    @property
    def fingerprint(self) -> str:
        """sha256 over everything that decides the module's output."""
        what = [
            self.family,
            dataclasses.asdict(self.architecture),
            self.weights_sha256,
            self.checkpoint_key,
            self.seed if self.is_random else None,
            *([self.base.fingerprint] if self.base is not None else []),
        ]
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()

    @property
    def info(self) -> dict[str, Any]:
        """Licence, source and published results, for manifests and `backbones info`."""
        return {"family": self.family, "license": self.license, "published": dict(self.published)}


@dataclass(frozen=True)
class Access:
    """How weights may be got. Options shared by all commands."""

    cache_dir: Path
    offline: bool = False
    accept: Sequence[str] = ()  # licences accepted on the command line
    ask: Callable[[str], bool] | None = None  # asks at a terminal; None where there is none
    progress: Callable[[int, int | None], None] | None = None
    say: Callable[[str], None] = lambda line: None  # notes for the user


def resolve(
    name: str,
    access: Access,
    memory: DigestMemory,
    *,
    weights: str | None = None,
    checkpoint_key: str | None = None,
    family: str | None = None,
    seed: int = 0,
) -> BackboneSpec:
    """The spec behind a variant's name, `timm:NAME`, `hf:ORG/NAME` or a weights file.

    Raises UnknownName, Unobtainable, LicenseRequired (2), DataError for a missing file (3), CheckpointError (4).
    """
    if name.startswith("hf:"):
        from .hub import resolve_hub

        return resolve_hub(name, access, memory, family=family)
    if name.startswith("timm:"):
        from .hub import timm_variant

        family_name, variant = "supervised", timm_variant(name.removeprefix("timm:"), access)
    elif is_path(name):
        if Path(name).is_dir() and weights in (None, "random"):
            return _of_run(RunFolder(Path(name)), access, memory, untrained=weights == "random", seed=seed)
        if weights is not None:
            raise UsageError(
                f"--weights beside --backbone {name}: a file is its own weights",
                fix="Name the architecture in --backbone, or leave --weights out.",
            )
        return inspect_file(Path(name), access, memory, checkpoint_key=checkpoint_key, family=family)
    else:
        family_name, variant = find_variant(name)
    if family is not None and family.replace("-", "_") != family_name:
        raise UsageError(f"--family {family}: {name} is of the family {family_name}", fix="--family says what a bare weights file is.")
    return _of_variant(name, family_name, variant, access, memory, weights=weights, checkpoint_key=checkpoint_key, seed=seed)


def is_path(name: str) -> bool:
    """Whether a backbone is given as a file or run folder rather than by name; a variant's name is one even where a file is called so too."""
    if os.sep in name or name.endswith((".pth", ".pt", ".tar", ".safetensors", ".bin")):
        return True
    return (Path(name).is_file() or (Path(name) / "manifest.json").is_file()) and name not in variants()


def _of_run(run: RunFolder, access: Access, memory: DigestMemory, *, untrained: bool, seed: int) -> BackboneSpec:
    """The spec of what a training run made, or of its architecture untrained."""
    made = run.backbone()
    preprocess = {name: tuple(value) if isinstance(value, list) else value for name, value in made["preprocess"].items()}
    file = run.weights(made)
    return BackboneSpec(
        name=run.path.name or run.path.resolve().name,
        family=made["family"],
        architecture=Architecture(**made["architecture"]),
        protocol=families()[made["family"]].protocol,
        weights_sha256="random" if untrained else _digest(file, memory, run.weights_sha256(), ANEW),
        file=None if untrained else file,
        seed=seed,
        license=made.get("license", "your own"),
        preprocess=preprocess,
        base=_base_of(run, made["base"], access, memory) if "base" in made and not untrained else None,
        tuned="file" in made and not untrained,
    )


def origin_of(
    spec: BackboneSpec, name: str, *, weights: str | None, checkpoint_key: str | None, family: str | None, seed: int
) -> dict[str, Any]:
    """How a backbone is found again from anywhere: what it was asked for with, and its digest. As JSON; `_base_of` reads it."""
    file = is_path(name) and not name.startswith(("timm:", "hf:"))
    return {
        "name": os.path.abspath(name) if file else name,
        "weights": os.path.abspath(weights) if weights not in (None, "random") else weights,
        "checkpoint_key": checkpoint_key,
        "family": family,
        "seed": seed,
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
    )
    if spec.fingerprint != origin["fingerprint"]:
        raise CheckpointError(
            f"its sha256 is {spec.weights_sha256[:16]}…, but {run.path} was trained on {origin['weights_sha256'][:16]}…",
            file=spec.file or name,
            fix="Put back the weights that the run began with.",
        )
    return spec


def _located(place: str | None, run: RunFolder, access: Access) -> str | None:
    """Where a file is now; a name, `random` and None stay as they are."""
    if place is None or not os.path.isabs(place) or os.path.exists(place):
        return place
    from .downloads import find_weights

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
    key = _checked_key(kind, checkpoint_key)
    common: dict[str, Any] = {
        "name": name,
        "family": family,
        "architecture": variant.architecture,
        "protocol": kind.protocol,
        "checkpoint_key": key,
        "license": variant.license or kind.license,
        "published": variant.published,
        "preprocess": variant.preprocess,
    }
    if weights == "random":
        return BackboneSpec(**common, weights_sha256="random", seed=seed)
    file = Path(weights) if weights else obtain_variant(name, kind, variant, access)
    return BackboneSpec(**common, file=file, weights_sha256=_digest(file, memory, "" if weights else variant.sha256))


def obtain_variant(name: str, kind: Any, variant: Variant, access: Access) -> Path:
    """The variant's file: found, or downloaded once its licence is accepted."""
    from .downloads import obtain

    if variant.bundled:
        return BUNDLED / variant.bundled
    if not variant.url:
        raise UsageError(f"{name} has no published weights", fix="Give --weights FILE, or --weights random for an untrained model.")
    file_name = variant.file_name if variant.file_name != "model.safetensors" else f"{variant.architecture.timm}.safetensors"
    try:
        return obtain(
            file_name,
            variant.url,
            license=variant.license or kind.license,
            cache_dir=access.cache_dir,
            offline=access.offline,
            accept=access.accept,
            sha256=variant.sha256 or None,
            md5_prefix=variant.md5_prefix or None,
            progress=access.progress,
            ask=access.ask,
        )
    except Unobtainable as error:
        hint = f"Without a network, `--backbone {OFFLINE}` works at once: a small ViT that comes with fewvit."
        raise Unobtainable(error.what, file=error.file, fix=f"{error.fix}. {hint}" if error.fix else hint) from error


def _checked_key(kind: Any, checkpoint_key: str | None) -> str | None:
    if checkpoint_key and kind.checkpoint_keys and checkpoint_key not in kind.checkpoint_keys:
        raise UsageError(f"--checkpoint-key {checkpoint_key}: a {kind.__name__} file holds {' and '.join(kind.checkpoint_keys)}")
    return checkpoint_key


_FETCH = "The file is damaged or another one; remove it and fetch it again."


def _digest(file: Path, memory: DigestMemory, expected: str, fix: str = _FETCH) -> str:
    """The file's sha256, remembered by its identity; compared with the registry's, or its run's, where that is known."""
    from .checkpoints import require_file

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
    """The spec of a bare weights file: its family by layout, its architecture by shapes. Remembered by the file's sha256."""
    digest = _digest(file, memory, "")
    remembered = access.cache_dir / "backbones" / f"{digest[:32]}-{family or 'auto'}-{checkpoint_key or 'default'}.json"
    known = _recall(remembered, digest)
    if known is None:
        require_writable(remembered.parent)
        known = _inspect(file, checkpoint_key, family)
        write_json(remembered, {"inspection": _INSPECTION, "sha256": digest, **known})
    kind = families()[known["family"]]
    return BackboneSpec(
        name=file.name,
        family=known["family"],
        architecture=Architecture(**known["architecture"]),
        protocol=kind.protocol,
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
    from .checkpoints import read_checkpoint

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
        from .plugins import find

        find("backbones", family)
        return family.replace("-", "_")
    fitting = [name for name, kind in families().items() if kind.recognises(tree)]
    if not fitting and _is_bundle(file):
        raise CheckpointError(
            "this is a classifier bundle, not a backbone", file=file, fix=f"Use it with `fewvit predict {printable(file)} SRC`."
        )
    if not fitting:
        shown = ", ".join(str(key) for key in list(tree)[:4])
        raise CheckpointError(
            f"not a layout that is known (it starts with {shown})",
            file=file,
            fix="For a file of timm's layout give --backbone timm:NAME --weights FILE; to force a family use --family dino|msn|mae|dinov2.",
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


def trunk_of(kind: Any, tree: Mapping[str, Any], file: Path, checkpoint_key: str | None) -> Any:
    """The family's trunk in `tree`; a network that is not there is a CheckpointError."""
    try:
        return kind.trunk(tree, checkpoint_key)
    except KeyError as error:
        raise CheckpointError(str(error.args[0]), file=file, fix="Choose another with --checkpoint-key.") from error


def build(
    spec: BackboneSpec, readout: Readout, size: tuple[int, int], *, device: str = "cpu", precision: str = "fp32", engine: str = "auto"
) -> Backbone:
    """The module of a spec, every tensor filled from its file, frozen, on `device`. Raises CheckpointError for a partial fit."""
    from .engines import accelerate
    from .vit import Backbone, TimmModel, VisionTransformer

    spec.architecture.check_size(*size)
    model = TimmModel(spec.architecture, size) if spec.architecture.timm else VisionTransformer(spec.architecture)
    _start(model, spec)
    return accelerate(Backbone(model, spec, readout), size, device=device, precision=precision, engine=engine)


def _start(model: Any, spec: BackboneSpec) -> None:
    """Give every tensor of the model its value: drawn, from the file, or the base's after its adapter."""
    from .vit import TimmModel, randomise

    if spec.is_random:
        from .seeds import seed_of

        randomise(model, seed_of("weights", spec.seed))
    elif spec.base is not None:
        from .adapter import merged
        from .checkpoints import fill, read_checkpoint, require_finite

        file = Path(spec.file or "")
        _start(model, spec.base)
        adapter = read_checkpoint(file, expected_sha256=spec.weights_sha256)
        require_finite(adapter, file)
        fill(model, merged(model.state_dict(), adapter, file), file)
    else:
        _fill(model.trunk if isinstance(model, TimmModel) else model, spec)


def _fill(module: Any, spec: BackboneSpec) -> None:
    from .checkpoints import fill, read_checkpoint, require_finite

    file = Path(spec.file or "")
    tree = read_checkpoint(file, expected_sha256=spec.weights_sha256)
    foreign = [name for name, kind in families().items() if kind.recognises(tree)]
    row = families()[spec.family].variants.get(spec.name)  # a bare file is what its layout, or the user, says it is
    if row is not None and not row.bundled and foreign and spec.family not in foreign and spec.family != "supervised":
        raise CheckpointError(
            f"this is a {foreign[0]} file, not weights of {spec.name} ({spec.family})",
            file=file,
            fix=f"Use --backbone {file}, or a {foreign[0]} variant's name.",
        )
    tensors = trunk_of(families()[spec.family], tree, file, spec.checkpoint_key).tensors
    if spec.architecture.timm:
        tensors = _as_timm(module, tensors)
    fill(module, tensors, file)
    require_finite(dict(module.named_parameters()), file)


def _as_timm(module: Any, tensors: dict[str, Any]) -> dict[str, Any]:
    """Tensors after timm's own conversion of older layouts and position tables (fused names, other image sizes)."""
    import sys

    convert = getattr(sys.modules[type(module).__module__], "checkpoint_filter_fn", None)
    return dict(convert(dict(tensors), module)) if convert else tensors
