"""The page: one HTML file that holds all it shows, and the same bytes for the same results.

Every name on it is text: markup is escaped by Jinja, control characters are shown as escapes.
Only the page's own script runs, known by its digest.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from ..errors import counted, in_one_line, printable
from ..results import Result
from .parts import Section
from .read import Found, Record
from .rows import Line

_HERE = Path(__file__).parent
_MANIFESTS = 900_000  # characters of manifests on a page
_ANY = 1 << 30  # wide enough for any table
_ALWAYS = ("metric", "value")  # columns that are shown even if all rows have the same
_OFF_THE_PAGE = ("weights_sha256",)  # columns too long to read; they stand in the CSV


@dataclass(frozen=True)
class _Manifests:
    shared: str
    each: Sequence[tuple[str, str]]  # name, text
    left: str


def page(title: str, found: Found, lines: Sequence[Line], sections: Sequence[Section]) -> str:
    """The HTML of a report."""
    from jinja2 import Environment, FileSystemLoader

    environment = Environment(
        loader=FileSystemLoader(_HERE / "templates"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["shown"] = printable
    environment.filters["data"] = lambda jpeg: "data:image/jpeg;base64," + base64.b64encode(jpeg).decode("ascii")
    script, style = ((_HERE / "static" / name).read_text(encoding="utf-8") for name in ("page.js", "page.css"))
    table, apart = _without_constants(Result("report", [_shown(line.row) for line in lines]).to_table(width=_ANY))
    manifests = _manifests(found.records)
    return environment.get_template("page.html").render(
        title=title,
        about=_about(found, lines),
        missing=[*(state.line for state in found.sweeps if not state.is_whole), *map(_in_a_line, found.damaged)]
        + [line for state in found.sweeps for line in state.failed],
        sections=[section for section in sections if not section.is_empty],
        columns=table[0],
        rows="\n".join(_rows(table[1:])),
        apart=apart,
        shared=manifests.shared,
        manifests=manifests.each,
        manifests_left=manifests.left,
        style=style + _to_the_right(table),
        script=script,
        script_hash="sha256-" + base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii"),
    )


def _shown(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in _OFF_THE_PAGE}


def _about(found: Found, lines: Sequence[Line]) -> list[str]:
    datasets, backbones = ({line.row[name] for line in lines} for name in ("dataset", "backbone"))
    return [
        counted(len(found.records), "result"),
        counted(len(lines), "row"),
        counted(len(datasets), "data set"),
        counted(len(backbones), "backbone"),
        *(state.line for state in found.sweeps if state.is_whole),
    ]


def _in_a_line(error: Exception) -> str:
    return "left out: " + in_one_line(error)


# ---- the table


def _without_constants(table: Sequence[Sequence[str]]) -> tuple[list[list[str]], dict[str, str]]:
    """The cells without the columns that all rows share, and those: column -> value."""
    columns = list(zip(*table, strict=True))
    varying = [column for column in columns if len(set(column[1:])) > 1 or column[0] in _ALWAYS]
    apart = {column[0]: column[1] for column in columns if column not in varying}
    return [list(line) for line in zip(*varying, strict=True)], apart


def _rows(cells: Sequence[Sequence[str]]) -> Iterator[str]:
    """Lines of HTML, without the tags that it lets one leave out: ten thousand rows are a megabyte so."""
    known: dict[str, str] = {}
    for line in cells:
        for cell in line:
            if cell not in known:
                known[cell] = escape(printable(cell), quote=False)
        yield "<tr><td>" + "<td>".join([known[cell] for cell in line])


def _to_the_right(table: Sequence[Sequence[str]]) -> str:
    """CSS that puts columns of numbers to the right."""
    numeric = [at + 1 for at in range(len(table[0])) if all(_is_number(line[at]) for line in table[1:])]
    cells = [f"#rows {tag}:nth-child({at})" for at in numeric for tag in ("th", "td")]
    return f"{', '.join(cells)} {{ text-align: right; }}\n" if cells else ""


def _is_number(text: str) -> bool:
    try:
        float(text or 0)
    except ValueError:
        return False
    return True


# ---- the manifests


def _manifests(records: Sequence[Record]) -> _Manifests:
    """What all manifests share, once; and of each the rest, as many as have room."""
    told = sorted(((_name(record), _told(record)) for record in records), key=lambda one: (one[0], _text(one[1])))
    first = told[0][1] if told else {}
    shared = {key: value for key, value in first.items() if all(one.get(key) == value for _, one in told)}
    if len(told) < 2:
        shared = {}
    each: list[tuple[str, str]] = []
    room = _MANIFESTS
    for name, facts in told:
        text = _text({key: value for key, value in facts.items() if key not in shared})
        room -= len(text) + len(name)
        if room < 0:
            break
        each.append((name, text))
    left = len(told) - len(each)
    more = f"{counted(left, 'more manifest')} would not fit; each stands in its result's own file." if left else ""
    return _Manifests(_text(shared) if shared else "", each, more)


def _told(record: Record) -> dict[str, Any]:
    return {**record.run, **({"cell": dict(record.asked)} if record.asked else {})}


def _name(record: Record) -> str:
    """The file, with the folders that tell it from others; not where they lie, which may change."""
    return "/".join(record.path.absolute().parts[-3 if record.cell is not None else -2 :])


def _text(value: Mapping[str, Any]) -> str:
    """As JSON, where what is short stands in one line."""
    lines = []
    for key, one in value.items():
        text = json.dumps(one, sort_keys=True)
        if len(text) > 200:
            text = json.dumps(one, sort_keys=True, indent=1)
        lines.append(f"{printable(key)}: {text}")
    return "\n".join(lines)
