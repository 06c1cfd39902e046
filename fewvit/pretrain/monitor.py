"""What a frozen network's features are worth while it trains: k-NN accuracy where there are labels, spread and rank."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..errors import counted
from ..metrics import paired_gain, rankme
from ..neighbors import Bank
from ..views.evaluation_images import normalised
from ..vote import weighted_vote
from .monitor_images import MonitorImages

if TYPE_CHECKING:
    from ..methods._trunk import Trunk
    from ..models.readout import Readout

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


@dataclass(frozen=True)
class Judged:
    """What features were found to be worth."""

    facts: Mapping[str, float]  # `knn_top1` in percent where there are labels, `feature_std` and `rankme`
    hits: np.ndarray | None  # (N,) bool: which images k-NN got right; None without labels


def judge(features: np.ndarray, images: MonitorImages) -> Judged:
    """What features (N, D) of the monitor's images are worth: k-NN leaves each image out of its own neighbours."""
    facts = {"feature_std": feature_std(features), "rankme": rankme(features)}
    if images.labels is None:
        return Judged(facts, None)
    hits = leave_one_out(features, images.labels, images.n_classes)
    return Judged({"knn_top1": 100.0 * int(hits.sum()) / len(hits), **facts}, hits)


def neighbours_of(images: MonitorImages) -> int:
    """How many neighbours vote among so many images."""
    return min(K, len(images.pixels) - 1)


def leave_one_out(features: np.ndarray, labels: np.ndarray, n_classes: int) -> np.ndarray:
    """The rows (N,) whose class wins the weighted vote of their nearest others."""
    k, hits = min(K, len(features) - 1), np.zeros(len(features), bool)
    for part, neighbors in Bank(features, device="cpu").chunks(features, k, exclude=np.arange(len(features))):
        hits[part] = weighted_vote(neighbors, labels, n_classes, TEMPERATURE).argmax(axis=1) == labels[part]
    return hits


def gain(start: Judged, end: Judged) -> dict[str, float]:
    """`knn_gain`, in percent points of k-NN since the start, and `knn_gain_low`, `knn_gain_high`: its 95 % interval.

    Empty without labels.
    """
    if start.hits is None or end.hits is None:
        return {}
    return dict(zip(("knn_gain", "knn_gain_low", "knn_gain_high"), paired_gain(start.hits, end.hits), strict=True))


def verdict(facts: Mapping[str, float], epochs: int) -> str:
    """Whether a run gained by what its last epoch found, in words; empty without labels."""
    if "knn_gain" not in facts:
        return ""
    points, low, high = (facts[name] for name in ("knn_gain", "knn_gain_low", "knn_gain_high"))
    found = "gained" if low > 0 else "lost" if high < 0 else "neither gained nor lost for certain"
    before, after = facts["knn_top1"] - points, facts["knn_top1"]
    return (
        f"{found}: k-NN top-1 of the monitor {before:.2f} % at the start, {after:.2f} % after "
        f"{counted(epochs, 'epoch')}; {points:+.2f} points, 95 % interval {low:+.2f} to {high:+.2f}"
    )


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
