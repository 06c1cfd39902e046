"""How far a head looks: the mean distance between a patch and the patches that it attends to."""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING

import numpy as np

from ..errors import counted
from ..figures.axes import Margins, even_ticks, framed
from ..figures.picture import LIGHT, Panel
from .figure import Figure
from .pictures import Pictures, at_once_for, in_parts, pictures_of
from .tokens import called_in

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from torch import Tensor

    from ..datasets import Dataset
    from ..models.backbone import Backbone


def patch_distances(rows: int, columns: int, patch: int) -> np.ndarray:
    """Distances (N, N) float64 in pixels between the centres of rows x columns patches of `patch` pixels."""
    row, column = np.divmod(np.arange(rows * columns), columns)
    return patch * np.hypot(row[:, None] - row, column[:, None] - column)


def looked_at(attention: Tensor, prefix: int, distances: Tensor) -> tuple[Tensor, Tensor]:
    """Mean attention distances (B, heads) in pixels of attention (B, heads, T, T), and the share (B, heads) on patches.

    sum_j a_ij |p_i - p_j| over patches j, averaged over patches i. The first `prefix` tokens (class token, registers)
    have no place, so they are neither i nor j, and what a patch gives to the others is scaled to sum to 1; the share is
    what it was before. A patch that looks at no patch at all is left out. `distances` (N, N) are in pixels.
    Source: Dosovitskiy et al. 2021, appendix D.7.
    """
    import torch

    among = attention[:, :, prefix:, prefix:]  # (B, heads, N, N)
    given = among.sum(dim=-1)  # (B, heads, N)
    seen = given > 0
    # as a product of tensors, which makes no second one of their size
    far = torch.einsum("bhij,ij->bhi", among, distances) / given.where(seen, given.new_ones(()))
    return (far * seen).sum(dim=-1) / seen.sum(dim=-1).clamp(min=1), given.mean(dim=-1)


def distance(
    backbone: Backbone, source: str | os.PathLike[str] | Dataset | Pictures, sample: int | None = 128, seed: int = 0
) -> Figure:
    """How far each head of each block looks, in pixels, averaged over patches and images: one dot per head.

    Arrays: `distance` (L, heads) float64, `patch_share` (L, heads) the attention of patches that falls on patches (the
    rest is the class token's and registers', and left out), `per_image` (N, L, heads) float32, `uniform` () the
    distance of a head that looks everywhere alike. Raises UsageError for a model without attention over all patches.
    """
    pictures = pictures_of(backbone, source, sample, seed)
    found, share, uniform = _measured(backbone, pictures)
    mean, on_patches = found.mean(axis=0), share.mean(axis=0)
    rows = [
        {
            "layer": layer + 1,
            "head": head + 1,
            "metric": "attention_distance",
            "value": round(float(mean[layer, head]), 4),
            "patch_share": round(float(on_patches[layer, head]), 4),
        }
        for layer, head in np.ndindex(*mean.shape)
    ]
    away, kinds = 100 * (1 - float(on_patches.mean())), ", ".join(dict.fromkeys(backbone.model.prefix_kinds))
    notes = [f"{away:.1f} % of the patches' attention falls on tokens without a place ({kinds}): left out"]
    return Figure(
        "distance",
        [distance_panel(mean, uniform, _note(backbone, len(pictures)))],
        {
            "distance": mean,
            "patch_share": on_patches,
            "per_image": found.astype(np.float32),
            "uniform": np.array(uniform),
        },
        rows,
        notes=notes if kinds else [],
    )


def _note(backbone: Backbone, images: int) -> str:
    return f"{called_in(backbone)}, {counted(images, 'image')}: pixels, a dot per head"


def _measured(backbone: Backbone, pictures: Pictures) -> tuple[np.ndarray, np.ndarray, float]:
    """Distances (N, L, heads) and shares (N, L, heads) of every image, and the distance of uniform attention.

    One block's attention of a few images at a time is in memory.
    """
    import torch

    depth, prefix = backbone.depth, backbone.model.prefix
    between = patch_distances(*_patch_grid(backbone, *pictures.pixels.shape[1:3]))
    distances = torch.from_numpy(between).float().to(next(backbone.parameters()).device)

    def keep(attention: Tensor) -> Tensor:
        return torch.stack(looked_at(attention, prefix, distances)).double().cpu()  # (2, B, heads)

    parts = in_parts(backbone, pictures, at_once_for(backbone, pictures))
    found = [torch.stack(backbone.attend(images, range(depth), keep), dim=2) for images in parts]
    distance, share = torch.cat(found, dim=1).numpy()  # (2, N, L, heads)
    return distance, share, float(between.mean())


def _patch_grid(backbone: Backbone, height: int, width: int) -> tuple[int, int, int]:
    """Rows and columns of patches of images of so many pixels, and the side of a patch in pixels."""
    architecture = backbone.spec.architecture
    if not architecture.timm:
        return height // architecture.patch, width // architecture.patch, architecture.patch
    rows, columns = backbone.model.trunk.patch_embed.grid_size
    return rows, columns, height // rows


def distance_panel(distances: np.ndarray, uniform: float, note: str = "", side: float = 300) -> Panel:
    """The panel of distances (L, heads) in pixels, a dot each, and a line where uniform attention would be."""
    room = Margins(30, 10, 0, 32)
    draw = functools.partial(_draw, distances=distances, uniform=uniform)
    return Panel(
        "Mean attention distance", draw, side + room.left + room.right, side + room.top + room.bottom, room, note
    )


def _draw(axes: Axes, distances: np.ndarray, uniform: float) -> None:
    depth, heads = distances.shape
    top = 1.16 * max(float(distances.max()), uniform)
    axes.set_xlim(0.4, depth + 0.6)
    axes.set_ylim(0, top)
    every = max(1, round(depth / 12))
    ticks = {float(at): str(at) for at in range(1, depth + 1) if (at - 1) % every == 0}
    framed(axes, LIGHT, ticks, even_ticks(0, top), ("Block", ""))
    axes.axhline(uniform, color=LIGHT.soft, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    axes.annotate(
        "uniform attention", (1, uniform), (-2, 8), axes.get_yaxis_transform(), "offset points",
        ha="right", va="bottom", color=LIGHT.soft, bbox={"facecolor": LIGHT.ground, "edgecolor": "none", "pad": 1},
    )  # fmt: skip
    x = np.repeat(np.arange(1, depth + 1), heads)
    axes.scatter(x, distances.ravel(), s=26, color=LIGHT.series[0], alpha=0.75, edgecolors=LIGHT.ground, linewidths=0.6)
