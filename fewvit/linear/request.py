"""What a linear probe is asked for, and the protocol's probe that it makes."""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import UnknownName, UsageError
from ..options import typed
from ..runs.request import Changes, require_sensible
from .protocols import Probe, find_probe

_NOT_BY_SET = ["epochs", "batch_size", "precision", "lrs", "default_lr", "interleaved", "truncated", "clipped_boxes"]


@dataclass(frozen=True)
class LinearProbeRequest(Changes):
    """What is to be trained.

    With the data, the backbone and the options of its features, every field can change the outcome.
    """

    protocol: str | None = None  # None: the backbone's own
    lrs: Sequence[float] = ()  # empty: the protocol's
    augment: bool = False  # views through the frozen backbone in every epoch; otherwise features without augmentation
    select_on: str = "train"  # or test: what the papers did


def check_request(request: LinearProbeRequest) -> None:
    """Raise UsageError for what no protocol makes sense of."""
    for lr in request.lrs:
        if not 0 < lr < math.inf:  # nor NaN
            what = f"--lr {lr:g}: a learning rate is a finite number above 0"
            raise UsageError(what, fix="Leave it out of the list, or mend it.")
    if request.select_on not in ("train", "test"):
        raise UsageError(f"--select-on {request.select_on!r} is neither train nor test")


def probe_of(request: LinearProbeRequest, protocol: str, precision: str, width: int | None = None) -> Probe:
    """The protocol's probe under the choices made, before it is fitted to the data. Raises UnknownName, UsageError."""
    probe = find_probe(protocol, width)
    hints = typing.get_type_hints(Probe)
    options = sorted(
        name for name, kind in hints.items() if kind in (int, float, bool, int | None) and name not in _NOT_BY_SET
    )
    changes: dict[str, Any] = {"precision": precision}
    for setting in request.settings:
        if setting.plugin or setting.name not in options:
            raise UnknownName("option", f"{setting.plugin}.{setting.name}".lstrip("."), options)
        changes[setting.name] = typed(setting, hints[setting.name])
    require_sensible(changes)
    if request.lrs:
        changes |= {
            "lrs": tuple(sorted(set(request.lrs))),
            "default_lr": sorted(request.lrs)[len(request.lrs) // 2],
            "small_lrs": (),
        }
    return dataclasses.replace(probe, **changes)
