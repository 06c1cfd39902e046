"""Norms of output tokens: patches whose norm stands apart are used as memory, not as a place of the picture.

Source: Darcet et al. 2024, sections 2 and 3: in DINOv2 g/14 about 2.4 % of the patches have norms over 150.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np

from ..datasets import Dataset
from ..errors import UsageError
from ..figures.axes import Margins, even_ticks, framed
from ..figures.picture import LIGHT, Panel
from ..results import Row
from .figure import Figure, tiles_panel
from .masks import shown_through
from .pictures import Pictures, in_parts, pictures_of
from .tokens import block_at, called_in, patch_grid, prefix_named

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..models.backbone import Backbone

_SIDE, _ACROSS = 92.0, 8
_BARS = 48
_CLEAR = 1.25  # a step between two neighbouring norms that is smaller is no gap


def norms(
    backbone: Backbone,
    source: str | os.PathLike[str] | Dataset | Pictures,
    *,
    block: int = -1,
    cutoff: float | None = None,
    sample: int | None = 8,
    seed: int = 0,
) -> Figure:
    """L2 norms of the tokens that leave a block, before any norm layer: histogram, maps, and those over a cutoff.

    `cutoff`: where no one says it, the largest gap (`norm_gap`). Arrays: `ids`, `pixels`, `norms` and `above` (N, rows,
    columns), `prefix` (N, P), the norms of the tokens before the patches, `cutoff` (), NaN for none. Rows: `norm_mean`,
    `norm_max`, `cutoff`, `above` (a share), and the mean `norm` of each token before the patches. Raises UsageError.
    """
    place = block_at(backbone, block)
    if cutoff is not None and not cutoff > 0:
        raise UsageError(f"--cutoff {cutoff:g} is not over 0")
    pictures = pictures_of(backbone, source, sample, seed)
    found, prefix = _norms(backbone, pictures, place)
    at, step = norm_gap(found.ravel())
    limit = cutoff if cutoff is not None else at if step >= _CLEAR else float("nan")
    above = found > limit if np.isfinite(limit) else np.zeros(found.shape, bool)
    kinds = backbone.model.prefix_kinds
    name = f"{called_in(backbone)}, block {place + 1}"
    panels = [_histogram(found, prefix, kinds, limit, name), *_maps(pictures, found, above, limit)]
    arrays = {"ids": np.array(pictures.ids), "pixels": pictures.pixels, "norms": found, "above": above}
    arrays |= {"prefix": prefix, "cutoff": np.array(limit)}
    values = {"norm_mean": found.mean(), "norm_max": found.max(), "cutoff": limit, "above": above.mean()}
    rows: list[Row] = [
        {"block": place + 1, "token": "patch", "metric": metric, "value": float(value)}
        for metric, value in values.items()
        if np.isfinite(value)
    ]
    for kind in dict.fromkeys(kinds):
        columns = [at for at, other in enumerate(kinds) if other == kind]
        rows.append(
            {"block": place + 1, "token": kind, "metric": "norm_mean", "value": float(prefix[:, columns].mean())}
        )
    return Figure("norms", panels, arrays, rows, notes=_notes(cutoff, limit, step, prefix_named(kinds)))


def norm_gap(values: np.ndarray) -> tuple[float, float]:
    """The middle of the largest step between neighbouring norms over the median, in logarithms, and the step's ratio.

    Tokens that stand apart are few and large, so a step among the smaller half is none of theirs.
    """
    ascending = np.log(np.sort(np.maximum(values.astype(np.float64), 1e-30)))
    upper = ascending[(len(ascending) - 1) // 2 :]
    if len(upper) < 2:
        return float(np.exp(upper[-1])), 1.0
    steps = np.diff(upper)
    at = int(steps.argmax())
    return float(np.exp((upper[at] + upper[at + 1]) / 2)), float(np.exp(steps[at]))


def _norms(backbone: Backbone, pictures: Pictures, place: int) -> tuple[np.ndarray, np.ndarray]:
    """Norms (N, rows, columns) of patch tokens behind a block, from 0, and (N, P) of the tokens before them."""
    patches, others = [], []
    prefix = backbone.model.prefix
    for images in in_parts(backbone, pictures):
        found = backbone.block_output(images, place).float().norm(dim=-1)  # (B, T)
        grid = patch_grid(backbone, images, found.shape[1])
        patches.append(found[:, prefix:].unflatten(1, grid).cpu().numpy())
        others.append(found[:, :prefix].cpu().numpy())
    return np.concatenate(patches), np.concatenate(others)


def _histogram(found: np.ndarray, prefix: np.ndarray, kinds: tuple[str, ...], limit: float, name: str) -> Panel:
    """How many patches have which norm, counts by their logarithm; the mean of each other kind of token as a mark."""
    means = {kind: prefix[:, [other == kind for other in kinds]].mean() for kind in dict.fromkeys(kinds)}
    low, high = 0.0, 1.04 * max([float(found.max()), *map(float, means.values())])
    counts, edges = np.histogram(found, bins=_BARS, range=(low, high))
    top = 10 ** np.ceil(np.log10(counts.max() + 1))

    def draw(axes: Axes) -> None:
        axes.set_xlim(low, high)
        axes.set_yscale("log")
        axes.set_ylim(0.7, top)
        for left, right, count in zip(edges[:-1], edges[1:], counts, strict=True):
            if count:
                over = np.isfinite(limit) and left >= limit
                axes.bar(left, count, 0.92 * (right - left), 0, align="edge", color=LIGHT.series[1 if over else 0])
        for at, value in enumerate(means.values()):
            axes.plot([value], [0.95], "^", color=LIGHT.series[2 + at], markersize=6, clip_on=False)
        if np.isfinite(limit):
            axes.axvline(limit, color=LIGHT.series[1], linewidth=1, linestyle=(0, (4, 3)))
        powers = {float(10**p): f"{10**p:,}" for p in range(int(np.log10(top)) + 1)}
        framed(axes, LIGHT, even_ticks(low, high, 8), powers, ("norm of an output token", "patches"))

    legend = [(2 + at, f"{kind} token, mean") for at, kind in enumerate(means)]
    share = f"{100 * (found > limit).mean():.2g} % of the patches over {limit:.4g}" if np.isfinite(limit) else ""
    return Panel(f"{name}: norms of tokens", draw, 420, 190, Margins(48, 8, 18, 34), share, legend)


def _maps(pictures: Pictures, found: np.ndarray, above: np.ndarray, limit: float) -> list[Panel]:
    """Pictures side by side, below each its norms and, where there is a cutoff, the patches over it."""
    panels = []
    scale = (float(found.min()), float(found.max()))
    for start in range(0, len(pictures), _ACROSS):
        part = slice(start, start + _ACROSS)
        tiles: list[list[np.ndarray]] = [list(pictures.pixels[part]), list(found[part])]
        if np.isfinite(limit):
            tiles.append([shown_through(*pair) for pair in zip(pictures.pixels[part], above[part], strict=True)])
        panels.append(tiles_panel("", tiles, _SIDE, beside=("picture", "norms", "above")[: len(tiles)], scale=scale))
    return panels


def _notes(asked: float | None, limit: float, step: float, others: str) -> list[str]:
    notes = []
    if asked is None and np.isfinite(limit):
        notes.append(
            f"cutoff {limit:.4g}: the largest gap over the median, a step of {step:.2f}x; --cutoff sets another"
        )
    if asked is None and not np.isfinite(limit):
        notes.append(
            f"no patch stands apart: over the median no norm is {_CLEAR}x its neighbour (largest step {step:.2f}x); "
            "--cutoff sets a limit"
        )
    return notes + ([f"{others}: not among the patches, told apart"] if others else [])
