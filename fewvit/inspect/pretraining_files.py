"""The whole network of a pretraining method behind a backbone: MAE's decoder, MSN's projector and prototypes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..backbones.mae import Mae as MaeFamily
from ..errors import CheckpointError, UsageError, counted
from ..methods.mae import Mae
from ..methods.msn import Msn
from ..models.spec import BackboneSpec
from ..runs.folder import ENCODER
from ..views.view import View

if TYPE_CHECKING:
    from ..methods._mae_task import MaeTask
    from ..methods._msn_task import MsnTask

_HEAD = 32  # channels of a head of MAE's decoder: 16 heads of 512 in all of its published ones


@dataclass(frozen=True)
class MaeAsked:
    """What a user says of a MAE's decoder; None where its file is to say it."""

    mask_ratio: float = 0.75
    norm_pix: bool | None = None
    decoder_heads: int | None = None


def open_mae(spec: BackboneSpec, asked: MaeAsked) -> tuple[MaeTask, list[str]]:
    """A MAE with its decoder, in eval mode, and lines on what was assumed of it.

    Raises UsageError for a backbone that has no decoder, with what to take instead, CheckpointError for a partial fit.
    """
    run = _run_of(spec)
    if spec.family != "mae" or spec.is_random or spec.base is not None or (spec.tuned and run is None):
        raise _no_decoder(spec)
    if run is not None:
        from ..pretrain.export import newest_task, recipe_of

        recipe = recipe_of(run)
        if not isinstance(recipe, Mae):
            raise _no_decoder(spec)
        norm_pix = recipe.normalised_pixels if asked.norm_pix is None else asked.norm_pix
        task: Any = newest_task(run, replace(recipe, mask_ratio=asked.mask_ratio, normalised_pixels=norm_pix))[0]
        return task.eval(), []
    return _mae_of_file(spec, asked)


def _mae_of_file(spec: BackboneSpec, asked: MaeAsked) -> tuple[MaeTask, list[str]]:
    tree = _tree(spec)
    named = tree.get(spec.checkpoint_key or "model")
    tensors = {str(n).removeprefix("module."): t for n, t in (named if isinstance(named, Mapping) else tree).items()}
    if "decoder_embed.weight" not in tensors:
        raise _no_decoder(spec)
    width = int(tensors["decoder_embed.weight"].shape[0])
    heads = asked.decoder_heads or max(1, width // _HEAD)
    norm_pix, notes = _norm_pix(spec, tree.get("args"), asked.norm_pix)
    if asked.decoder_heads is None and width != _HEAD * 16:
        notes.append(f"{spec.name}: {counted(heads, 'head')} in the decoder assumed; --decoder-heads says otherwise")
    a = spec.architecture
    recipe = Mae(
        architecture=a,
        views=(View(a.side * a.patch, (0.2, 1.0)),),
        epochs=1,
        batch_size=1,
        lr=0.0,
        mask_ratio=asked.mask_ratio,
        normalised_pixels=norm_pix,
        decoder_width=width,
        decoder_depth=len({name.split(".")[1] for name in tensors if name.startswith("decoder_blocks.")}),
        decoder_heads=heads,
    )
    task: Any = recipe.task()
    task.start_from_official({"model": tensors})
    return task.eval(), notes


def _norm_pix(spec: BackboneSpec, args: object, asked: bool | None) -> tuple[bool, list[str]]:
    """Whether targets were patches without their mean and deviation: as asked, as the file says, or else as usual."""
    told = args.get("norm_pix_loss") if isinstance(args, Mapping) else getattr(args, "norm_pix_loss", None)
    if asked is not None or isinstance(told, bool):
        return bool(told if asked is None else asked), []
    raw = spec.name in MaeFamily.raw_pixels or (spec.file is not None and spec.file.name in _raw_files())
    return not raw, [
        f"{spec.name} is taken for one trained on {'raw' if raw else 'normalised'} pixels, which its file does not "
        f"say; {'--norm-pix' if raw else '--no-norm-pix'} takes it for the other"
    ]


def _raw_files() -> set[str]:
    return {MaeFamily.variants[name].file_name for name in MaeFamily.raw_pixels}


def _no_decoder(spec: BackboneSpec) -> UsageError:
    why = "is no MAE" if spec.family != "mae" else "is untrained" if spec.is_random else "holds no decoder"
    return UsageError(
        f"{spec.name} {why}, and without a MAE's decoder nothing can be reconstructed",
        file=spec.file,
        fix="Take weights with their decoder, such as --backbone mae_vitb16_full, or a run of `fewvit pretrain mae`.",
    )


@dataclass(frozen=True)
class MsnOpened:
    """An MSN with projector and prototypes, in eval mode."""

    task: MsnTask
    network: Any  # the target network, or the anchor where that was asked for


def open_msn(spec: BackboneSpec) -> MsnOpened:
    """An MSN with its projector and prototypes: the target network, unless --checkpoint-key says encoder.

    Raises UsageError for a backbone that has none, with what to take instead, CheckpointError for a partial fit.
    """
    run = _run_of(spec)
    if spec.family != "msn" or spec.is_random or spec.base is not None or (spec.tuned and run is None):
        raise _no_prototypes(spec)
    if run is not None:
        from ..pretrain.export import newest_task, recipe_of

        recipe = recipe_of(run)
        if not isinstance(recipe, Msn):
            raise _no_prototypes(spec)
        task: Any = newest_task(run, recipe)[0]
    else:
        task = _msn_of_file(spec)
    task.eval()  # BatchNorm by its running statistics, so that no image depends on the others
    return MsnOpened(task, task.anchor if spec.checkpoint_key == "encoder" else task.target)


def _msn_of_file(spec: BackboneSpec) -> Any:
    tree = _tree(spec)
    key = spec.checkpoint_key or "target_encoder"
    prototypes, network = tree.get("prototypes"), tree.get(key)
    if prototypes is None or not isinstance(network, Mapping):
        raise _no_prototypes(spec)
    tensors = {str(name).removeprefix("module."): tensor for name, tensor in network.items()}
    if "fc.fc1.weight" not in tensors or getattr(prototypes, "ndim", 0) != 2:
        raise _no_prototypes(spec)
    a = spec.architecture
    size = a.table[0] * a.patch
    recipe = Msn(
        architecture=a,
        views=(View(size, (0.3, 1.0)), View(size, (0.3, 1.0))),
        epochs=1,
        batch_size=1,
        temperature=float(tree.get("temperature") or Msn.temperature),
        prototypes=len(prototypes),
        projector_width=int(tensors["fc.fc1.weight"].shape[0]),
        out_width=int(prototypes.shape[1]),
    )
    task: Any = recipe.task()
    # the other network is not looked at, and may be missing
    task.start_from_official({"prototypes": prototypes, "encoder": network, "target_encoder": network})
    return task


def _no_prototypes(spec: BackboneSpec) -> UsageError:
    why = "is no MSN" if spec.family != "msn" else "is untrained" if spec.is_random else "holds no prototypes"
    return UsageError(
        f"{spec.name} {why}, so there are no prototypes to show",
        file=spec.file,
        fix="Take a full checkpoint of MSN, such as --backbone msn_vits16, or a run of `fewvit pretrain msn`.",
    )


def _tree(spec: BackboneSpec) -> Mapping[Any, Any]:
    from ..checkpoints.reading import read_checkpoint

    if spec.file is None:
        raise CheckpointError(f"{spec.name} has no file of weights")
    return read_checkpoint(spec.file, expected_sha256=spec.weights_sha256)


def _run_of(spec: BackboneSpec) -> Path | None:
    """The folder of the pretraining run that a backbone is of; None for any other."""
    if spec.file is None or spec.file.name != ENCODER or not (spec.file.parent / "manifest.json").is_file():
        return None
    return spec.file.parent
