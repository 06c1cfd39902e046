"""The page as HTML. Every name on it is text: control characters are shown as escapes, markup is escaped by Jinja."""

from __future__ import annotations

import dataclasses
import hashlib
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader

from ...errors import counted, printable
from ..examples import COMBINE
from ..pictures import CHANGED, MISSING
from .answers import Answer, Hit
from .asking import Asked, Example, quoted
from .loaded import Loaded

_HERE = Path(__file__).parent
_TAIL = 10  # characters of a name that are always shown
_KINDS = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".png": "image/png"}
STATIC = {path.name: (path.read_bytes(), _KINDS[path.suffix]) for path in sorted((_HERE / "static").iterdir())}
_REVISION = hashlib.sha256(b"".join(data for data, _ in STATIC.values())).hexdigest()[:12]
_STATES = {MISSING: "the file is missing", CHANGED: "the file has changed since it was indexed"}


@dataclass(frozen=True)
class Card:
    """One image on the page."""

    number: int
    name: str
    id: str
    label: str
    score: str  # three decimals, rounded down: only the image itself has 1.000
    warning: str  # empty: nothing is known against it
    alt: str
    more: str  # addresses
    plus: str
    minus: str

    @property
    def head(self) -> str:
        """The name but for its end, which a narrow card cuts short."""
        return self.name[: -len(self.tail)]

    @property
    def tail(self) -> str:
        """The end of the name: camera and data sets number their files there."""
        return self.name[-_TAIL:]


@dataclass(frozen=True)
class Chip:
    """One example in the list of what the search goes by."""

    picture: str
    name: str
    is_wanted: bool
    is_lost: bool
    turned: str  # address of the search with its sign turned
    without: str


class Pages:
    """Renders pages; templates are read once."""

    def __init__(self) -> None:
        self._environment = Environment(
            loader=FileSystemLoader(_HERE / "templates"),
            autoescape=True,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        self._environment.filters["shown"] = printable
        self._environment.globals["revision"] = _REVISION
        self._page, self._error = (self._environment.get_template(name) for name in ("page.html", "error.html"))

    def page(self, answer: Answer) -> str:
        """The page of an answer."""
        asked, loaded = answer.asked, answer.loaded
        return self._page.render(
            **_of_index(loaded),
            asked=asked,
            chips=[_chip(asked, example, loaded, answer) for example in asked.examples],
            lost=len(answer.lost),
            cards=_cards(answer),
            is_search=bool(asked.wanted) and len(answer.lost) < len(asked.examples),
            filters=_filters(asked),
            counted=counted,
            first=(asked.page - 1) * asked.k + 1,
            seconds=answer.seconds,
            combined=[(way, way == asked.combine, _at(asked.but(combine=way))) for way in COMBINE],
            before=_at(asked.but(page=asked.page - 1)) if asked.page > 1 else "",
            after=_at(asked.but(page=asked.page + 1))
            if answer.has_more and (asked.page + 1) * asked.k <= 10_000
            else "",
        )

    def error(self, status: int, reason: str, back: str = "/") -> str:
        """The page of an error."""
        return self._error.render(status=status, reason=reason, back=back)


def _of_index(loaded: Loaded) -> Mapping[str, Any]:
    manifest = loaded.index.manifest
    return {
        "title": loaded.index.path.resolve().name,
        "images": len(loaded.index),
        "classes": loaded.classes,
        "folders": loaded.folders,
        "takes_uploads": loaded.encoder is not None,
        "backbone": manifest.backbone or "features",
        "version": loaded.version,
        "kind": manifest.kind,
    }


def _at(asked: Asked) -> str:
    return f"/?{asked.query}" if asked.query else "/"


def _chip(asked: Asked, example: Example, loaded: Loaded, answer: Answer) -> Chip:
    is_lost = example in answer.lost
    if is_lost:
        picture = ""
    elif example.is_upload:
        picture = f"/example/{example.name}"
    else:
        picture = f"/thumb/{loaded.number(loaded.index.row_of(example.name))}"
    turned = dataclasses.replace(example, is_wanted=not example.is_wanted)
    return Chip(
        picture,
        "uploaded image" if example.is_upload else printable(example.name),
        example.is_wanted,
        is_lost,
        _at(asked.with_example(turned)),
        _at(asked.without_example(example)),
    )


def _filters(asked: Asked) -> list[tuple[str, str, str]]:
    """Of each filter that is on: what it is, its value, and the address of the search without it."""
    only = asked.only
    found = [
        ("class", name, _at(asked.but(only=dataclasses.replace(only, classes=[c for c in only.classes if c != name]))))
        for name in only.classes
    ]
    if only.folder:
        found.append(("folder", only.folder, _at(asked.but(only=dataclasses.replace(only, folder="")))))
    return found


def _cards(answer: Answer) -> list[Card]:
    """The images, each with its links; a link is the rest of the search before and behind one more example."""
    asked = answer.asked
    examples, rest = (
        asked.but(only=type(asked.only)(), threshold=None, k=Asked.k, combine=Asked.combine),
        asked.but(examples=()),
    )
    before = f"/?{examples.query}&" if examples.query else "/?"
    after = f"&{rest.query}" if rest.query else ""
    return [_card(hit, before, after) for hit in answer.hits]


def _card(hit: Hit, before: str, after: str) -> Card:
    name, label, key = printable(hit.found.id), printable(hit.found.label or ""), quoted(hit.found.id)
    score = "" if hit.found.score is None else f"{int(hit.found.score * 1000 + 1e-3) / 1000:.3f}"
    told = [name, f"class {label}" if label else "", f"similarity {score}" if score else ""]
    return Card(
        hit.number,
        posixpath.basename(name),
        name,
        label,
        score,
        "" if hit.found.is_intact else _STATES[hit.found.file],
        ", ".join(filter(None, told)),
        f"/?like={key}{after}",
        f"{before}like={key}{after}",
        f"{before}unlike={key}{after}",
    )
