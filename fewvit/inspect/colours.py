"""A colour for each class: apart from one another, the same in pictures and on pages, legible on light and dark."""

from __future__ import annotations

import colorsys

UNLABELLED = "#9aa0aa"
_FEW = (
    *("#3b6fd4", "#e0612f", "#1f9e77", "#d03c6c", "#8e5bd0", "#b8860b", "#17a2b8", "#7a9a2b", "#c264b8", "#a0623a"),
)
_GOLDEN = 0.618033988749895  # of the circle: each hue falls into the largest gap that the ones before have left
_TONES = ((0.62, 0.50), (0.50, 0.64), (0.80, 0.46))  # saturation and lightness, in turn


def class_colours(count: int) -> list[str]:
    """A colour `#rrggbb` for each of `count` classes; ten have been chosen, more are spread over the hues."""
    if count <= len(_FEW):
        return list(_FEW[:count])
    colours = []
    for number in range(count):
        saturation, lightness = _TONES[number % len(_TONES)]
        rgb = colorsys.hls_to_rgb((0.61 + number * _GOLDEN) % 1, lightness, saturation)
        colours.append("#" + "".join(f"{round(255 * value):02x}" for value in rgb))
    return colours
