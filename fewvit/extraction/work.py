"""How an extraction is carried out, and what is known of it afterwards."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from ..errors import BadImages, UsageError, counted, printable

if TYPE_CHECKING:
    from ..datasets import Dataset

SKIPPED = ("id", "class", "reason")  # what is recorded of an image that is left out
_SHOWN_BAD = 3  # paths in the error


@dataclass(frozen=True)
class Work:
    """How the work is done; none of it changes a feature beyond rounding."""

    batch_size: int | None = None  # None: 8 on a CPU, 256 on a GPU
    workers: int | None = None  # decoding threads; None: one per core, at most 16
    max_bad: str = "0"  # a number, or a share like 1%
    max_pixels: int = 64_000_000
    progress: Callable[[Progress], None] | None = None
    part_of: int | None = None  # images of the whole set, where these are a part of it: `max_bad` counts those
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
    like_twelve_bit: int = 0  # images of 16-bit grey that may have 12 bits, and do not say so
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


def skipped_images(dataset: Dataset, bad: Mapping[int, str]) -> list[dict[str, str]]:
    """A record of each image that has no feature, in the order of rows. `bad`: row -> reason."""
    names = [dataset.classes[label] if label >= 0 else "" for label in dataset.labels.tolist()] if bad else []
    return [dict(zip(SKIPPED, (dataset.ids[row], names[row], bad[row]), strict=True)) for row in sorted(bad)]


def require_enough(dataset: Dataset, skipped: Sequence[dict[str, str]], work: Work) -> None:
    """Raise BadImages when more images are skipped than `work` allows, or all of a set that is no part of another."""
    total = len(dataset) if work.part_of is None else work.part_of
    allowed, bad = allowed_bad(work.max_bad, total), work.bad_before + len(skipped)
    if bad <= allowed and (len(skipped) < total or work.part_of is not None):
        return
    row_of = {name: row for row, name in enumerate(dataset.ids)}
    first = skipped[:_SHOWN_BAD]
    shown = "; ".join(f"{printable(dataset.place(row_of[one['id']]))} ({one['reason']})" for one in first)
    error = BadImages(
        f"{bad} of {counted(total, 'image')} of {printable(dataset.name)} cannot be "
        f"decoded, {allowed} {'is' if allowed == 1 else 'are'} allowed: "
        f"{shown}{' …' if len(skipped) > len(first) else ''}",
        fix="Repair or remove them, or allow some with --max-bad N or --max-bad P%. What was computed is kept.",
    )
    error.skipped = skipped
    raise error


def whole(reports: Sequence[Report]) -> Report:
    """One report for several sets, such as train and test."""
    both = Report()
    for report in reports:
        for name in (one.name for one in fields(Report) if one.name != "skipped"):
            setattr(both, name, getattr(both, name) + getattr(report, name))
        both.skipped += report.skipped
    return both


def doubts(name: str, like_twelve_bit: int) -> list[str]:
    """What is to be told of images that were read and may not be shown as they were meant: lines, none as a rule."""
    if not like_twelve_bit:
        return []
    what, has = counted(like_twelve_bit, "image"), "has" if like_twelve_bit == 1 else "have"
    return [
        f"{printable(name)}: {what} of 16-bit grey {has} no value over 4095, as if of 12 bits, and nothing in the file "
        "says so: taken as 16 bits, which is nearly black; save such images with 8 bits"
    ]


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
    if report.like_twelve_bit:
        facts["like_twelve_bit"] = report.like_twelve_bit
    if speed is not None:
        facts |= {
            "images_per_second": round(speed, 2),
            "seconds_starting": round(report.starting, 3),
            "seconds_decoding": round(report.waiting, 3),
            "seconds_model": round(report.modelling, 3),
        }
    return facts
