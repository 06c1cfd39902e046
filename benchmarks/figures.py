"""The documentation's figures, made from results/*/*.json: `python -m benchmarks.figures [--write | --check]`.

SVG is written by hand: the same text on every machine, so that a test can compare it.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .kinds import RESULTS, claims, least, newest

IMAGES = RESULTS.parents[1] / "docs" / "images"
INK, SOFT, LINE, PAPER = "#1f2933", "#5b6770", "#c3ccd4", "#ffffff"
BLUE, GREEN, ORANGE = "#2f6db5", "#2e7d4f", "#c26a1b"
_FONT = 'font-family="Helvetica, Arial, sans-serif"'


# ---- the elements of a drawing ---------------------------------------------------------------------------------------


def _text(
    x: float, y: float, text: str, size: int = 14, colour: str = INK, *, anchor: str = "middle", bold: bool = False
) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:g}" y="{y:g}" font-size="{size}" fill="{colour}" text-anchor="{anchor}"{weight}>{text}</text>'


def _box(
    x: float, y: float, width: float, height: float, *, fill: str = PAPER, stroke: str = LINE, radius: float = 8
) -> str:
    place = f'x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{radius:g}"'
    return f'<rect {place} fill="{fill}" stroke="{stroke}" stroke-width="1.5"/>'


def _line(
    points: Sequence[tuple[float, float]],
    colour: str = SOFT,
    *,
    width: float = 2,
    arrow: bool = False,
    dashed: bool = False,
) -> str:
    path = " ".join(f"{x:.4g},{y:.4g}" for x, y in points)
    extra = (' marker-end="url(#arrow)"' if arrow else "") + (' stroke-dasharray="5 4"' if dashed else "")
    pen = f'stroke="{colour}" stroke-width="{width:g}" stroke-linejoin="round"'
    return f'<polyline points="{path}" fill="none" {pen}{extra}/>'


def _svg(width: int, height: int, title: str, parts: Sequence[str]) -> str:
    arrow = (
        '<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0,0 L8,4 L0,8 z" fill="{SOFT}"/></marker></defs>'
    )
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" {_FONT}>'
    return (
        "\n".join(
            [head, f"<title>{title}</title>", arrow, _box(0.75, 0.75, width - 1.5, height - 1.5), *parts, "</svg>"]
        )
        + "\n"
    )


# ---- the way of the data ---------------------------------------------------------------------------------------------

_TASKS = (
    ("k-NN", "fewvit knn"),
    ("1, 2, 5 labels per class", "fewvit lowshot"),
    ("N-way K-shot episodes", "fewvit episodes"),
    ("linear probe", "fewvit linear"),
    ("classifier for new images", "fewvit fit, predict"),
)


def overview(folder: Path = RESULTS) -> str:
    """Images to features once, then every evaluation on the features; the two speeds are claims of results/*/*.json."""
    speed = _claim(folder, "pipeline", "Images to features, CPU, speed")
    warm = _claim(folder, "startup", "`fewvit knn`, warm cache, 10000 x 10000 x 384")
    top, middle = 76, 176
    parts = [_text(24, 40, "Images in, features once, every few-label method on top", 19, anchor="start", bold=True)]

    parts += [_box(24, top, 150, 200), _text(99, top + 26, "Images", 16, bold=True)]
    shades = ("#9fc3e8", "#f2c38f", "#a9d6b8", "#d8b4e2", "#f0a6a0", "#b8c4ce", "#e8dc9a", "#8fd0d0", "#c9d98a")
    for i, shade in enumerate(shades):
        parts.append(_box(51 + 33 * (i % 3), top + 42 + 33 * (i // 3), 29, 29, fill=shade, stroke=PAPER, radius=4))
    parts += [
        _text(99, top + 164, "folders, tables, zip,", 12, SOFT),
        _text(99, top + 180, "WebDataset shards", 12, SOFT),
    ]

    parts += [
        _box(254, top, 170, 200, fill="#eaf1fa", stroke=BLUE),
        _text(339, top + 26, "Frozen ViT", 16, BLUE, bold=True),
    ]
    for i in range(5):
        parts.append(_box(289, top + 42 + 19 * i, 100, 13, fill="#bcd4ee", stroke=BLUE, radius=3))
    parts += [
        _text(339, top + 164, "DINO, MSN, MAE, DINOv2,", 12, SOFT),
        _text(339, top + 180, "timm, a file, your own run", 12, SOFT),
    ]

    parts += [
        _box(504, top, 150, 200, fill="#ebf5ef", stroke=GREEN),
        _text(579, top + 26, "Features", 16, GREEN, bold=True),
    ]
    for row in range(6):
        for column in range(7):
            tint = ("#d3eadc", "#a9d6b8", "#7fbf98", "#57a578")[(row * 5 + column * 3 + row * column) % 4]
            parts.append(_box(531 + 14 * column, top + 42 + 15.5 * row, 11, 12, fill=tint, stroke=tint, radius=2))
    parts += [
        _text(579, top + 164, "N × D, kept in a cache", 12, SOFT),
        _text(579, top + 180, "by the image's bytes", 12, SOFT),
    ]

    parts += [_line([(174, middle), (252, middle)], arrow=True), _line([(424, middle), (502, middle)], arrow=True)]
    parts += [_text(213, middle - 12, "decode", 12, SOFT), _text(463, middle - 12, "one pass", 12, SOFT)]
    for i, (what, command) in enumerate(_TASKS):
        y = top - 12 + 46 * i
        parts += [_box(734, y, 302, 38), _text(746, y + 24, what, 13, anchor="start", bold=True)]
        parts.append(_text(1024, y + 24, command, 11, SOFT, anchor="end"))
        parts.append(_line([(654, middle), (694, middle), (694, y + 19), (732, y + 19)], arrow=True))

    low = 322
    parts += [
        _box(254, low, 170, 58, stroke=ORANGE, fill="#fdf3e9"),
        _text(339, low + 24, "pretrain, finetune", 14, ORANGE, bold=True),
    ]
    parts += [
        _text(339, low + 43, "a run is a backbone", 12, SOFT),
        _line([(339, low), (339, top + 202)], ORANGE, arrow=True),
    ]
    parts += [
        _text(
            504,
            low + 24,
            f"{speed:.3g}× as fast as DINO's loader and forward pass on a CPU;",
            13,
            GREEN,
            anchor="start",
        )
    ]
    parts += [
        _text(
            504, low + 43, f"k-NN of 10,000 + 10,000 images from the cache in {warm:.3g} s", 13, GREEN, anchor="start"
        )
    ]
    return _svg(
        1060, 404, "Images pass once through a frozen ViT; every few-label method works on the cached features", parts
    )


def _claim(folder: Path, name: str, what: str) -> float:
    """What may be claimed on every kind of machine that was measured."""
    return next(least(by_kind) for (of, told, *_), by_kind in claims(folder).items() if (of, told) == (name, what))


# ---- accuracy against labels -----------------------------------------------------------------------------------------

_SHOTS = (1, 2, 5)
_SERIES = {  # row of results/learned.json -> what the figure calls it, its colour
    "msn": ("MSN from fewvit_tiny", BLUE),
    "fewvit_tiny": ("fewvit_tiny (MAE)", GREEN),
    "dino": ("DINO from fewvit_tiny", "#8a4fa3"),
    "raw pixels": ("raw pixels", ORANGE),
    "random": ("random weights", SOFT),
}


def labels(folder: Path = RESULTS) -> str:
    """Top-1 of logistic regression on Tiny-ImageNet against labelled images per class, by kind of feature."""
    rows: dict[str, dict[str, Any]] = {row["features"]: row for row in (newest(folder, "learned") or {})["rows"]}
    curves = {name: [float(rows[name][f"tiny-imagenet logistic {n}-shot"]) for n in _SHOTS] for name in _SERIES}
    left, right, top, bottom = 70, 470, 78, 330
    highest = math.ceil(max(map(max, curves.values())))

    def at(shots: float, percent: float) -> tuple[float, float]:
        return left + (right - left) * math.log(shots, 5), bottom - (bottom - top) * percent / highest

    parts = [
        _text(24, 36, "Tiny-ImageNet, 200 classes: frozen features, logistic regression", 16, anchor="start", bold=True)
    ]
    for percent in range(highest + 1):
        y = at(1, percent)[1]
        parts += [
            _line([(left, y), (right, y)], LINE, width=0.75),
            _text(left - 10, y + 4, str(percent), 12, SOFT, anchor="end"),
        ]
    chance = at(1, 0.5)[1]
    parts += [
        _line([(left, chance), (right, chance)], SOFT, width=1, dashed=True),
        _text(right + 12, chance + 4, "chance", 12, SOFT, anchor="start"),
    ]
    for n in _SHOTS:
        parts.append(_text(at(n, 0)[0], bottom + 20, str(n), 12, SOFT))
    parts.append(_text((left + right) / 2, bottom + 42, "labelled images per class", 13, SOFT))
    parts.append(_text(24, 56, "top-1, percent", 12, SOFT, anchor="start"))
    lowest_label = math.inf
    for name in sorted(_SERIES, key=lambda one: curves[one][-1]):
        title, colour = _SERIES[name]
        points = [at(n, value) for n, value in zip(_SHOTS, curves[name], strict=True)]
        parts.append(_line(points, colour, width=2.5))
        parts += [f'<circle cx="{x:.4g}" cy="{y:.4g}" r="4" fill="{colour}"/>' for x, y in points]
        lowest_label = min(points[-1][1], lowest_label - 17)  # labels that would overlap move up
        parts.append(
            _text(right + 12, lowest_label + 4, f"{title}  {curves[name][-1]:.2f}", 13, colour, anchor="start")
        )
    return _svg(700, 390, "Top-1 against labelled images per class", parts)


FIGURES = {"overview.svg": overview, "labels.svg": labels}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.figures", description=__doc__)
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--write", action="store_true", help=f"write {', '.join(FIGURES)} into docs/images")
    action.add_argument("--check", action="store_true", help="exit with 1 if a figure there is another one")
    options = parser.parse_args()
    stale = []
    for name, draw in FIGURES.items():
        path, drawn = IMAGES / name, draw()
        if options.write:
            path.parent.mkdir(exist_ok=True)
            path.write_text(drawn, encoding="utf-8")
        elif not path.exists() or path.read_text(encoding="utf-8") != drawn:
            stale.append(name)
    for name in stale:
        print(
            f"docs/images/{name} is not what results/*/*.json give; run `python -m benchmarks.figures --write`.",
            file=sys.stderr,
        )
    return 1 if options.check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
