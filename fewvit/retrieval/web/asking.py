"""What an address asks for: the whole state of a search stands in its query, so that any address is a permalink.

    like=ID  unlike=ID          images of the index, wanted and not wanted
    example=TOKEN  unwanted=TOKEN   uploaded ones, by what the server called them
    class=NAME  folder=PREFIX  combine=mean|max  threshold=COSINE  k=48  page=1

An id is looked up in the index; no part of an address is ever a path or an address of something else.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, quote

from ...errors import UsageError, printable
from ..examples import COMBINE
from ..opened import OnlyThese

PER_PAGE, MOST_PER_PAGE, DEEPEST = 48, 2000, 10_000  # results: of a page, at most of a page, and of all pages
MOST_EXAMPLES = 16
_MOST_FIELDS = 100
_ROLES = {"like": (True, False), "unlike": (False, False), "example": (True, True), "unwanted": (False, True)}


@dataclass(frozen=True)
class Parameter:
    """One name of a query, for reading it and for the OpenAPI document."""

    name: str
    schema: dict[str, Any]  # JSON Schema
    description: str
    repeated: bool = False


PARAMETERS = (
    Parameter("like", {"type": "string"}, "An image of the index, by its id, to find more like it.", True),
    Parameter("unlike", {"type": "string"}, "An image of the index, by its id, to move away from.", True),
    Parameter("example", {"type": "string"}, "An uploaded image, by the token that an answer gave it.", True),
    Parameter("unwanted", {"type": "string"}, "An uploaded image to move away from, by its token.", True),
    Parameter("class", {"type": "string"}, "Only images of this class.", True),
    Parameter("folder", {"type": "string"}, "Only images whose id begins with this."),
    Parameter(
        "combine",
        {"type": "string", "enum": list(COMBINE), "default": COMBINE[0]},
        "Several examples: their mean, or the nearest to any of them.",
    ),
    Parameter("threshold", {"type": "number", "minimum": -1, "maximum": 1}, "The least similarity (cosine)."),
    Parameter(
        "k", {"type": "integer", "minimum": 1, "maximum": MOST_PER_PAGE, "default": PER_PAGE}, "Results of a page."
    ),
    Parameter(
        "page",
        {"type": "integer", "minimum": 1, "default": 1},
        f"Which page; all pages together reach {DEEPEST:,} results.",
    ),
)
_BY_NAME = {parameter.name: parameter for parameter in PARAMETERS}


@dataclass(frozen=True)
class Example:
    """An image that a search goes by."""

    name: str  # an id of the index, or the token of an upload
    is_wanted: bool = True
    is_upload: bool = False

    @property
    def role(self) -> str:
        """Its name in a query."""
        return next(role for role, kind in _ROLES.items() if kind == (self.is_wanted, self.is_upload))


@dataclass(frozen=True)
class Asked:
    """What is looked for. Frozen: each link of a page is this with a change."""

    examples: tuple[Example, ...] = ()
    only: OnlyThese = field(default_factory=OnlyThese)
    combine: str = COMBINE[0]
    threshold: float | None = None
    k: int = PER_PAGE
    page: int = 1

    @property
    def wanted(self) -> list[Example]:
        """The examples of what is looked for."""
        return [example for example in self.examples if example.is_wanted]

    @property
    def unwanted(self) -> list[Example]:
        """The examples of what is not looked for."""
        return [example for example in self.examples if not example.is_wanted]

    @property
    def query(self) -> str:
        """The query of its address, ASCII, the same for the same search; without what is the default."""
        pairs: list[tuple[str, str]] = [(example.role, example.name) for example in self.examples]
        pairs += [("class", name) for name in self.only.classes]
        pairs += [("folder", self.only.folder)] if self.only.folder else []
        pairs += [("combine", self.combine)] if self.combine != COMBINE[0] else []
        pairs += [("threshold", repr(self.threshold))] if self.threshold is not None else []
        pairs += [("k", str(self.k))] if self.k != PER_PAGE else []
        pairs += [("page", str(self.page))] if self.page != 1 else []
        return "&".join(f"{name}={quoted(value)}" for name, value in pairs)

    def but(self, **changes: Any) -> Asked:
        """This search with changes, from its first page on unless a page is among them."""
        return dataclasses.replace(self, **{"page": 1, **changes})

    def with_example(self, example: Example) -> Asked:
        """This search with one more example; one that is there already takes the new sign."""
        others = self.without_example(example).examples
        return self.but(examples=(*others, example))

    def without_example(self, example: Example) -> Asked:
        """This search without an example, whatever its sign."""
        same = (example.name, example.is_upload)
        return self.but(examples=tuple(one for one in self.examples if (one.name, one.is_upload) != same))


def quoted(text: str) -> str:
    """A text, such as an id with any bytes, for an address."""
    return quote(os.fsencode(text), safe="/")


def pairs_of(query: bytes) -> list[tuple[str, str]]:
    """Names and values of a query; bytes that are not UTF-8 come back as ids have them. Raises UsageError."""
    try:
        return parse_qsl(
            query.decode("latin-1"),
            keep_blank_values=True,
            encoding="utf-8",
            errors="surrogateescape",
            max_num_fields=_MOST_FIELDS,
        )
    except ValueError as error:
        raise UsageError(f"the query has more than {_MOST_FIELDS} fields") from error


def asked(pairs: Sequence[tuple[str, str]]) -> Asked:
    """What a query asks for. Raises UsageError, which names the parameter, for what is none or out of bounds."""
    values: dict[str, list[str]] = {}
    examples: dict[tuple[str, bool], Example] = {}
    for name, value in pairs:
        if name not in _BY_NAME:
            raise UsageError(f"no parameter is called {printable(name[:40])!r}")
        if name in _ROLES and value:
            example = Example(value, *_ROLES[name])
            examples.pop((value, example.is_upload), None)  # its last sign counts
            examples[value, example.is_upload] = example
        elif value:
            values.setdefault(name, []).append(value)
    if len(examples) > MOST_EXAMPLES:
        raise UsageError(f"{len(examples)} examples; a search takes at most {MOST_EXAMPLES}")
    found = Asked(
        tuple(examples.values()),
        OnlyThese(tuple(dict.fromkeys(values.get("class", ()))), _last(values, "folder", "")),
        _choice(_last(values, "combine", COMBINE[0])),
        _threshold(_last(values, "threshold", "")),
        _whole("k", _last(values, "k", str(PER_PAGE)), MOST_PER_PAGE),
        _whole("page", _last(values, "page", "1"), DEEPEST),
    )
    if found.k * found.page > DEEPEST and found.page > 1:
        raise UsageError(f"page {found.page} of {found.k} results each: pages reach {DEEPEST:,} results")
    return found


def _last(values: dict[str, list[str]], name: str, default: str) -> str:
    return values.get(name, [default])[-1]


def _choice(text: str) -> str:
    if text not in COMBINE:
        raise UsageError(f"combine is one of {', '.join(COMBINE)}, not {printable(text[:40])!r}")
    return text


def _threshold(text: str) -> float | None:
    try:
        value = float(text) if text else None
    except ValueError:
        value = math.nan
    if value is not None and not -1 <= value <= 1:
        raise UsageError(f"threshold is a number from -1 to 1, not {printable(text[:40])!r}")
    return value


def _whole(name: str, text: str, most: int) -> int:
    value = int(text) if text.isascii() and text.isdecimal() and len(text) <= 9 else 0
    if not 1 <= value <= most:
        raise UsageError(f"{name} is a whole number from 1 to {most}, not {printable(text[:40])!r}")
    return value
