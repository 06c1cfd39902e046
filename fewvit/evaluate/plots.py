"""Predictions as pictures: reliability diagrams, and confusion matrices."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..calibration import reliability
from ..errors import counted
from ..figures.axes import LETTER, Margins, shortened
from ..figures.confusion import NUMBERED, draw_confusion, most_confused
from ..figures.picture import LIGHT, Panel, check_picture, save_picture
from ..figures.reliability import Curve, draw_reliability
from .details import Keep
from .predictions import Predicted

MOST_CLASSES = 30  # of a confusion matrix
_CELL, _SMALL_CELL = 24, 15  # points; of matrices with numbers in their cells, and of larger ones
_NAME = 26  # letters of a class's name
_MOST_PANELS, _MOST_MATRICES = 12, 4
_BINS = 15

_Which = tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class Plots:
    """Where pictures are wanted: .png or .svg."""

    reliability: Path | None = None
    confusion: Path | None = None

    def __bool__(self) -> bool:
        return self.reliability is not None or self.confusion is not None

    def check(self) -> None:
        """Raise for what cannot be written, as `check_picture`; to be called before the work."""
        for flag, path in (("--plot-reliability", self.reliability), ("--plot-confusion", self.confusion)):
            if path is not None:
                check_picture(path, flag)

    def save(self, predicted: Sequence[Predicted], notify: Callable[[str], None], note: str = "") -> None:
        """Write the pictures that are wanted, and name them; `note` stands under each title."""
        for path, save in ((self.reliability, save_reliability), (self.confusion, save_confusion_plot)):
            if path is not None and predicted:
                for line in save(path, predicted, note):
                    notify(line)
                notify(f"wrote {path}")

    def keep(self, notify: Callable[[str], None]) -> Keep | None:
        """What takes an evaluation's predictions and writes the pictures; None where none is wanted."""
        return (lambda details: self.save(details.predicted, notify)) if self else None


NO_PLOTS = Plots()


@dataclass(frozen=True)
class _Draws:
    """The draws of one result, all of the same test images."""

    which: Mapping[str, Any]
    draws: Sequence[Predicted]

    @property
    def confusion(self) -> np.ndarray:
        """Counts (C, C) over all draws."""
        return np.sum([one.confusion for one in self.draws], axis=0)

    @property
    def right(self) -> float:
        """The share of labelled images that are right."""
        counts = self.confusion
        return float(counts.diagonal().sum() / max(counts.sum(), 1))


def _results(predicted: Sequence[Predicted]) -> list[_Draws]:
    groups: dict[_Which, list[Predicted]] = {}
    for one in predicted:
        which = tuple((name, value) for name, value in one.which.items() if name != "trial")
        groups.setdefault(which, []).append(one)
    return [_Draws(dict(which), draws) for which, draws in groups.items() if any((d.labels >= 0).any() for d in draws)]


def _words(which: Mapping[str, Any], names: Sequence[str]) -> str:
    plain = ("backbone", "method")
    words = {"shots": lambda value: f"{value} per class" if isinstance(value, int) else str(value)}
    told = [
        str(which[name]) if name in plain else words[name](which[name]) if name in words else f"{name} {which[name]}"
        for name in names
        if name in which
    ]
    return ", ".join(told)


def save_reliability(path: Path, predicted: Sequence[Predicted], note: str = "") -> list[str]:
    """Replace `path` by reliability diagrams: a panel for each backbone, layer and number of labels, a line per method.

    All draws stand together. Returns lines on what had no room.
    """
    panels: dict[str, list[_Draws]] = {}
    for one in _results(predicted):
        panels.setdefault(_words(one.which, [name for name in one.which if name != "method"]), []).append(one)
    shown = list(panels.items())[:_MOST_PANELS]
    save_picture(path, [_reliability_panel(title, found, note) for title, found in shown], 3)
    cut = [(title, found) for title, found in shown if len(found) > len(LIGHT.series)]
    left_out = [f"{path} shows {len(shown)} of {len(panels)} settings"] if len(panels) > len(shown) else []
    return left_out + [f"{path} shows {len(LIGHT.series)} of {len(found)} methods, {title}" for title, found in cut]


def _reliability_panel(title: str, found: Sequence[_Draws], note: str) -> Panel:
    curves, legend = [], []
    for series, one in enumerate(found[: len(LIGHT.series)]):
        known = [draw.labels >= 0 for draw in one.draws]
        parts = list(zip(one.draws, known, strict=True))
        confidence = np.concatenate([draw.probabilities[mask] for draw, mask in parts]).astype(np.float64)
        right = np.concatenate([(draw.predictions == draw.labels)[mask] for draw, mask in parts])
        bins = reliability(confidence, right, _BINS)
        curves.append(Curve(series, bins))
        over = f", {counted(len(one.draws), 'draw')} together" if len(one.draws) > 1 else ""
        legend.append((series, f"{shortened(str(one.which['method']), 20)}: ECE {bins.ece:.2f}{over}"))
    told = f"{counted(len(found[0].draws[0].ids), 'image')}. {note}".strip()
    draw = functools.partial(draw_reliability, palette=LIGHT, curves=curves)
    title = title or "Reliability"
    return Panel(title, draw, 264, 252, Margins(34, 18, 22, 34), told, legend)


def save_confusion_plot(path: Path, predicted: Sequence[Predicted], note: str = "") -> list[str]:
    """Replace `path` by a confusion matrix for each backbone and layer, of its best result; all draws together.

    Of more than MOST_CLASSES classes those in most mistakes are shown. Returns lines on what had no room.
    """
    by_backbone: dict[tuple[Any, Any], list[_Draws]] = {}
    for one in _results(predicted):
        by_backbone.setdefault((one.which.get("backbone"), one.which.get("layer")), []).append(one)
    shown = list(by_backbone.values())[:_MOST_MATRICES]
    save_picture(path, [_confusion_panel(found, note) for found in shown], 2)
    if len(by_backbone) == len(shown):
        return []
    return [f"{path} shows {len(shown)} of {counted(len(by_backbone), 'backbone or layer', 'backbones or layers')}"]


def _confusion_panel(found: Sequence[_Draws], note: str) -> Panel:
    best = max(found, key=lambda one: one.right)
    whole = best.confusion
    chosen = most_confused(whole, MOST_CLASSES)
    classes = best.draws[0].classes
    names = [shortened(classes[c], _NAME) for c in chosen]
    counts = whole.sum(axis=1)[chosen]
    side = (_CELL if len(chosen) <= NUMBERED else _SMALL_CELL) * len(chosen)
    room = 12 + (LETTER + 0.4) * max(map(len, names))
    told = [f"Top-1 {100 * best.right:.2f} %" + (f", {len(best.draws)} draws together" if len(best.draws) > 1 else "")]
    told += [f"the best of {len(found)} results"] if len(found) > 1 else []
    told += [f"{len(chosen)} of {len(whole)} classes, those in most mistakes"] if len(chosen) < len(whole) else []
    told += [note.rstrip(".")] if note else []
    legend = "Rows are true classes, columns what they were taken for; the colour is the share of the row."
    draw = functools.partial(
        draw_confusion, palette=LIGHT, matrix=whole[np.ix_(chosen, chosen)], counts=counts, names=names
    )
    width = max(room + side + 16, 300)
    margins = Margins(room, width - room - side, room, 8)
    title = _words(best.which, list(best.which))
    return Panel(title, draw, width, room + side + 8, margins, f"{'; '.join(told)}. {legend}")
