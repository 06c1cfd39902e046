"""What a search found, as one HTML page with the pictures inside: it can be sent, and needs nothing else."""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from html import escape
from pathlib import Path

from ..errors import DataError, printable
from ..files import replacing
from ..images import BadImage
from ..results import Row
from .opened import OpenIndex
from .pictures import Pictures
from .search import Near
from .searching import Part, Query
from .thumbnails import thumbnail

_SIDE = 240  # pixels of the longer side of a picture

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8888; --wrong: #c33 }
* { box-sizing: border-box }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 1400px; padding: 0 1.2rem }
h1 { font-size: 1.35rem; margin: 0 0 .2rem } .about { color: GrayText; margin: 0 0 2rem }
section { border-top: 1px solid var(--line); padding: 1.2rem 0; display: grid; gap: 1.2rem;
  grid-template-columns: minmax(150px, 220px) 1fr }
figure { margin: 0; min-width: 0 } img { display: block; width: 100%; aspect-ratio: 1; object-fit: contain;
  background: #8882; border-radius: 6px } .none { display: grid; place-items: center; aspect-ratio: 1;
  background: #8882; border-radius: 6px; color: var(--wrong) }
figcaption { font-size: .8rem; overflow-wrap: anywhere; margin-top: .3rem } .score { font-variant-numeric: tabular-nums;
  color: GrayText } .label { font-weight: 600 } .file { color: var(--wrong) }
.found { display: grid; gap: .9rem; grid-template-columns: repeat(auto-fill, minmax(130px, 1fr)) }
@media (max-width: 640px) { section { grid-template-columns: 1fr } section > figure { max-width: 220px } }
"""


def save_gallery(
    path: str | os.PathLike[str], index: OpenIndex, rows: Sequence[Row], near: Near, queries: Sequence[Query]
) -> None:
    """Replace `path` by a page of the queries, the result rows of their search and the pictures of both.

    A picture that is not there any more, or is not what was indexed, is left out and said to be so.
    """
    pictures, places = Pictures(index), near.rows.tolist()
    parts = [_head(index, rows)]
    for query, start, stop in zip(queries, near.starts[:-1].tolist(), near.starts[1:].tolist(), strict=True):
        figures = "".join(_result(pictures, rows[at], places[at]) for at in range(start, stop))
        asked = f"<figure>{_query(pictures, query)}</figure>"
        parts.append(f'<section>{asked}<div class="found">{figures}</div></section>\n')
    with replacing(path, "w") as handle:
        handle.write("".join([*parts, "</body></html>\n"]))


def _head(index: OpenIndex, rows: Sequence[Row]) -> str:
    title = f"Search in {printable(index.path.name)}"
    about = f"{len(index)} images · {index.manifest.backbone or 'features'} · {index.manifest.kind} · cosine similarity"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">"
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>\n"
        f'<h1>{escape(title)}</h1><p class="about">{escape(about)} · {len(rows)} results</p>\n'
    )


def _query(pictures: Pictures, query: Query) -> str:
    """The pictures and the name of a query, which may be made of several."""
    shown = "".join(_picture(_bytes_of(pictures, part), part.name) for part in query.parts)
    return f"{shown}<figcaption>{escape(printable(query.name))}</figcaption>"


def _bytes_of(pictures: Pictures, part: Part) -> bytes | None:
    """The image that a search went by, and no other one of its name: an id of the index is not a file here."""
    if part.row is not None:
        return _read(pictures, part.row)
    return Path(part.file).read_bytes() if part.file is not None and os.path.isfile(part.file) else None


def _result(pictures: Pictures, row: Row, place: int) -> str:
    state = row.get("file", "")
    data = None if state else _read(pictures, place)
    label = f'<span class="label">{escape(printable(row["label"]))}</span> ' if row["label"] is not None else ""
    said = f' <span class="file">{escape(state)}</span>' if state else ""
    caption = f'{label}<span class="score">{row["score"]:.4f}</span>{said}<br>{escape(printable(row["id"]))}'
    return f"<figure>{_picture(data, str(row['id']))}<figcaption>{caption}</figcaption></figure>"


def _read(pictures: Pictures, row: int) -> bytes | None:
    try:
        return pictures.read(row)
    except DataError:
        return None


def _picture(data: bytes | None, name: str) -> str:
    """An image with the picture inside, or a box that says that there is none."""
    try:
        small = thumbnail(data, _SIDE) if data is not None else None
    except BadImage:
        small = None
    if small is None:
        return '<div class="none">no picture</div>'
    alt = escape(printable(name), quote=True)
    return f'<img alt="{alt}" src="data:image/jpeg;base64,{base64.b64encode(small).decode()}">'
