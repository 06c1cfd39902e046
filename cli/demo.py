"""fewvit demo"""

from __future__ import annotations

from .inputs import reader
from .shared import Access, Features, Layout, Model, Output, Place, Work, command, single
from .show import Screen

app = single()
_BACKBONE, _PIXELS = "dino_vitt16", "64"  # the smallest ViT of the official code


@command(app)
def demo(place: Place, output: Output) -> None:
    """A guided tour on built-in images: offline, in under a minute."""
    screen = Screen(output)
    source = reader(Model(_BACKBONE, "random"), Layout(), Access(offline=True), place, Features(img_size=_PIXELS), Work(), screen)

    from fewvit.evaluate.tour import tour
    from fewvit.results import Result

    rows, facts = tour(source, screen.say)
    screen.result(Result("demo", rows, facts))
    screen.say("Next: fewvit knn --backbone dino_vitb16 --data FOLDER   (train/ and val/ with one folder per class)")
