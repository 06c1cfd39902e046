"""A run's curves as an image: loss, learning rate, what the monitor found, entropy of the targets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..files import replacing
from ..training.log import read_log

_PANELS = (
    ("loss", ("loss",)),
    ("learning rate", ("lr",)),
    ("k-NN top-1, %", ("knn_top1",)),
    ("entropy of targets, nats", ("target_entropy", "mean_target_entropy")),
    ("spread of features", ("feature_std",)),
    ("effective rank", ("rankme",)),
)


def draw(file: Path, log: Path, notify: Callable[[str], None] = lambda line: None) -> None:
    """Replace `file` (.png) by the curves of a log; says so once where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        notify("no curves.png: matplotlib is not installed (pip install 'fewvit[plots]'); the numbers are in log.jsonl")
        return
    records = list(read_log(log))
    panels = [
        (title, columns)
        for title, columns in _PANELS
        if any(column in record for record in records for column in columns)
    ]
    figure = Figure(figsize=(4 * len(panels), 3), layout="constrained")
    for axes, (title, names) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for name in names:
            points: list[tuple[Any, Any]] = [(record["step"], record[name]) for record in records if name in record]
            if points:
                axes.plot(*zip(*points, strict=True), marker="." if len(points) < 50 else "", label=name)
        axes.set(title=title, xlabel="step")
        if len(names) > 1:
            axes.legend()
    with replacing(file) as handle:
        figure.savefig(handle, format="png", dpi=100)
