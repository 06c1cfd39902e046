"""Which classes are hard: accuracy by class, what is taken for what, and pictures of the worst."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..figures.axes import LETTER, Margins, even_ticks, framed, shortened
from ..figures.confusion import NUMBERED, draw_confusion, most_confused
from .drawing import PAGE, SERIES, SOFT, drawn, tip
from .looking import Looked
from .parts import Figure, Section
from .pictures import Pictures

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BARS, _SQUARE = 20, 20  # classes of a figure
_WORST = 3  # classes with pictures


def by_class(looked: Mapping[str, Sequence[Looked]], pictures: Pictures) -> Section:
    """Bars of the classes' accuracy, and what the worst were taken for."""
    section = Section(
        "classes",
        "Classes",
        "Accuracy of each class by the best result of its data set whose predictions are kept, with few labels and "
        "with all of them where there are both, and images of the worst classes that it got wrong: under each what it "
        "was taken for, and how surely.",
    )
    for dataset, (best, *_) in looked.items():
        confusion, classes = best.confusion, best.draws[0].classes
        counts, right = confusion.sum(axis=1), confusion.diagonal()
        worst_first = np.lexsort((np.arange(len(counts)), right / np.maximum(counts, 1)))
        order = [int(c) for c in worst_first if counts[c] > 0]
        shown = order[:_BARS]
        names = [shortened(classes[c], 24) for c in shown]
        values = [100 * right[c] / counts[c] for c in shown]
        tips = [f"{classes[c]}: {right[c]} of {counts[c]} right" for c in shown]
        left = 12 + LETTER * max(map(len, names))
        draw = _bar_drawer(names, values, tips, 100 * right.sum() / counts.sum())
        svg = drawn(f"accuracy by class, {dataset}", draw, 330, 48 + 13 * len(names), Margins(left, 30, 6, 34))
        which = f"the worst {len(shown)} of {len(order)} classes" if len(shown) < len(order) else "all classes"
        section.figures.append(Figure(f"{dataset}: {which}", svg, f"{best.words}; the line is the accuracy of all."))
        galleries = [pictures.of_class(dataset, best, c) for c in order[:_WORST] if right[c] < counts[c]]
        section.galleries += [one for one in galleries if one.pictures]
        section.notes += dict.fromkeys(f"{dataset}: {one.note}" for one in galleries if not one.pictures)
    return section


def _bar_drawer(
    names: Sequence[str], values: Sequence[float], tips: Sequence[str], overall: float
) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        axes.set_xlim(0, 100)
        axes.set_ylim(len(names) - 0.4, -0.6)
        for at, (value, words) in enumerate(zip(values, tips, strict=True)):
            axes.barh([at], [value], height=0.66, color=SERIES[0], gid=tip(words))[0].set_gid(tip(words))
            axes.annotate(f"{value:.0f}", (value, at), (4, 0), va="center", textcoords="offset points", color=SOFT)
        axes.plot([overall, overall], [-0.6, len(names) - 0.4], color=SERIES[1], linewidth=1)
        framed(axes, PAGE, even_ticks(0, 100), dict(enumerate(names)), ("% right", ""), rules="x")

    return draw


def confusions(looked: Mapping[str, Sequence[Looked]]) -> Section:
    """Matrices of what was taken for what."""
    section = Section(
        "confusion",
        "Confusion",
        "Rows are true classes, columns what they were taken for; the colour is the share of the row.",
    )
    for dataset, (best, *_) in looked.items():
        whole = best.confusion
        chosen = most_confused(whole, _SQUARE)
        matrix, names = whole[np.ix_(chosen, chosen)], [shortened(best.draws[0].classes[c], 18) for c in chosen]
        counts = whole.sum(axis=1)[chosen]
        side = 17 if len(chosen) > NUMBERED else 24
        room = 12 + LETTER * max(map(len, names))
        size = room + 8 + side * len(chosen)
        draw = functools.partial(draw_confusion, palette=PAGE, matrix=matrix, counts=counts, names=names)
        svg = drawn(f"confusion, {dataset}", draw, size, size, Margins(room, 8, room, 8))
        which = f"the {len(chosen)} of {len(whole)} classes with the most mistakes" if len(chosen) < len(whole) else ""
        section.figures.append(Figure(": ".join(filter(None, (dataset, which))), svg, best.words))
    return section
