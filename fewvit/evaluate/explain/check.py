"""One thing that was looked at, beside its published value."""

from __future__ import annotations

from dataclasses import dataclass

from ...results import Row

OK, DIFFERS, UNKNOWN = "ok", "differs", "unknown"
Value = str | int | float


@dataclass(frozen=True)
class Check:
    """What is checked, its value in this run and as published, and what to know about it."""

    what: str
    here: Value | None  # None: not known
    published: Value | None  # None: nothing is published
    verdict: str  # ok, differs or unknown
    meaning: str  # one sentence or two: what it decides, and which flag changes it

    @property
    def row(self) -> Row:
        """As the manifest has it."""
        return {
            "check": self.what,
            "here": self.here,
            "published": self.published,
            "verdict": self.verdict,
            "meaning": self.meaning,
        }


def compared(what: str, here: Value | None, published: Value | None, meaning: str) -> Check:
    """A check that is ok for equal values, and unknown where one of them is."""
    known = here is not None and published is not None
    return Check(what, here, published, (OK if here == published else DIFFERS) if known else UNKNOWN, meaning)
