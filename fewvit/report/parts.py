"""What a page is made of: sections of figures, tables and pictures, each with the words that belong to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..results import Row

MOST_SERIES = 8  # lines in one figure: more than that nobody can follow, and the page has no more colours


@dataclass(frozen=True)
class Figure:
    """One drawing."""

    title: str
    svg: str
    note: str = ""


@dataclass(frozen=True)
class Picture:
    """One small picture."""

    jpeg: bytes
    name: str  # the id of its image
    words: str  # what it was taken for


@dataclass(frozen=True)
class Gallery:
    """Pictures of one class."""

    title: str
    pictures: Sequence[Picture]
    note: str = ""  # why there are none


@dataclass(frozen=True)
class Table:
    """Words and numbers in columns."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass
class Section:
    """A part of the page under a heading; an empty one is not shown."""

    name: str  # its anchor
    title: str
    lead: str
    figures: list[Figure] = field(default_factory=list)
    legend: list[str] = field(default_factory=list)  # names of the series, in the order of their colours
    tables: list[Table] = field(default_factory=list)
    galleries: list[Gallery] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to show."""
        return not (self.figures or self.tables or self.galleries or self.notes)


# columns that say what was found, not what was asked
_FOUND = (
    *(
        "metric",
        "value",
        "std",
        "ci95",
        "trial",
        "trials",
        "n_train",
        "n_test",
        "n_queries",
        "n_index",
        "skipped",
        "left_out",
    ),
    *("published", "delta", "verdict", "seen_in_pretraining", "weights_sha256", "weights", "episodes", "classes"),
)
_FIRST = ("backbone", "protocol", "method")


def identity(row: Row, without: Sequence[str] = ()) -> Row:
    """The columns that say what was asked, but for some: rows that differ in them are never joined."""
    names = [*_FIRST, *(name for name in row if name not in _FIRST)]
    return {
        name: row[name]
        for name in names
        if name in row and row[name] is not None and name not in _FOUND and name not in without
    }


def key_of(identity: Mapping[str, object]) -> tuple[tuple[str, str], ...]:
    """An identity as what a dictionary can be looked up by."""
    return tuple(sorted((name, str(value)) for name, value in identity.items()))


def labels_of(identities: Sequence[Row]) -> list[str]:
    """A name for each: the backbone, and of the rest what differs among them."""
    names = list(dict.fromkeys(name for one in identities for name in one))
    varying = [name for name in names if len({str(one.get(name)) for one in identities}) > 1]
    shown = [name for name in varying if name != "backbone"]
    return [
        " · ".join(
            [str(one.get("backbone", "features"))]
            + [str(one[name]) if name in _FIRST else f"{name} {one[name]}" for name in shown if name in one]
        )
        for one in identities
    ]
