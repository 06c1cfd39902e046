"""What MSN's prototypes stand for: the images nearest to each."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..errors import UsageError, counted
from ..results import Row
from .figure import Figure, tiles_panel
from .pictures import Pictures, in_parts, pictures_of
from .pretraining_files import MsnOpened, open_msn
from .tokens import called_in

if TYPE_CHECKING:
    from ..datasets import Dataset
    from ..models.backbone import Backbone

SAMPLE, SHOWN, NEAREST = 1000, 8, 8  # images that are looked at, prototypes and images of each that are drawn
_SIDE = 56.0  # points of an image


@dataclass(frozen=True)
class Assigned:
    """N images among K prototypes."""

    projections: np.ndarray  # (N, D) float32
    similarity: np.ndarray  # (N, K) float32: cosines
    probability: np.ndarray  # (N, K) float32: softmax of the cosines over the temperature

    @property
    def nearest_prototype(self) -> np.ndarray:
        """The prototype of each image (N,): that of the largest cosine, of several the first."""
        return self.similarity.argmax(axis=1)

    @property
    def counts(self) -> np.ndarray:
        """Images (K,) whose nearest prototype each is."""
        return np.bincount(self.nearest_prototype, minlength=self.similarity.shape[1])

    def nearest_images(self, most: int) -> np.ndarray:
        """Rows (K, at most `most`) of the images nearest to each prototype, best first; ties in the images' order."""
        return np.argsort(-self.similarity, axis=0, kind="stable")[:most].T


def prototypes(
    backbone: Backbone,
    source: str | os.PathLike[str] | Dataset | Pictures,
    sample: int | None = SAMPLE,
    seed: int = 0,
    *,
    shown: int = SHOWN,
    nearest: int = NEAREST,
    only: Sequence[int] | None = None,
) -> Figure:
    """The images nearest to MSN's prototypes: of up to `shown` that most images belong to, or of those of `only`.

    An image belongs to the prototype of the largest cosine with its projection by the target network. Arrays: `ids`
    (N,), `projections` (N, D), `similarity` (N, K), `prototype` (N,) each image's, `counts` (K,), `nearest` (K, k)
    rows of images, best first, `shown` numbers of the prototypes that are drawn. Raises UsageError for a backbone
    without prototypes.
    """
    opened = open_msn(backbone.spec)
    wanted = _checked(only, len(opened.task.prototypes))
    pictures = pictures_of(backbone, source, sample, seed)
    found = assigned(opened, backbone, pictures)
    counts, images = found.counts, found.nearest_images(nearest)
    drawn = wanted or [k for k in np.argsort(-counts, kind="stable")[:shown].tolist() if counts[k]]
    tiles = [[pictures.pixels[row] for row in images[k]] for k in drawn]
    beside = [f"{k}: {counted(int(counts[k]), 'image')}" for k in drawn]
    told = (
        f"{called_in(backbone)}: {counted(len(pictures), 'image')} belong to {int((counts > 0).sum())} of "
        f"{counted(len(counts), 'prototype')}; the nearest of each"
    )
    arrays = {
        "ids": np.array(pictures.ids),
        "projections": found.projections,
        "similarity": found.similarity,
        "prototype": found.nearest_prototype,
        "counts": counts,
        "nearest": images,
        "shown": np.array(drawn),
    }
    return Figure(
        "prototypes",
        [tiles_panel("Prototypes", tiles, _SIDE, beside=beside, note=told)],
        arrays,
        _rows(found, pictures, drawn),
        notes=["projections under the running statistics of BatchNorm, so that no image depends on the others"],
    )


def assigned(opened: MsnOpened, backbone: Backbone, pictures: Pictures) -> Assigned:
    """How the pictures stand to the prototypes, all projected by the opened network."""
    import torch
    import torch.nn.functional as F

    from ..methods._msn_task import log_assignments

    device, task = next(backbone.parameters()).device, opened.task
    network, table = opened.network.to(device), task.prototypes.detach().to(device)
    with torch.inference_mode():
        projections = torch.cat([network(images).float() for images in in_parts(backbone, pictures)])
        cosines = F.normalize(projections, dim=1) @ F.normalize(table.float(), dim=1).T
        probability = log_assignments(projections, table, task.recipe.temperature).exp()
    return Assigned(projections.cpu().numpy(), cosines.cpu().numpy(), probability.cpu().numpy())


def _checked(only: Sequence[int] | None, count: int) -> list[int]:
    """The numbers. Raises UsageError for one that no prototype has."""
    wrong = [k for k in only or () if not 0 <= k < count]
    if wrong:
        raise UsageError(f"there is no prototype {wrong[0]}: they are numbered from 0 to {count - 1}")
    return list(only or ())


def _rows(found: Assigned, pictures: Pictures, drawn: Sequence[int]) -> list[Row]:
    """How many prototypes are used, how sure the images are of theirs, and of each drawn one its images."""
    p = found.probability.astype(np.float64)
    entropy = -(p * np.log(np.maximum(p, 1e-300))).sum(axis=1).mean()
    rows: list[Row] = [
        {"metric": "prototypes_used", "value": int((found.counts > 0).sum())},
        {"metric": "assignment_entropy", "value": round(float(entropy), 6)},
    ]
    best = found.nearest_images(1)[:, 0]
    for k in drawn:
        rows.append(
            {
                "prototype": k,
                "metric": "images",
                "value": int(found.counts[k]),
                "id": pictures.ids[best[k]],
                "score": round(float(found.similarity[best[k], k]), 6),
            }
        )
    return rows
