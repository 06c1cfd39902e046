"""What a check found, as one HTML page with the pictures inside: it can be sent, and needs nothing else.

All thumbnails are one picture, a sprite, of which each place shows a part. The same findings give the same bytes.
"""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from html import escape

import numpy as np

from ..errors import counted, printable
from ..files import replacing
from ..images import BadImage, decode_whole
from .checking import Checked, CheckedSet, rows_of
from .findings import CHECKS, Finding, class_counts

_SIDE = 96  # pixels of a place in the sprite
_ACROSS = 20  # places in a line of it
_OF_EACH = 24  # findings of a check that are shown
_PLACES = 480  # of all thumbnails
_QUALITY = 82  # of JPEG
_CLASSES = 40  # that are drawn as bars
_LONGEST = 160  # characters of a name
_BACKGROUND = (236, 236, 236)

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; --bad: #c0392b; --bar: #4a7fb5 }
* { box-sizing: border-box }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 1180px; padding: 0 1.2rem }
h1 { font-size: 1.4rem; margin: 0 } h2 { font-size: 1.08rem; margin: 0 }
.about, .advice, .more { color: GrayText; margin: .15rem 0 .8rem } section { border-top: 1px solid var(--line);
  padding: 1.1rem 0 } table { border-collapse: collapse; margin: 1rem 0 } td, th { padding: .12rem 1.2rem .12rem 0;
  text-align: left; vertical-align: top; overflow-wrap: anywhere } td.n { text-align: right;
  font-variant-numeric: tabular-nums; white-space: nowrap } a { color: inherit }
.found { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(210px, 1fr)) }
figure { margin: 0; min-width: 0 } .pair { display: flex; gap: 6px }
.t, .none { width: 96px; height: 96px; border-radius: 5px; flex: none }
.none { display: grid; place-items: center; background: var(--soft); color: var(--bad); font-size: .75rem }
figcaption { font-size: .78rem; line-height: 1.35; margin-top: .3rem; overflow-wrap: anywhere }
.why { color: GrayText } .bars { display: grid; grid-template-columns: minmax(60px, max-content) 1fr max-content;
  gap: 2px .8rem; align-items: center; font-size: .85rem; margin: 1rem 0 }
.bars span { overflow-wrap: anywhere } .bar { height: .8rem; background: var(--bar); border-radius: 2px }
.names { columns: 3 240px; font-size: .85rem; overflow-wrap: anywhere; padding-left: 1.1rem }
"""


def save_page(path: str | os.PathLike[str], checked: Checked) -> None:
    """Replace `path` by the page of what was found, at most 5 MB of it."""
    sprite = _Sprite()
    sections = [_section(check, checked, sprite) for check in checked.looked_for if checked.of(check)]
    text = "".join([_head(checked, sprite), _summary(checked), _bars(checked.data), *sections, _nothing(checked)])
    with replacing(path, "w") as handle:
        handle.write(text + "</body></html>\n")


def _head(checked: Checked, sprite: _Sprite) -> str:
    own, other = _told_apart(checked)
    title = f"Check of {own}"
    about = counted(len(checked.data.listed.ids), "image")
    if checked.against is not None:
        about += f", against {counted(len(checked.against.listed.ids), 'image')} of {other}"
    if checked.facts.get("backbone"):
        untrained = " (random weights)" if checked.facts.get("weights") else ""
        about += (
            f" · copies (cosine {checked.facts['threshold']:g} or more) and labels by features of "
            f"{_short(str(checked.facts['backbone']))}{untrained}"
        )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">"
        f"<title>{escape(title)}</title><style>{_STYLE}{sprite.style()}</style></head><body>\n"
        f'<h1>{escape(title)}</h1><p class="about">{escape(about)}</p>\n'
    )


def _told_apart(checked: Checked) -> tuple[str, str]:
    """The names of the two sets; their folders where they are of one name, as train and val of a set."""
    against = checked.against
    if against is None:
        return _short(checked.data.name), ""
    alike = against.name == checked.data.name
    own, other = (
        f"{one.name} ({os.path.basename(one.place.rstrip(os.sep))})" if alike else one.name
        for one in (checked.data, against)
    )
    return _short(own), _short(other)


def _summary(checked: Checked) -> str:
    lines = []
    for row in rows_of(checked):
        if row["kind"] == "finding" and not row["count"]:
            continue
        name = escape(str(row["check"]))
        shown = f'<a href="#{_anchor(str(row["check"]))}">{name}</a>' if row["kind"] == "finding" else name
        count = "" if row["count"] is None else row["count"]
        share = "" if row["share"] is None else f"{row['share']:.2f} %"
        words = "" if row["kind"] == "finding" else escape(_short(str(row["examples"])))
        lines.append(f'<tr><td>{shown}<td class="n">{count}<td class="n">{share}<td>{words}')
    return f"<table>{''.join(lines)}</table>\n"


def _bars(one: CheckedSet) -> str:
    """How many images each class has, the largest first; of many the largest and the smallest."""
    counts = class_counts(one.listed)
    if not counts.any():
        return ""
    order = np.argsort(-counts, kind="stable").tolist()
    half = _CLASSES // 2
    shown = order if len(order) <= _CLASSES else [*order[:half], *order[-half:]]
    left = len(order) - len(shown)
    bars = [
        f'<span>{escape(_short(one.listed.classes[at]))}</span><div class="bar" style="width:'
        f'{100 * counts[at] / counts.max():.2f}%"></div><span>{counts[at]}</span>'
        for at in shown
    ]
    more = f'<p class="more">{counted(left, "class", "classes")} between these are not shown.</p>' if left else ""
    return f'<section><h2>Classes</h2><div class="bars">{"".join(bars)}</div>{more}</section>\n'


def _section(check: str, checked: Checked, sprite: _Sprite) -> str:
    found = checked.of(check)
    shown = found[:_OF_EACH]
    if check.endswith("class"):
        body = "".join(f"<li>{escape(_short(one.id))}: {escape(_short(one.reason))}</li>" for one in shown)
        body = f'<ul class="names">{body}</ul>'
    else:
        body = f'<div class="found">{"".join(_figure(one, checked, sprite) for one in shown)}</div>'
    left = len(found) - len(shown)
    more = f'<p class="more">{left} more are not shown; --save-list has all.</p>' if left else ""
    return (
        f'<section id="{_anchor(check)}"><h2>{escape(check)}: {len(found)}</h2>'
        f'<p class="advice">{escape(CHECKS[check])}</p>{body}{more}</section>\n'
    )


def _figure(one: Finding, checked: Checked, sprite: _Sprite) -> str:
    own = checked.against if one.of_against and checked.against is not None else checked.data
    parts = [_thumbnail(own, one.row, one.id, sprite)]
    if one.other_row is not None:
        parts.append(_thumbnail(checked.data, one.other_row, one.other, sprite))
    names = escape(_short(one.id)) + (f"<br>{escape(_short(one.other))}" if one.other else "")
    why = f'<span class="why">{escape(_short(one.reason))}</span>'
    return f'<figure><div class="pair">{"".join(parts)}</div><figcaption>{names}<br>{why}</figcaption></figure>'


def _thumbnail(one: CheckedSet, row: int | None, name: str, sprite: _Sprite) -> str:
    place = sprite.place(one, row) if row is not None else None
    if place is None:
        return '<div class="none">no picture</div>'
    across, down = place % _ACROSS, place // _ACROSS
    alt = escape(_short(name), quote=True)
    position = f"{-_SIDE * across}px {-_SIDE * down}px"
    return f'<div class="t" role="img" aria-label="{alt}" style="background-position:{position}"></div>'


def _nothing(checked: Checked) -> str:
    clean = [check for check in checked.looked_for if not checked.of(check)]
    left = [check for check in CHECKS if check not in checked.looked_for]
    told = (("Nothing found", clean), ("Not looked for", left))
    lines = [f"{what}: {'; '.join(names)}." for what, names in told if names]
    return "<section>" + "".join(f'<p class="more">{escape(line)}</p>' for line in lines) + "</section>\n"


def _anchor(check: str) -> str:
    return check.replace(",", "").replace(" ", "-").lower()


def _short(text: str) -> str:
    """A name as it may be shown, its middle left out where it is long."""
    shown = printable(text)
    return shown if len(shown) <= _LONGEST else f"{shown[: _LONGEST // 2]} … {shown[-_LONGEST // 2 :]}"


@dataclass
class _Sprite:
    """Thumbnails side by side in one JPEG; each picture stands in it once."""

    pixels: list[np.ndarray] = field(default_factory=list)  # of each place (96, 96, 3) uint8
    places: dict[tuple[str, int], int | None] = field(default_factory=dict)

    def place(self, one: CheckedSet, row: int) -> int | None:
        """The number of a picture's place; None where it cannot be shown, or no place is left."""
        key = (one.place, row)
        if key not in self.places:
            small = _small(one, row) if len(self.pixels) < _PLACES else None
            self.places[key] = None if small is None else len(self.pixels)
            self.pixels += [] if small is None else [small]
        return self.places[key]

    def style(self) -> str:
        """CSS that puts the sprite behind every thumbnail."""
        if not self.pixels:
            return ""
        text = base64.b64encode(_as_jpeg(list(self._lines()))).decode("ascii")
        return f".t {{ background-image: url(data:image/jpeg;base64,{text}) }}\n"

    def _lines(self) -> Iterator[np.ndarray]:
        empty = np.full((_SIDE, _SIDE, 3), _BACKGROUND, np.uint8)
        for start in range(0, len(self.pixels), _ACROSS):
            line = self.pixels[start : start + _ACROSS]
            yield np.concatenate([*line, *[empty] * (_ACROSS - len(line))], axis=1)


def _small(one: CheckedSet, row: int) -> np.ndarray | None:
    """(96, 96, 3) uint8: a picture made to fit, in the middle of an even ground; None where it cannot be decoded."""
    from PIL import Image

    if one.images is None or (one.looks and one.looks[row].reason):
        return None
    try:
        image = Image.fromarray(decode_whole(one.images.read(row)))
    except (BadImage, OSError):
        return None
    image.thumbnail((_SIDE, _SIDE), Image.Resampling.BICUBIC, reducing_gap=2.0)
    ground = Image.new("RGB", (_SIDE, _SIDE), _BACKGROUND)
    ground.paste(image, ((_SIDE - image.width) // 2, (_SIDE - image.height) // 2))
    return np.asarray(ground)


def _as_jpeg(lines: Sequence[np.ndarray]) -> bytes:
    """The lines, one below another. 480 places of noise, which packs worst, are 3.1 MB."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(np.concatenate(lines)).save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()
