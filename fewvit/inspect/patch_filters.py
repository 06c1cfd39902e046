"""What the patch embedding looks for: the principal components of its filters."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..errors import UsageError
from ..figures.picture import Panel
from .figure import Figure, tiles_panel
from .mosaic import stretched
from .tokens import called_in

if TYPE_CHECKING:
    from ..models.backbone import Backbone

SHOWN = 28  # components, as in the ViT paper
_ROW = 7  # of them beside each other
_ROUNDING = np.finfo(np.float32).eps  # of all weights together: a component that is weaker is none


def principal_filters(weights: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Up to `most` components (K, 3, P, P), of length 1, of filters (D, 3, P, P), and their shares (K,) of variance.

    The D filters are the samples, their mean taken off; of a component the largest weight is positive. Directions in
    which nothing varies are left out. Source: Dosovitskiy et al. 2021, figure 7 (left).
    """
    flat = weights.reshape(len(weights), -1).astype(np.float64)
    _, strengths, directions = np.linalg.svd(flat - flat.mean(axis=0), full_matrices=False)
    kept = min(most, int((strengths > _ROUNDING * np.linalg.norm(flat)).sum()))
    chosen = directions[:kept]
    largest = np.take_along_axis(chosen, np.abs(chosen).argmax(axis=1)[:, None], axis=1)
    components = (chosen * np.sign(largest)).reshape(kept, *weights.shape[1:])
    return components, strengths[:kept] ** 2 / max(float((strengths**2).sum()), 1e-300)


def filters(backbone: Backbone, components: int = SHOWN) -> Figure:
    """The first principal components of the patch embedding's filters, each from its least value to its largest as RGB.

    Arrays: `components` (K, 3, P, P) of length 1, `explained` (K,) their shares of the variance. Fewer than asked for
    where the filters vary in fewer directions. Raises UsageError for a model without a patch embedding.
    """
    weights = patch_embedding(backbone)
    found, explained = principal_filters(weights, components)
    notes = []
    if len(found) < components:
        notes.append(f"{backbone.spec.name}'s {len(weights)} filters vary in {len(found)} directions alone")
    rows = [
        {"component": number, "metric": "explained", "value": round(float(share), 6)}
        for number, share in enumerate(explained, 1)
    ]
    panel = filters_panel(found, explained, called_in(backbone))
    return Figure(
        "filters", [panel], {"components": found.astype(np.float32), "explained": explained}, rows, notes=notes
    )


def patch_embedding(backbone: Backbone) -> np.ndarray:
    """The filters (D, 3, P, P) that make tokens of patches. Raises UsageError for a model that has none."""
    model = backbone.model
    embedding = getattr(getattr(model, "trunk", model), "patch_embed", None)  # a model of timm stands in `trunk`
    weights = getattr(getattr(embedding, "proj", None), "weight", None)
    if weights is None or weights.ndim != 4 or weights.shape[1] != 3:
        raise UsageError(
            f"{backbone.spec.name} makes no tokens of patches of pixels, so it has no filters of patches to show",
            fix="ViTs and Swins have them; what is made of its images `fewvit inspect embed` shows for every model.",
        )
    return weights.detach().float().cpu().numpy()


def filters_panel(
    components: np.ndarray, explained: np.ndarray, note: str = "", side: float = 40, columns: int = _ROW
) -> Panel:
    """The panel of components (K, 3, P, P), `columns` in a row, each `side` points wide."""
    if not len(components):
        raise UsageError("all filters of the patch embedding are the same one: no component varies")
    tiles = np.rint(255 * stretched(components)).astype(np.uint8).transpose(0, 2, 3, 1)  # (K, P, P, 3)
    rows = [list(tiles[start : start + columns]) for start in range(0, len(tiles), columns)]
    told = f"{note}{': ' if note else ''}{100 * explained.sum():.0f} % of the variance"
    return tiles_panel("Patch filters", rows, side, note=told)
