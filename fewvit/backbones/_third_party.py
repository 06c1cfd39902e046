"""Few-shot numbers of named backbones that others than their authors measured, by variant.

MIEB's probe: 16 images per class, 5 draws, scikit-learn's logistic regression with 100 iterations on class tokens that
nothing scales; mean accuracy in percent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Measured:
    """Accuracies in percent by data set, and where they stand."""

    numbers: Mapping[str, float] = field(default_factory=dict)
    source: str = ""


_RESULTS = "MIEB, third party: the results repository of mteb 1.14.15"
_LATER = "MIEB, third party: pull request 4976 of mteb's results repository"
_SETS = (
    "cifar10",
    "cifar100",
    "pets",
    "flowers",
    "dtd",
    "eurosat",
    "imagenet",
    "stl10",
    "food101",
    "resisc45",
    "mnist",
)


def _row(*values: float) -> Measured:
    return Measured(dict(zip(_SETS, values, strict=True)), _RESULTS)


_SIXTEEN_SHOT: Mapping[str, Measured] = {
    "dinov2_vits14": _row(92.95, 77.02, 92.01, 99.51, 72.43, 81.86, 69.40, 97.36, 77.68, 76.86, 86.58),
    "dinov2_vitb14": _row(96.45, 84.49, 94.12, 99.57, 75.93, 81.66, 75.92, 97.73, 84.44, 81.30, 86.71),
    "dinov2_vitl14": _row(97.95, 88.83, 94.90, 99.61, 76.45, 80.23, 78.62, 97.93, 87.79, 86.21, 82.40),
    "dinov2_vitg14": _row(98.53, 89.63, 94.93, 99.71, 76.09, 84.53, 78.70, 97.84, 88.10, 86.30, 85.82),
    "mocov3_vitb16": _row(89.36, 70.18, 82.65, 88.80, 65.95, 88.65, 62.39, 95.14, 50.54, 72.55, 76.74),
    "mocov3_vitl16": _row(90.13, 69.95, 84.85, 89.92, 67.04, 89.50, 64.27, 95.39, 54.39, 73.76, 78.94),
    "dinov3_vits16": Measured({"cifar10": 89.52}, _LATER),
    "dinov3_vitb16": Measured({"cifar10": 94.74}, _LATER),
}


def sixteen_shot(name: str) -> Measured:
    """The 16-shot accuracies of a variant; without numbers where nobody measured it."""
    return _SIXTEEN_SHOT.get(name, Measured())
