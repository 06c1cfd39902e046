"""The rows of a run's result: its loss, and what its monitor found last, beside what it had found at the start."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ..results import Row
from .monitor_images import MonitorImages

_METRICS = {"knn_top1": "top1"}  # names in the log -> names in result rows
_GAIN = ("knn_gain", "knn_gain_low", "knn_gain_high")  # which are one row


def rows_of(
    own: Row,
    last: Mapping[str, float],
    found: Mapping[str, float],
    start: Mapping[str, float],
    images: MonitorImages,
    monitor: str,
) -> Iterator[Row]:
    """Rows of what was logged `last`, and of what was `found` on the monitor's images, called `monitor`.

    `own` are the run's columns, `start` what was found before the first step.
    """
    from .monitor import TEMPERATURE, neighbours_of

    if "loss" in last:
        yield {**own, "metric": "loss", "value": last["loss"]}
    on = {"n_test": len(images.pixels), "monitor": monitor}
    knn = {"k": neighbours_of(images), "temperature": TEMPERATURE}
    for key in (key for key in found if key not in _GAIN):
        before = {"start": start[key]} if key in start else {}
        of_knn = knn if key in _METRICS else {}
        yield {**own, **of_knn, "metric": _METRICS.get(key, key), "value": found[key], **before, **on}
    if _GAIN[0] in found:
        points, low, high = (found[name] for name in _GAIN)
        yield {**own, **knn, "metric": "top1_gain", "value": points, "ci95": [low, high], **on}
