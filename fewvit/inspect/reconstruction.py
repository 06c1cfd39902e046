"""What a MAE makes of images of which it sees a quarter."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np

from ..errors import UsageError
from ..views.draws import uniforms
from .figure import Figure, tiles_panel
from .pictures import Pictures, in_parts, pictures_of, pipeline_of
from .pretraining_files import MaeAsked, open_mae
from .tokens import called_in

if TYPE_CHECKING:
    from torch import Tensor

    from ..datasets import Dataset
    from ..methods._mae_task import MaeTask
    from ..models.backbone import Backbone
    from ..models.spec import BackboneSpec
    from ..preprocess import Preprocess

SHOWN = 6  # images where nothing else is asked
_SIDE = 110.0  # points of a picture
COLUMNS = {
    "original": "original",
    "masked": "seen",
    "reconstruction": "reconstruction",
    "with_visible": "reconstruction and seen",
}


def reconstruct(
    backbone: Backbone,
    source: str | os.PathLike[str] | Dataset | Pictures,
    sample: int | None = SHOWN,
    seed: int = 0,
    *,
    mask_ratio: float = 0.75,
    norm_pix: bool | None = None,
    decoder_heads: int | None = None,
) -> Figure:
    """Images, the patches that a MAE sees of them, what it draws of the whole, and that with the patches it saw.

    `mask_ratio` of the patches are hidden, those that `seed` says. `norm_pix`: whether it was trained on patches
    without their own mean and deviation, which are given back then (the model never saw them); None: as its file says.
    Arrays: `original`, `masked`, `reconstruction`, `with_visible` (N, H, W, 3) uint8; `hidden` (N, rows, columns) bool;
    `prediction` (N, patches, 3 P²) float32 as the decoder gives it; `error` (N,) MAE's loss of each image. Raises
    UsageError for a backbone without a decoder and for images of another size than its own.
    """
    task, notes = open_mae(backbone.spec, MaeAsked(mask_ratio, norm_pix, decoder_heads))
    pictures, preprocess = pictures_of(backbone, source, sample, seed), pipeline_of(backbone).preprocess
    _check_size(backbone, pictures)
    task.to(next(backbone.parameters()).device)
    noise = uniforms(seed, 0, np.arange(len(pictures)), "hidden patches", task.recipe.architecture.cells)
    parts, start = [], 0
    for images in in_parts(backbone, pictures):
        parts.append(reconstructed(task, images, noise[start : start + len(images)], preprocess))
        start += len(images)
    arrays = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    rows = [
        {"id": one, "metric": "reconstruction_error", "value": round(float(error), 6)}
        for one, error in zip(pictures.ids, arrays["error"], strict=True)
    ]
    tiles = [[arrays[name][i] for name in COLUMNS] for i in range(len(pictures))]
    told = f"{called_in(backbone)}: {100 * arrays['hidden'].mean():.0f} % of the patches are hidden"
    panel = tiles_panel("Reconstruction", tiles, _SIDE, above=list(COLUMNS.values()), note=told)
    return Figure("reconstruct", [panel], arrays, rows, notes=notes)


def reconstructed(task: MaeTask, images: Tensor, noise: np.ndarray, preprocess: Preprocess) -> dict[str, np.ndarray]:
    """The arrays of `reconstruct` for normalised images (B, 3, H, W); of noise (B, N) the largest hides its patch."""
    import torch

    from ..methods._mae_task import patchify, unpatchify

    a = task.recipe.architecture
    with torch.inference_mode():
        prediction, mask = task.predict(images, torch.from_numpy(noise).to(images.device))
        patches, hidden = patchify(images, a.patch).float(), mask[:, :, None].bool()
        drawn = task.as_pixels(prediction, patches)
        shown = {
            "original": patches,
            "masked": patches.masked_fill(hidden, 0.0),  # the mean colour of the pixels that it was trained on
            "reconstruction": drawn,
            "with_visible": torch.where(hidden, drawn, patches),
        }
        errors = [task.loss(images[i : i + 1], prediction[i : i + 1], mask[i : i + 1]) for i in range(len(images))]
        return {
            **{name: _pixels(unpatchify(value, a.patch), preprocess) for name, value in shown.items()},
            "hidden": hidden.reshape(-1, *a.table).cpu().numpy(),
            "prediction": prediction.float().cpu().numpy(),
            "error": torch.stack(errors).double().cpu().numpy(),
        }


def _pixels(images: Tensor, preprocess: Preprocess) -> np.ndarray:
    """uint8 (B, H, W, 3) of normalised images (B, 3, H, W)."""
    values = images.permute(0, 2, 3, 1).double().cpu().numpy() * preprocess.std + preprocess.mean
    return np.rint(255 * values).clip(0, 255).astype(np.uint8)


def own_size(spec: BackboneSpec) -> str | None:
    """The pixels of a side that its decoder draws, as --img-size takes them; None for a model of timm."""
    return None if spec.architecture.timm else str(spec.architecture.side * spec.architecture.patch)


def _check_size(backbone: Backbone, pictures: Pictures) -> None:
    """Raise UsageError for images of another size than the decoder's positions stand for."""
    a = backbone.spec.architecture
    own, height, width = a.side * a.patch, *pictures.pixels.shape[1:3]
    if (height, width) != (own, own):
        raise UsageError(
            f"{backbone.spec.name}'s decoder draws {own}x{own} pixels, and the images have {height}x{width}",
            fix=f"Use --img-size {own}; from Python, load_backbone(…, img_size={own}).",
        )
