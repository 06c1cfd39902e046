"""How an extraction is carried out, and what is known of it afterwards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import UsageError


@dataclass(frozen=True)
class Work:
    """How the work is done; none of it changes a feature beyond rounding."""

    batch_size: int | None = None  # None: 8 on a CPU, 256 on a GPU
    workers: int | None = None  # decoding threads; None: one per core, at most 16
    max_bad: str = "0"  # a number, or a share like 1%
    max_pixels: int = 64_000_000
    progress: Callable[[Progress], None] | None = None
    whole: int | None = None  # images that `max_bad` is of, where only a part of them is extracted; None: all
    bad_before: int = 0  # undecodable ones in the parts before


@dataclass(frozen=True)
class Progress:
    """Where an extraction stands; times in seconds."""

    done: int
    total: int
    computed: int  # images that went through the model in this run
    elapsed: float  # since the first image; importing torch and building the model are not in it
    waiting: float  # of it, the model waited for decoded images
    modelling: float


@dataclass
class Report:
    """What happened on the way, for the result's manifest."""

    images: int = 0
    computed: int = 0  # went through the model
    cached: int = 0  # were in the store, or share their bytes with another row
    skipped: list[dict[str, str]] = field(default_factory=list)  # id, class, reason
    differing: int = 0  # images that --decode fast and pil show differently: EXIF turns, alpha, 16 bit
    starting: float = 0.0  # seconds before the first image, and of building the model: imports, weights
    seconds: float = 0.0  # seconds of work after that
    waiting: float = 0.0
    modelling: float = 0.0

    @property
    def images_per_second(self) -> float | None:
        """Images through the model per second of work, starting left out; None where none was computed."""
        return self.computed / self.seconds if self.computed and self.seconds else None


def allowed_bad(text: str, total: int) -> int:
    """How many undecodable images `--max-bad` allows: `N`, or `P%` of the set (and never more than 1000).

    Raises UsageError.
    """
    try:
        if text.endswith("%"):
            return min(1000, int(float(text[:-1]) / 100 * total))
        if int(text) >= 0:
            return int(text)
    except ValueError:
        pass
    raise UsageError(f"--max-bad {text!r} is neither a number nor a share like 1%")


def whole(reports: Sequence[Report]) -> Report:
    """One report for several sets, such as train and test."""
    both = Report()
    for report in reports:
        for name in ("images", "computed", "cached", "differing", "starting", "seconds", "waiting", "modelling"):
            setattr(both, name, getattr(both, name) + getattr(report, name))
        both.skipped += report.skipped
    return both


def describe(report: Report) -> dict[str, Any]:
    """The report as the manifest's fields."""
    speed = report.images_per_second
    facts: dict[str, Any] = {
        "images": report.images,
        "computed": report.computed,
        "cached": report.cached,
        "skipped": len(report.skipped),
        "decoders_differ": report.differing,
    }
    if speed is not None:
        facts |= {
            "images_per_second": round(speed, 2),
            "seconds_starting": round(report.starting, 3),
            "seconds_decoding": round(report.waiting, 3),
            "seconds_model": round(report.modelling, 3),
        }
    return facts
