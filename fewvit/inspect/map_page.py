"""A map of images as one HTML file that holds all it shows, and the same bytes for the same map.

Every name on it is text. Only the page's own script runs, known by its digest; nothing comes from a network.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np

from ..errors import printable
from .colours import UNLABELLED, class_colours
from .sprites import Sprite

PAGE_BYTES = 5_000_000  # of a page: what can be sent by mail
_NAMES_BYTES = 1_500_000  # of the images' names
_GRID = 9999  # places across the longer side of the map
_STATIC = Path(__file__).parent / "static"


@dataclass(frozen=True)
class MapPage:
    """What the page shows."""

    title: str
    about: Sequence[str]  # facts, in one line
    notes: Sequence[str]  # what was done and left out, below the map
    points: np.ndarray  # (N, 2)
    labels: np.ndarray  # (N,) int64, -1 = unlabelled
    classes: Sequence[str]
    ids: Sequence[str]  # N
    sprite: Sprite

    @property
    def html(self) -> str:
        """The page."""
        script, style = ((_STATIC / name).read_text(encoding="utf-8") for name in ("map.js", "map.css"))
        digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
        picture = base64.b64encode(self.sprite.jpeg).decode("ascii")
        source = f' src="data:image/jpeg;base64,{picture}"' if picture else ""
        title = escape(printable(self.title))
        notes = escape(" ".join(f"{printable(note)}." for note in self.notes))
        return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; base-uri 'none'; form-action 'none'; \
img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<header><h1>{title}</h1><p class="about">{escape(" · ".join(map(printable, self.about)))}</p></header>
<main>
<div id="stage">
  <canvas id="map" tabindex="0" role="application" aria-label="Map of {len(self.ids)} images: arrow keys go from \
image to image, plus and minus zoom, 0 shows all, Escape lets go"></canvas>
  <div id="tip" hidden></div>
  <div class="tools"><button type="button" id="in" aria-label="Zoom in">+</button><button type="button" id="out" \
aria-label="Zoom out">−</button><button type="button" id="home">Show all</button><button type="button" id="pictures" \
aria-pressed="false">Pictures</button></div>
</div>
<aside>
  <section id="card" aria-label="Image"><div id="shown"></div><p id="hint" class="hint">Point at an image, click to \
keep it here. Keys on the map: <kbd>←</kbd> <kbd>→</kbd> <kbd>↑</kbd> <kbd>↓</kbd> from image to image, <kbd>+</kbd> \
<kbd>−</kbd> zoom, <kbd>0</kbd> all, <kbd>Esc</kbd> lets go.</p><p id="said" aria-live="polite" \
style="position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)"></p></section>
  <section class="legend" aria-label="Classes"><h2>Classes</h2>
    <div class="all"><button type="button" id="every">All</button><button type="button" id="none">None</button>\
<input type="search" id="find" placeholder="find a class" aria-label="Find a class"></div>
    <ul id="classes"></ul></section>
</aside>
</main>
<p class="notes">{notes} Double-click a class to see it alone. Made by fewvit inspect embed; the page needs nothing \
else, and sends nothing.</p>
<noscript><p class="notes">The map is drawn by this page's own script, and scripts are switched off.</p></noscript>
<img id="sprite" alt="" hidden{source}>
<script type="application/json" id="data">{self._data()}</script>
<script>{script}</script>
</body>
</html>
"""

    def _data(self) -> str:
        """JSON in which no character begins a tag."""
        places, size = _on_grid(self.points)
        names = [printable(name) for name in self.ids]
        facts = {
            "points": places.ravel().tolist(),
            "size": size,
            "labels": self.labels.tolist(),
            "classes": [printable(name) for name in self.classes],
            "colours": class_colours(len(self.classes)),
            "unlabelled": UNLABELLED,
            "ids": names if names_fit(self.ids) else None,
            "cells": self.sprite.cell.tolist(),
            "side": self.sprite.side if self.sprite.jpeg else 0,
            "across": self.sprite.across,
        }
        return json.dumps(facts, separators=(",", ":")).replace("<", "\\u003c")


def names_fit(ids: Sequence[str]) -> bool:
    """Whether the images' names have room on a page."""
    return sum(len(name) + 3 for name in ids) <= _NAMES_BYTES


def room_for_pictures(ids: Sequence[str], classes: Sequence[str]) -> int:
    """Bytes that a sprite may have, so that the page stays below its size: base64 makes four of three."""
    words = sum(len(name.encode("utf-8", "replace")) + 12 for name in classes) + 32 * len(ids) + 40_000
    if names_fit(ids):
        words += sum(len(printable(name)) + 3 for name in ids)
    return max(0, (PAGE_BYTES - words) * 3 // 4)


def _on_grid(points: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """Whole numbers (N, 2), y downwards, and the width and height that they lie in."""
    low, high = points.min(axis=0), points.max(axis=0)
    step = max(float((high - low).max()), 1e-12) / _GRID
    places = np.rint((points - low) / step).astype(np.int64)
    size = places.max(axis=0)
    places[:, 1] = size[1] - places[:, 1]
    return places, [max(1, int(one)) for one in size]
