"""From a `BackboneSpec` to the module, every tensor filled from its file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..backbones import families, family_of
from ..backbones._search import unwrapped
from ..errors import CheckpointError
from .layouts import trunk_of
from .spec import BackboneSpec

if TYPE_CHECKING:
    from torch import Tensor, nn

    from .backbone import Backbone
    from .convnext import ConvNeXt
    from .readout import Readout
    from .timm_model import TimmModel
    from .vit import VisionTransformer


def build(
    spec: BackboneSpec,
    readout: Readout,
    size: tuple[int, int] | None,
    *,
    device: str = "cpu",
    precision: str = "fp32",
    engine: str = "auto",
) -> Backbone:
    """The module of a spec, every tensor filled from its file, frozen, on `device`.

    `size` (height, width) is that of its images; None: any, if it is a ViT of ours. Raises CheckpointError for a
    partial fit.
    """
    from .backbone import Backbone
    from .engines import accelerate
    from .timm_model import TimmModel
    from .untrained import module_of

    if size is None:
        spec.architecture.check_any_size()
    else:
        spec.architecture.check_size(*size)
    model: TimmModel | VisionTransformer | ConvNeXt
    if spec.architecture.timm and size is not None:
        model = TimmModel(spec.architecture, size)
    else:
        model = module_of(spec.architecture)
        model.whole_patches = size is not None
    _start(model, spec)
    return accelerate(Backbone(model, spec, readout), size, device=device, precision=precision, engine=engine)


def _start(model: VisionTransformer | TimmModel | ConvNeXt, spec: BackboneSpec) -> None:
    """Give every tensor of the model its value: drawn, from the file, or the base's after its adapter."""
    from .backbone import randomise
    from .timm_model import TimmModel

    if spec.is_random:
        from ..seeds import seed_of

        randomise(model, seed_of("weights", spec.seed))
    elif spec.base is not None:
        from ..checkpoints.filling import fill, require_finite
        from ..checkpoints.reading import read_checkpoint
        from .adapter import merged

        file = Path(spec.file or "")
        _start(model, spec.base)
        adapter = read_checkpoint(file, expected_sha256=spec.weights_sha256)
        require_finite(adapter, file)
        fill(model, merged(model.state_dict(), adapter, file), file)
    else:
        _fill(model.trunk if isinstance(model, TimmModel) else model, spec)


def _fill(module: nn.Module, spec: BackboneSpec) -> None:
    from ..checkpoints.filling import fill, require_finite
    from ..checkpoints.reading import read_checkpoint

    file = Path(spec.file or "")
    tree = read_checkpoint(file, expected_sha256=spec.weights_sha256)
    foreign = [name for name, kind in families().items() if kind.recognises(unwrapped(tree))]
    family = family_of(spec.family)
    row = family.variants.get(spec.name)  # a bare file is what its layout, or the user, says it is
    if row is not None and not row.bundled and foreign and spec.family not in foreign and not family.registry:
        raise CheckpointError(
            f"this is a {foreign[0]} file, not weights of {spec.name} ({spec.family})",
            file=file,
            fix=f"Use --backbone {file}, or a {foreign[0]} variant's name.",
        )
    of_timm = bool(spec.architecture.timm)
    tensors = trunk_of(family, tree, file, spec.checkpoint_key, of_timm=of_timm).tensors
    if of_timm:
        tensors = _as_timm(module, tensors)
    fill(module, tensors, file)
    require_finite(dict(module.named_parameters()), file)


def _as_timm(module: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors after timm's own conversion of older layouts and position tables (fused names, other image sizes)."""
    import sys

    convert = getattr(sys.modules[type(module).__module__], "checkpoint_filter_fn", None)
    return dict(convert(dict(tensors), module)) if convert else tensors
