"""How far confidence can be believed, and how episodes spread."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..calibration import Reliability, reliability
from ..figures.axes import LETTER, Margins, even_ticks, framed, shortened
from ..figures.reliability import Curve, draw_reliability
from ..results import Row
from .drawing import GROUND, PAGE, SERIES, drawn, tip
from .looking import MOST_DATASETS, DetailsOf, Looked
from .parts import MOST_SERIES, Figure, Section, Table, labels_of
from .rows import Line

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BINS = 15
_BOXES = 12  # series of a figure


def calibration(looked: Mapping[str, Sequence[Looked]]) -> Section:
    """Curves of accuracy over confidence, with the errors they amount to."""
    section = Section(
        "calibration",
        "Calibration",
        f"Accuracy over confidence in {_BINS} equally wide bins, all draws together; on the dashed line confidence is "
        "what it says. A mark's size is the bin's share of the predictions.",
    )
    # with a colour for each: those that stand first, data set by data set
    count = Counter(_who(one) for found in looked.values() for one in found)
    names = sorted(name for name, _ in count.most_common(MOST_SERIES))
    rows = []
    for dataset, found in looked.items():
        judged = [(one, reliability(*one.judged, _BINS)) for one in found]
        curves = [(names.index(_who(one)), one, bins) for one, bins in judged if _who(one) in names]
        svg = drawn(f"calibration, {dataset}", _curve_drawer(curves), 250, 250, Margins(34, 10, 20, 34))
        section.figures.append(Figure(dataset, svg))
        for one, bins in judged:
            errors = [f"{error:.2f}" for error in (bins.ece, bins.rms, bins.mce)]
            rows.append([dataset, one.words, *errors, str(int(bins.counts.sum()))])
    section.legend = names
    if len(count) > len(names):
        section.notes.append(f"Drawn are {len(names)} of {len(count)} backbones and methods; all stand in this table.")
    if rows:
        caption = (
            "Percent points between confidence and accuracy: mean (ECE), root mean square, and the largest of a bin."
        )
        section.tables.append(Table(caption, ("dataset", "result", "ECE", "RMS-CE", "MCE", "predictions"), rows))
    return section


def _who(looked: Looked) -> str:
    row = looked.line.row
    return " · ".join(str(row[name]) for name in ("backbone", "method") if row.get(name))


def _curve_drawer(curves: Sequence[tuple[int, Looked, Reliability]]) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        told = [f"{one.words}: ECE {bins.ece:.2f}, {int(bins.counts.sum())} predictions" for _, one, bins in curves]
        shown = [Curve(n, bins, tip(words)) for (n, _, bins), words in zip(curves, told, strict=True)]
        draw_reliability(axes, PAGE, shown)

    return draw


def episodes(lines: Sequence[Line], details: DetailsOf) -> Section:
    """How the accuracies of episodes are spread."""
    section = Section(
        "episodes",
        "Episodes",
        "Accuracy of single episodes: half of them lie in the box, nine tenths between its whiskers; the mark is the "
        "mean.",
    )
    groups: dict[str, list[tuple[Row, np.ndarray]]] = defaultdict(list)
    for line in lines:
        row = line.row
        if row["task"] != "episodes" or row["metric"] != "accuracy" or line.record.cell is None:
            continue
        for one in details(line.record).episodes:
            if all(one.which[name] == row.get(name) for name in ("method", "ways", "shots") if name in one.which):
                who = {name: row.get(name) for name in ("backbone", "protocol", "method")}
                groups[_task(row)].append((who, one.accuracies))
    for name, found in list(groups.items())[:MOST_DATASETS]:
        shown = [one for one in found if one[1].size][:_BOXES]
        if not shown:
            continue
        words = labels_of([who for who, _ in shown])
        names = [shortened(word, 28) for word in words]
        left = 12 + LETTER * max(map(len, names))
        draw = _box_drawer(names, list(zip(words, (accuracies for _, accuracies in shown), strict=True)))
        svg = drawn(f"episodes, {name}", draw, max(left + 170, 320), 46 + 18 * len(shown), Margins(left, 12, 6, 34))
        more = f"Shown are {len(shown)} of {len(found)}." if len(found) > len(shown) else ""
        section.figures.append(Figure(name, svg, more))
    return section


def _task(row: Row) -> str:
    shots = f"{row['shots']}-shot" if row.get("shots") is not None else ""
    return " · ".join(filter(None, (str(row["dataset"]), f"{row.get('ways')}-way", shots)))


def _box_drawer(names: Sequence[str], found: Sequence[tuple[str, np.ndarray]]) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        axes.set_xlim(0, 100)
        axes.set_ylim(len(names) - 0.4, -0.6)
        for at, (words, accuracies) in enumerate(found):
            low, first, middle, third, high = np.percentile(accuracies, (5, 25, 50, 75, 95))
            told = f"{words}: {len(accuracies)} episodes, mean {accuracies.mean():.1f} %, median {middle:.1f} %"
            axes.plot([low, high], [at, at], color=SERIES[0], linewidth=1)
            axes.plot([first, third], [at, at], color=SERIES[0], linewidth=7, solid_capstyle="butt", alpha=0.5)
            axes.plot(
                [accuracies.mean()], [at], "o", color=SERIES[0], markeredgecolor=GROUND, markeredgewidth=0.8,
                gid=tip(told),
            )  # fmt: skip
        framed(axes, PAGE, even_ticks(0, 100), dict(enumerate(names)), ("%", ""), rules="x")

    return draw
