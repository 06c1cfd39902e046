"""What a frozen network's features are worth while it trains: k-NN accuracy where there are labels, spread and rank."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from ..metrics import rankme
from ..neighbors import Bank
from ..views.evaluation_images import normalised
from ..vote import weighted_vote
from .monitor_images import MonitorImages

if TYPE_CHECKING:
    from ..methods._trunk import Trunk
    from ..models.vit import Readout

K, TEMPERATURE = 20, 0.07  # DINO's k-NN; a smaller set takes fewer neighbours


def features_of(trunk: Trunk, pixels: np.ndarray, readout: Readout, device: str, batch: int = 64) -> np.ndarray:
    """Features (N, D) of uint8 pixels (N, H, W, 3), the network in eval mode meanwhile and in its own mode after."""
    import torch

    training, found = trunk.training, []
    trunk.eval()
    with torch.no_grad():
        for start in range(0, len(pixels), batch):
            found.append(trunk.read(normalised(pixels[start : start + batch], device), readout).float().cpu().numpy())
    trunk.train(training)
    return np.concatenate(found)


def evaluate_features(features: np.ndarray, images: MonitorImages) -> dict[str, float]:
    """`knn_top1` in percent (leave-one-out) where there are labels, `feature_std` and `rankme` of features (N, D)."""
    facts = {"feature_std": feature_std(features), "rankme": rankme(features)}
    if images.labels is None:
        return facts
    return {"knn_top1": leave_one_out(features, images.labels, images.n_classes), **facts}


def leave_one_out(features: np.ndarray, labels: np.ndarray, n_classes: int) -> float:
    """Share in percent of rows whose class wins the weighted vote of their nearest others."""
    k = min(K, len(features) - 1)
    hits = 0
    for part, neighbors in Bank(features, device="cpu").chunks(features, k, exclude=np.arange(len(features))):
        hits += int((weighted_vote(neighbors, labels, n_classes, TEMPERATURE).argmax(axis=1) == labels[part]).sum())
    return 100.0 * hits / len(features)


def feature_std(features: np.ndarray) -> float:
    """Mean standard deviation of the columns of features (N, D) of unit length, times the square root of D.

    Near 1 if all directions are used, 0 on collapse.
    """
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    return float(unit.std(axis=0).mean() * np.sqrt(features.shape[1]))


def collapse(facts: Mapping[str, float], max_entropy: float | None) -> str | None:
    """A note for when the targets of a method have become one and the same; None while they have not.

    `target_entropy` is that of single targets, `mean_target_entropy` of their mean, in nats; log K is `max_entropy`.
    """
    if max_entropy is None or "target_entropy" not in facts:
        return None
    if facts["target_entropy"] > 0.99 * max_entropy:
        entropy = f"entropy {facts['target_entropy']:.3f} of at most {max_entropy:.3f} nats"
        return f"collapsed: every target is uniform ({entropy})"
    if facts.get("mean_target_entropy", max_entropy) < 0.01 * max_entropy:
        entropy = f"entropy of the mean {facts['mean_target_entropy']:.3f} nats"
        return f"collapsed: every image has the same target ({entropy})"
    return None
