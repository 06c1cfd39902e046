"""Patch tokens as colours: three principal components of the foreground, over all pictures together.

Sources: Oquab et al. 2024 (DINOv2), figure 1, for which no code was released; Siméoni et al. 2025 (DINOv3), notebook.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..datasets import Dataset
from ..errors import DataError, UsageError, counted
from ..extraction.principal import principal_axes
from ..figures.picture import Panel
from ..results import Row
from .figure import Figure, tiles_panel
from .masks import shown_through
from .pictures import Pictures, in_parts, pictures_of
from .tokens import called_in, patch_features

if TYPE_CHECKING:
    from ..models.backbone import Backbone

STYLES = ("dinov2", "dinov3")
_SIDE, _ACROSS = 92.0, 8  # points of a tile, and tiles of a row
_FEWEST = 4  # tokens that have three components


@dataclass(frozen=True)
class Components:
    """Colours of patches and how they came about."""

    score: np.ndarray  # (N, rows, columns): the first component of all patches, its sign chosen
    foreground: np.ndarray  # (N, rows, columns) bool
    colours: np.ndarray  # (N, rows, columns, 3) uint8, black in the background
    explained: np.ndarray  # (3,) share of the foreground's variance in each component


def pca(
    backbone: Backbone,
    source: str | os.PathLike[str] | Dataset | Pictures,
    *,
    style: str = "dinov2",
    threshold: float = 0.0,
    sample: int | None = 8,
    seed: int = 0,
) -> Figure:
    """Patch tokens after the final norm as red, green and blue; one colour means one thing in all the pictures.

    `style`, `threshold`: as in `components_of`. Arrays: `ids`, `pixels`, and (N, rows, columns, …) `score`,
    `foreground`, `colours`; `explained` (3,). Rows: `foreground`, the share of each picture, and `explained` of each
    component. Raises UsageError, and DataError for a foreground of fewer than four patches.
    """
    if style not in STYLES:
        raise UsageError(f"--style {style!r} is not one of {', '.join(STYLES)}")
    pictures = pictures_of(backbone, source, sample, seed)
    found = components_of(_features(backbone, pictures), style, threshold)
    rows: list[Row] = [
        {"id": name, "metric": "foreground", "value": float(mask.mean())}
        for name, mask in zip(pictures.ids, found.foreground, strict=True)
    ]
    rows += [{"component": at + 1, "metric": "explained", "value": float(s)} for at, s in enumerate(found.explained)]
    arrays = {"ids": np.array(pictures.ids), "pixels": pictures.pixels, **vars(found)}
    title = f"{called_in(backbone)}: patches by their principal components ({style})"
    return Figure("pca", _panels(pictures, found, title), arrays, rows, notes=_notes(pictures, style))


def components_of(features: np.ndarray, style: str = "dinov2", threshold: float = 0.0) -> Components:
    """Colours of patch features (N, rows, columns, D), all pictures together.

    The first component of all patches, over `threshold` standard deviations, is the foreground; of its two signs, which
    are alike to a PCA, the one is taken whose foreground has the smaller share of the pictures' borders. The colours
    are the first three components of the foreground alone: `dinov2` from their least to their most, `dinov3` divided
    by their standard deviation (whitened) through sigmoid(2 x). Raises DataError.
    """
    shape, tokens = features.shape[:3], features.reshape(-1, features.shape[-1]).astype(np.float64)
    axes, _ = principal_axes(tokens, 1)
    score = ((tokens - tokens.mean(axis=0)) @ axes[0]).reshape(shape)
    if not np.isfinite(threshold):
        raise UsageError(f"--threshold {threshold:g} is no number of standard deviations")
    score = _signed(score / max(float(score.std()), 1e-12), threshold)
    foreground = score > threshold
    inside = tokens[foreground.ravel()]
    if len(inside) < _FEWEST:
        raise DataError(
            f"{len(inside)} of {counted(len(tokens), 'patch', 'patches')} stand out, too few for three components",
            fix="Lower --threshold, or give more pictures or a larger --img-size.",
        )
    axes, explained = principal_axes(inside, 3)
    parts = (inside - inside.mean(axis=0)) @ axes.T  # (M, 3)
    colours = np.zeros((len(tokens), 3), np.uint8)
    colours[foreground.ravel()] = np.round(255 * _STRETCHED[style](parts))
    return Components(score, foreground, colours.reshape(*shape, 3), explained)


def border_share(foreground: np.ndarray) -> float:
    """Which share of the patches along the edges of pictures (N, rows, columns) is foreground."""
    edge = np.ones(foreground.shape[1:], bool)
    edge[1:-1, 1:-1] = False
    return float(foreground[:, edge].mean())


def _signed(score: np.ndarray, threshold: float) -> np.ndarray:
    return score if border_share(score > threshold) <= border_share(-score > threshold) else -score


def _between_extremes(parts: np.ndarray) -> np.ndarray:
    low, high = parts.min(axis=0), parts.max(axis=0)
    return (parts - low) / np.maximum(high - low, 1e-12)


def _whitened(parts: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-2 * parts / np.maximum(parts.std(axis=0, ddof=1), 1e-12)))


_STRETCHED = {"dinov2": _between_extremes, "dinov3": _whitened}  # components (M, 3) to 0…1


def _features(backbone: Backbone, pictures: Pictures) -> np.ndarray:
    """Patch tokens (N, rows, columns, D) float32."""
    found = []
    for images in in_parts(backbone, pictures):
        tokens, grid = patch_features(backbone, images)
        found.append(tokens.unflatten(1, grid).float().cpu().numpy())
    return np.concatenate(found)


def _panels(pictures: Pictures, found: Components, title: str) -> list[Panel]:
    """Pictures side by side, below each its foreground and its colours."""
    panels = []
    for start in range(0, len(pictures), _ACROSS):
        part = slice(start, start + _ACROSS)
        pixels, masks, colours = list(pictures.pixels[part]), found.foreground[part], list(found.colours[part])
        shown = [shown_through(one, mask) for one, mask in zip(pixels, masks, strict=True)]
        words = ("picture", "foreground", "components")
        panels.append(tiles_panel(title if start == 0 else "", [pixels, shown, colours], _SIDE, beside=words))
    return panels


def _notes(pictures: Pictures, style: str) -> list[str]:
    notes = []
    if style == "dinov3":
        notes.append(
            "the foreground is that of the first component: DINOv3's notebook has a logistic regression for it, on "
            "labelled masks, that is not here"
        )
    if len(pictures) == 1:
        notes.append("one picture has components of its own: its colours say nothing of other pictures")
    return notes
